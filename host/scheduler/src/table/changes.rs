//! The log of changes: who mirrors the table reads it from its own cursor.

use crate::columns::ColumnSet;
use crate::table::Slot;
use std::collections::VecDeque;

/// Entries that are always kept; twice the number of slots are kept where that is more.
const KEPT: usize = 4096;

/// How far a mirror has read. The default has read nothing and starts with everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(Option<(u64, u64)>);

impl Cursor {
    /// Whether the mirror has to start over, whatever the log holds.
    #[must_use]
    pub const fn is_unset(self) -> bool {
        self.0.is_none()
    }
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    log: VecDeque<(Slot, ColumnSet)>,
    /// Position of the first entry.
    base: u64,
    /// Counts changes of the table's shape, after which deltas do not suffice.
    structure: u64,
    highest_slot: Slot,
}

impl Changes {
    pub(super) fn push(&mut self, slot: Slot, columns: ColumnSet) {
        if columns == ColumnSet::NONE {
            return;
        }
        self.highest_slot = self.highest_slot.max(slot);
        self.log.push_back((slot, columns));
        let kept = KEPT.max(2 * self.highest_slot as usize);
        if self.log.len() > 2 * kept {
            self.log.drain(..kept);
            self.base += kept as u64;
        }
    }

    pub(super) fn structure(&mut self) {
        self.structure += 1;
    }

    pub(super) fn head(&self) -> Cursor {
        Cursor(Some((self.structure, self.base + self.log.len() as u64)))
    }

    /// The entries after `cursor`; `None` where the reader has to start over.
    pub(super) fn since(&self, cursor: Cursor) -> Option<impl Iterator<Item = (Slot, ColumnSet)> + '_> {
        let (structure, position) = cursor.0?;
        if structure != self.structure {
            return None;
        }
        let skip = usize::try_from(position.checked_sub(self.base)?).ok()?;
        Some(self.log.range(skip.min(self.log.len())..).copied())
    }
}
