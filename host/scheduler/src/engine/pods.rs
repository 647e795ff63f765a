//! Pods come, change and go.

use super::{Engine, Pod, State};
use crate::action::Key;
use crate::framework::EventSet;
use crate::pod::{PodFacts, Uid};
use crate::table::Slot;
use orlop_apimachinery::Object;
use std::sync::Arc;
use std::time::Instant;

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
        let (Some(object), Some(uid)) = (object, uid) else { return };
        let facts = PodFacts::from_object(object);
        if facts.ended {
            return self.forget(&uid, now);
        }
        self.by_key.insert(key.clone(), uid.clone());
        if facts.node.is_empty() {
            self.unplaced(&uid, object, facts, now)
        } else {
            self.placed(&uid, object, &facts, now)
        }
    }

    pub(super) fn forget(&mut self, uid: &Uid, now: Instant) {
        let Some(pod) = self.pods.remove(uid) else { return };
        if self.by_key.get(&pod.key) == Some(uid) {
            self.by_key.remove(&pod.key);
        }
        self.queue.remove(uid);
        if let State::Assumed(slot) | State::Bound(slot) = pod.state {
            self.table.remove_pod(slot, &pod.footprint);
            self.queue.event(EventSet::POD_DELETE, now);
        }
    }

    /// The API server says that the pod is on a node.
    fn placed(&mut self, uid: &Uid, object: &Arc<Object>, facts: &PodFacts, now: Instant) {
        let footprint = facts.footprint(&mut self.table);
        let before = self.pods.remove(uid);
        self.queue.remove(uid);
        let at = before.as_ref().and_then(|p| match p.state {
            State::Assumed(slot) | State::Bound(slot) => Some((slot, &p.footprint)),
            State::Foreign | State::Waiting => None,
        });
        let slot = match at {
            Some((slot, same)) if *same == footprint && self.is_called(slot, &facts.node) => slot,
            Some((slot, old)) => {
                // Take the new place first, so that the slot is not given away in between.
                let to = self.table.add_pod(&facts.node, &footprint);
                self.table.remove_pod(slot, old);
                if to != slot || old.shrinks_to(&footprint) {
                    self.queue.event(EventSet::POD_DELETE, now);
                }
                to
            }
            None => self.table.add_pod(&facts.node, &footprint),
        };
        let pod = Pod {
            object: object.clone(),
            key: (object.namespace().into(), object.name().into()),
            state: State::Bound(slot),
            footprint,
            class: None,
            scheduler: before.map_or_else(|| facts.scheduler.as_str().into(), |p| p.scheduler),
            never_preempts: facts.never_preempts,
            condition: None,
        };
        self.pods.insert(uid.clone(), pod);
    }

    fn is_called(&self, slot: Slot, node: &str) -> bool {
        self.table.name(slot).is_some_and(|n| n.as_ref() == node)
    }

    /// The API server says that the pod is on no node.
    pub(super) fn unplaced(&mut self, uid: &Uid, object: &Arc<Object>, facts: PodFacts, now: Instant) {
        let state = self.pods.get(uid).map(|p| p.state.clone());
        if matches!(state, Some(State::Assumed(_) | State::Bound(_))) {
            // Our binding is newer than this news; should it fail, the pod is read again.
            if let Some(pod) = self.pods.get_mut(uid) {
                pod.object = object.clone();
                pod.class = None;
            }
            return;
        }
        let profile = self.profiles.iter().position(|p| p.name() == facts.scheduler);
        let ours = profile.filter(|_| !object.is_being_deleted());
        let class = ours.and_then(|at| Some((at, self.profiles.get_mut(at)?.define(&facts.value))));
        let footprint = facts.footprint(&mut self.table);
        let relevant = match (self.pods.get(uid).and_then(|p| p.class.as_ref()), &class) {
            (Some((at, old)), Some((now_at, new))) => at != now_at || !Arc::ptr_eq(old, new),
            _ => true,
        };
        let pod = Pod {
            object: object.clone(),
            key: (object.namespace().into(), object.name().into()),
            state: if class.is_some() { State::Waiting } else { State::Foreign },
            footprint,
            class,
            scheduler: facts.scheduler.as_str().into(),
            never_preempts: facts.never_preempts,
            condition: facts.scheduled,
        };
        let ours = pod.class.is_some();
        self.pods.insert(uid.clone(), pod);
        if ours {
            let gated = !facts.gates.is_empty();
            self.queue.update(uid, facts.priority, gated, relevant, now);
            if gated {
                self.condition(
                    uid,
                    "SchedulingGated",
                    "Scheduling is blocked due to non-empty scheduling gates".into(),
                );
            }
        } else {
            self.queue.remove(uid);
        }
    }
}
