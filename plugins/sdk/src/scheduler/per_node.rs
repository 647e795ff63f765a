//! The simple interface: one pod, one node.

use super::{
    Asked, BatchPlugin, Binder, Decision, Delta, Explanation, Mirror, ObjectChange, Objects, Placement,
    Prepared, Reason, Stale, Synced, Taint, Verdict, column, dictionary,
};
use crate::controller::Write;
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

    /// The pods that are placed there, each cut down to `placedPodFields`; column `node.pods`.
    pub fn pods(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.mirror.pods(self.slot)
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

    /// Takes from the watched objects what the plugin needs; called when they are first known and after
    /// each change. All classes are prepared again afterwards.
    fn objects(&mut self, objects: &Objects) {
        let _ = objects;
    }

    /// Hook `pre-enqueue`: why the pod may not be tried, where it may not.
    fn pre_enqueue(&self, pod: &Value) -> Option<String> {
        let _ = pod;
        None
    }

    /// Hook `queue-sort`: the pod with the lower key is tried first.
    fn sort_key(&self, pod: &Value) -> Vec<i64> {
        let _ = pod;
        Vec::new()
    }

    /// Hook `reserve`: books the pod.
    ///
    /// # Errors
    /// Why the pod goes back to the queue, after [`NodePlugin::unreserve`].
    fn reserve(&mut self, placement: Placement) -> Result<(), String> {
        let _ = placement;
        Ok(())
    }

    /// Takes `reserve` back, whether it was called for this pod or not; answers what is to become of
    /// other pods that wait.
    fn unreserve(&mut self, placement: Placement) -> Vec<Decision> {
        let _ = placement;
        Vec::new()
    }

    /// Hook `permit`: whether the pod may be bound now, and what is to become of other pods that wait.
    fn permit(&mut self, placement: Placement) -> (Verdict, Vec<Decision>) {
        let _ = placement;
        (Verdict::Allow, Vec::new())
    }

    /// Hook `pre-bind`: what the host has to write before the binding.
    fn pre_bind(&mut self, placement: Placement) -> (Verdict, Vec<Write>) {
        let _ = placement;
        (Verdict::Allow, Vec::new())
    }

    /// Hook `bind`: who binds the pod.
    fn bind(&mut self, placement: Placement) -> Binder {
        let _ = placement;
        Binder::Next
    }

    /// Hook `post-bind`: the pod is bound. For books only.
    fn post_bind(&mut self, placement: Placement) {
        let _ = placement;
    }
}

/// Makes a [`BatchPlugin`] of a [`NodePlugin`].
pub struct PerNode<P: NodePlugin> {
    plugin: P,
    mirror: Mirror,
    classes: HashMap<u32, P::Prepared>,
    /// Once the host told of some: the manifest has watches.
    objects: Option<Objects>,
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
        Ok(Self { plugin: P::new(args)?, mirror: Mirror::default(), classes: HashMap::new(), objects: None })
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        self.mirror.apply(delta);
        Synced::rows(self.mirror.checksum())
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
            Preparation::Skip => {
                (None, Prepared { skip_filter: true, skip_score: true, ..Prepared::default() })
            }
            Preparation::Reject(reason) => (None, Prepared::reject(reason)),
        };
        if let Some(kept) = kept {
            self.classes.insert(class, kept);
        }
        Ok(Prepared { reads_objects: self.objects.is_some(), ..prepared })
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

    fn overlay(&mut self, class: u32, delta: Delta) -> Vec<u64> {
        let (plugin, prepared) = (&self.plugin, self.classes.get(&class));
        self.mirror.overlay(delta, |mirror, slot| {
            mirror.is_live(slot)
                && prepared.is_some_and(|p| plugin.filter(p, &Node::new(mirror, slot)).is_ok())
        })
    }

    fn objects(&mut self, full: bool, changes: Vec<ObjectChange>) -> Stale {
        let objects = self.objects.get_or_insert_default();
        objects.apply(full, changes);
        self.plugin.objects(objects);
        Stale::Nothing
    }

    fn pre_enqueue(&mut self, pod: &Value) -> Option<String> {
        self.plugin.pre_enqueue(pod)
    }

    fn sort_key(&mut self, pod: &Value) -> Vec<i64> {
        self.plugin.sort_key(pod)
    }

    fn reserve(&mut self, placement: Placement) -> Result<(), String> {
        self.plugin.reserve(placement)
    }

    fn unreserve(&mut self, placement: Placement) -> Vec<Decision> {
        self.plugin.unreserve(placement)
    }

    fn permit(&mut self, placement: Placement) -> (Verdict, Vec<Decision>) {
        self.plugin.permit(placement)
    }

    fn pre_bind(&mut self, placement: Placement) -> (Verdict, Vec<Write>) {
        self.plugin.pre_bind(placement)
    }

    fn bind(&mut self, placement: Placement) -> Binder {
        self.plugin.bind(placement)
    }

    fn post_bind(&mut self, placement: Placement) {
        self.plugin.post_bind(placement);
    }
}

#[cfg(test)]
mod tests;
