//! The calls that are measured.

use super::{BenchError, synthetic};
use crate::golden::{Golden, GoldenError, Judged, Stage, list};
use crate::record::{Call, Delta, Outcome};
use crate::tap::{Sink, Tap};
use crate::workbench::{Guest, Workbench};
use orlop_plugin::{Compiled, Kind};
use orlop_scheduler::framework::{Hooks, Normalize, PluginError, Rows, SchedulerPlugin};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Calls are repeated for so long …
const LONG_ENOUGH: Duration = Duration::from_millis(40);
/// … but at least so often.
const OFTEN_ENOUGH: usize = 5;
/// Pods of one input that are measured.
const MAX_PODS: usize = 8;

/// Takes in hook, units, and cost of a unit.
type Take<'a> = &'a mut dyn FnMut(&str, u64, f64);

#[expect(clippy::cast_precision_loss, reason = "figures for a reader")]
fn per(cost: u128, units: u64) -> f64 {
    cost as f64 / units.max(1) as f64
}

/// The shortest of many calls, in nanoseconds.
fn shortest<T>(mut call: impl FnMut() -> Result<T, PluginError>) -> Result<u128, PluginError> {
    let begin = Instant::now();
    let mut best = u128::MAX;
    let mut calls = 0;
    while calls < OFTEN_ENOUGH || begin.elapsed() < LONG_ENOUGH {
        let start = Instant::now();
        std::hint::black_box(call()?);
        best = best.min(start.elapsed().as_nanos());
        calls += 1;
    }
    Ok(best)
}

/// Keeps the full sync.
#[derive(Clone, Default)]
struct FullSync(Arc<Mutex<Option<Delta>>>);

impl Sink for FullSync {
    fn put(&mut self, call: Call, _outcome: Outcome) -> bool {
        match call {
            Call::Sync { delta } if delta.full => {
                *self.0.lock() = Some(delta);
                false
            }
            _ => true,
        }
    }
}

fn malformed(test: &Golden, message: String) -> BenchError {
    GoldenError::Input { path: test.path.clone(), message }.into()
}

fn failed(hook: &str, error: impl ToString) -> BenchError {
    BenchError::Failed { hook: hook.to_owned(), message: error.to_string() }
}

/// A class of pods, and what `prepare` said of it.
struct Class {
    id: u32,
    pod: String,
    skips_filter: bool,
    skips_score: bool,
}

/// One input on its stage, with the plugin up to date.
struct Set {
    stage: Stage,
    input: Value,
    full: FullSync,
}

impl Set {
    fn new(workbench: &Workbench, plugin: &Compiled, test: &Golden, nodes: u32) -> Result<Self, BenchError> {
        let input = synthetic::multiply(test.input(), nodes);
        let opened = workbench.open_scheduler(plugin, &test.config()).map_err(|f| failed("init", f))?;
        let full = FullSync::default();
        let opened = Box::new(Tap::new(opened, Box::new(full.clone())));
        let stage = Stage::new(opened, &input).map_err(|e| malformed(test, e))?;
        Ok(Self { stage, input, full })
    }

    /// The classes of the input's pods, opened; those that the plugin refuses are left out.
    fn classes(&mut self, test: &Golden) -> Result<Vec<Class>, BenchError> {
        let input = self.input.clone();
        let mut out: Vec<Class> = Vec::new();
        for pod in list(&input, "pods").map_err(|e| malformed(test, e))?.iter().take(MAX_PODS) {
            let facts = self.stage.facts(pod);
            if let Judged::Open(id, prepared) = self.stage.judge(&facts)
                && !out.iter().any(|known| known.id == id)
            {
                let rejected = !prepared["rejected"].is_null();
                let skips = |field: &str| rejected || prepared[field] == true;
                let (skips_filter, skips_score) = (skips("skipFilter"), skips("skipScore"));
                out.push(Class { id, pod: self.stage.fields(&facts), skips_filter, skips_score });
            }
        }
        Ok(out)
    }

    /// Asks the plugin directly; it is up to date.
    fn ask<T>(
        &mut self,
        hook: &str,
        question: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) -> Result<T, BenchError> {
        let Stage { profile, table, .. } = &mut self.stage;
        profile.ask(0, table, true, Instant::now(), question).map_err(|e| failed(hook, e))
    }

    /// What a host asks about a class: hook, units, question.
    fn questions(&self, of: &Class) -> Vec<(&'static str, u64, Question)> {
        let class = of.id;
        let Some(descriptor) = self.stage.profile.descriptor(0) else { return Vec::new() };
        let Some(open) = self.stage.profile.class(class) else { return Vec::new() };
        let slots = u64::from(self.stage.table.slots());
        let has = |hook| descriptor.hooks.has(hook);
        let pod: Arc<[u8]> = of.pod.as_bytes().into();
        let mut out: Vec<(&'static str, u64, Question)> = Vec::new();
        {
            let pod = pod.clone();
            out.push(("prepare", 1, Box::new(move |p| p.prepare(class, &pod).map(drop))));
        }
        if has(Hooks::FILTER) && !of.skips_filter {
            out.push(("filter", slots, Box::new(move |p| p.filter(class, Rows::All).map(drop))));
        }
        if has(Hooks::SCORE) && !of.skips_score {
            match descriptor.normalize {
                Normalize::None => {
                    out.push(("score", slots, Box::new(move |p| p.score(class, Rows::All).map(drop))));
                }
                how => {
                    out.push((
                        "score-raw",
                        slots,
                        Box::new(move |p| p.score_raw(class, Rows::All).map(drop)),
                    ));
                    if how == Normalize::Custom {
                        let feasible = open.feasible().to_vec();
                        let raw = vec![50; self.stage.table.slots() as usize];
                        let question: Question =
                            Box::new(move |p| p.normalize(class, &feasible, &raw).map(drop));
                        out.push(("normalize", slots, question));
                    }
                }
            }
        }
        let bit =
            |slot: u32| open.feasible().get(slot as usize / 64).is_some_and(|w| w >> (slot % 64) & 1 == 1);
        let rejected: Vec<u32> = (0..self.stage.table.slots()).filter(|s| !bit(*s)).collect();
        if has(Hooks::FILTER) && !of.skips_filter && !rejected.is_empty() {
            let units = rejected.len() as u64;
            out.push(("explain", units, Box::new(move |p| p.explain(class, &rejected).map(drop))));
        }
        if has(Hooks::PRE_ENQUEUE) {
            let pod = pod.clone();
            out.push(("pre-enqueue", 1, Box::new(move |p| p.pre_enqueue(&pod).map(drop))));
        }
        if has(Hooks::QUEUE_SORT) {
            out.push(("sort-key", 1, Box::new(move |p| p.sort_key(&pod).map(drop))));
        }
        out
    }

    /// Questions about the mirror: all of it, and one row of it.
    fn syncs(&self) -> Vec<(&'static str, u64, Question)> {
        let Some(full) = self.full.0.lock().clone() else { return Vec::new() };
        let one = first_row(&full);
        let units = full.rows.len() as u64;
        let (full, one) = ((&full).into(), (&one).into());
        vec![
            ("sync-all", units, Box::new(move |p: &mut dyn SchedulerPlugin| p.sync(&full).map(drop))),
            ("sync-one", 1, Box::new(move |p: &mut dyn SchedulerPlugin| p.sync(&one).map(drop))),
        ]
    }
}

type Question = Box<dyn FnMut(&mut dyn SchedulerPlugin) -> Result<(), PluginError>>;

/// A delta of the first row alone.
fn first_row(full: &Delta) -> Delta {
    let mut one = full.clone();
    one.full = false;
    one.dictionaries.clear();
    one.rows.truncate(1);
    one.live = crate::record::bits(&[1]);
    one.s64_columns.iter_mut().for_each(|c| c.values.truncate(1));
    one.u32_columns.iter_mut().for_each(|c| c.values.truncate(1));
    for column in &mut one.list_columns {
        column.offsets.truncate(2);
        column.values.truncate(column.offsets.last().map_or(0, |end| *end as usize));
    }
    one
}

/// Time.
pub(super) fn scheduler(
    workbench: &Workbench,
    plugin: &Compiled,
    test: &Golden,
    nodes: u32,
    take: Take<'_>,
) -> Result<(), BenchError> {
    let mut set = Set::new(workbench, plugin, test, nodes)?;
    for class in set.classes(test)? {
        for (hook, units, mut question) in set.questions(&class) {
            let best = set.ask(hook, |plugin| shortest(|| question(plugin)))?;
            take(hook, units, per(best, units));
        }
    }
    for (hook, units, mut question) in set.syncs() {
        let best = set.ask(hook, |plugin| shortest(|| question(plugin)))?;
        take(hook, units, per(best, units));
    }
    Ok(())
}

/// Fuel.
pub(super) fn scheduler_fuel(
    workbench: &Workbench,
    plugin: &Compiled,
    test: &Golden,
    nodes: u32,
    take: Take<'_>,
) -> Result<(), BenchError> {
    let mut set = Set::new(workbench, plugin, test, nodes)?;
    let mut questions = Vec::new();
    for class in set.classes(test)? {
        questions.extend(set.questions(&class));
    }
    questions.extend(set.syncs());
    for (hook, units, mut question) in questions {
        let fuel = set.ask(hook, |plugin| {
            workbench.take_fuel();
            question(plugin)?;
            Ok(workbench.take_fuel())
        })?;
        take(hook, units, per(u128::from(fuel), units));
    }
    Ok(())
}

/// Time and fuel of requests.
pub(super) fn requests(
    timed: &Workbench,
    fast: &Compiled,
    metered: &Workbench,
    exact: &Compiled,
    test: &Golden,
    take: &mut dyn FnMut(&str, f64, f64),
) -> Result<(), BenchError> {
    let mut guest = timed.open(fast, &test.config()).map_err(|f| failed("init", f))?;
    let mut counted = metered.open(exact, &test.config()).map_err(|f| failed("init", f))?;
    for call in calls(fast, test)? {
        let hook = call.hook();
        let wire = Wire::of(&call);
        let best = shortest(|| wire.ask(&mut guest)).map_err(|e| failed(hook, e))?;
        metered.take_fuel();
        wire.ask(&mut counted).map_err(|e| failed(hook, e))?;
        take(hook, per(best, 1), per(u128::from(metered.take_fuel()), 1));
    }
    Ok(())
}

fn calls(plugin: &Compiled, test: &Golden) -> Result<Vec<Call>, BenchError> {
    use crate::golden::{admission_request, is_asked, reconcile_request};
    use orlop_plugin::manifest::admission::Phase;
    let inputs = list(test.input(), "requests").map_err(|e| malformed(test, e))?;
    let mut out = Vec::new();
    for input in inputs {
        match (plugin.manifest().kind, &plugin.manifest().admission) {
            (Kind::Controller, _) => {
                let now = test.input().get("now").cloned().unwrap_or_else(|| json!(0));
                out.push(Call::Reconcile { request: reconcile_request(&now, input) });
            }
            (Kind::Admission, Some(manifest)) => {
                let (request, _) = admission_request(manifest, input).map_err(|e| malformed(test, e))?;
                if !is_asked(manifest, &request) {
                    continue;
                }
                out.extend(manifest.phases.iter().map(|phase| match phase {
                    Phase::Mutate => Call::Mutate { requests: vec![request.clone()] },
                    Phase::Validate => Call::Validate { requests: vec![request.clone()] },
                }));
            }
            _ => {}
        }
    }
    Ok(out)
}

/// A call as the runtime takes it, so that nothing but the call is measured.
enum Wire {
    Mutate(Vec<orlop_plugin::admission::Request>),
    Validate(Vec<orlop_plugin::admission::Request>),
    Reconcile(Vec<u8>),
    Other,
}

impl Wire {
    fn of(call: &Call) -> Self {
        match call {
            Call::Mutate { requests } => Self::Mutate(requests.iter().map(Into::into).collect()),
            Call::Validate { requests } => Self::Validate(requests.iter().map(Into::into).collect()),
            Call::Reconcile { request } => Self::Reconcile(request.clone().into_bytes()),
            _ => Self::Other,
        }
    }

    fn ask(&self, guest: &mut Guest) -> Result<(), PluginError> {
        let failed = |e: orlop_plugin::PluginError| PluginError::Refused { message: e.to_string() };
        match (self, guest) {
            (Self::Mutate(requests), Guest::Admission(slot)) => {
                slot.mutate(requests).map(drop).map_err(failed)
            }
            (Self::Validate(requests), Guest::Admission(slot)) => {
                slot.validate(requests).map(drop).map_err(failed)
            }
            (Self::Reconcile(request), Guest::Controller(slot)) => {
                slot.reconcile(request).map(drop).map_err(failed)
            }
            _ => Ok(()),
        }
    }
}
