//! A pod class: what every plugin said about every node for pods that are equal in all that the
//! plugins read.
//!
//! Invariant: after [`Class::settle`], `feasible`, `totals` and `blocks` are what filtering and
//! scoring every node one by one for this pod would give.

use crate::framework::{Normalize, Prepared, Reason};
use crate::profile::ClassDef;
use crate::table::{Cursor, Slot};
use serde_json::Value;
use std::sync::Arc;

/// Highest score of one plugin, before its weight.
pub const MAX_NODE_SCORE: i64 = 100;

const BLOCK: usize = 64;

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
    pub(crate) bytes: Vec<u8>,
    pub(crate) raw: Vec<i64>,
    pub(crate) normalize: Normalize,
    /// 0 where the plugin does not score this class.
    pub(crate) weight: i64,
    /// Highest raw score among the feasible nodes, and how many have it.
    top: i64,
    at_top: u32,
}

impl Answers {
    /// Forgets everything; the plugin has to be introduced to the class again.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Drops what no longer counts.
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

    fn passes(&self, slot: usize) -> bool {
        !self.filters || bit(&self.mask, slot)
    }

    fn scaled(&self, slot: usize) -> u8 {
        let raw = self.raw.get(slot).copied().unwrap_or(0);
        let share = if self.top == 0 {
            0
        } else {
            // Rows that are not feasible may lie above the top; nobody reads them.
            (i128::from(MAX_NODE_SCORE) * i128::from(raw) / i128::from(self.top)).min(100)
        };
        let score = if self.normalize == Normalize::Reverse { 100 - share } else { share };
        u8::try_from(score.clamp(0, 100)).unwrap_or(0)
    }

    const fn is_scaled(&self) -> bool {
        self.weight != 0 && matches!(self.normalize, Normalize::Default | Normalize::Reverse)
    }
}

/// Whether bit `at` is set.
pub(crate) fn bit(set: &[u64], at: usize) -> bool {
    set.get(at / 64).is_some_and(|w| w >> (at % 64) & 1 == 1)
}

pub(crate) fn put_bit(set: &mut [u64], at: usize, value: bool) {
    if let Some(word) = set.get_mut(at / 64) {
        if value { *word |= 1 << (at % 64) } else { *word &= !(1 << (at % 64)) }
    }
}

/// Why a class fits nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// How many nodes there are.
    pub nodes: u32,
    /// Rejected as a whole, before any node was looked at.
    pub rejected: Option<String>,
    /// How many nodes gave which reason; a node may give several.
    pub reasons: Vec<(String, u32)>,
    /// Nodes where evicting pods cannot help.
    pub unresolvable: u32,
    /// The other nodes, as a packed bit set over slots.
    pub resolvable: Vec<u64>,
    /// What may help.
    pub events: crate::framework::EventSet,
}

impl Unfit {
    /// The message of the condition and of the event, in Kubernetes' words.
    #[must_use]
    pub fn message(&self, never_preempts: bool) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut message = format!("0/{} nodes are available:", self.nodes);
        if let Some(rejected) = &self.rejected {
            message.push_str(&format!(" {rejected}."));
        } else {
            message.push_str(&format!(" {}.", histogram(self.reasons.iter().cloned())));
        }
        if never_preempts {
            message.push_str(" preemption: not eligible due to preemptionPolicy=Never.");
            return message;
        }
        let helpless = self.nodes.saturating_sub(self.unresolvable);
        let preemption = histogram(
            [
                ("No preemption victims found for incoming pod".to_owned(), helpless),
                ("Preemption is not helpful for scheduling".to_owned(), self.unresolvable),
            ]
            .into_iter()
            .filter(|(_, n)| *n > 0),
        );
        let nodes = self.nodes;
        message.push_str(&format!(
            " no new claims to deallocate, preemption: 0/{nodes} nodes are available: {preemption}."
        ));
        message
    }
}

fn histogram(reasons: impl Iterator<Item = (String, u32)>) -> String {
    let mut texts: Vec<String> = reasons.map(|(text, nodes)| format!("{nodes} {text}")).collect();
    texts.sort();
    texts.join(", ")
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
            unfit: None,
            last_used: 0,
        }
    }

    /// Why the class as a whole is rejected.
    pub(crate) fn rejection(&self) -> Option<(usize, &Reason)> {
        self.answers.iter().enumerate().find_map(|(i, a)| a.prepared.rejected.as_ref().map(|r| (i, r)))
    }

    /// To be called with the rows that are about to change, before any answer is replaced.
    pub(crate) fn unsettle(&mut self, rows: &[Slot]) {
        for answers in self.answers.iter_mut().filter(|a| a.is_scaled()) {
            for slot in rows {
                let slot = *slot as usize;
                if bit(&self.feasible, slot) && answers.raw.get(slot) == Some(&answers.top) {
                    answers.at_top = answers.at_top.saturating_sub(1);
                }
            }
        }
    }

    /// Brings feasible set, totals and blocks up to date after answers changed in `rows`, or
    /// anywhere where `rows` is `None`. `custom` says that a plugin's own normalisation changed its
    /// scores everywhere.
    pub(crate) fn settle(&mut self, live: &[u64], slots: usize, rows: Option<&[Slot]>, custom: bool) {
        self.feasible.resize(slots.div_ceil(64), 0);
        self.totals.resize(slots, 0);
        self.blocks.resize(slots.div_ceil(BLOCK), (0, 0));
        self.unfit = None;
        match rows {
            None => {
                self.feasible.copy_from_slice(live.get(..slots.div_ceil(64)).unwrap_or(live));
                for answers in self.answers.iter().filter(|a| a.filters) {
                    for (word, mask) in self.feasible.iter_mut().zip(&answers.mask) {
                        *word &= mask;
                    }
                }
            }
            Some(rows) => {
                for slot in rows {
                    let slot = *slot as usize;
                    let fits = bit(live, slot) && self.answers.iter().all(|a| a.passes(slot));
                    put_bit(&mut self.feasible, slot, fits);
                }
            }
        }
        let mut everywhere = rows.is_none() || custom;
        for answers in self.answers.iter_mut().filter(|a| a.is_scaled()) {
            everywhere |= retop(answers, &self.feasible, rows);
        }
        match rows {
            Some(rows) if !everywhere => {
                for slot in rows {
                    let slot = *slot as usize;
                    for answers in self.answers.iter_mut().filter(|a| a.is_scaled()) {
                        let score = answers.scaled(slot);
                        if let Some(cell) = answers.bytes.get_mut(slot) {
                            *cell = score;
                        }
                    }
                    let total = self
                        .answers
                        .iter()
                        .map(|a| a.weight * i64::from(a.bytes.get(slot).copied().unwrap_or(0)));
                    let total = total.sum();
                    if let Some(cell) = self.totals.get_mut(slot) {
                        *cell = total;
                    }
                }
                let mut last = usize::MAX;
                for slot in rows {
                    let block = *slot as usize / BLOCK;
                    if block != last {
                        self.rate(block);
                    }
                    last = block;
                }
            }
            _ => {
                self.totals.fill(0);
                for answers in self.answers.iter_mut().filter(|a| a.weight != 0) {
                    if answers.is_scaled() {
                        for slot in 0..answers.bytes.len() {
                            let score = answers.scaled(slot);
                            if let Some(cell) = answers.bytes.get_mut(slot) {
                                *cell = score;
                            }
                        }
                    }
                    for (total, score) in self.totals.iter_mut().zip(&answers.bytes) {
                        *total += answers.weight * i64::from(*score);
                    }
                }
                (0..self.blocks.len()).for_each(|block| self.rate(block));
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

/// Finds the highest raw score again. Says whether it changed.
fn retop(answers: &mut Answers, feasible: &[u64], rows: Option<&[Slot]>) -> bool {
    let before = answers.top;
    if let Some(rows) = rows {
        for slot in rows {
            let slot = *slot as usize;
            let raw = answers.raw.get(slot).copied().unwrap_or(0);
            if !bit(feasible, slot) || raw < answers.top {
                continue;
            }
            answers.at_top = if raw > answers.top { 1 } else { answers.at_top + 1 };
            answers.top = raw;
        }
        if answers.at_top > 0 {
            return answers.top != before;
        }
    }
    (answers.top, answers.at_top) = (0, 0);
    for (block, word) in feasible.iter().enumerate() {
        let mut word = *word;
        while word != 0 {
            let slot = block * 64 + word.trailing_zeros() as usize;
            word &= word - 1;
            let raw = answers.raw.get(slot).copied().unwrap_or(0);
            if raw > answers.top {
                (answers.top, answers.at_top) = (raw, 1);
            } else if raw == answers.top {
                answers.at_top += 1;
            }
        }
    }
    answers.top != before
}
