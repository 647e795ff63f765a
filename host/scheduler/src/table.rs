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

mod cells;
mod changes;
mod delta;
mod footprint;
mod node;
mod overlay;

pub use changes::Cursor;
pub use delta::MirrorState;
pub use footprint::Footprint;
pub use node::NodeFacts;
pub use overlay::PodChange;

use crate::columns::{self, COLUMNS, ColumnSet, LISTS, S64, U32, dictionary};
use crate::framework::EventSet;
use crate::objects::WatchedObjects;
use crate::placed_pods::PlacedPods;
use cells::events_of;
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
}
