//! What pods take from nodes.

use super::{NodeTable, Slot, cells::replace_cell};
use crate::columns::{self, ColumnSet, EXTENDED, EXTENDED_BASE, S64, U32};
use crate::placed_pods::PlacedPod;
use std::sync::Arc;

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

impl NodeTable {
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
}
