//! From the choice of a node to the binding: Reserve, Permit, PreBind, Bind, PostBind.
//!
//! Pods of classes that no plugin wants to see here go to the API server at once. The others have a
//! record of where they stand. A record ends by the binding or by [`Engine::give_back`], which takes
//! back what plugins reserved, in reverse order.

use super::hints::Wants;
use super::{Engine, State};
use crate::action::{Action, BindResult};
use crate::framework::{Binder, Decision, EventSet, Hooks, Placement, Verdict};
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
        ask: impl FnOnce(
            &mut dyn crate::framework::SchedulerPlugin,
            &Placement,
        ) -> Result<R, crate::framework::PluginError>,
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

    /// Asks PreBind of the record's plugins, then binds.
    fn pre_bind(&mut self, uid: &Uid, from: From, now: Instant) {
        let Some(mut record) = self.placing.records.remove(uid) else { return };
        self.placing.rest(&record);
        let mut cause = None;
        let mut under_way = false;
        let mut plugins = self.with(&record, Hooks::PRE_BIND);
        if let From::Again(plugin) | From::After(plugin) = from {
            let at = plugins.iter().position(|p| *p == plugin).unwrap_or(plugins.len());
            plugins.drain(..at + usize::from(from == From::After(plugin)).min(plugins.len() - at));
        }
        for plugin in plugins {
            if from != From::Again(plugin) {
                record.pre_bind_since = None;
            }
            let first = *record.pre_bind_since.get_or_insert(now);
            match self.ask(&record, plugin, now, |p, placement| p.pre_bind(placement)) {
                Ok((verdict, writes)) if !writes.is_empty() => {
                    record.stage = Stage::PreBindWrites(plugin, verdict);
                    self.write(uid, &mut record, plugin, writes);
                    under_way = true;
                }
                Ok((Verdict::Allow, _)) => continue,
                Ok((Verdict::Wait { timeout, .. }, _)) => {
                    let deadline = first + timeout.min(LONGEST_WAIT);
                    record.stage = Stage::PreBindWaits(plugin, deadline);
                    under_way = true;
                }
                Ok((Verdict::Reject { message }, _)) | Err(NoAnswer::Refused(message)) => {
                    cause = Some(Cause::Rejected(plugin, message));
                }
                Err(NoAnswer::Failed(message)) => {
                    cause = Some(self.failure(&record, "PreBind", plugin, &message));
                }
            }
            break;
        }
        if cause.is_none() && !under_way {
            cause = self.bind(uid, &mut record, now);
        }
        self.put_back(uid, record);
        if let Some(cause) = cause {
            self.placing.work.push_back(Work::GiveBack(uid.clone(), cause));
        }
    }

    fn put_back(&mut self, uid: &Uid, record: Record) {
        if let Some(deadline) = record.deadline() {
            self.placing.deadlines.insert((deadline, record.base.pod));
            if matches!(record.stage, Stage::PreBindWaits(..)) {
                self.placing.rechecks.insert(record.base.pod);
            }
        }
        self.placing.records.insert(uid.clone(), record);
    }

    fn bind(&mut self, uid: &Uid, record: &mut Record, now: Instant) -> Option<Cause> {
        record.stage = Stage::Bind;
        let binders = self.with(record, Hooks::BIND);
        let alone = binders.is_empty();
        for plugin in binders {
            match self.ask(record, plugin, now, |p, placement| p.bind(placement)) {
                Ok(Binder::Next) => {}
                Ok(Binder::Host) => {
                    self.send_binding(uid, record.base.node.clone());
                    return None;
                }
                Ok(Binder::Writes(writes)) if !writes.is_empty() => {
                    self.write(uid, record, plugin, writes);
                    return None;
                }
                Ok(Binder::Writes(_)) => {
                    return Some(self.failure(record, "Bind", plugin, "it binds by no write at all"));
                }
                Err(error) => return Some(self.failure(record, "Bind", plugin, error.message())),
            }
        }
        if alone {
            self.send_binding(uid, record.base.node.clone());
            return None;
        }
        Some(Cause::Failed("no Bind plugin binds the pod".to_owned()))
    }

    pub(super) fn send_binding(&mut self, uid: &Uid, node: Arc<str>) {
        let Some(pod) = self.pods.get(uid) else { return };
        self.in_flight += 1;
        self.actions.push(Action::Bind { pod: pod.reference(uid), node });
    }

    fn write(&mut self, uid: &Uid, record: &mut Record, plugin: usize, writes: Vec<Vec<u8>>) {
        let Some(pod) = self.pods.get(uid) else { return };
        let Some(profile) = self.profiles.get(record.profile) else { return };
        self.placing.next += 1;
        record.ticket = self.placing.next;
        self.in_flight += 1;
        self.actions.push(Action::Write {
            pod: pod.reference(uid),
            plugin: profile.plugin_name(plugin).into(),
            user: profile.user(plugin),
            writes,
            ticket: record.ticket,
        });
    }

    /// The writes of a plugin ended.
    pub fn written(&mut self, uid: &Uid, ticket: u64, result: Result<(), String>, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(record) = self.placing.records.get_mut(uid).filter(|r| r.ticket == ticket) else { return };
        match (&record.stage, result) {
            (Stage::PreBindWrites(plugin, verdict), Ok(())) => {
                let (plugin, verdict) = (*plugin, verdict.clone());
                match verdict {
                    Verdict::Allow => self.pre_bind(uid, From::After(plugin), now),
                    Verdict::Reject { message } => {
                        self.give_back(uid, Cause::Rejected(plugin, message), now);
                    }
                    Verdict::Wait { timeout, .. } => {
                        let first = record.pre_bind_since.unwrap_or(now);
                        record.stage = Stage::PreBindWaits(plugin, first + timeout.min(LONGEST_WAIT));
                        if let Some(record) = self.placing.records.remove(uid) {
                            self.put_back(uid, record);
                        }
                    }
                }
            }
            (Stage::PreBindWrites(plugin, _), Err(error)) => {
                let plugin = *plugin;
                let name = self
                    .profiles
                    .get(record.profile)
                    .map_or_else(String::new, |p| p.plugin_name(plugin).to_owned());
                let message = format!("running PreBind plugin {name:?}: {error}");
                self.give_back(uid, Cause::Failed(message), now);
            }
            (_, Ok(())) => {
                let node = record.base.node.clone();
                self.is_bound(uid, &node, now);
            }
            (_, Err(error)) => {
                self.give_back(uid, Cause::Failed(format!("binding rejected: {error}")), now);
            }
        }
        self.settle(now);
    }

    /// A binding ended.
    pub fn bound(&mut self, uid: &Uid, node: &str, result: BindResult, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match result {
            BindResult::Bound => self.is_bound(uid, node, now),
            BindResult::Failed(error) => {
                let message = format!("binding rejected: running Bind plugin {HOST:?}: {error}");
                self.give_back(uid, Cause::Failed(message), now);
            }
            BindResult::Gone => {
                if self.pods.get(uid).is_some_and(|p| matches!(p.state, State::Assumed(_))) {
                    self.forget(uid, now);
                }
            }
        }
        self.settle(now);
    }

    fn is_bound(&mut self, uid: &Uid, node: &str, now: Instant) {
        self.queue.remove(uid);
        self.nominated.remove(uid);
        self.post_bind(uid, now);
        let Some(pod) = self.pods.get(uid) else { return };
        let message = format!("Successfully assigned {}/{} to {node}", pod.key.0, pod.key.1);
        self.actions.push(Action::Event {
            pod: pod.reference(uid),
            normal: true,
            reason: "Scheduled",
            action: "Binding",
            message: message.into(),
        });
    }

    fn post_bind(&mut self, uid: &Uid, now: Instant) {
        let Some(record) = self.placing.take(uid) else { return };
        for plugin in self.with(&record, Hooks::POST_BIND) {
            // A failure is the plugin's own affair: the pod is bound.
            _ = self.ask(&record, plugin, now, |p, placement| p.post_bind(placement));
        }
    }

    /// Takes back what plugins reserved for a pod that is not to be bound by us.
    pub(super) fn abandon(&mut self, uid: &Uid, now: Instant) {
        let Some(record) = self.placing.take(uid) else { return };
        self.unreserve(&record, now);
    }

    fn unreserve(&mut self, record: &Record, now: Instant) {
        let Some(profile) = self.profiles.get(record.profile) else { return };
        let mut plugins: Vec<usize> = profile.with_hook(Hooks::RESERVE).collect();
        plugins.extend(profile.with_hook(Hooks::PERMIT).filter(|p| !profile.has(*p, Hooks::RESERVE)));
        for plugin in plugins.into_iter().rev().filter(|p| record.plugins.contains(p)) {
            if let Ok(decisions) = self.ask(record, plugin, now, |p, placement| p.unreserve(placement)) {
                self.decide(record.profile, plugin, decisions);
            }
        }
    }

    /// The pod goes back to the queue; its place and what was reserved for it are free again.
    pub(super) fn give_back(&mut self, uid: &Uid, cause: Cause, now: Instant) {
        let record = self.placing.take(uid);
        if let Some(pod) = self.pods.get_mut(uid)
            && let State::Assumed(slot) = pod.state
        {
            pod.state = State::Waiting;
            self.release(uid, slot);
        } else {
            // It was placed or went in the meantime.
            if let Some(record) = record {
                self.unreserve(&record, now);
            }
            return;
        }
        if let Some(record) = &record {
            self.unreserve(record, now);
        }
        self.hints.note(EventSet::POD_DELETE);
        self.define_again(uid, now);
        match (cause, record) {
            (Cause::Rejected(plugin, message), Some(record)) => {
                let events =
                    self.profiles.get(record.profile).map_or(EventSet::ALL, |p| p.plugin_events(plugin));
                if self.hints.since(record.mark, events) {
                    self.queue.retry_later(uid, now);
                } else {
                    let group = self.hints.group(record.profile, &record.def, events, Wants::Event, i32::MIN);
                    self.queue.unschedulable(uid, group, now);
                }
                let message = format!("0/1 nodes are available: 1 {message}.");
                self.failed(uid, "Unschedulable", message.into());
            }
            (Cause::Rejected(_, message) | Cause::Failed(message), _) => {
                self.queue.retry_later(uid, now);
                self.failed(uid, "SchedulerError", message.into());
            }
            (Cause::Exchanged, _) => self.queue.retry_now(uid, now),
        }
    }

    /// Rejects pods that waited too long, and those whose plugins lost their books.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((at, number)) = self.placing.deadlines.first().copied()
            && at <= now
        {
            self.placing.deadlines.pop_first();
            let Some(uid) = self.placing.numbers.get(&number).cloned() else { continue };
            let Some(record) = self.placing.records.get(&uid) else { continue };
            let plugin = match &record.stage {
                Stage::Permit(pending) => pending.iter().find(|(_, p)| p.deadline <= now).map(|(at, _)| *at),
                Stage::PreBindWaits(plugin, _) => Some(*plugin),
                Stage::PreBindWrites(..) | Stage::Bind => None,
            };
            let Some(plugin) = plugin else { continue };
            let since = match &record.stage {
                Stage::PreBindWaits(..) => record.pre_bind_since.unwrap_or(record.since),
                _ => record.since,
            };
            let waited = go_duration(at.saturating_duration_since(since));
            let name = self.profiles.get(record.profile).map_or("", |p| p.plugin_name(plugin));
            let message = format!("rejected due to timeout after waiting {waited} at plugin {name}");
            self.placing.work.push_back(Work::GiveBack(uid, Cause::Rejected(plugin, message)));
        }
        let instances = self.profiles.iter().map(|p| p.instances()).sum();
        if instances != self.instances {
            self.instances = instances;
            self.forget_lost_books();
        }
        self.settle(now);
    }

    /// An instance that was started anew knows nothing of the pods that wait for it.
    fn forget_lost_books(&mut self) {
        let lost = |r: &Record| match &r.stage {
            Stage::Permit(pending) => self.profiles.get(r.profile).is_none_or(|profile| {
                pending.iter().any(|(plugin, p)| profile.instance(*plugin) != p.instance)
            }),
            _ => false,
        };
        let lost: BTreeMap<u64, Uid> = self
            .placing
            .records
            .iter()
            .filter(|(_, r)| lost(r))
            .map(|(uid, r)| (r.base.pod, uid.clone()))
            .collect();
        for uid in lost.into_values() {
            let cause = Cause::Failed("a plugin that the pod waited for was started anew".to_owned());
            self.placing.work.push_back(Work::GiveBack(uid, cause));
        }
    }

    /// Watched objects changed: PreBind plugins that wait are asked again.
    pub(super) fn recheck(&mut self, now: Instant) {
        for number in std::mem::take(&mut self.placing.rechecks) {
            let Some(uid) = self.placing.numbers.get(&number).cloned() else { continue };
            let Some(record) = self.placing.records.get(&uid) else { continue };
            if let Stage::PreBindWaits(plugin, _) = record.stage {
                self.pre_bind(&uid, From::Again(plugin), now);
            }
        }
        self.settle(now);
    }

    /// Other plugins come: pods that wait for the old ones go back to the queue. A binding that is
    /// under way goes on.
    pub(super) fn exchange(&mut self, now: Instant) {
        let mut records: Vec<(u64, Uid, bool)> =
            self.placing.records.iter().map(|(uid, r)| (r.base.pod, uid.clone(), r.is_binding())).collect();
        records.sort_unstable();
        for (_, uid, binding) in records {
            if !binding {
                self.give_back(&uid, Cause::Exchanged, now);
            } else if let Some(record) = self.placing.records.get_mut(&uid) {
                record.plugins.clear();
            }
        }
        // What the old plugins decided about each other's pods is void.
        self.placing.work.clear();
    }

    /// A pod that waits in Permit is to make room. Says whether it does.
    pub(super) fn preempt_waiting(&mut self, uid: &Uid) -> bool {
        let Some(record) = self.placing.records.get(uid).filter(|r| !r.is_binding()) else { return false };
        let plugin = record.plugins.first().copied().unwrap_or(0);
        let cause = Cause::Rejected(plugin, "preempted".to_owned());
        self.placing.work.push_back(Work::GiveBack(uid.clone(), cause));
        true
    }
}

/// As Go prints durations of whole milliseconds.
fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 {
        return format!("{millis}ms");
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction =
        if millis == 0 { String::new() } else { format!(".{millis:03}").trim_end_matches('0').to_owned() };
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}
