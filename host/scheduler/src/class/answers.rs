//! One plugin's answers about a class, and what they add to its totals.

use super::{BLOCK, MAX_NODE_SCORE, bit};
use crate::framework::{Normalize, Prepared, Rows};
use crate::table::Slot;

/// Below it the product of a raw score and 100, and its quotient, are exact in an `f64`.
const EXACT: i64 = 1 << 45;

/// One plugin's answers. Arrays are by slot; they are empty where the plugin was not asked.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Instance of the plugin that the class was introduced to; 0 for none.
    pub(crate) generation: u64,
    /// Counts the plugin's calls for a new round.
    pub(crate) round: u64,
    /// Of the watched objects that it was prepared with.
    pub(crate) objects_round: u64,
    pub(crate) prepared: Prepared,
    /// Whether `mask` counts.
    pub(crate) filters: bool,
    pub(crate) mask: Vec<u64>,
    /// 0 to 100; with a normalisation, what it made of `raw`.
    bytes: Vec<u8>,
    pub(crate) raw: Vec<i64>,
    pub(crate) normalize: Normalize,
    /// 0 where the plugin does not score this class.
    pub(crate) weight: i64,
    /// Highest raw score among the feasible nodes, and how many have it.
    top: i64,
    at_top: u32,
    /// The plugin was asked for `raw`; it gave others than before for all rows.
    raw_changed: bool,
    raw_replaced: bool,
    top_changed: bool,
    /// `bytes` as totals hold them; where all were replaced since.
    before: Option<Vec<u8>>,
    /// Else what rows gained since.
    gains: Vec<(Slot, i64)>,
}

impl Answers {
    /// Forgets everything; the plugin has to be introduced to the class again. Totals are to be added up anew.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// To be called once the plugin was introduced to the class: what it will say is all new.
    pub(crate) fn begin(&mut self) {
        self.raw_changed = true;
        self.raw_replaced = true;
    }

    /// Makes room for all slots.
    pub(crate) fn resize(&mut self, slots: usize) {
        if self.filters {
            self.mask.resize(slots.div_ceil(64), 0);
        }
        if self.weight != 0 {
            self.bytes.resize(slots, 0);
            if self.normalize != Normalize::None {
                self.raw.resize(slots, 0);
            }
        }
    }

    pub(super) const fn is_scaled(&self) -> bool {
        self.weight != 0 && matches!(self.normalize, Normalize::Default | Normalize::Reverse)
    }

    /// Takes in raw scores.
    pub(crate) fn put_raw(&mut self, rows: Rows<'_>, values: Vec<i64>) {
        // A plugin's own normalisation may see more than these numbers, so that equal ones are news as well.
        self.raw_changed = true;
        match rows {
            Rows::All => {
                self.raw_replaced |= self.raw != values;
                self.raw = values;
            }
            Rows::Some(rows) => {
                for (slot, value) in rows.iter().zip(values) {
                    if let Some(cell) = self.raw.get_mut(*slot as usize) {
                        *cell = value;
                    }
                }
            }
        }
    }

    /// Takes in scores from 0 to 100.
    pub(crate) fn put_bytes(&mut self, rows: Rows<'_>, values: Vec<u8>) {
        match rows {
            Rows::All => {
                let mut old = std::mem::replace(&mut self.bytes, values);
                for (slot, gain) in self.gains.drain(..) {
                    if let Some(cell) = old.get_mut(slot as usize) {
                        *cell = u8::try_from(i64::from(*cell) - gain).unwrap_or(0);
                    }
                }
                self.before.get_or_insert(old);
            }
            Rows::Some(rows) => {
                for (slot, value) in rows.iter().zip(values) {
                    self.put_byte(*slot, value);
                }
            }
        }
    }

    fn put_byte(&mut self, slot: Slot, value: u8) {
        let Some(cell) = self.bytes.get_mut(slot as usize) else { return };
        let old = std::mem::replace(cell, value);
        if old != value && self.before.is_none() {
            self.gains.push((slot, i64::from(value) - i64::from(old)));
        }
    }

    /// Before the rows change: they do not hold the highest score any more.
    pub(super) fn forget_top(&mut self, feasible: &[u64], rows: &[Slot]) {
        for slot in rows {
            let slot = *slot as usize;
            if bit(feasible, slot) && self.raw.get(slot) == Some(&self.top) {
                self.at_top = self.at_top.saturating_sub(1);
            }
        }
    }

    /// Finds the highest raw score again, after [`Answers::forget_top`] and changes of these rows, or `elsewhere`. Says
    /// whether there are new raw scores.
    pub(super) fn settle_top(&mut self, feasible: &[u64], rows: &[Slot], elsewhere: bool) -> bool {
        if self.is_scaled() {
            let before = self.top;
            if elsewhere || self.raw_replaced || !self.raise_top(feasible, rows) {
                self.find_top(feasible);
            }
            self.top_changed |= self.top != before;
        }
        std::mem::take(&mut self.raw_changed)
    }

    /// Looks at the rows alone; `false` where that does not suffice.
    fn raise_top(&mut self, feasible: &[u64], rows: &[Slot]) -> bool {
        for slot in rows {
            let slot = *slot as usize;
            let raw = self.raw.get(slot).copied().unwrap_or(0);
            if !bit(feasible, slot) || raw < self.top {
                continue;
            }
            self.at_top = if raw > self.top { 1 } else { self.at_top + 1 };
            self.top = raw;
        }
        self.at_top > 0
    }

    fn find_top(&mut self, feasible: &[u64]) {
        (self.top, self.at_top) = (0, 0);
        for (word, raw) in feasible.iter().zip(self.raw.chunks(64)) {
            let mut word = *word;
            while word != 0 {
                let raw = raw.get(word.trailing_zeros() as usize).copied().unwrap_or(0);
                word &= word - 1;
                if raw > self.top {
                    (self.top, self.at_top) = (raw, 1);
                } else if raw == self.top {
                    self.at_top += 1;
                }
            }
        }
    }

    /// Works out `bytes` from `raw`, where they may have changed.
    pub(super) fn scale(&mut self, rows: &[Slot], everywhere: bool) {
        if std::mem::take(&mut self.raw_replaced) | std::mem::take(&mut self.top_changed) | everywhere {
            self.put_bytes(Rows::All, self.scaled());
        } else {
            for slot in rows {
                let raw = self.raw.get(*slot as usize).copied().unwrap_or(0);
                self.put_byte(*slot, self.turn(self.share(raw)));
            }
        }
    }

    fn scaled(&self) -> Vec<u8> {
        if self.top == 0 {
            return vec![self.turn(0); self.raw.len()];
        }
        if self.top < EXACT {
            let top = self.top as f64;
            // Rows that are not feasible may lie above the top; nobody reads them.
            let share = |raw: &i64| (*raw as f64 * MAX_NODE_SCORE as f64 / top).min(100.0) as u8;
            return self.raw.iter().map(|raw| self.turn(share(raw))).collect();
        }
        self.raw.iter().map(|raw| self.turn(self.share(*raw))).collect()
    }

    fn share(&self, raw: i64) -> u8 {
        if self.top == 0 {
            return 0;
        }
        let share = i128::from(MAX_NODE_SCORE) * i128::from(raw) / i128::from(self.top);
        u8::try_from(share.clamp(0, 100)).unwrap_or(100)
    }

    fn turn(&self, share: u8) -> u8 {
        if self.normalize == Normalize::Reverse { 100 - share } else { share }
    }

    /// Adds the scores to totals that hold nothing of them.
    pub(super) fn add_all(&mut self, totals: &mut [i64]) {
        self.before = None;
        self.gains.clear();
        if self.weight != 0 {
            for (total, score) in totals.iter_mut().zip(&self.bytes) {
                *total += self.weight * i64::from(*score);
            }
        }
    }

    /// Takes the scores out of totals that hold them.
    pub(crate) fn take_from(&self, totals: &mut [i64]) {
        if self.weight != 0 {
            for (total, score) in totals.iter_mut().zip(&self.bytes) {
                *total -= self.weight * i64::from(*score);
            }
        }
    }

    /// Adds what changed to totals that hold the scores as they were, and marks the blocks.
    pub(super) fn add_changes(&mut self, totals: &mut [i64], dirty: &mut [bool]) {
        if let Some(before) = self.before.take() {
            let blocks =
                totals.chunks_mut(BLOCK).zip(self.bytes.chunks(BLOCK)).zip(dirty.iter_mut()).enumerate();
            for (block, ((totals, after), dirty)) in blocks {
                let from = (block * BLOCK).min(before.len());
                let before = before.get(from..(from + BLOCK).min(before.len())).unwrap_or(&[]);
                if before == after {
                    continue;
                }
                *dirty = true;
                let known = before.iter().copied().chain(std::iter::repeat(0));
                for ((total, after), before) in totals.iter_mut().zip(after).zip(known) {
                    *total += self.weight * (i64::from(*after) - i64::from(before));
                }
            }
        }
        for (slot, gain) in self.gains.drain(..) {
            let at = slot as usize;
            if let (Some(total), Some(dirty)) = (totals.get_mut(at), dirty.get_mut(at / BLOCK)) {
                *total += self.weight * gain;
                *dirty = true;
            }
        }
    }
}
