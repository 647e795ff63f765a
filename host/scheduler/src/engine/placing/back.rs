//! The way back to the queue: rejections, timeouts, failures, pods and plugins that go.

use super::super::hints::Wants;
use super::super::{Engine, State};
use super::{Cause, From, Record, Stage, Work};
use crate::framework::{EventSet, Hooks};
use crate::pod::Uid;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

impl Engine {
    /// Takes back what plugins reserved for a pod that is not to be bound by us.
    pub(in crate::engine) fn abandon(&mut self, uid: &Uid, now: Instant) {
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
    pub(in crate::engine) fn give_back(&mut self, uid: &Uid, cause: Cause, now: Instant) {
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
        if self.pods.get(uid).is_none_or(|pod| pod.class.is_none()) {
            return;
        }
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
    pub(in crate::engine) fn expire(&mut self, now: Instant) {
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
    pub(in crate::engine) fn recheck(&mut self, now: Instant) {
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
    pub(in crate::engine) fn exchange(&mut self, now: Instant) {
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
    pub(in crate::engine) fn preempt_waiting(&mut self, uid: &Uid) -> bool {
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
