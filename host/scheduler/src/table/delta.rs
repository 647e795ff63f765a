//! What a mirror is told: rows, values and new dictionary entries since its cursor.

use super::{Cursor, NodeTable, Slot};
use crate::columns::{self, COLUMNS, ColumnSet, EXTENDED, EXTENDED_BASE, LISTS, S64, TABLE, U32, dictionary};
use crate::framework::{Column, Delta, DictionaryDelta, ListColumn};

/// Where a mirror stands: its place in the log and the dictionary entries that it has.
#[derive(Clone, Copy, Debug, Default)]
pub struct MirrorState {
    cursor: Cursor,
    entries: [u32; dictionary::COUNT],
}

impl NodeTable {
    /// The place in the log that has seen everything.
    #[must_use]
    pub fn head(&self) -> Cursor {
        self.changes.head()
    }

    /// The changed rows since `cursor` with the columns that changed, in ascending order, each row
    /// once; `None` where the reader has to start over.
    #[must_use]
    pub fn changed_since(&self, cursor: Cursor, of: ColumnSet) -> Option<Vec<(Slot, ColumnSet)>> {
        let mut rows: Vec<(Slot, ColumnSet)> =
            self.changes.since(cursor)?.filter(|(_, c)| c.intersects(of)).collect();
        if rows.len() > 1 {
            rows.sort_unstable_by_key(|(slot, _)| *slot);
            rows.dedup_by(|next, kept| {
                let same = next.0 == kept.0;
                if same {
                    kept.1 = kept.1.or(next.1);
                }
                same
            });
        }
        Some(rows)
    }

    /// The checksum that a mirror of `columns` has when it is up to date.
    #[must_use]
    pub fn checksum(&self, columns: ColumnSet) -> u64 {
        let sums = self.sums.iter().enumerate().filter(|(i, _)| columns.has(*i));
        sums.fold(0_u64, |all, (_, sum)| all.wrapping_add(*sum))
    }

    /// What a mirror of `columns` that stands at `state` has to be told, and where it stands then.
    /// `None` where nothing changed. Anything is told that changed `columns`, and that alone.
    #[must_use]
    pub fn delta(&self, columns: ColumnSet, state: &MirrorState) -> Option<(Delta, MirrorState)> {
        let changed = self.changed_since(state.cursor, columns.or(ColumnSet::PRESENCE));
        let full = changed.is_none();
        let rows: Vec<Slot> = match &changed {
            Some(changed) if changed.is_empty() => return None,
            Some(changed) => changed.iter().map(|(slot, _)| *slot).collect(),
            None => (0..self.slots()).filter(|slot| self.is_live(*slot)).collect(),
        };
        let mut next = if full { MirrorState::default() } else { *state };
        let mut delta = Delta { full, slots: self.slots(), live: self.pack_live(&rows), ..Delta::default() };
        for (dict, known) in next.entries.iter_mut().enumerate() {
            if columns.intersects(columns::readers_of(dict)) {
                delta.dictionaries.extend(self.entries_after(dict, known));
            }
        }
        self.fill(columns, &rows, &mut delta);
        delta.rows = rows;
        next.cursor = self.head();
        Some((delta, next))
    }

    fn pack_live(&self, rows: &[Slot]) -> Vec<u64> {
        let mut live = vec![0_u64; rows.len().div_ceil(64)];
        for (i, slot) in rows.iter().enumerate() {
            if let (true, Some(word)) = (self.is_live(*slot), live.get_mut(i / 64)) {
                *word |= 1 << (i % 64);
            }
        }
        live
    }

    fn entries_after(&self, dict: usize, known: &mut u32) -> Option<DictionaryDelta> {
        let new = self.dictionaries.get(dict)?.entries.get(*known as usize..)?;
        if new.is_empty() {
            return None;
        }
        let first = *known;
        *known = first.saturating_add(u32::try_from(new.len()).unwrap_or(u32::MAX));
        let dictionary = u32::try_from(dict + 1).unwrap_or(u32::MAX);
        Some(DictionaryDelta { dictionary, first, entries: new.iter().map(|e| e.to_string()).collect() })
    }

    fn fill(&self, columns: ColumnSet, rows: &[Slot], delta: &mut Delta) {
        let number = |index: usize| TABLE.get(index).map_or(0, |(_, n)| *n);
        // An empty slot may still account pods; nobody is told.
        let known = |slot: &Slot| self.is_live(*slot);
        for index in (0..COLUMNS).filter(|i| columns.has(*i)) {
            if let Some(cells) = self.s64.get(index) {
                delta.s64_columns.push(gather(number(index), rows, cells, known));
            } else if let Some(cells) = self.u32s.get(index.wrapping_sub(S64)) {
                delta.u32_columns.push(gather(number(index), rows, cells, known));
            } else if let Some(cells) = index.checked_sub(S64 + U32).filter(|i| *i < LISTS) {
                let Some(cells) = self.lists.get(cells) else { continue };
                let mut column = ListColumn { column: number(index), ..ListColumn::default() };
                column.offsets.push(0);
                for slot in rows {
                    if let (true, Some(cell)) = (known(slot), cells.get(*slot as usize)) {
                        column.values.extend_from_slice(cell);
                    }
                    column.offsets.push(u32::try_from(column.values.len()).unwrap_or(u32::MAX));
                }
                delta.list_columns.push(column);
            } else if index == EXTENDED {
                for ((allocatable, requested), id) in self.extended.iter().zip(0_u32..) {
                    let first = EXTENDED_BASE + 2 * id;
                    delta.s64_columns.push(gather(first, rows, allocatable, known));
                    delta.s64_columns.push(gather(first + 1, rows, requested, known));
                }
            }
        }
    }
}

fn gather<T: Copy + Default>(
    column: u32,
    rows: &[Slot],
    cells: &[T],
    known: impl Fn(&Slot) -> bool,
) -> Column<T> {
    let value = |slot: &Slot| if known(slot) { cells.get(*slot as usize).copied() } else { None };
    Column { column, values: rows.iter().map(|slot| value(slot).unwrap_or_default()).collect() }
}
