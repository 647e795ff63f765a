//! The scheduler without its surroundings: changes go in, actions come out.
//!
//! One thread owns it. It reads no clock and does no I/O, so that a test can drive it.
//!
//! Invariants: a pod is accounted to at most one slot. It is accounted before its binding is sent,
//! and stays so until the binding is refused, the pod ends, or it goes. What the API server says
//! about `spec.nodeName` wins over what was assumed.

mod cycle;
mod hints;
mod objects;
mod placing;
mod pods;
mod preempting;

use crate::action::Key;
pub use crate::action::{Action, BindResult, PodRef};
use crate::disruption::Budgets;
use crate::framework::EventSet;
use crate::nominated::Nominated;
use crate::pod::{ScheduledCondition, Uid};
use crate::profile::{ClassDef, Profile};
use crate::queue::{Backoff, Queue};
use crate::surroundings::Surroundings;
use crate::table::{Footprint, NodeFacts, NodeTable, Slot};
use hints::Hints;
use orlop_apimachinery::Object;
use placing::Placing;
use std::collections::{BTreeMap, HashMap};
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
    priority: i32,
    /// Has scheduling gates.
    has_gates: bool,
    condition: Option<ScheduledCondition>,
    /// `status.nominatedNodeName`, as the API server has it or was told.
    nominated: Option<Arc<str>>,
    /// The API server was told of `nominated`, but has not shown it yet.
    unconfirmed: bool,
    /// It is being evicted.
    condemned: bool,
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
    hints: Hints,
    placing: Placing,
    nominated: Nominated,
    budgets: Budgets,
    /// Counts changes of `budgets`.
    budget_changes: u64,
    surroundings: Surroundings,
    pods: HashMap<Uid, Pod>,
    by_key: HashMap<Key, Uid>,
    /// The pods that are accounted to each slot.
    on_node: Vec<Vec<Uid>>,
    /// How many of them have each priority.
    priorities: BTreeMap<i32, u32>,
    vain: preempting::Vain,
    /// Of all profiles, as last seen.
    instances: u64,
    seed: u64,
    in_flight: usize,
    actions: Vec<Action>,
}

impl Engine {
    /// An engine that knows no node and no pod. `seed` decides among nodes that are equally good.
    #[must_use]
    pub fn new(profiles: Vec<Profile>, backoff: Backoff, seed: u64) -> Self {
        let mut this = Self {
            table: NodeTable::new(),
            profiles,
            queue: Queue::new(backoff),
            hints: Hints::default(),
            placing: Placing::default(),
            nominated: Nominated::default(),
            budgets: Budgets::default(),
            budget_changes: 0,
            surroundings: Surroundings::default(),
            pods: HashMap::new(),
            by_key: HashMap::new(),
            on_node: Vec::new(),
            priorities: BTreeMap::new(),
            vain: HashMap::new(),
            instances: 0,
            seed,
            in_flight: 0,
            actions: Vec::new(),
        };
        this.read_what_profiles_read();
        this
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

    /// Bindings and writes of plugins that were not reported yet.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Pods that were given a node and wait for a plugin.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.placing.waiting()
    }

    /// What is to be done since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Puts other profiles to work. Open classes are dropped; no pod is lost or moved. Pods that wait
    /// for a plugin go back to the queue; bindings that are under way go on.
    pub fn set_profiles(&mut self, profiles: Vec<Profile>, backoff: Backoff, now: Instant) {
        self.exchange(now);
        self.profiles = profiles;
        self.hints.clear();
        self.vain.clear();
        self.queue.set_backoff(backoff);
        self.read_what_profiles_read();
        let mut unplaced: Vec<Uid> = self
            .pods
            .iter()
            .filter(|(_, p)| matches!(p.state, State::Foreign | State::Waiting))
            .map(|(uid, _)| uid.clone())
            .collect();
        // In an order that a replay has too.
        unplaced.sort_unstable();
        for uid in unplaced {
            self.define_again(&uid, now);
            self.queue.wake_one(&uid, now);
        }
        // An assumed pod whose binding fails needs a class of the new profiles.
        for pod in self.pods.values_mut().filter(|p| matches!(p.state, State::Assumed(_))) {
            pod.class = None;
        }
    }

    /// A node appeared, changed, or went.
    pub fn node(&mut self, name: &str, object: Option<&Object>) {
        match object {
            Some(object) => {
                let events = self.table.set_node(name, &NodeFacts::from_value(&object.to_value()));
                self.hints.note(events);
            }
            None => {
                self.table.remove_node(name);
                self.hints.note(EventSet::NODE_DELETE);
            }
        }
    }

    /// A PodDisruptionBudget appeared, changed, or went.
    pub fn budget(&mut self, namespace: &str, name: &str, object: Option<&Object>) {
        self.budgets.set(&(namespace.into(), name.into()), object);
        self.budget_changes += 1;
    }

    /// When there may be something to do without any change coming in.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.queue.next_wakeup().into_iter().chain(self.placing.next_deadline()).min()
    }

    /// Lets the table know what plugins read of placed pods, and which objects they watch.
    fn read_what_profiles_read(&mut self) {
        self.watch_what_profiles_watch();
        self.surroundings.read(
            reads(&self.profiles, "computed.namespaceLabels"),
            reads(&self.profiles, "computed.defaultSelector"),
        );
        let fields = self.profiles.iter().flat_map(Profile::placed_pod_fields).map(str::to_owned).collect();
        if self.table.placed_mut().read(fields) {
            self.account_anew(|_| true);
        }
    }

    /// Notes that a pod is accounted to a slot.
    fn settle_in(&mut self, uid: &Uid, slot: Slot, priority: i32) {
        if self.on_node.len() <= slot as usize {
            self.on_node.resize_with(slot as usize + 1, Vec::new);
        }
        if let Some(pods) = self.on_node.get_mut(slot as usize) {
            pods.push(uid.clone());
        }
        *self.priorities.entry(priority).or_insert(0) += 1;
    }

    /// Takes back what [`Engine::settle_in`] noted.
    fn move_out(&mut self, uid: &Uid, slot: Slot, priority: i32) {
        if let Some(pods) = self.on_node.get_mut(slot as usize)
            && let Some(at) = pods.iter().position(|pod| pod == uid)
        {
            pods.swap_remove(at);
        }
        if let Some(count) = self.priorities.get_mut(&priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&priority);
            }
        }
    }

    /// A pod that stays known is accounted no more.
    fn release(&mut self, uid: &Uid, slot: Slot) {
        let Some(pod) = self.pods.get(uid) else { return };
        let priority = pod.priority;
        self.table.remove_pod(slot, &pod.footprint);
        self.move_out(uid, slot, priority);
    }
}

fn reads(profiles: &[Profile], field: &str) -> bool {
    profiles.iter().any(|p| p.reads(field))
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
