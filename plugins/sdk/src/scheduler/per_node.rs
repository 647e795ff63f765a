//! The simple interface: one pod, one node.

use super::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, Prepared, Reason, Synced, Taint, column, dictionary,
};
use serde_json::Value;
use std::collections::HashMap;

/// What becomes of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preparation<T> {
    /// Filter and score each node.
    Ask(T),
    /// Only filter; the score is 0 everywhere.
    FilterOnly(T),
    /// Only score; every node passes.
    ScoreOnly(T),
    /// The plugin has nothing to say about these pods.
    Skip,
    /// No node fits, whatever its state.
    Reject(Reason),
}

/// One node, as far as the manifest declares its columns.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    mirror: &'a Mirror,
    slot: usize,
}

impl<'a> Node<'a> {
    /// The node in a slot.
    #[must_use]
    pub const fn new(mirror: &'a Mirror, slot: usize) -> Self {
        Self { mirror, slot }
    }

    /// `metadata.name`; column `node.name`.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.mirror.entry(dictionary::NAMES, self.u32(column::NAME))
    }

    /// `spec.unschedulable`; column `node.unschedulable`.
    #[must_use]
    pub fn unschedulable(&self) -> bool {
        self.u32(column::UNSCHEDULABLE) != 0
    }

    /// `spec.taints`; column `node.taints`.
    #[must_use]
    pub fn taints(&self) -> &'a [Taint] {
        self.mirror.taint_sets().get(self.u32(column::TAINTS) as usize).map_or(&[], |t| t)
    }

    /// `region/zone`; column `node.zone`.
    #[must_use]
    pub fn zone(&self) -> &'a str {
        self.mirror.entry(dictionary::ZONES, self.u32(column::ZONE))
    }

    /// Labels as key and value; column `node.labels`.
    pub fn labels(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let entries = self.mirror.entries(dictionary::LABELS);
        let numbers = self.mirror.list(column::LABELS, self.slot).iter();
        numbers.filter_map(move |n| entries.get(usize::try_from(*n).ok()?)?.split_once('='))
    }

    /// The value of a label; column `node.labels`.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&'a str> {
        self.labels().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// A cell of a column of s64, 0 where there is none.
    #[must_use]
    pub fn s64(&self, number: u32) -> i64 {
        self.mirror.s64(number).get(self.slot).copied().unwrap_or(0)
    }

    /// A cell of a column of u32, 0 where there is none.
    #[must_use]
    pub fn u32(&self, number: u32) -> u32 {
        self.mirror.u32(number).get(self.slot).copied().unwrap_or(0)
    }

    /// A cell of a column of lists.
    #[must_use]
    pub fn list(&self, number: u32) -> &'a [u64] {
        self.mirror.list(number, self.slot)
    }

    /// The mirror, for dictionaries.
    #[must_use]
    pub const fn mirror(&self) -> &'a Mirror {
        self.mirror
    }
}

/// A plugin that judges nodes one by one. It must not remember anything between calls that changes
/// its answers: answers about nodes that did not change are not asked for again.
pub trait NodePlugin: 'static {
    /// What it makes of a class.
    type Prepared: 'static;

    /// Reads the arguments: a JSON object.
    ///
    /// # Errors
    /// A message for the user; the arguments are refused.
    fn new(args: &[u8]) -> Result<Self, String>
    where
        Self: Sized;

    /// Reads a pod, cut down to the declared fields.
    ///
    /// # Errors
    /// A message for the user; such pods stay Pending with it.
    fn prepare(&self, pod: &Value) -> Result<Preparation<Self::Prepared>, String>;

    /// Whether the pod fits the node.
    ///
    /// # Errors
    /// The reason, where it does not.
    fn filter(&self, prepared: &Self::Prepared, node: &Node<'_>) -> Result<(), Reason> {
        let _ = (prepared, node);
        Ok(())
    }

    /// How well it fits: 0 to 100, or any number not below 0 where the manifest names a
    /// normalisation.
    fn score(&self, prepared: &Self::Prepared, node: &Node<'_>) -> i64 {
        let _ = (prepared, node);
        0
    }
}

/// Makes a [`BatchPlugin`] of a [`NodePlugin`].
pub struct PerNode<P: NodePlugin> {
    plugin: P,
    mirror: Mirror,
    classes: HashMap<u32, P::Prepared>,
}

impl<P: NodePlugin> PerNode<P> {
    fn scores<T>(&self, class: u32, rows: &[u32], convert: impl Fn(i64) -> T) -> Vec<T> {
        let prepared = self.classes.get(&class);
        Asked::new(rows, self.mirror.slots()).map(|slot| {
            let node = Node::new(&self.mirror, slot);
            convert(match prepared {
                Some(prepared) if self.mirror.is_live(slot) => self.plugin.score(prepared, &node),
                _ => 0,
            })
        })
    }
}

impl<P: NodePlugin> BatchPlugin for PerNode<P> {
    fn new(args: &[u8]) -> Result<Self, String> {
        Ok(Self { plugin: P::new(args)?, mirror: Mirror::default(), classes: HashMap::new() })
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        self.mirror.apply(delta);
        Synced { checksum: self.mirror.checksum(), stale: false }
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.classes.remove(&class);
        let (kept, prepared) = match self.plugin.prepare(pod)? {
            Preparation::Ask(kept) => (Some(kept), Prepared::default()),
            Preparation::FilterOnly(kept) => {
                (Some(kept), Prepared { skip_score: true, ..Prepared::default() })
            }
            Preparation::ScoreOnly(kept) => {
                (Some(kept), Prepared { skip_filter: true, ..Prepared::default() })
            }
            Preparation::Skip => (None, Prepared { skip_filter: true, skip_score: true, rejected: None }),
            Preparation::Reject(reason) => (None, Prepared { rejected: Some(reason), ..Prepared::default() }),
        };
        if let Some(kept) = kept {
            self.classes.insert(class, kept);
        }
        Ok(prepared)
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let prepared = self.classes.get(&class);
        Asked::new(rows, self.mirror.slots()).mask(|slot| {
            self.mirror.is_live(slot)
                && prepared.is_some_and(|p| self.plugin.filter(p, &Node::new(&self.mirror, slot)).is_ok())
        })
    }

    fn score(&mut self, class: u32, rows: &[u32]) -> Vec<u8> {
        // What is out of range must not look like a score: the host refuses 255.
        self.scores(class, rows, |score| u8::try_from(score).ok().filter(|s| *s <= 100).unwrap_or(u8::MAX))
    }

    fn score_raw(&mut self, class: u32, rows: &[u32]) -> Vec<i64> {
        self.scores(class, rows, |score| score)
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        let prepared = self.classes.get(&class);
        for slot in rows {
            let node = Node::new(&self.mirror, *slot as usize);
            if let Some(Err(reason)) = prepared.map(|p| self.plugin.filter(p, &node)) {
                explanation.because(reason);
            }
            explanation.end_row();
        }
        explanation
    }
}
