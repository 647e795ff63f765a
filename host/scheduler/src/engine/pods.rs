//! Pods come, change and go.

use super::hints::Wants;
use super::{Engine, Pod, State};
use crate::action::Key;
use crate::framework::EventSet;
use crate::pod::{PodFacts, Uid};
use crate::profile::ClassDef;
use crate::queue::Group;
use crate::table::Slot;
use orlop_apimachinery::Object;
use std::sync::Arc;
use std::time::Instant;

/// What upstream's API server says of a pod with scheduling gates.
pub(super) const GATED: &str = "Scheduling is blocked due to non-empty scheduling gates";

impl Engine {
    /// A pod appeared, changed, or went.
    pub fn pod(&mut self, namespace: &str, name: &str, object: Option<&Arc<Object>>, now: Instant) {
        let key: Key = (namespace.into(), name.into());
        let known = self.by_key.get(&key).cloned();
        let uid: Option<Uid> = object.map(|o| o.uid().into());
        if let Some(known) = &known
            && uid.as_ref() != Some(known)
        {
            self.forget(known, now);
        }
        if let (Some(object), Some(uid)) = (object, uid) {
            let facts = self.facts(object);
            if facts.ended {
                self.forget(&uid, now);
            } else {
                self.by_key.insert(key, uid.clone());
                if facts.node.is_empty() {
                    self.unplaced(&uid, object, facts, now);
                } else {
                    self.placed(&uid, object, &facts, now);
                }
            }
        }
        self.settle(now);
    }

    pub(super) fn forget(&mut self, uid: &Uid, now: Instant) {
        let Some(pod) = self.pods.remove(uid) else { return };
        if self.by_key.get(&pod.key) == Some(uid) {
            self.by_key.remove(&pod.key);
        }
        self.queue.remove(uid);
        self.denominate(uid);
        if let State::Assumed(slot) | State::Bound(slot) = pod.state {
            self.table.remove_pod(slot, &pod.footprint);
            self.move_out(uid, slot, pod.priority);
            self.hints.note(EventSet::POD_DELETE);
        }
        self.abandon(uid, now);
    }

    /// The API server says that the pod is on a node.
    fn placed(&mut self, uid: &Uid, object: &Arc<Object>, facts: &PodFacts, now: Instant) {
        let footprint = facts.footprint(&mut self.table);
        let before = self.pods.remove(uid);
        self.queue.remove(uid);
        self.denominate(uid);
        let at = before.as_ref().and_then(|p| match p.state {
            State::Assumed(slot) | State::Bound(slot) => Some((slot, p)),
            State::Foreign | State::Waiting => None,
        });
        let condemned = before.as_ref().is_some_and(|p| p.condemned);
        let slot = match at {
            Some((slot, p)) if p.footprint == footprint && self.is_called(slot, &facts.node) => {
                self.move_out(uid, slot, p.priority);
                slot
            }
            Some((slot, p)) => {
                // Take the new place first, so that the slot is not given away in between.
                let to = self.table.add_pod(&facts.node, &footprint);
                self.table.remove_pod(slot, &p.footprint);
                self.move_out(uid, slot, p.priority);
                if to != slot || p.footprint.shrinks_to(&footprint) {
                    self.hints.note(EventSet::POD_DELETE);
                }
                self.hints.note(EventSet::POD_ADD);
                to
            }
            None => {
                self.hints.note(EventSet::POD_ADD);
                self.table.add_pod(&facts.node, &footprint)
            }
        };
        self.settle_in(uid, slot, facts.priority);
        // Somebody else may have bound a pod that waits for our plugins.
        if self.placing.is_waiting(uid) || at.is_none_or(|(before, _)| before != slot) {
            self.abandon(uid, now);
        }
        let pod = Pod {
            object: object.clone(),
            key: (object.namespace().into(), object.name().into()),
            state: State::Bound(slot),
            footprint,
            class: None,
            scheduler: before.map_or_else(|| facts.scheduler.as_str().into(), |p| p.scheduler),
            priority: facts.priority,
            has_gates: false,
            condition: None,
            nominated: None,
            unconfirmed: false,
            condemned,
        };
        self.pods.insert(uid.clone(), pod);
    }

    fn is_called(&self, slot: Slot, node: &str) -> bool {
        self.table.name(slot).is_some_and(|n| n.as_ref() == node)
    }

    /// The API server says that the pod is on no node.
    pub(super) fn unplaced(&mut self, uid: &Uid, object: &Arc<Object>, facts: PodFacts, now: Instant) {
        let state = self.pods.get(uid).map(|p| p.state.clone());
        if let Some(State::Assumed(slot) | State::Bound(slot)) = state {
            if let Some(pod) = self.pods.get_mut(uid) {
                pod.object = object.clone();
                pod.class = None;
            }
            let leaves = object.is_being_deleted() && self.placing.is_waiting(uid);
            if !leaves {
                // Our binding is newer than this news; should it fail, the pod is read again.
                return;
            }
            self.release(uid, slot);
            self.hints.note(EventSet::POD_DELETE);
            self.abandon(uid, now);
        }
        let profile = self.profiles.iter().position(|p| p.name() == facts.scheduler);
        let ours = profile.filter(|_| !object.is_being_deleted());
        let class = ours.and_then(|at| Some((at, self.profiles.get_mut(at)?.define(&facts.value))));
        let footprint = facts.footprint(&mut self.table);
        let before = self.pods.remove(uid);
        let same = match (before.as_ref().and_then(|p| p.class.as_ref()), &class) {
            (Some((at, old)), Some((now_at, new))) => at == now_at && Arc::ptr_eq(old, new),
            _ => false,
        };
        let told = facts.value.pointer("/status/nominatedNodeName").and_then(serde_json::Value::as_str);
        let told: Option<Arc<str>> = told.filter(|node| !node.is_empty()).map(Into::into);
        // What we told the API server may not be in this news yet.
        let kept =
            before.as_ref().filter(|p| told.is_none() && p.unconfirmed).and_then(|p| p.nominated.clone());
        let unconfirmed = kept.is_some();
        let nominated = told.or(kept);
        let pod = Pod {
            object: object.clone(),
            key: (object.namespace().into(), object.name().into()),
            state: if class.is_some() { State::Waiting } else { State::Foreign },
            footprint,
            class: class.clone(),
            scheduler: facts.scheduler.as_str().into(),
            priority: facts.priority,
            has_gates: !facts.gates.is_empty(),
            condition: facts.scheduled,
            nominated: nominated.clone(),
            unconfirmed,
            condemned: false,
        };
        self.pods.insert(uid.clone(), pod);
        let Some((at, def)) = class else {
            self.queue.remove(uid);
            self.denominate(uid);
            return;
        };
        match &nominated {
            Some(node) => self.nominated.put(uid, node, facts.priority),
            None => self.denominate(uid),
        }
        let gate = self.gate(uid, at, &def, now).unwrap_or_default();
        let Some(profile) = self.profiles.get_mut(at) else { return };
        let sort = profile.sort_key(&def, facts.priority, &self.table, now);
        self.queue.update(uid, sort, gate, now);
        if !same && before.is_some() && gate.is_none() {
            self.changed_class(uid, at, &def, facts.priority, now);
        }
    }

    /// A pod that waits reads otherwise than before: it is tried again where that may help, and else
    /// waits for the same in its new class.
    fn changed_class(&mut self, uid: &Uid, at: usize, def: &Arc<ClassDef>, priority: i32, now: Instant) {
        let Some(group) = self.queue.group_of(uid) else { return };
        match self.hints.waits_for(group) {
            Some((events, wants)) if !events.intersects(EventSet::POD_UPDATE) => {
                let group = self.hints.group(at, def, events, wants, priority);
                self.queue.regroup(uid, group);
            }
            _ => self.queue.wake_one(uid, now),
        }
    }

    /// Reads the pod again, for other profiles or after it was given back.
    pub(super) fn define_again(&mut self, uid: &Uid, now: Instant) {
        let Some(pod) = self.pods.get(uid) else { return };
        let object = pod.object.clone();
        let facts = self.facts(&object);
        self.unplaced(uid, &object, facts, now);
    }

    /// The group in which the pod is gated, if it is; says so to the user.
    ///
    /// # Errors
    /// What the user is told where a plugin gave no answer.
    pub(super) fn gate(
        &mut self,
        uid: &Uid,
        at: usize,
        def: &Arc<ClassDef>,
        now: Instant,
    ) -> Result<Option<Group>, String> {
        let Some(pod) = self.pods.get(uid) else { return Ok(None) };
        let (has_gates, priority) = (pod.has_gates, pod.priority);
        let Some(profile) = self.profiles.get_mut(at) else { return Ok(None) };
        let blocked = profile.gate(def, false, &self.table, now).map_err(|failed| failed.message)?;
        let (events, message) = match blocked {
            Some(blocked) if has_gates => (blocked.events, GATED.into()),
            Some(blocked) => (blocked.events, blocked.message.clone()),
            // The API server binds no pod that has gates, whoever looks at them.
            None if has_gates => (EventSet::NONE, GATED.into()),
            None => return Ok(None),
        };
        let group = self.hints.group(at, def, events, Wants::Gate, priority);
        self.condition(uid, "SchedulingGated", message);
        Ok(Some(group))
    }
}
