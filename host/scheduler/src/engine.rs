//! The scheduler without its surroundings: changes go in, actions come out.
//!
//! One thread owns it. It reads no clock and does no I/O, so that a test can drive it.
//!
//! Invariants: a pod is accounted to at most one slot. It is accounted before its binding is sent,
//! and stays so until the binding is refused, the pod ends, or it goes. What the API server says
//! about `spec.nodeName` wins over what was assumed.

mod cycle;
mod objects;
mod pods;

use crate::action::Key;
pub use crate::action::{Action, BindResult, PodRef};
use crate::framework::EventSet;
use crate::pod::{PodFacts, ScheduledCondition, Uid};
use crate::profile::{ClassDef, Profile};
use crate::queue::{Backoff, Queue};
use crate::table::{Footprint, NodeFacts, NodeTable, Slot};
use orlop_apimachinery::Object;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

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
        let mut table = NodeTable::new();
        table.placed_mut().read(placed_pod_fields(&profiles));
        Self {
            table,
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
        let fields = placed_pod_fields(&profiles);
        self.profiles = profiles;
        self.watch_what_profiles_watch();
        if self.table.placed_mut().read(fields) {
            self.account_anew(|_| true);
        }
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

    /// When there may be something to do without any change coming in.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.queue.next_wakeup()
    }
}

fn placed_pod_fields(profiles: &[Profile]) -> Vec<String> {
    profiles.iter().flat_map(|p| p.placed_pod_fields().map(ToOwned::to_owned)).collect()
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
