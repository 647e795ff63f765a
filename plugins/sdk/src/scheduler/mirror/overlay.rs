//! Rows as they would be.

use super::{Mirror, column_mut, set_bit, test_bit};
use crate::scheduler::Delta;

impl Mirror {
    /// Puts each row of `delta` in, asks `fits` about it, and takes it out again: each row on its own,
    /// all others as they are. The answer is a bit set over the positions of `delta.rows`. New entries
    /// of dictionaries stay.
    ///
    /// ```
    /// use orlop_sdk::scheduler::testing::Nodes;
    /// use orlop_sdk::scheduler::{Mirror, column};
    ///
    /// let mut mirror = Mirror::default();
    /// mirror.apply(Nodes::new(2).s64(column::REQUESTED_PODS, &[3, 9]).delta());
    /// let overlay = Nodes::rows(2, &[1, 1]).s64(column::REQUESTED_PODS, &[2, 7]).delta();
    /// let mask = mirror.overlay(overlay, |mirror, slot| mirror.s64(column::REQUESTED_PODS)[slot] < 5);
    /// assert_eq!(mask, [0b01]);
    /// assert_eq!(mirror.s64(column::REQUESTED_PODS), [3, 9]);
    /// ```
    pub fn overlay(&mut self, mut delta: Delta, mut fits: impl FnMut(&Self, usize) -> bool) -> Vec<u64> {
        for dictionary in std::mem::take(&mut delta.dictionaries) {
            self.extend(dictionary.dictionary, dictionary.first, dictionary.entries);
        }
        let slots = self.slots;
        delta.s64_columns.iter().for_each(|(number, _)| _ = column_mut(&mut self.s64s, *number, slots));
        delta.u32_columns.iter().for_each(|(number, _)| _ = column_mut(&mut self.u32s, *number, slots));
        delta.list_columns.iter().for_each(|(number, _)| _ = column_mut(&mut self.lists, *number, slots));
        let mut cells: Vec<(u32, Vec<Box<[u64]>>)> = Vec::with_capacity(delta.list_columns.len());
        for (number, column) in std::mem::take(&mut delta.list_columns) {
            let bounds = column.offsets.windows(2);
            let cell = |pair: &[u32]| match pair {
                [from, to] => column.values.get(*from as usize..*to as usize).unwrap_or(&[]).into(),
                _ => Box::default(),
            };
            cells.push((number, bounds.map(cell).collect()));
        }
        let mut mask = vec![0_u64; delta.rows.len().div_ceil(64)];
        for position in 0..delta.rows.len() {
            let Some(slot) = delta.rows.get(position).map(|slot| *slot as usize) else { continue };
            let lived = self.is_live(slot);
            self.swap_row(&mut delta, &mut cells, position, slot);
            set_bit(&mut self.live, slot, test_bit(&delta.live, position));
            let answer = slot < slots && fits(self, slot);
            set_bit(&mut mask, position, answer);
            set_bit(&mut self.live, slot, lived);
            self.swap_row(&mut delta, &mut cells, position, slot);
        }
        mask
    }

    fn swap_row(
        &mut self,
        delta: &mut Delta,
        lists: &mut [(u32, Vec<Box<[u64]>>)],
        position: usize,
        slot: usize,
    ) {
        fn swap<T>(columns: &mut [(u32, Vec<T>)], number: u32, slot: usize, with: Option<&mut T>) {
            let column = columns.iter_mut().find(|(n, _)| *n == number);
            if let (Some(cell), Some(with)) = (column.and_then(|(_, c)| c.get_mut(slot)), with) {
                std::mem::swap(cell, with);
            }
        }
        for (number, values) in &mut delta.s64_columns {
            swap(&mut self.s64s, *number, slot, values.get_mut(position));
        }
        for (number, values) in &mut delta.u32_columns {
            swap(&mut self.u32s, *number, slot, values.get_mut(position));
        }
        for (number, values) in lists {
            swap(&mut self.lists, *number, slot, values.get_mut(position));
        }
    }
}
