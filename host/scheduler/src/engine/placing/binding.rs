//! PreBind, Bind and PostBind, and the ends of what they began.

use super::super::{Engine, State};
use super::{Cause, From, HOST, LONGEST_WAIT, Record, Stage, Work};
use crate::action::{Action, BindResult};
use crate::framework::{Binder, Hooks, Verdict};
use crate::pod::Uid;
use crate::profile::NoAnswer;
use std::sync::Arc;
use std::time::Instant;

impl Engine {
    /// Asks PreBind of the record's plugins, then binds.
    pub(super) fn pre_bind(&mut self, uid: &Uid, from: From, now: Instant) {
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

    pub(in crate::engine) fn send_binding(&mut self, uid: &Uid, node: Arc<str>) {
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
        self.denominate(uid);
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
}
