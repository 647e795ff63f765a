//! The scheduler without its surroundings: changes go in, actions come out.
//!
//! One thread owns it. It reads no clock and does no I/O, so that a test can drive it.
//!
//! Invariants: a pod is accounted to at most one slot. It is accounted before its binding is sent,
//! and stays so until the binding is refused, the pod ends, or it goes. What the API server says
//! about `spec.nodeName` wins over what was assumed.

use crate::framework::EventSet;
use crate::pod::{PodFacts, ScheduledCondition, Uid};
use crate::profile::{ClassDef, Profile};
use crate::queue::{Backoff, Queue};
use crate::table::{Footprint, NodeFacts, NodeTable, Slot};
use orlop_apimachinery::Object;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Namespace and name.
pub type Key = (Arc<str>, Arc<str>);

/// Names a pod in actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
    /// `metadata.uid`
    pub uid: Uid,
    /// Of the pod as it was when the action was decided.
    pub resource_version: u64,
    /// `metadata.generation`
    pub generation: i64,
    /// `spec.schedulerName`, the component that events come from.
    pub scheduler: Arc<str>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bind the pod, then report by [`Engine::bound`].
    Bind {
        /// The pod.
        pod: PodRef,
        /// The node.
        node: Arc<str>,
    },
    /// Set the condition PodScheduled to False.
    Condition {
        /// The pod.
        pod: PodRef,
        /// `Unschedulable`, `SchedulingGated` or `SchedulerError`.
        reason: &'static str,
        /// For the user.
        message: Arc<str>,
    },
    /// Emit an event about the pod.
    Event {
        /// The pod.
        pod: PodRef,
        /// Normal, else Warning.
        normal: bool,
        /// `Scheduled` or `FailedScheduling`.
        reason: &'static str,
        /// `Binding` or `Scheduling`.
        action: &'static str,
        /// For the user.
        message: Arc<str>,
    },
}

/// How a binding ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindResult {
    /// The API server has it, or the pod was found bound to this node.
    Bound,
    /// The API server refused it, or it is certain that it did not happen.
    Failed(String),
    /// The pod is gone.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Of another scheduler, or being deleted before it was placed.
    Foreign,
    /// In the queue.
    Waiting,
    /// Accounted to the slot; the API server does not say so yet.
    Assumed(Slot),
    /// Accounted to the slot, as the API server says.
    Bound(Slot),
}

struct Pod {
    object: Arc<Object>,
    key: Key,
    state: State,
    footprint: Footprint,
    /// Index of the profile and definition of the class; only while unplaced.
    class: Option<(usize, Arc<ClassDef>)>,
    scheduler: Arc<str>,
    never_preempts: bool,
    condition: Option<ScheduledCondition>,
}

impl Pod {
    fn reference(&self, uid: &Uid) -> PodRef {
        PodRef {
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            uid: uid.clone(),
            resource_version: self.object.meta().resource_version,
            generation: self.object.meta().generation,
            scheduler: self.scheduler.clone(),
        }
    }
}

/// The scheduler's state. See the module.
pub struct Engine {
    table: NodeTable,
    profiles: Vec<Profile>,
    queue: Queue,
    pods: HashMap<Uid, Pod>,
    by_key: HashMap<Key, Uid>,
    seed: u64,
    in_flight: usize,
    actions: Vec<Action>,
}

impl Engine {
    /// An engine that knows no node and no pod. `seed` decides among nodes that are equally good.
    #[must_use]
    pub fn new(profiles: Vec<Profile>, backoff: Backoff, seed: u64) -> Self {
        Self {
            table: NodeTable::new(),
            profiles,
            queue: Queue::new(backoff),
            pods: HashMap::new(),
            by_key: HashMap::new(),
            seed,
            in_flight: 0,
            actions: Vec::new(),
        }
    }

    /// The node table.
    #[must_use]
    pub const fn table(&self) -> &NodeTable {
        &self.table
    }

    /// The queue.
    #[must_use]
    pub const fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Bindings that were not reported yet.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What is to be done since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Puts other profiles to work. Open classes are dropped; no pod is lost or moved.
    pub fn set_profiles(&mut self, profiles: Vec<Profile>, backoff: Backoff, now: Instant) {
        self.profiles = profiles;
        self.queue.set_backoff(backoff);
        let unplaced: Vec<Uid> = self
            .pods
            .iter()
            .filter(|(_, p)| matches!(p.state, State::Foreign | State::Waiting))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in unplaced {
            let Some(pod) = self.pods.get(&uid) else { continue };
            let object = pod.object.clone();
            self.unplaced(&uid, &object, PodFacts::from_object(&object), now);
        }
        // An assumed pod whose binding fails needs a class of the new profiles.
        for pod in self.pods.values_mut().filter(|p| matches!(p.state, State::Assumed(_))) {
            pod.class = None;
        }
        self.queue.event(EventSet::PROFILE, now);
    }

    /// A node appeared, changed, or went.
    pub fn node(&mut self, name: &str, object: Option<&Object>, now: Instant) {
        match object {
            Some(object) => {
                let events = self.table.set_node(name, &NodeFacts::from_value(&object.to_value()));
                self.queue.event(events, now);
            }
            None => self.table.remove_node(name),
        }
    }

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

    fn forget(&mut self, uid: &Uid, now: Instant) {
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
    fn unplaced(&mut self, uid: &Uid, object: &Arc<Object>, facts: PodFacts, now: Instant) {
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

    /// Schedules the next pod. `false` where there is none now.
    pub fn cycle(&mut self, now: Instant) -> bool {
        let Some(uid) = self.queue.pop(now) else { return false };
        let Some(pod) = self.pods.get(&uid) else {
            self.queue.remove(&uid);
            return true;
        };
        let Some((at, def)) = pod.class.clone() else {
            let (object, facts) = (pod.object.clone(), PodFacts::from_object(&pod.object));
            self.unplaced(&uid, &object, facts, now);
            self.queue.retry_later(&uid, now);
            return true;
        };
        let never_preempts = pod.never_preempts;
        let Some(profile) = self.profiles.get_mut(at) else { return true };
        let id = profile.open(&def);
        let decided = profile.evaluate(id, &self.table, now).and_then(|()| {
            let slot = profile.class(id).and_then(|class| class.choose(draw(self.seed, &uid)));
            match slot {
                Some(slot) => Ok(Ok(slot)),
                None => profile.explain(id, &self.table, now).map(Err),
            }
        });
        match decided {
            Ok(Ok(slot)) => self.assume(&uid, slot),
            Ok(Err(unfit)) => {
                self.queue.unschedulable(&uid, unfit.events, now);
                self.failed(&uid, "Unschedulable", unfit.message(never_preempts).into());
            }
            Err(failed) => {
                self.queue.retry_later(&uid, now);
                self.failed(&uid, "SchedulerError", failed.message.into());
            }
        }
        true
    }

    fn assume(&mut self, uid: &Uid, slot: Slot) {
        let (Some(pod), Some(node)) = (self.pods.get_mut(uid), self.table.name(slot).cloned()) else {
            return;
        };
        self.table.add_pod_at(slot, &pod.footprint);
        pod.state = State::Assumed(slot);
        self.in_flight += 1;
        self.actions.push(Action::Bind { pod: pod.reference(uid), node });
    }

    /// A binding ended.
    pub fn bound(&mut self, uid: &Uid, node: &str, result: BindResult, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(pod) = self.pods.get_mut(uid) else { return };
        match result {
            BindResult::Bound => {
                self.queue.remove(uid);
                let message = format!("Successfully assigned {}/{} to {node}", pod.key.0, pod.key.1);
                let pod = pod.reference(uid);
                let (reason, action) = ("Scheduled", "Binding");
                self.actions.push(Action::Event {
                    pod,
                    normal: true,
                    reason,
                    action,
                    message: message.into(),
                });
            }
            BindResult::Failed(error) => {
                let State::Assumed(slot) = pod.state else { return };
                pod.state = State::Waiting;
                self.table.remove_pod(slot, &pod.footprint);
                let (object, facts) = (pod.object.clone(), PodFacts::from_object(&pod.object));
                self.unplaced(uid, &object, facts, now);
                self.queue.retry_later(uid, now);
                self.queue.event(EventSet::POD_DELETE, now);
                let message = format!("binding rejected: running Bind plugin \"DefaultBinder\": {error}");
                self.failed(uid, "SchedulerError", message.into());
            }
            BindResult::Gone => {
                let State::Assumed(_) = pod.state else { return };
                self.forget(uid, now);
            }
        }
    }

    fn failed(&mut self, uid: &Uid, reason: &'static str, message: Arc<str>) {
        let Some(pod) = self.pods.get(uid) else { return };
        let (name, action) = ("FailedScheduling", "Scheduling");
        let pod = pod.reference(uid);
        self.actions.push(Action::Event {
            pod,
            normal: false,
            reason: name,
            action,
            message: message.clone(),
        });
        self.condition(uid, reason, message);
    }

    /// Asks for the condition PodScheduled=False where the API server does not have it.
    fn condition(&mut self, uid: &Uid, reason: &'static str, message: Arc<str>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let wanted = ScheduledCondition {
            status: "False".to_owned(),
            reason: reason.to_owned(),
            message: message.to_string(),
        };
        if pod.condition.as_ref() != Some(&wanted) {
            pod.condition = Some(wanted);
            let pod = pod.reference(uid);
            self.actions.push(Action::Condition { pod, reason, message });
        }
    }

    /// When there may be something to do without any change coming in.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.queue.next_wakeup()
    }
}

/// A number that depends on the seed and the pod alone, so that a replay chooses the same nodes.
fn draw(seed: u64, uid: &str) -> u64 {
    let hash = uid
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64 ^ seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    let x = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
