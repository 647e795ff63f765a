//! Sums over the placed pods, by domain.

use orlop_sdk::scheduler::Topology;

/// What a sum is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Pods that all required affinity terms of the waiting pod mean.
    Affinity,
    /// Pods that required anti-affinity terms of the waiting pod mean.
    AntiAffinity,
    /// Required anti-affinity terms of placed pods that mean the waiting pod.
    ExistingAntiAffinity,
    /// Weights.
    Score,
}

/// A sum for each domain of one topology key.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) purpose: Purpose,
    pub(crate) key: usize,
    sums: Vec<i64>,
    /// How many are not 0.
    used: usize,
    /// All of them together.
    total: i64,
    /// Domains whose sums moved since the last answer, and whether they were above 0.
    moved: Vec<(u32, bool)>,
}

impl Channel {
    pub(crate) const fn new(purpose: Purpose, key: usize) -> Self {
        Self { purpose, key, sums: Vec::new(), used: 0, total: 0, moved: Vec::new() }
    }

    /// Starts over.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.purpose, self.key);
    }

    pub(crate) fn of(&self, domain: u32) -> i64 {
        self.sums.get(domain as usize).copied().unwrap_or(0)
    }

    /// By domain; those beyond the end are 0.
    pub(crate) fn sums(&self) -> &[i64] {
        &self.sums
    }

    /// Whether no domain has anything.
    pub(crate) const fn is_idle(&self) -> bool {
        self.used == 0
    }

    pub(crate) const fn total(&self) -> i64 {
        self.total
    }

    /// Moves the sum of a domain.
    pub(crate) fn add(&mut self, domain: u32, by: i64) {
        let at = domain as usize;
        if self.sums.len() <= at {
            self.sums.resize(at + 1, 0);
        }
        let Some(sum) = self.sums.get_mut(at) else { return };
        self.used -= usize::from(*sum != 0);
        *sum += by;
        self.total += by;
        self.used += usize::from(*sum != 0);
    }

    /// The same, to be asked about by [`Channel::settle`].
    pub(crate) fn shift(&mut self, domain: u32, by: i64) {
        if self.purpose != Purpose::Score {
            self.moved.push((domain, self.of(domain) > 0));
        }
        self.add(domain, by);
    }

    /// Whether a domain with other nodes than those that changed came above 0 or fell to it. The one node of
    /// a domain is the one whose pods changed, but where nodes came or went as well.
    pub(crate) fn settle(&mut self, topology: &Topology, upset: bool) -> bool {
        let own = u32::from(!upset);
        let moved = std::mem::take(&mut self.moved);
        let flipped = |(domain, was): &(u32, bool)| {
            *was != (self.of(*domain) > 0) && topology.nodes(self.key, *domain) > own
        };
        moved.iter().any(flipped)
    }
}
