//! Writing cells: every write keeps the sums of the columns.

use super::{NodeTable, Slot};
use crate::columns::{self, COLUMNS, ColumnSet, EXTENDED, EXTENDED_BASE, S64, TABLE, U32, dictionary};
use crate::framework::EventSet;
use std::collections::HashMap;

impl NodeTable {
    /// Makes a slot live or not; its cells enter or leave the sums.
    pub(super) fn set_live(&mut self, slot: Slot, live: bool) {
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
    pub(super) fn term(&self, index: usize, slot: Slot) -> u64 {
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

    pub(super) fn put_s64(&mut self, index: usize, slot: Slot, value: i64, changed: &mut ColumnSet) {
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

    pub(super) fn put_u32(&mut self, index: usize, slot: Slot, value: u32, changed: &mut ColumnSet) {
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

    pub(super) fn put_list(&mut self, index: usize, slot: Slot, value: Box<[u64]>, changed: &mut ColumnSet) {
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

    pub(super) fn set_extended_allocatable(
        &mut self,
        slot: Slot,
        wanted: &[(String, i64)],
        changed: &mut ColumnSet,
    ) {
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
pub(super) fn replace_cell(cell: &mut i64, value: i64, slot: Slot, number: u32, live: bool, sum: &mut u64) {
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

pub(super) fn events_of(changed: ColumnSet) -> EventSet {
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
