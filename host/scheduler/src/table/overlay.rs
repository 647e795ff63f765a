//! Rows as they would be with other pods on them.

use super::delta::{list_column, number_of};
use super::{Footprint, MirrorState, NodeTable, Slot};
use crate::columns::{self, ColumnSet, EXTENDED_BASE, HOST_PORTS, PODS};
use crate::framework::Delta;

/// A pod that is thought onto a row or away from it.
#[derive(Clone, Copy, Debug)]
pub enum PodChange<'a> {
    /// As if it were there.
    Add(&'a Footprint),
    /// As if it were not.
    Remove(&'a Footprint),
}

impl<'a> PodChange<'a> {
    const fn split(self) -> (&'a Footprint, i64) {
        match self {
            Self::Add(pod) => (pod, 1),
            Self::Remove(pod) => (pod, -1),
        }
    }
}

impl NodeTable {
    /// The rows, in the given order and each on its own, as a mirror that stands at `state` would be told of
    /// them after the changes. The mirror is told of nothing but dictionary entries.
    pub(crate) fn overlay(
        &self,
        columns: ColumnSet,
        state: &mut MirrorState,
        rows: &[(Slot, &[PodChange<'_>])],
    ) -> Delta {
        let slots: Vec<Slot> = rows.iter().map(|(slot, _)| *slot).collect();
        let mut delta = Delta { slots: self.slots(), live: self.pack_live(&slots), ..Delta::default() };
        self.fill(columns, &slots, &mut delta);
        for column in &mut delta.s64_columns {
            for (cell, (_, changes)) in column.values.iter_mut().zip(rows) {
                for change in *changes {
                    let (pod, sign) = change.split();
                    *cell = cell.wrapping_add(sign * taken(pod, column.column));
                }
            }
        }
        let ports = number_of(HOST_PORTS);
        if let Some(column) = delta.list_columns.iter_mut().find(|c| c.column == ports) {
            *column = list_column(HOST_PORTS);
            for (slot, changes) in rows {
                let mut cell = self.host_ports(*slot).to_vec();
                for change in *changes {
                    let (pod, sign) = change.split();
                    apply(&mut cell, sign, pod.host_ports.iter().copied());
                }
                cell.sort_unstable();
                column.values.append(&mut cell);
                column.offsets.push(u32::try_from(column.values.len()).unwrap_or(u32::MAX));
            }
        }
        if columns.has(PODS) {
            let mut column = list_column(PODS);
            for (slot, changes) in rows {
                let mut cell = Vec::new();
                state.pods.cell(self, *slot, &mut cell);
                for change in *changes {
                    let (pod, sign) = change.split();
                    let entry = pod.placed.as_ref().map(|placed| state.pods.entry(placed));
                    apply(&mut cell, sign, entry.into_iter());
                }
                cell.sort_unstable();
                column.values.append(&mut cell);
                column.offsets.push(u32::try_from(column.values.len()).unwrap_or(u32::MAX));
            }
            delta.list_columns.push(column);
        }
        self.tell(columns, state, &mut delta);
        delta.rows = slots;
        delta
    }

    fn host_ports(&self, slot: Slot) -> &[u64] {
        let column = self.lists.get(HOST_PORTS - columns::LABELS);
        column.and_then(|c| c.get(slot as usize)).map_or(&[], |cell| cell)
    }
}

/// Adds the items to the cell, or takes one of each away.
fn apply(cell: &mut Vec<u64>, sign: i64, items: impl Iterator<Item = u64>) {
    for item in items {
        if sign > 0 {
            cell.push(item);
        } else if let Some(at) = cell.iter().position(|i| *i == item) {
            cell.swap_remove(at);
        }
    }
}

/// What a pod takes, by the number of the column.
fn taken(pod: &Footprint, column: u32) -> i64 {
    if let Some(at) = column.checked_sub(EXTENDED_BASE) {
        let requested = pod.extended.iter().find(|(id, _)| at == 2 * id + 1);
        return requested.map_or(0, |(_, units)| *units);
    }
    let fixed = pod.amounts().into_iter().find(|(index, _)| number_of(*index) == column);
    fixed.map_or(0, |(_, units)| units)
}
