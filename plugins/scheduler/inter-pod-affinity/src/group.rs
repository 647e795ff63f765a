//! Waiting pods that are alike, and the placed pods as they see them.

use crate::args::Args;
use crate::channel::{Channel, Purpose};
use crate::terms::{Pod, Term};
use orlop_sdk::scheduler::{Mirror, NO_DOMAIN, Reason, Topology, test_bit};
use std::collections::HashMap;

/// Pods with the same terms, labels and namespace.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) pod: Pod,
    pub(crate) classes: Vec<u32>,
    channels: Vec<Channel>,
    /// By entry of the dictionary of placed pods: the channels that such a pod moves, and by how much.
    /// Entries that move none are left out.
    interest: HashMap<u32, Vec<(usize, i64)>>,
    /// The pod is meant by its own affinity terms: it may be the first of its kind.
    may_be_first: bool,
    was_first: bool,
}

impl Group {
    pub(crate) fn new(pod: Pod, mirror: &Mirror, topology: &mut Topology) -> Self {
        let may_be_first = pod.terms.attract(&pod.subject);
        let mut group = Self {
            pod,
            classes: Vec::new(),
            channels: Vec::new(),
            interest: HashMap::new(),
            may_be_first,
            was_first: false,
        };
        // Its nodes need the labels of all affinity terms, whether pods match them or not.
        let keys: Vec<usize> =
            group.pod.terms.affinity.iter().map(|term| topology.track(mirror, &term.topology_key)).collect();
        keys.into_iter().for_each(|key| _ = group.channel(Purpose::Affinity, key));
        group
    }

    fn channel(&mut self, purpose: Purpose, key: usize) -> usize {
        let found = self.channels.iter().position(|c| c.purpose == purpose && c.key == key);
        found.unwrap_or_else(|| {
            self.channels.push(Channel::new(purpose, key));
            self.channels.len() - 1
        })
    }

    /// Tries the terms on an entry, and the terms of the entry on the pod. Says whether such pods matter.
    pub(crate) fn meet(
        &mut self,
        entry: u32,
        placed: &Pod,
        args: &Args,
        mirror: &Mirror,
        topology: &mut Topology,
    ) -> bool {
        let (ours, theirs) = (&self.pod.terms, &placed.terms);
        if ours.is_empty() && theirs.is_empty() {
            return false;
        }
        let mut moves: Vec<(Purpose, usize, i64)> = Vec::new();
        let mut note = |purpose: Purpose, term: &Term, weight: i64| {
            moves.push((purpose, topology.track(mirror, &term.topology_key), weight));
        };
        if ours.attract(&placed.subject) {
            ours.affinity.iter().for_each(|term| note(Purpose::Affinity, term, 1));
        }
        let they_are_meant = |term: &&Term| term.matches(&placed.subject);
        let we_are_meant = |term: &&Term| term.matches(&self.pod.subject);
        for term in ours.anti_affinity.iter().filter(they_are_meant) {
            note(Purpose::AntiAffinity, term, 1);
        }
        for term in theirs.anti_affinity.iter().filter(we_are_meant) {
            note(Purpose::ExistingAntiAffinity, term, 1);
        }
        if !self.is_unscored(args) {
            for (weight, term) in ours.preferred.iter().filter(|(_, term)| they_are_meant(&term)) {
                note(Purpose::Score, term, *weight);
            }
            for term in theirs.affinity.iter().filter(we_are_meant) {
                note(Purpose::Score, term, args.hard_pod_affinity_weight);
            }
            for (weight, term) in theirs.preferred.iter().filter(|(_, term)| we_are_meant(&term)) {
                note(Purpose::Score, term, *weight);
            }
        }
        let mut interest: Vec<(usize, i64)> = Vec::new();
        for (purpose, key, weight) in moves {
            let channel = self.channel(purpose, key);
            match interest.iter_mut().find(|(known, _)| *known == channel) {
                Some((_, sum)) => *sum += weight,
                None => interest.push((channel, weight)),
            }
        }
        interest.retain(|(_, weight)| *weight != 0);
        let matters = !interest.is_empty();
        if matters {
            self.interest.insert(entry, interest);
        }
        matters
    }

    /// Whether the score is 0 everywhere.
    pub(crate) fn is_unscored(&self, args: &Args) -> bool {
        args.ignore_preferred_terms_of_existing_pods && self.pod.terms.preferred.is_empty()
    }

    /// Whether placed pods of some kind matter.
    pub(crate) fn is_interested(&self) -> bool {
        !self.interest.is_empty()
    }

    /// Forgets all placed pods, before a full sync.
    pub(crate) fn clear(&mut self) {
        self.interest.clear();
        self.channels.iter_mut().for_each(Channel::clear);
    }

    /// So many pods of an entry came to a node, or left it.
    pub(crate) fn shift(&mut self, topology: &Topology, slot: usize, entry: u32, by: i64) {
        for (channel, weight) in self.interest.get(&entry).into_iter().flatten() {
            let Some(channel) = self.channels.get_mut(*channel) else { continue };
            if let Some(domain) = topology.domain(channel.key, slot) {
                channel.shift(domain, weight * by);
            }
        }
    }

    /// The same, without its being noticed: for new groups, and to be taken back before the next answer.
    pub(crate) fn place(&mut self, topology: &Topology, slot: usize, entry: u32, by: i64) {
        for (channel, weight) in self.interest.get(&entry).into_iter().flatten() {
            let Some(channel) = self.channels.get_mut(*channel) else { continue };
            if let Some(domain) = topology.domain(channel.key, slot) {
                channel.add(domain, weight * by);
            }
        }
    }

    fn of(&self, purpose: Purpose) -> impl Iterator<Item = &Channel> {
        self.channels.iter().filter(move |channel| channel.purpose == purpose)
    }

    /// The pod is meant by its own terms, and nowhere is a pod that they mean.
    fn is_first(&self) -> bool {
        self.may_be_first && self.of(Purpose::Affinity).all(|channel| channel.total() == 0)
    }

    /// Whether the filter may have a new answer for nodes that did not change. `upset`: nodes came, went or
    /// changed their labels, and not only their pods.
    pub(crate) fn settle(&mut self, topology: &Topology, upset: bool) -> bool {
        let first = self.is_first();
        let changed = std::mem::replace(&mut self.was_first, first) != first;
        self.channels.iter_mut().fold(changed, |stale, channel| channel.settle(topology, upset) || stale)
    }

    /// Which nodes satisfy all required terms.
    pub(crate) fn filter(&self, mirror: &Mirror, topology: &Topology) -> Vec<u64> {
        let mut mask = mirror.live().to_vec();
        let first = self.is_first();
        for channel in &self.channels {
            let sums = channel.sums();
            let above = |domain: &u32| sums.get(*domain as usize).is_some_and(|sum| *sum > 0);
            let domains = topology.by_slot(channel.key);
            match channel.purpose {
                Purpose::Affinity if first => narrow(&mut mask, domains, |domain| *domain != NO_DOMAIN),
                Purpose::Affinity => narrow(&mut mask, domains, above),
                Purpose::AntiAffinity | Purpose::ExistingAntiAffinity if !channel.is_idle() => {
                    narrow(&mut mask, domains, |domain| !above(domain));
                }
                _ => {}
            }
        }
        mask
    }

    /// Why a node does not satisfy them; `None` where it does.
    pub(crate) fn judge(&self, topology: &Topology, slot: usize) -> Option<Reason> {
        let first = self.is_first();
        let at = |channel: &Channel| topology.domain(channel.key, slot).map(|domain| channel.of(domain));
        if !self.of(Purpose::Affinity).all(|c| at(c).is_some_and(|sum| first || sum > 0)) {
            return Some(Reason::unresolvable("node(s) didn't match pod affinity rules"));
        }
        let above = |channel: &Channel| at(channel).is_some_and(|sum| sum > 0);
        if self.of(Purpose::AntiAffinity).any(above) {
            return Some(Reason::new("node(s) didn't match pod anti-affinity rules"));
        }
        if self.of(Purpose::ExistingAntiAffinity).any(above) {
            return Some(Reason::new("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        None
    }

    /// 0 to 100 for each slot, where the `feasible` ones are left to choose from.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "as upstream; 0 to 100"
    )]
    pub(crate) fn scores(&self, slots: usize, topology: &Topology, feasible: &[u64]) -> Vec<u8> {
        let active: Vec<&Channel> = self.of(Purpose::Score).filter(|channel| !channel.is_idle()).collect();
        if active.is_empty() {
            return vec![0; slots];
        }
        let mut scores = vec![0_i64; slots];
        for channel in active {
            let sums = channel.sums();
            for (score, domain) in scores.iter_mut().zip(topology.by_slot(channel.key)) {
                *score += sums.get(*domain as usize).copied().unwrap_or(0);
            }
        }
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for (slot, score) in scores.iter().enumerate() {
            if test_bit(feasible, slot) {
                least = least.min(*score);
                most = most.max(*score);
            }
        }
        if least >= most {
            return vec![0; slots];
        }
        let span = (most - least) as f64;
        let of = |score: &i64| (100.0 * ((score.clamp(&least, &most) - least) as f64 / span)) as u8;
        scores.iter().map(of).collect()
    }
}

/// Clears the bits of slots whose domain is not good.
fn narrow(mask: &mut [u64], domains: &[u32], good: impl Fn(&u32) -> bool) {
    for (word, domains) in mask.iter_mut().zip(domains.chunks(64)) {
        let bits = domains.iter().enumerate();
        *word &= bits.fold(0, |bits, (i, domain)| bits | u64::from(good(domain)) << i);
    }
}
