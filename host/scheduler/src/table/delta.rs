//! What a mirror is told: rows, values and new dictionary entries since its cursor.

use super::{Cursor, NodeTable, Slot};
use crate::columns::{
    self, COLUMNS, ColumnSet, EXTENDED, EXTENDED_BASE, LISTS, PODS, S64, TABLE, U32, dictionary,
};
use crate::framework::{Column, Delta, DictionaryDelta, ListColumn};
use crate::placed_pods::PlacedEntries;

/// What a mirror was told: its place in the log, and the dictionary entries that it has.
#[derive(Debug, Default)]
pub struct MirrorState {
    pub(super) cursor: Cursor,
    pub(super) entries: [u32; dictionary::COUNT],
    pub(super) pods: PlacedEntries,
}

impl MirrorState {
    /// Of a mirror that was told nothing yet and reads `fields` of placed pods.
    #[must_use]
    pub fn new(fields: &[String]) -> Self {
        Self { pods: PlacedEntries::new(fields), ..Self::default() }
    }

    /// Forgets what was told: the mirror starts over.
    pub fn clear(&mut self) {
        self.cursor = Cursor::default();
        self.entries = Default::default();
        self.pods.clear();
    }
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

    /// The checksum that a mirror of `columns` has that was told everything.
    #[must_use]
    pub fn checksum(&self, columns: ColumnSet, state: &MirrorState) -> u64 {
        let sums = self.sums.iter().enumerate().filter(|(i, _)| columns.has(*i));
        let sum = sums.fold(0_u64, |all, (_, sum)| all.wrapping_add(*sum));
        if columns.has(PODS) { sum.wrapping_add(state.pods.sum()) } else { sum }
    }

    /// What a mirror of `columns` that stands at `state` has to be told; afterwards `state` is as if it had
    /// been. `None` where nothing changed. Anything is told that changed `columns`, and that alone.
    pub fn delta(&self, columns: ColumnSet, state: &mut MirrorState) -> Option<Delta> {
        let mut changed = self.changed_since(state.cursor, columns.or(ColumnSet::PRESENCE));
        if changed.as_ref().is_some_and(|rows| !rows.is_empty()) && state.pods.is_crowded() {
            changed = None;
        }
        let full = changed.is_none();
        let rows: Vec<Slot> = match &changed {
            Some(changed) if changed.is_empty() => {
                // What does not concern this mirror is not looked at again.
                state.cursor = self.head();
                return None;
            }
            Some(changed) => changed.iter().map(|(slot, _)| *slot).collect(),
            None => (0..self.slots()).filter(|slot| self.is_live(*slot)).collect(),
        };
        if full {
            state.clear();
        }
        let mut delta = Delta { full, slots: self.slots(), live: self.pack_live(&rows), ..Delta::default() };
        self.fill(columns, &rows, &mut delta);
        if columns.has(PODS) {
            let mut column = list_column(PODS);
            for slot in &rows {
                let (first, live) = (column.values.len(), self.is_live(*slot));
                if live {
                    state.pods.cell(self, *slot, &mut column.values);
                }
                state.pods.account(*slot, live, column.values.get(first..).unwrap_or(&[]));
                column.offsets.push(u32::try_from(column.values.len()).unwrap_or(u32::MAX));
            }
            delta.list_columns.push(column);
            if full {
                state.pods.settle();
            }
        }
        delta.rows = rows;
        self.tell(columns, state, &mut delta);
        state.cursor = self.head();
        Some(delta)
    }

    /// Adds the dictionary entries that the mirror was not told of.
    pub(super) fn tell(&self, columns: ColumnSet, state: &mut MirrorState, delta: &mut Delta) {
        for (dict, known) in state.entries.iter_mut().enumerate() {
            if columns.intersects(columns::readers_of(dict)) {
                delta.dictionaries.extend(self.entries_after(dict, known));
            }
        }
        if let Some((first, entries)) = state.pods.tell() {
            let dictionary = u32::try_from(dictionary::PODS + 1).unwrap_or(u32::MAX);
            delta.dictionaries.push(DictionaryDelta { dictionary, first, entries });
        }
    }

    pub(super) fn pack_live(&self, rows: &[Slot]) -> Vec<u64> {
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

    /// The values of the columns that are the same for every mirror.
    pub(super) fn fill(&self, columns: ColumnSet, rows: &[Slot], delta: &mut Delta) {
        // An empty slot may still account pods; nobody is told.
        let known = |slot: &Slot| self.is_live(*slot);
        for index in (0..COLUMNS).filter(|i| columns.has(*i)) {
            if let Some(cells) = self.s64.get(index) {
                delta.s64_columns.push(gather(number_of(index), rows, cells, known));
            } else if let Some(cells) = self.u32s.get(index.wrapping_sub(S64)) {
                delta.u32_columns.push(gather(number_of(index), rows, cells, known));
            } else if let Some(cells) = index.checked_sub(S64 + U32).filter(|i| *i < LISTS) {
                let Some(cells) = self.lists.get(cells) else { continue };
                let mut column = list_column(index);
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

/// Number on the wire of the column at `index`.
pub(super) fn number_of(index: usize) -> u32 {
    TABLE.get(index).map_or(0, |(_, n)| *n)
}

/// An empty column of lists.
pub(super) fn list_column(index: usize) -> ListColumn {
    ListColumn { column: number_of(index), offsets: vec![0], values: Vec::new() }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::{REQUESTED_CPU, UNSCHEDULABLE};
    use crate::table::{Footprint, NodeFacts};
    use serde_json::json;

    #[test]
    fn what_does_not_concern_a_mirror_does_not_make_it_start_over() {
        let node = |unschedulable: bool| {
            let node = json!({"metadata": {"name": "n"}, "spec": {"unschedulable": unschedulable}});
            NodeFacts::from_value(&node)
        };
        let mut table = NodeTable::new();
        table.set_node("n", &node(false));
        let (of_node, of_pods) = (ColumnSet::one(UNSCHEDULABLE), ColumnSet::one(REQUESTED_CPU));
        let (mut quiet, mut busy) = (MirrorState::default(), MirrorState::default());
        assert!(table.delta(of_node, &mut quiet).is_some_and(|d| d.full));
        assert!(table.delta(of_pods, &mut busy).is_some_and(|d| d.full));
        let footprint = Footprint { cpu: 1, ..Footprint::default() };
        for _ in 0..20_000 {
            table.add_pod("n", &footprint);
            assert!(table.delta(of_node, &mut quiet).is_none());
        }
        assert!(
            table.delta(of_pods, &mut busy).is_some_and(|d| d.full),
            "the log does not reach back so far"
        );
        table.set_node("n", &node(true));
        let told = table.delta(of_node, &mut quiet).expect("the node changed");
        assert_eq!((told.full, told.rows), (false, vec![0]));
    }
}
