//! From the choice of a node to the binding: Reserve, Permit, PreBind, Bind, PostBind.
//!
//! Pods of classes that no plugin wants to see here go to the API server at once. The others have a
//! record of where they stand. A record ends by the binding or by [`Engine::give_back`], which takes
//! back what plugins reserved, in reverse order.

mod back;
mod binding;

use super::Engine;
use crate::framework::{Decision, Hooks, Placement, PluginError, SchedulerPlugin, Verdict};
use crate::pod::Uid;
use crate::profile::{ClassDef, NoAnswer};
use crate::table::Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nobody waits longer than this.
const LONGEST_WAIT: Duration = Duration::from_mins(15);
/// Who binds where no plugin says so.
const HOST: &str = "DefaultBinder";

/// Where a pod stands.
#[derive(Debug)]
enum Stage {
    /// These plugins want it to wait.
    Permit(BTreeMap<usize, Pending>),
    /// The plugin's writes are under way; then this is its verdict.
    PreBindWrites(usize, Verdict),
    /// The plugin wants to be asked again when objects change.
    PreBindWaits(usize, Instant),
    /// The binding is under way.
    Bind,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    deadline: Instant,
    /// Of the plugin; another one knows nothing of the pod.
    instance: u64,
}

/// A pod between the choice of a node and the end of its binding.
#[derive(Debug)]
struct Record {
    profile: usize,
    def: Arc<ClassDef>,
    /// Those that want to be asked.
    plugins: Vec<usize>,
    base: Placement,
    stage: Stage,
    since: Instant,
    /// When PreBind of the plugin that waits was first asked.
    pre_bind_since: Option<Instant>,
    /// What the hints had noted when it began.
    mark: u64,
    /// Of the write under way.
    ticket: u64,
}

/// Why a pod goes back to the queue.
#[derive(Debug)]
pub(super) enum Cause {
    /// A plugin wants it so.
    Rejected(usize, String),
    /// Something failed.
    Failed(String),
    /// The plugins are exchanged.
    Exchanged,
}

/// With which plugin PreBind goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Start,
    Again(usize),
    After(usize),
}

#[derive(Debug)]
enum Work {
    Proceed(Uid),
    GiveBack(Uid, Cause),
}

/// All records.
#[derive(Debug, Default)]
pub(super) struct Placing {
    records: HashMap<Uid, Record>,
    numbers: HashMap<u64, Uid>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Waiting for objects in PreBind.
    rechecks: BTreeSet<u64>,
    work: VecDeque<Work>,
    next: u64,
}

impl Placing {
    /// The next timeout.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Whether the pod waits for a plugin or its writes, and is not being bound yet.
    pub(super) fn is_waiting(&self, uid: &Uid) -> bool {
        self.records.get(uid).is_some_and(|record| !record.is_binding())
    }

    /// Pods that wait for a plugin.
    pub(super) fn waiting(&self) -> usize {
        self.deadlines.len()
    }

    /// Takes the record out of all books.
    fn take(&mut self, uid: &Uid) -> Option<Record> {
        let record = self.records.remove(uid)?;
        self.numbers.remove(&record.base.pod);
        self.rest(&record);
        Some(record)
    }

    /// It waits no more.
    fn rest(&mut self, record: &Record) {
        if let Some(deadline) = record.deadline() {
            self.deadlines.remove(&(deadline, record.base.pod));
        }
        self.rechecks.remove(&record.base.pod);
    }
}

impl Record {
    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Permit(pending) => pending.values().map(|p| p.deadline).min(),
            Stage::PreBindWaits(_, deadline) => Some(*deadline),
            Stage::PreBindWrites(..) | Stage::Bind => None,
        }
    }

    const fn is_binding(&self) -> bool {
        matches!(self.stage, Stage::Bind)
    }
}

impl Engine {
    /// Asks Reserve and Permit, and goes on as they say. The pod is accounted already.
    pub(super) fn place(
        &mut self,
        uid: &Uid,
        (profile, def): (usize, Arc<ClassDef>),
        plugins: Vec<usize>,
        (slot, node): (Slot, Arc<str>),
        now: Instant,
    ) {
        let Some(pod) = self.pods.get(uid) else { return };
        self.placing.next += 1;
        let base = Placement {
            pod: self.placing.next,
            namespace: pod.key.0.clone(),
            name: pod.key.1.clone(),
            uid: uid.clone(),
            fields: Arc::default(),
            slot,
            node,
        };
        let mut record = Record {
            profile,
            def,
            plugins,
            base,
            stage: Stage::Permit(BTreeMap::new()),
            since: now,
            pre_bind_since: None,
            mark: self.hints.mark(),
            ticket: 0,
        };
        let cause = self.reserve(&record, now).or_else(|| self.permit(&mut record, now));
        let deadline = record.deadline();
        let number = record.base.pod;
        self.placing.numbers.insert(number, uid.clone());
        self.placing.records.insert(uid.clone(), record);
        match (cause, deadline) {
            (Some(cause), _) => {
                // So that the deadline that is not in the books is not looked for there.
                self.placing.work.push_front(Work::GiveBack(uid.clone(), cause));
            }
            (None, Some(deadline)) => _ = self.placing.deadlines.insert((deadline, number)),
            (None, None) => self.placing.work.push_front(Work::Proceed(uid.clone())),
        }
        self.settle(now);
    }

    fn reserve(&mut self, record: &Record, now: Instant) -> Option<Cause> {
        for plugin in self.with(record, Hooks::RESERVE) {
            match self.ask(record, plugin, now, |p, placement| p.reserve(placement)) {
                Ok(()) => {}
                Err(NoAnswer::Refused(message)) => return Some(Cause::Rejected(plugin, message)),
                Err(NoAnswer::Failed(message)) => {
                    return Some(self.failure(record, "Reserve", plugin, &message));
                }
            }
        }
        None
    }

    fn permit(&mut self, record: &mut Record, now: Instant) -> Option<Cause> {
        let mut pending = BTreeMap::new();
        for plugin in self.with(record, Hooks::PERMIT) {
            let answer = self.ask(record, plugin, now, |p, placement| p.permit(placement));
            let verdict = match answer {
                Ok((verdict, decisions)) => {
                    self.decide(record.profile, plugin, decisions);
                    verdict
                }
                Err(NoAnswer::Refused(message)) => Verdict::Reject { message },
                Err(NoAnswer::Failed(message)) => {
                    return Some(self.failure(record, "Permit", plugin, &message));
                }
            };
            match verdict {
                Verdict::Allow => {}
                Verdict::Wait { timeout, .. } => {
                    let instance = self.profiles.get(record.profile).map_or(0, |p| p.instance(plugin));
                    let deadline = now + timeout.min(LONGEST_WAIT);
                    pending.insert(plugin, Pending { deadline, instance });
                }
                Verdict::Reject { message } => return Some(Cause::Rejected(plugin, message)),
            }
        }
        record.stage = Stage::Permit(pending);
        None
    }

    /// The record's plugins with a hook.
    fn with(&self, record: &Record, hook: Hooks) -> Vec<usize> {
        let Some(profile) = self.profiles.get(record.profile) else { return Vec::new() };
        profile.with_hook(hook).filter(|p| record.plugins.contains(p)).collect()
    }

    fn ask<R>(
        &mut self,
        record: &Record,
        plugin: usize,
        now: Instant,
        ask: impl FnOnce(&mut dyn SchedulerPlugin, &Placement) -> Result<R, PluginError>,
    ) -> Result<R, NoAnswer> {
        let Some(profile) = self.profiles.get_mut(record.profile) else {
            return Err(NoAnswer::Failed("the profile is not there any more".to_owned()));
        };
        let placement = Placement { fields: profile.fields_of(plugin, &record.def), ..record.base.clone() };
        profile.call(plugin, &self.table, true, now, |p| ask(p, &placement))
    }

    fn failure(&self, record: &Record, point: &str, plugin: usize, message: &str) -> Cause {
        let name = self.profiles.get(record.profile).map_or("", |p| p.plugin_name(plugin));
        Cause::Failed(format!("running {point} plugin {name:?}: {message}"))
    }

    /// Notes what a plugin says about other pods that wait.
    fn decide(&mut self, profile: usize, plugin: usize, decisions: Vec<Decision>) {
        for decision in decisions {
            let Some(uid) = self.placing.numbers.get(&decision.pod) else { continue };
            let Some(record) = self.placing.records.get_mut(uid) else { continue };
            let before = record.deadline();
            let Stage::Permit(pending) = &mut record.stage else { continue };
            if record.profile != profile || !pending.contains_key(&plugin) {
                continue;
            }
            if let Some(message) = decision.rejected {
                let cause = Cause::Rejected(plugin, message);
                self.placing.work.push_back(Work::GiveBack(uid.clone(), cause));
                continue;
            }
            pending.remove(&plugin);
            let done = pending.is_empty();
            if let Some(before) = before {
                self.placing.deadlines.remove(&(before, decision.pod));
            }
            match record.deadline() {
                Some(deadline) => _ = self.placing.deadlines.insert((deadline, decision.pod)),
                None if done => self.placing.work.push_back(Work::Proceed(uid.clone())),
                None => {}
            }
        }
    }

    /// Does what plugins decided about pods, and what follows from it.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(work) = self.placing.work.pop_front() {
            match work {
                Work::Proceed(uid) => self.pre_bind(&uid, From::Start, now),
                Work::GiveBack(uid, cause) => self.give_back(&uid, cause, now),
            }
        }
    }
}
