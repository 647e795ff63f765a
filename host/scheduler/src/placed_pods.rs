//! What plugins read of pods that are placed on nodes: column `node.pods` and dictionary 8.
//!
//! The table numbers placed pods that are equal in every field that any plugin of any profile reads
//! of placed pods; its rows hold those numbers. A plugin reads fewer fields, so every mirror
//! joins numbers to entries of its own, each worked out once. Work per placement is that of one row.
//!
//! Invariant: a number stays what it is for as long as a [`Footprint`](crate::table::Footprint)
//! holds it; later it may stand for something else, which its serial tells.

use crate::columns;
use crate::projection::Projection;
use crate::table::{NodeTable, Slot};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Entries that a mirror's dictionary may have before it is looked through for garbage.
const ROOM: usize = 4096;

/// What plugins read of a placed pod.
#[derive(Debug)]
pub struct PlacedPod {
    number: u32,
    serial: u64,
    key: Arc<str>,
    fields: Value,
}

impl PlacedPod {
    /// As in rows of the table.
    pub(crate) const fn number(&self) -> u32 {
        self.number
    }
}

// There is one of each, so that the address decides.
impl PartialEq for PlacedPod {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for PlacedPod {}

/// All that are known.
#[derive(Debug, Default)]
pub struct PlacedPods {
    fields: Vec<String>,
    projection: Projection,
    pods: Vec<Option<Arc<PlacedPod>>>,
    numbers: HashMap<Arc<str>, u32>,
    free: Vec<u32>,
    serial: u64,
    /// Length of `pods` at which those that nobody holds are looked for.
    limit: usize,
}

impl PlacedPods {
    /// Sets the fields that plugins read. Says whether they are others than before; then every
    /// footprint has to be made anew.
    pub fn read(&mut self, mut fields: Vec<String>) -> bool {
        fields.sort_unstable();
        fields.dedup();
        if fields == self.fields {
            return false;
        }
        self.projection = Projection::new(fields.iter().map(String::as_str));
        self.fields = fields;
        // Old ones stay until their footprints go, but nobody finds them any more.
        self.numbers.clear();
        true
    }

    /// What plugins read of `pod`, whose computed fields must be there; `None` where that is nothing.
    pub fn intern(&mut self, pod: &Value) -> Option<Arc<PlacedPod>> {
        if self.fields.is_empty() {
            return None;
        }
        let fields = self.projection.apply(pod);
        let key = fields.to_string();
        if let Some(known) = self.numbers.get(key.as_str()).and_then(|n| self.get(*n)) {
            return Some(known.clone());
        }
        if self.free.is_empty() && self.pods.len() >= self.limit {
            self.sweep();
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.pods.push(None);
            u32::try_from(self.pods.len() - 1).unwrap_or(u32::MAX)
        });
        self.serial += 1;
        let key: Arc<str> = key.into();
        let pod = Arc::new(PlacedPod { number, serial: self.serial, key: key.clone(), fields });
        *self.pods.get_mut(number as usize)? = Some(pod.clone());
        self.numbers.insert(key, number);
        Some(pod)
    }

    fn get(&self, number: u32) -> Option<&Arc<PlacedPod>> {
        self.pods.get(number as usize)?.as_ref()
    }

    /// Forgets what no footprint holds.
    fn sweep(&mut self) {
        for (cell, number) in self.pods.iter_mut().zip(0_u32..) {
            let Some(pod) = cell.take_if(|pod| Arc::strong_count(pod) == 1) else { continue };
            if self.numbers.get(&pod.key) == Some(&number) {
                self.numbers.remove(&pod.key);
            }
            self.free.push(number);
        }
        self.limit = ROOM.max(2 * (self.pods.len() - self.free.len()));
    }
}

/// Dictionary 8 and column 68 of one mirror, as they were told.
#[derive(Debug, Default)]
pub(crate) struct PlacedEntries {
    projection: Projection,
    entries: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    /// How many of `entries` were told.
    told: usize,
    /// Serial and entry, by number of the placed pod.
    entry_of: Vec<(u64, u32)>,
    /// What each slot adds to the checksum.
    terms: Vec<u64>,
    sum: u64,
    /// Number of entries at which the mirror starts over, so that entries that nothing refers to go.
    limit: usize,
}

impl PlacedEntries {
    /// Of a mirror that reads `fields` of placed pods.
    pub(crate) fn new(fields: &[String]) -> Self {
        Self { projection: Projection::new(fields.iter().map(String::as_str)), ..Self::default() }
    }

    /// Forgets what was told.
    pub(crate) fn clear(&mut self) {
        *self = Self { projection: std::mem::take(&mut self.projection), ..Self::default() };
    }

    /// Whether there are so many entries that a new beginning is worth its cost.
    pub(crate) const fn is_crowded(&self) -> bool {
        self.limit != 0 && self.entries.len() > self.limit
    }

    /// To be called after everything was told.
    pub(crate) fn settle(&mut self) {
        self.limit = ROOM + 2 * self.entries.len();
    }

    /// Of the cells that were told.
    pub(crate) const fn sum(&self) -> u64 {
        self.sum
    }

    /// The entry of a placed pod.
    pub(crate) fn entry(&mut self, pod: &PlacedPod) -> u64 {
        let at = pod.number as usize;
        if self.entry_of.len() <= at {
            self.entry_of.resize(at + 1, (0, 0));
        }
        let Some(cell) = self.entry_of.get_mut(at) else { return 0 };
        if cell.0 != pod.serial {
            let text = self.projection.apply(&pod.fields).to_string();
            let entry = match self.numbers.get(text.as_str()) {
                Some(entry) => *entry,
                None => {
                    let entry = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
                    let text: Arc<str> = text.into();
                    self.entries.push(text.clone());
                    self.numbers.insert(text, entry);
                    entry
                }
            };
            *cell = (pod.serial, entry);
        }
        u64::from(cell.1)
    }

    /// Appends the cell of a slot, ascending.
    pub(crate) fn cell(&mut self, table: &NodeTable, slot: Slot, values: &mut Vec<u64>) {
        let first = values.len();
        for number in table.pods_at(slot) {
            if let Some(pod) = table.placed().get(*number) {
                values.push(self.entry(pod));
            }
        }
        if let Some(cell) = values.get_mut(first..) {
            cell.sort_unstable();
        }
    }

    /// Notes what a slot's cell counts as from now on.
    pub(crate) fn account(&mut self, slot: Slot, live: bool, cell: &[u64]) {
        let at = slot as usize;
        if self.terms.len() <= at {
            self.terms.resize(at + 1, 0);
        }
        let Some(term) = self.terms.get_mut(at) else { return };
        let number = columns::TABLE.get(columns::PODS).map_or(0, |(_, n)| *n);
        let new = if live { columns::mix(slot, number, columns::fold(cell)) } else { 0 };
        self.sum = self.sum.wrapping_sub(*term).wrapping_add(new);
        *term = new;
    }

    /// The first entry that was not told, and all from there on; they are told now.
    pub(crate) fn tell(&mut self) -> Option<(u32, Vec<String>)> {
        let new = self.entries.get(self.told..).filter(|new| !new.is_empty())?;
        let first = u32::try_from(self.told).unwrap_or(u32::MAX);
        let new = new.iter().map(|e| e.to_string()).collect();
        self.told = self.entries.len();
        Some((first, new))
    }
}
