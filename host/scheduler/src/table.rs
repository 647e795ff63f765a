//! The node table: one slot per node, one array per column.
//!
//! A slot keeps its number for as long as the node exists or pods are accounted to it. A pod may be
//! known before its node is (and stay after it): such a slot is accounted but not live, and nobody
//! is told of its contents.
//!
//! Every change is one entry in a log of (slot, columns). Whoever mirrors the table, a plugin
//! instance or an open class, keeps a cursor into the log and asks what changed since; one that fell
//! too far behind starts over.
//!
//! Invariant: `sums[c]` is the wrapping sum of `mix` over the live cells of column `c`, so that the
//! checksum of any mirror costs an addition per column.

mod changes;
mod delta;
mod node;
mod overlay;

pub use changes::Cursor;
pub use delta::MirrorState;
pub use node::NodeFacts;
pub use overlay::PodChange;

use crate::columns::{self, COLUMNS, ColumnSet, EXTENDED, EXTENDED_BASE, LISTS, S64, TABLE, U32, dictionary};
use crate::framework::EventSet;
use crate::objects::WatchedObjects;
use crate::placed_pods::{PlacedPod, PlacedPods};
use changes::Changes;
use std::collections::HashMap;
use std::sync::Arc;

/// Number of a node's row.
pub type Slot = u32;

/// Strings numbered from 0 in the order of their appearance. Entries never go.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    entries: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Dictionary {
    fn with_first(first: &str) -> Self {
        let mut this = Self::default();
        this.intern(first);
        this
    }

    pub(crate) fn intern(&mut self, entry: &str) -> u32 {
        if let Some(number) = self.numbers.get(entry) {
            return *number;
        }
        let entry: Arc<str> = entry.into();
        let number = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(entry.clone());
        self.numbers.insert(entry, number);
        number
    }

    fn get(&self, number: u32) -> Option<&Arc<str>> {
        self.entries.get(number as usize)
    }
}

/// What one pod takes from a node, in the table's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Milli-CPU.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Milli-CPU, as scored.
    pub nonzero_cpu: i64,
    /// Bytes, as scored.
    pub nonzero_memory: i64,
    /// Entry of the dictionary of extended resources, and units.
    pub extended: Box<[(u32, i64)]>,
    /// Packed as in column `node.host-ports`.
    pub host_ports: Box<[u64]>,
    /// What plugins read of it once it is placed; `None` where none reads anything.
    pub placed: Option<Arc<PlacedPod>>,
}

impl Footprint {
    /// Columns and what the pod adds to them.
    pub(crate) const fn amounts(&self) -> [(usize, i64); 6] {
        [
            (columns::REQUESTED_CPU, self.cpu),
            (columns::REQUESTED_MEMORY, self.memory),
            (columns::REQUESTED_EPHEMERAL, self.ephemeral_storage),
            (columns::REQUESTED_PODS, 1),
            (columns::NONZERO_CPU, self.nonzero_cpu),
            (columns::NONZERO_MEMORY, self.nonzero_memory),
        ]
    }

    /// Whether `other` takes less of something than this.
    #[must_use]
    pub fn shrinks_to(&self, other: &Self) -> bool {
        other.cpu < self.cpu
            || other.memory < self.memory
            || other.ephemeral_storage < self.ephemeral_storage
            || self.extended.iter().any(|(id, units)| {
                other.extended.iter().find(|(o, _)| o == id).map_or(0, |(_, u)| *u) < *units
            })
    }
}

/// The table.
#[derive(Debug)]
pub struct NodeTable {
    names: Vec<Option<Arc<str>>>,
    slots: HashMap<Arc<str>, Slot>,
    free: Vec<Slot>,
    live: Vec<u64>,
    live_count: u32,
    s64: [Vec<i64>; S64],
    u32s: [Vec<u32>; U32],
    lists: [Vec<Box<[u64]>>; LISTS],
    /// The pods of each slot.
    pods: Vec<Vec<u32>>,
    placed: PlacedPods,
    objects: WatchedObjects,
    /// Allocatable and requested, by entry of the dictionary.
    extended: Vec<(Vec<i64>, Vec<i64>)>,
    sums: [u64; COLUMNS],
    dictionaries: [Dictionary; dictionary::COUNT],
    changes: Changes,
}

impl Default for NodeTable {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            names: Vec::new(),
            slots: HashMap::new(),
            free: Vec::new(),
            live: Vec::new(),
            live_count: 0,
            s64: Default::default(),
            u32s: Default::default(),
            lists: Default::default(),
            pods: Vec::new(),
            placed: PlacedPods::default(),
            objects: WatchedObjects::default(),
            extended: Vec::new(),
            sums: [0; COLUMNS],
            dictionaries: std::array::from_fn(|i| match i {
                dictionary::TAINT_SETS => Dictionary::with_first("[]"),
                dictionary::ZONES => Dictionary::with_first(""),
                dictionary::HOST_IPS => Dictionary::with_first("0.0.0.0"),
                _ => Dictionary::default(),
            }),
            changes: Changes::default(),
        }
    }

    /// Number of slots, live or not.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.names.len()).unwrap_or(u32::MAX)
    }

    /// Number of nodes.
    #[must_use]
    pub const fn nodes(&self) -> u32 {
        self.live_count
    }

    /// The slots that hold a node, as a packed bit set.
    #[must_use]
    pub fn live(&self) -> &[u64] {
        &self.live
    }

    /// Whether the slot holds a node.
    #[must_use]
    pub fn is_live(&self, slot: Slot) -> bool {
        self.live.get(slot as usize / 64).is_some_and(|w| w >> (slot % 64) & 1 == 1)
    }

    /// Name of the node in the slot, also where only pods are accounted to it.
    #[must_use]
    pub fn name(&self, slot: Slot) -> Option<&Arc<str>> {
        self.names.get(slot as usize)?.as_ref()
    }

    /// The slot of a node's name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.slots.get(name).copied()
    }

    /// Value of an s64 column with a fixed number, by index.
    #[must_use]
    pub fn s64(&self, index: usize, slot: Slot) -> i64 {
        self.s64.get(index).and_then(|c| c.get(slot as usize)).copied().unwrap_or(0)
    }

    /// The number of a dictionary's entry, new or not.
    pub fn intern(&mut self, dict: usize, entry: &str) -> u32 {
        let Some(dictionary) = self.dictionaries.get_mut(dict) else { return 0 };
        let number = dictionary.intern(entry);
        if dict == dictionary::EXTENDED && number as usize >= self.extended.len() {
            self.extended
                .resize_with(number as usize + 1, || (vec![0; self.names.len()], vec![0; self.names.len()]));
            self.changes.structure();
        }
        number
    }

    /// The text of a dictionary's entry.
    #[must_use]
    pub fn entry(&self, dict: usize, number: u32) -> Option<&Arc<str>> {
        self.dictionaries.get(dict)?.get(number)
    }

    /// Takes in a node, new or changed. Says what kinds of change this was; none where nothing
    /// that the table holds changed.
    pub fn set_node(&mut self, name: &str, facts: &NodeFacts) -> EventSet {
        let slot = self.slot_for(name);
        let fresh = !self.is_live(slot);
        let mut changed = ColumnSet::NONE;
        if fresh {
            self.set_live(slot, true);
            changed = ColumnSet::ALL;
        }
        for (index, value) in facts.allocatable.iter().enumerate() {
            self.put_s64(index, slot, *value, &mut changed);
        }
        self.set_extended_allocatable(slot, &facts.extended, &mut changed);
        let name_number = self.intern(dictionary::NAMES, name);
        let taints = self.intern(dictionary::TAINT_SETS, &facts.taints);
        let zone = self.intern(dictionary::ZONES, &facts.zone);
        self.put_u32(columns::NAME, slot, name_number, &mut changed);
        self.put_u32(columns::UNSCHEDULABLE, slot, u32::from(facts.unschedulable), &mut changed);
        self.put_u32(columns::TAINTS, slot, taints, &mut changed);
        self.put_u32(columns::ZONE, slot, zone, &mut changed);
        let mut labels: Vec<u64> =
            facts.labels.iter().map(|l| u64::from(self.intern(dictionary::LABELS, l))).collect();
        labels.sort_unstable();
        let images: Vec<u64> =
            facts.images.iter().map(|(n, _)| u64::from(self.intern(dictionary::IMAGES, n))).collect();
        let sizes: Vec<u64> = facts.images.iter().map(|(_, size)| *size).collect();
        self.put_list(columns::LABELS, slot, labels.into(), &mut changed);
        self.put_list(columns::IMAGES, slot, images.into(), &mut changed);
        self.put_list(columns::IMAGE_SIZES, slot, sizes.into(), &mut changed);
        let mut features: Vec<u64> =
            facts.features.iter().map(|f| u64::from(self.intern(dictionary::FEATURES, f))).collect();
        features.sort_unstable();
        self.put_list(columns::FEATURES, slot, features.into(), &mut changed);
        self.changes.push(slot, changed);
        if fresh { EventSet::NODE_ADD } else { events_of(changed) }
    }

    /// Forgets a node. What pods take there stays accounted until they go.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.slot(name) else { return };
        if !self.is_live(slot) {
            return;
        }
        self.set_live(slot, false);
        let mut ignored = ColumnSet::NONE;
        for index in columns::ALLOCATABLE_CPU..=columns::ALLOCATABLE_PODS {
            self.put_s64(index, slot, 0, &mut ignored);
        }
        self.set_extended_allocatable(slot, &[], &mut ignored);
        for index in columns::NAME..=columns::ZONE {
            self.put_u32(index, slot, 0, &mut ignored);
        }
        for index in [columns::LABELS, columns::IMAGES, columns::IMAGE_SIZES, columns::FEATURES] {
            self.put_list(index, slot, Box::default(), &mut ignored);
        }
        self.changes.push(slot, ColumnSet::ALL);
        self.free_if_unused(slot);
    }

    /// Accounts a pod to the node called `name`, which need not be known. Returns its slot.
    pub fn add_pod(&mut self, name: &str, pod: &Footprint) -> Slot {
        let slot = self.slot_for(name);
        self.account(slot, pod, 1);
        slot
    }

    /// Accounts a pod to a slot.
    pub fn add_pod_at(&mut self, slot: Slot, pod: &Footprint) {
        self.account(slot, pod, 1);
    }

    /// Takes a pod away from a slot.
    pub fn remove_pod(&mut self, slot: Slot, pod: &Footprint) {
        self.account(slot, pod, -1);
        self.free_if_unused(slot);
    }

    fn account(&mut self, slot: Slot, pod: &Footprint, sign: i64) {
        let mut changed = ColumnSet::NONE;
        for (index, units) in pod.amounts() {
            let value = self.s64(index, slot).wrapping_add(sign * units);
            self.put_s64(index, slot, value, &mut changed);
        }
        for (id, units) in &pod.extended {
            let number = EXTENDED_BASE + 2 * id + 1;
            let live = self.is_live(slot);
            let cell = self.extended.get_mut(*id as usize).and_then(|c| c.1.get_mut(slot as usize));
            if let (Some(cell), Some(sum)) = (cell, self.sums.get_mut(EXTENDED)) {
                let value = cell.wrapping_add(sign * units);
                replace_cell(cell, value, slot, number, live, sum);
                changed = changed.or(ColumnSet::one(EXTENDED));
            }
        }
        if !pod.host_ports.is_empty() {
            let at = columns::HOST_PORTS - S64 - U32;
            let mut ports =
                self.lists.get(at).and_then(|c| c.get(slot as usize)).map_or_else(Vec::new, |p| p.to_vec());
            for port in &pod.host_ports {
                match ports.binary_search(port) {
                    Ok(at) if sign < 0 => _ = ports.remove(at),
                    Err(_) if sign < 0 => {}
                    Ok(at) | Err(at) => ports.insert(at, *port),
                }
            }
            self.put_list(columns::HOST_PORTS, slot, ports.into(), &mut changed);
        }
        if let (Some(placed), Some(cell)) = (&pod.placed, self.pods.get_mut(slot as usize)) {
            if sign > 0 {
                cell.push(placed.number());
            } else if let Some(at) = cell.iter().position(|n| *n == placed.number()) {
                cell.swap_remove(at);
            }
            changed = changed.or(ColumnSet::one(columns::PODS));
        }
        self.changes.push(slot, changed);
    }

    /// What plugins read of placed pods.
    #[must_use]
    pub const fn placed(&self) -> &PlacedPods {
        &self.placed
    }

    /// As [`NodeTable::placed`], to change it.
    pub const fn placed_mut(&mut self) -> &mut PlacedPods {
        &mut self.placed
    }

    /// The objects that plugins watch.
    #[must_use]
    pub const fn objects(&self) -> &WatchedObjects {
        &self.objects
    }

    /// As [`NodeTable::objects`], to change them.
    pub const fn objects_mut(&mut self) -> &mut WatchedObjects {
        &mut self.objects
    }

    /// The pods accounted to a slot, as numbers of [`NodeTable::placed`].
    #[must_use]
    pub fn pods_at(&self, slot: Slot) -> &[u32] {
        self.pods.get(slot as usize).map_or(&[], |cell| cell)
    }

    fn slot_for(&mut self, name: &str) -> Slot {
        if let Some(slot) = self.slots.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        let name: Arc<str> = name.into();
        if let Some(cell) = self.names.get_mut(slot as usize) {
            *cell = Some(name.clone());
        }
        self.slots.insert(name, slot);
        slot
    }

    fn grow(&mut self) -> Slot {
        let slot = self.slots();
        self.names.push(None);
        self.s64.iter_mut().for_each(|c| c.push(0));
        self.u32s.iter_mut().for_each(|c| c.push(0));
        self.lists.iter_mut().for_each(|c| c.push(Box::default()));
        self.pods.push(Vec::new());
        for (allocatable, requested) in &mut self.extended {
            allocatable.push(0);
            requested.push(0);
        }
        self.live.resize(self.names.len().div_ceil(64), 0);
        self.changes.push(slot, ColumnSet::PRESENCE);
        slot
    }

    fn free_if_unused(&mut self, slot: Slot) {
        if self.is_live(slot) || self.s64(columns::REQUESTED_PODS, slot) != 0 {
            return;
        }
        if let Some(name) = self.names.get_mut(slot as usize).and_then(Option::take) {
            self.slots.remove(&name);
            self.free.push(slot);
        }
    }

    /// Makes a slot live or not; its cells enter or leave the sums.
    fn set_live(&mut self, slot: Slot, live: bool) {
        let Some(word) = self.live.get_mut(slot as usize / 64) else { return };
        if live {
            *word |= 1 << (slot % 64);
            self.live_count += 1;
        } else {
            *word &= !(1 << (slot % 64));
            self.live_count -= 1;
        }
        for index in 0..COLUMNS {
            let term = self.term(index, slot);
            if let Some(sum) = self.sums.get_mut(index) {
                *sum = if live { sum.wrapping_add(term) } else { sum.wrapping_sub(term) };
            }
        }
    }

    /// What the cells of a slot add to the sum of the column at `index`.
    fn term(&self, index: usize, slot: Slot) -> u64 {
        let number = TABLE.get(index).map_or(0, |(_, n)| *n);
        let at = slot as usize;
        if index < S64 {
            columns::mix(slot, number, self.s64(index, slot).cast_unsigned())
        } else if index < S64 + U32 {
            let value = self.u32s.get(index - S64).and_then(|c| c.get(at)).copied().unwrap_or(0);
            columns::mix(slot, number, u64::from(value))
        } else if index < columns::PODS {
            let cell = self.lists.get(index - S64 - U32).and_then(|c| c.get(at));
            columns::mix(slot, number, columns::fold(cell.map_or(&[], |c| c)))
        } else if index == columns::PODS {
            // Every mirror has numbers of its own there, and its own sum.
            0
        } else {
            let mut sum = 0_u64;
            for (pair, id) in self.extended.iter().zip(0_u32..) {
                let (allocatable, requested) = (pair.0.get(at), pair.1.get(at));
                for (cell, number) in
                    [(allocatable, EXTENDED_BASE + 2 * id), (requested, EXTENDED_BASE + 2 * id + 1)]
                {
                    // A cell of 0 is as good as none: columns appear while mirrors exist.
                    let value = cell.copied().unwrap_or(0);
                    if value != 0 {
                        sum = sum.wrapping_add(columns::mix(slot, number, value.cast_unsigned()));
                    }
                }
            }
            sum
        }
    }

    fn put_s64(&mut self, index: usize, slot: Slot, value: i64, changed: &mut ColumnSet) {
        let live = self.is_live(slot);
        let cell = self.s64.get_mut(index).and_then(|c| c.get_mut(slot as usize));
        let (Some(cell), Some(sum)) = (cell, self.sums.get_mut(index)) else { return };
        if *cell == value {
            return;
        }
        let number = TABLE.get(index).map_or(0, |(_, n)| *n);
        if live {
            *sum = sum
                .wrapping_sub(columns::mix(slot, number, cell.cast_unsigned()))
                .wrapping_add(columns::mix(slot, number, value.cast_unsigned()));
        }
        *cell = value;
        *changed = changed.or(ColumnSet::one(index));
    }

    fn put_u32(&mut self, index: usize, slot: Slot, value: u32, changed: &mut ColumnSet) {
        let live = self.is_live(slot);
        let cell = self.u32s.get_mut(index - S64).and_then(|c| c.get_mut(slot as usize));
        let (Some(cell), Some(sum)) = (cell, self.sums.get_mut(index)) else { return };
        if *cell == value {
            return;
        }
        let number = TABLE.get(index).map_or(0, |(_, n)| *n);
        if live {
            *sum = sum.wrapping_sub(columns::mix(slot, number, u64::from(*cell))).wrapping_add(columns::mix(
                slot,
                number,
                u64::from(value),
            ));
        }
        *cell = value;
        *changed = changed.or(ColumnSet::one(index));
    }

    fn put_list(&mut self, index: usize, slot: Slot, value: Box<[u64]>, changed: &mut ColumnSet) {
        let live = self.is_live(slot);
        let cell = self.lists.get_mut(index - S64 - U32).and_then(|c| c.get_mut(slot as usize));
        let (Some(cell), Some(sum)) = (cell, self.sums.get_mut(index)) else { return };
        if *cell == value {
            return;
        }
        let number = TABLE.get(index).map_or(0, |(_, n)| *n);
        if live {
            *sum = sum
                .wrapping_sub(columns::mix(slot, number, columns::fold(cell)))
                .wrapping_add(columns::mix(slot, number, columns::fold(&value)));
        }
        *cell = value;
        *changed = changed.or(ColumnSet::one(index));
    }

    fn set_extended_allocatable(&mut self, slot: Slot, wanted: &[(String, i64)], changed: &mut ColumnSet) {
        let ids: HashMap<u32, i64> =
            wanted.iter().map(|(name, units)| (self.intern(dictionary::EXTENDED, name), *units)).collect();
        let live = self.is_live(slot);
        let Some(sum) = self.sums.get_mut(EXTENDED) else { return };
        for ((allocatable, _), id) in self.extended.iter_mut().zip(0_u32..) {
            let value = ids.get(&id).copied().unwrap_or(0);
            let Some(cell) = allocatable.get_mut(slot as usize) else { continue };
            if *cell != value {
                replace_cell(cell, value, slot, EXTENDED_BASE + 2 * id, live, sum);
                *changed = changed.or(ColumnSet::one(EXTENDED));
            }
        }
    }
}

/// Writes a cell of an extended resource; a 0 is not part of the sum.
fn replace_cell(cell: &mut i64, value: i64, slot: Slot, number: u32, live: bool, sum: &mut u64) {
    if live {
        if *cell != 0 {
            *sum = sum.wrapping_sub(columns::mix(slot, number, cell.cast_unsigned()));
        }
        if value != 0 {
            *sum = sum.wrapping_add(columns::mix(slot, number, value.cast_unsigned()));
        }
    }
    *cell = value;
}

fn events_of(changed: ColumnSet) -> EventSet {
    let mut events = EventSet::NONE;
    for (index, event) in [
        (columns::ALLOCATABLE_CPU, EventSet::NODE_ALLOCATABLE),
        (columns::ALLOCATABLE_MEMORY, EventSet::NODE_ALLOCATABLE),
        (columns::ALLOCATABLE_EPHEMERAL, EventSet::NODE_ALLOCATABLE),
        (columns::ALLOCATABLE_PODS, EventSet::NODE_ALLOCATABLE),
        (EXTENDED, EventSet::NODE_ALLOCATABLE),
        (columns::LABELS, EventSet::NODE_LABELS),
        (columns::ZONE, EventSet::NODE_LABELS),
        (columns::TAINTS, EventSet::NODE_TAINTS),
        (columns::UNSCHEDULABLE, EventSet::NODE_TAINTS),
        (columns::IMAGES, EventSet::NODE_IMAGES),
        (columns::IMAGE_SIZES, EventSet::NODE_IMAGES),
        (columns::FEATURES, EventSet::NODE_FEATURES),
    ] {
        if changed.has(index) {
            events = events.or(event);
        }
    }
    events
}
