//! The constraints of pods that are alike, and the state of the cluster as they see it.

use crate::constraint::{Spec, Wanted};
use crate::counts::Counts;
use crate::matchers::Matchers;
use orlop_sdk::scheduler::node_selector::RequiredNodeAffinity;
use orlop_sdk::scheduler::{Mirror, NO_DOMAIN, Node, Reason, Topology, pack, set_bit, test_bit, tolerates};
use orlop_sdk::serde_json::Value;

/// Scores count by node where this is the key, whether the node is eligible or not.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What groups look at.
#[derive(Clone, Copy)]
pub(crate) struct Sight<'a> {
    pub(crate) mirror: &'a Mirror,
    pub(crate) topology: &'a Topology,
    pub(crate) matchers: &'a Matchers,
}

/// One constraint and its counts.
#[derive(Debug)]
pub(crate) struct Constraint {
    pub(crate) spec: Spec,
    pub(crate) key: usize,
    pub(crate) matcher: Option<usize>,
    /// Scored by node: nothing is counted by domain.
    pub(crate) per_node: bool,
    /// Nodes that count.
    eligible: Vec<u64>,
    pub(crate) counts: Counts,
    /// The highest count at which a domain is still good, as of the last answer.
    limit: i32,
    /// Domains whose counts moved since, and what they were.
    moved: Vec<(u32, i32)>,
}

impl Constraint {
    fn limit(&self) -> i32 {
        self.limit_at(self.counts.least(self.spec.min_domains))
    }

    fn limit_at(&self, least: i32) -> i32 {
        self.spec.max_skew.saturating_add(least).saturating_sub(i32::from(self.spec.self_match))
    }

    fn shift(&mut self, domain: u32, by: i32) {
        self.moved.push((domain, self.counts.of(domain)));
        self.counts.add(domain, by);
    }

    /// Whether nodes other than those whose pods changed may be judged differently.
    fn settle(&mut self, topology: &Topology) -> bool {
        let (before, after) = (self.limit, self.limit());
        let shared = |domain: u32| topology.nodes(self.key, domain) > 1;
        let flipped = self
            .moved
            .iter()
            .any(|(domain, was)| (*was > before) != (self.counts.of(*domain) > after) && shared(*domain));
        let moved = self.counts.any_between(before.min(after), before.max(after));
        self.limit = after;
        self.moved.clear();
        flipped || moved
    }
}

/// Constraints of one kind.
#[derive(Debug, Default)]
pub(crate) struct Constraints {
    pub(crate) all: Vec<Constraint>,
    /// A node that misses the label of one of them counts for none.
    pub(crate) strict: bool,
}

/// Pods that want the same.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) hard: Constraints,
    pub(crate) soft: Constraints,
    pub(crate) classes: Vec<u32>,
    required: RequiredNodeAffinity,
    tolerations: Value,
    /// Labels, taints or nodes came or went since the last answer.
    upset: bool,
}

impl Group {
    pub(crate) fn new(
        wanted: Wanted,
        at: usize,
        mirror: &Mirror,
        topology: &mut Topology,
        matchers: &mut Matchers,
    ) -> Self {
        let mut constraints = |specs: Vec<Spec>, soft: bool| {
            let constraint = |spec: Spec| Constraint {
                key: topology.track(mirror, &spec.topology_key),
                matcher: matchers.acquire(mirror, &wanted.namespace, &spec.selector, at),
                per_node: soft && spec.topology_key == HOSTNAME,
                spec,
                eligible: Vec::new(),
                counts: Counts::default(),
                limit: 0,
                moved: Vec::new(),
            };
            specs.into_iter().map(constraint).collect::<Vec<_>>()
        };
        let (hard, soft) = (constraints(wanted.hard, false), constraints(wanted.soft, true));
        let mut group = Self {
            hard: Constraints { all: hard, strict: true },
            soft: Constraints { all: soft, strict: !wanted.lenient },
            classes: Vec::new(),
            required: wanted.required,
            tolerations: wanted.tolerations,
            upset: false,
        };
        group.count(Sight { mirror, topology, matchers });
        group
    }

    /// Counts from nothing.
    pub(crate) fn count(&mut self, sight: Sight<'_>) {
        let Self { hard, soft, required, tolerations, .. } = self;
        let slots = sight.mirror.slots();
        let asked = hard.all.iter().chain(&soft.all).any(|c| c.spec.honours_affinity);
        let affine = (asked && !required.is_everything())
            .then(|| pack(slots, |slot| required.matches(sight.mirror, slot)));
        for constraints in [hard, soft] {
            let keys: Vec<usize> = constraints.all.iter().map(|c| c.key).collect();
            let strict = constraints.strict;
            for constraint in &mut constraints.all {
                constraint.counts.clear(sight.topology.domains(constraint.key));
                constraint.eligible = vec![0; slots.div_ceil(64)];
                let pods = sight.matchers.pods(constraint.matcher);
                let domains = sight.topology.by_slot(constraint.key);
                for (slot, domain) in domains.iter().enumerate() {
                    let shut_out = constraint.spec.honours_affinity
                        && affine.as_ref().is_some_and(|affine| !test_bit(affine, slot));
                    if *domain == NO_DOMAIN
                        || shut_out
                        || strict && !has_all(&keys, sight.topology, slot)
                        || !tolerated(&constraint.spec, tolerations, sight.mirror, slot)
                    {
                        continue;
                    }
                    set_bit(&mut constraint.eligible, slot, true);
                    constraint.counts.load(*domain, pods.get(slot).copied().unwrap_or(0));
                }
                constraint.counts.index();
                constraint.limit = constraint.limit();
                constraint.moved.clear();
            }
        }
        self.upset = false;
    }

    /// Takes a node out of the counts, before its labels, taints or pods change.
    pub(crate) fn retract(&mut self, sight: Sight<'_>, slot: usize) {
        self.upset = true;
        for constraint in self.hard.all.iter_mut().chain(&mut self.soft.all) {
            if test_bit(&constraint.eligible, slot)
                && let Some(domain) = sight.topology.domain(constraint.key, slot)
            {
                let pods = sight.matchers.pods(constraint.matcher).get(slot).copied().unwrap_or(0);
                constraint.counts.leave(domain, pods);
                set_bit(&mut constraint.eligible, slot, false);
            }
        }
    }

    /// Puts it back as it is now.
    pub(crate) fn admit(&mut self, sight: Sight<'_>, slot: usize) {
        let Self { hard, soft, required, tolerations, .. } = self;
        for constraints in [hard, soft] {
            let keys: Vec<usize> = constraints.all.iter().map(|c| c.key).collect();
            if constraints.strict && !has_all(&keys, sight.topology, slot) {
                continue;
            }
            for constraint in &mut constraints.all {
                let Some(domain) = sight.topology.domain(constraint.key, slot) else { continue };
                if included(&constraint.spec, required, tolerations, sight.mirror, slot) {
                    constraint.eligible.resize(sight.mirror.slots().div_ceil(64), 0);
                    set_bit(&mut constraint.eligible, slot, true);
                    let pods = sight.matchers.pods(constraint.matcher).get(slot).copied().unwrap_or(0);
                    constraint.counts.enter(domain, pods);
                }
            }
        }
    }

    /// Pods that a matcher selects came to a node or left it.
    pub(crate) fn shift(&mut self, topology: &Topology, matcher: usize, slot: usize, by: i32) {
        for constraint in self.hard.all.iter_mut().chain(&mut self.soft.all) {
            if constraint.matcher == Some(matcher)
                && !constraint.per_node
                && test_bit(&constraint.eligible, slot)
                && let Some(domain) = topology.domain(constraint.key, slot)
            {
                constraint.shift(domain, by);
            }
        }
    }

    /// Whether the filter may have a new answer for nodes whose pods did not change.
    pub(crate) fn settle(&mut self, topology: &Topology) -> bool {
        let upset = std::mem::take(&mut self.upset) && !self.hard.all.is_empty();
        self.soft.all.iter_mut().for_each(|constraint| constraint.moved.clear());
        self.hard.all.iter_mut().fold(upset, |stale, constraint| constraint.settle(topology) || stale)
    }

    /// Which nodes satisfy all hard constraints.
    pub(crate) fn filter(&mut self, sight: Sight<'_>) -> Vec<u64> {
        let mut mask = sight.mirror.live().to_vec();
        for constraint in &mut self.hard.all {
            constraint.counts.reach(sight.topology.domains(constraint.key));
            let (limit, counts) = (constraint.limit(), constraint.counts.by_domain());
            // A node without the label lies beyond the last domain.
            let good = |domain: &u32| counts.get(*domain as usize).is_some_and(|count| *count <= limit);
            for (word, domains) in mask.iter_mut().zip(sight.topology.by_slot(constraint.key).chunks(64)) {
                let bits = domains.iter().enumerate();
                *word &= bits.fold(0, |bits, (i, domain)| bits | u64::from(good(domain)) << i);
            }
        }
        mask
    }

    /// Why a node does not satisfy them; `None` where it does.
    pub(crate) fn judge(&self, topology: &Topology, slot: usize) -> Option<Reason> {
        self.judge_with(topology, slot, |_| 0)
    }

    /// The same, if the node had so many more pods of each matcher.
    pub(crate) fn judge_with(
        &self,
        topology: &Topology,
        slot: usize,
        more: impl Fn(usize) -> i32,
    ) -> Option<Reason> {
        for constraint in &self.hard.all {
            let Some(domain) = topology.domain(constraint.key, slot) else {
                return Some(Reason::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let more = constraint.matcher.map_or(0, &more);
            let more = if test_bit(&constraint.eligible, slot) { more } else { 0 };
            let count = constraint.counts.of(domain).saturating_add(more);
            let least = match more {
                0 => constraint.counts.least(constraint.spec.min_domains),
                _ => constraint.counts.least_with(constraint.spec.min_domains, domain, count),
            };
            if count > constraint.limit_at(least) {
                return Some(Reason::new("node(s) didn't match pod topology spread constraints"));
            }
        }
        None
    }

    /// The matchers of all constraints.
    pub(crate) fn matchers(&self) -> impl Iterator<Item = Option<usize>> {
        self.hard.all.iter().chain(&self.soft.all).map(|constraint| constraint.matcher)
    }
}

fn has_all(keys: &[usize], topology: &Topology, slot: usize) -> bool {
    keys.iter().all(|key| topology.domain(*key, slot).is_some())
}

/// Whether the constraint's inclusion policies let a node count.
fn included(
    spec: &Spec,
    required: &RequiredNodeAffinity,
    tolerations: &Value,
    mirror: &Mirror,
    slot: usize,
) -> bool {
    if spec.honours_affinity && !required.is_everything() && !required.matches(mirror, slot) {
        return false;
    }
    tolerated(spec, tolerations, mirror, slot)
}

fn tolerated(spec: &Spec, tolerations: &Value, mirror: &Mirror, slot: usize) -> bool {
    let hard = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    !spec.honours_taints
        || Node::new(mirror, slot).taints().iter().all(|t| !hard(&t.effect) || tolerates(tolerations, t))
}
