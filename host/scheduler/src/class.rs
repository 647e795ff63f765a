//! A pod class: what every plugin said about every node for pods that are equal in all that the
//! plugins read.
//!
//! Invariant: after [`Class::settle_scores`], `feasible`, `totals` and `blocks` are what filtering and
//! scoring every node one by one for this pod would give. Only what changed is worked out again: a plugin
//! that answered anew for all nodes costs a pass over its own scores, and over no other plugin's.

mod answers;
mod unfit;

pub(crate) use answers::Answers;
pub use unfit::Unfit;

use crate::framework::Reason;
use crate::profile::ClassDef;
use crate::table::{Cursor, Slot};
use serde_json::Value;
use std::sync::Arc;

/// Highest score of one plugin, before its weight.
pub const MAX_NODE_SCORE: i64 = 100;

const BLOCK: usize = 64;

/// Whether bit `at` is set.
pub(crate) fn bit(set: &[u64], at: usize) -> bool {
    set.get(at / 64).is_some_and(|w| w >> (at % 64) & 1 == 1)
}

pub(crate) fn put_bit(set: &mut [u64], at: usize, value: bool) {
    if let Some(word) = set.get_mut(at / 64) {
        if value { *word |= 1 << (at % 64) } else { *word &= !(1 << (at % 64)) }
    }
}

/// One open class.
#[derive(Debug)]
pub struct Class {
    pub(crate) id: u32,
    pub(crate) key: Arc<str>,
    /// The fields that any plugin of the profile reads.
    pub(crate) pod: Arc<Value>,
    pub(crate) answers: Vec<Answers>,
    pub(crate) cursor: Cursor,
    pub(crate) feasible: Vec<u64>,
    pub(crate) totals: Vec<i64>,
    /// Highest total among the feasible nodes of 64 slots, and how many have it.
    blocks: Vec<(i64, u32)>,
    /// The blocks that are to be rated again.
    dirty: Vec<bool>,
    /// Totals are to be added up again, from all plugins.
    rebuild: bool,
    /// Why it fits nowhere, until something changes.
    pub(crate) unfit: Option<Arc<Unfit>>,
    pub(crate) last_used: u64,
}

impl Class {
    pub(crate) fn new(id: u32, def: &ClassDef, plugins: usize) -> Self {
        Self {
            id,
            key: def.key.clone(),
            pod: def.pod.clone(),
            answers: std::iter::repeat_with(Answers::default).take(plugins).collect(),
            cursor: Cursor::default(),
            feasible: Vec::new(),
            totals: Vec::new(),
            blocks: Vec::new(),
            dirty: Vec::new(),
            rebuild: true,
            unfit: None,
            last_used: 0,
        }
    }

    /// Why the class as a whole is rejected.
    pub(crate) fn rejection(&self) -> Option<(usize, &Reason)> {
        self.answers.iter().enumerate().find_map(|(i, a)| a.prepared.rejected.as_ref().map(|r| (i, r)))
    }

    /// The plugins that reject any of the `live` nodes, by position.
    pub(crate) fn rejecting(&self, live: &[u64]) -> impl Iterator<Item = usize> {
        let rejects = |mask: &[u64]| live.iter().zip(mask).any(|(live, mask)| live & !mask != 0);
        let filters = self.answers.iter().enumerate().filter(|(_, answers)| answers.filters);
        filters.filter(move |(_, answers)| rejects(&answers.mask)).map(|(plugin, _)| plugin)
    }

    /// To be called with the rows that are about to change, before any answer is replaced.
    pub(crate) fn unsettle(&mut self, rows: &[Slot]) {
        for answers in self.answers.iter_mut().filter(|a| a.is_scaled()) {
            answers.forget_top(&self.feasible, rows);
        }
    }

    /// Answers were dropped or are those of another beginning: nothing that was added up counts.
    pub(crate) fn start_over(&mut self) {
        self.rebuild = true;
    }

    /// No node fits, whatever it is like.
    pub(crate) fn void(&mut self) {
        self.feasible.clear();
        self.totals.clear();
        self.blocks.clear();
        self.unfit = None;
        self.cursor = Cursor::default();
        self.rebuild = true;
    }

    /// Brings the feasible set up to date, and the highest scores among it, after answers changed in `rows` or, of
    /// plugins that were asked about all nodes, anywhere. Says whether the set or its raw scores changed, so
    /// that a plugin's own normalisation has to be done again, by position of the plugin.
    pub(crate) fn settle_feasible(&mut self, live: &[u64], slots: usize, rows: &[Slot]) -> Vec<bool> {
        let words = slots.div_ceil(64);
        self.feasible.resize(words, 0);
        self.totals.resize(slots, 0);
        self.blocks.resize(slots.div_ceil(BLOCK), (0, 0));
        self.dirty.resize(slots.div_ceil(BLOCK), true);
        self.unfit = None;
        let mut feasible = live.get(..words).unwrap_or(live).to_vec();
        feasible.resize(words, 0);
        for answers in self.answers.iter().filter(|a| a.filters) {
            for (word, mask) in feasible.iter_mut().zip(&answers.mask) {
                *word &= mask;
            }
        }
        let (mut flipped, mut elsewhere) = (false, self.rebuild);
        for (block, (before, after)) in self.feasible.iter().zip(&feasible).enumerate() {
            let mut changed = before ^ after;
            if changed == 0 {
                continue;
            }
            flipped = true;
            if let Some(dirty) = self.dirty.get_mut(block) {
                *dirty = true;
            }
            while changed != 0 {
                let slot = block * 64 + changed.trailing_zeros() as usize;
                changed &= changed - 1;
                elsewhere |= u32::try_from(slot).is_ok_and(|slot| rows.binary_search(&slot).is_err());
            }
        }
        self.feasible = feasible;
        for slot in rows {
            if let Some(dirty) = self.dirty.get_mut(*slot as usize / BLOCK) {
                *dirty = true;
            }
        }
        let flipped = flipped || self.rebuild;
        let settle = |answers: &mut Answers| answers.settle_top(&self.feasible, rows, elsewhere) || flipped;
        self.answers.iter_mut().map(settle).collect()
    }

    /// Brings totals and blocks up to date, after [`Class::settle_feasible`] and after plugins normalised.
    pub(crate) fn settle_scores(&mut self, rows: &[Slot]) {
        for answers in self.answers.iter_mut().filter(|a| a.is_scaled()) {
            answers.scale(rows, self.rebuild);
        }
        if std::mem::take(&mut self.rebuild) {
            self.totals.fill(0);
            self.dirty.fill(true);
            for answers in self.answers.iter_mut() {
                answers.add_all(&mut self.totals);
            }
        } else {
            for answers in self.answers.iter_mut() {
                answers.add_changes(&mut self.totals, &mut self.dirty);
            }
        }
        for block in 0..self.blocks.len() {
            if self.dirty.get_mut(block).is_some_and(std::mem::take) {
                self.rate(block);
            }
        }
    }

    fn rate(&mut self, block: usize) {
        let mut best = (0, 0);
        let mut word = self.feasible.get(block).copied().unwrap_or(0);
        while word != 0 {
            let slot = block * BLOCK + word.trailing_zeros() as usize;
            word &= word - 1;
            let total = self.totals.get(slot).copied().unwrap_or(0);
            if best.1 == 0 || total > best.0 {
                best = (total, 1);
            } else if total == best.0 {
                best.1 += 1;
            }
        }
        if let Some(cell) = self.blocks.get_mut(block) {
            *cell = best;
        }
    }

    /// The best node; `draw` chooses among equals. `None` where no node fits.
    #[must_use]
    pub fn choose(&self, draw: u64) -> Option<Slot> {
        let best = self.blocks.iter().filter(|(_, n)| *n > 0).map(|(total, _)| *total).max()?;
        let of_best = |(total, n): &(i64, u32)| if *n > 0 && *total == best { u64::from(*n) } else { 0 };
        let equals: u64 = self.blocks.iter().map(of_best).sum();
        let mut left = draw % equals.max(1);
        for (block, cell) in self.blocks.iter().enumerate() {
            let here = of_best(cell);
            if left >= here {
                left -= here;
                continue;
            }
            let mut word = self.feasible.get(block).copied().unwrap_or(0);
            while word != 0 {
                let slot = block * BLOCK + word.trailing_zeros() as usize;
                word &= word - 1;
                if self.totals.get(slot) == Some(&best) {
                    if left == 0 {
                        return u32::try_from(slot).ok();
                    }
                    left -= 1;
                }
            }
        }
        None
    }

    /// The nodes that fit, as a packed bit set over slots.
    #[must_use]
    pub fn feasible(&self) -> &[u64] {
        &self.feasible
    }

    /// The weighted sum of scores of a node; means nothing where the node does not fit.
    #[must_use]
    pub fn total(&self, slot: Slot) -> i64 {
        self.totals.get(slot as usize).copied().unwrap_or(0)
    }
}
