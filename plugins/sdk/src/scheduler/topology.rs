//! Domains of nodes: the values of a topology key such as `topology.kubernetes.io/zone`.

use super::{Mirror, column, dictionary};
use std::collections::HashMap;

/// Stands for a node without the label.
pub const NO_DOMAIN: u32 = u32::MAX;

/// The domains of those keys that somebody asked for. Follows a [`Mirror`] with column `node.labels`:
/// call [`Topology::clear`] before a full delta is applied and [`Topology::update`] afterwards, with
/// the slots whose labels changed or that appeared or went.
///
/// Domains of a key are numbered from 0 and keep their numbers until `clear`.
///
/// ```
/// use orlop_sdk::scheduler::testing::Cluster;
/// use orlop_sdk::scheduler::{Mirror, Topology};
///
/// let mut cluster = Cluster::default();
/// cluster.node("a", &[("zone", "1")]);
/// cluster.node("b", &[("zone", "2")]);
/// cluster.node("c", &[("zone", "1")]);
/// let (mut mirror, mut topology) = (Mirror::default(), Topology::default());
/// mirror.apply(cluster.delta());
/// let zones = topology.track(&mirror, "zone");
/// assert_eq!(topology.domain(zones, 0), topology.domain(zones, 2));
/// assert_ne!(topology.domain(zones, 0), topology.domain(zones, 1));
/// assert_eq!(topology.nodes(zones, topology.domain(zones, 0).unwrap()), 2);
/// ```
#[derive(Debug, Default)]
pub struct Topology {
    keys: Vec<Key>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug, Default)]
struct Key {
    name: String,
    /// By number of the label: its domain.
    of_label: Vec<u32>,
    /// By slot.
    of_slot: Vec<u32>,
    /// By domain: how many nodes are in it.
    nodes: Vec<u32>,
}

impl Key {
    fn learn(&mut self, labels: &[String]) {
        for label in labels.iter().skip(self.of_label.len()) {
            let same = label.strip_prefix(self.name.as_str()).is_some_and(|rest| rest.starts_with('='));
            let domain = if same { self.new_domain() } else { NO_DOMAIN };
            self.of_label.push(domain);
        }
    }

    fn new_domain(&mut self) -> u32 {
        self.nodes.push(0);
        u32::try_from(self.nodes.len() - 1).unwrap_or(NO_DOMAIN)
    }

    fn place(&mut self, mirror: &Mirror, slot: usize) {
        let domain_of = |label: &u64| {
            let label = usize::try_from(*label).ok()?;
            self.of_label.get(label).copied().filter(|domain| *domain != NO_DOMAIN)
        };
        let live = mirror.is_live(slot);
        let labels = if live { mirror.list(column::LABELS, slot) } else { &[] };
        let domain = labels.iter().find_map(domain_of).unwrap_or(NO_DOMAIN);
        let Some(cell) = self.of_slot.get_mut(slot) else { return };
        let before = std::mem::replace(cell, domain);
        if let Some(nodes) = self.nodes.get_mut(before as usize) {
            *nodes -= 1;
        }
        if let Some(nodes) = self.nodes.get_mut(domain as usize) {
            *nodes += 1;
        }
    }
}

impl Topology {
    /// Number of a key, which is followed from now on.
    pub fn track(&mut self, mirror: &Mirror, name: &str) -> usize {
        if let Some(key) = self.by_name.get(name) {
            return *key;
        }
        let mut key = Key { name: name.to_owned(), ..Key::default() };
        key.learn(mirror.entries(dictionary::LABELS));
        key.of_slot.resize(mirror.slots(), NO_DOMAIN);
        (0..mirror.slots()).for_each(|slot| key.place(mirror, slot));
        self.keys.push(key);
        self.by_name.insert(name.to_owned(), self.keys.len() - 1);
        self.keys.len() - 1
    }

    /// Forgets all domains, but not the keys.
    pub fn clear(&mut self) {
        for key in &mut self.keys {
            *key = Key { name: std::mem::take(&mut key.name), ..Key::default() };
        }
    }

    /// Takes in new labels, and the labels of `slots` as the mirror has them now.
    pub fn update(&mut self, mirror: &Mirror, slots: &[u32]) {
        for key in &mut self.keys {
            key.learn(mirror.entries(dictionary::LABELS));
            key.of_slot.resize(mirror.slots(), NO_DOMAIN);
            slots.iter().for_each(|slot| key.place(mirror, *slot as usize));
        }
    }

    /// The domain of a node; `None` without the label, and for empty slots.
    #[must_use]
    pub fn domain(&self, key: usize, slot: usize) -> Option<u32> {
        self.by_slot(key).get(slot).copied().filter(|domain| *domain != NO_DOMAIN)
    }

    /// The domains of all slots; [`NO_DOMAIN`] where there is none.
    #[must_use]
    pub fn by_slot(&self, key: usize) -> &[u32] {
        self.keys.get(key).map_or(&[], |k| &k.of_slot)
    }

    /// One more than the highest domain of a key. Some may have lost all their nodes.
    #[must_use]
    pub fn domains(&self, key: usize) -> usize {
        self.keys.get(key).map_or(0, |k| k.nodes.len())
    }

    /// How many nodes a domain has.
    #[must_use]
    pub fn nodes(&self, key: usize, domain: u32) -> u32 {
        self.keys.get(key).and_then(|k| k.nodes.get(domain as usize)).copied().unwrap_or(0)
    }
}

/// Tells which entries two cells of `node.pods` do not share, and by how many pods each grew or shrank.
///
/// ```
/// # use orlop_sdk::scheduler::pod_changes;
/// let mut changes = Vec::new();
/// pod_changes(&[1, 1, 4], &[1, 4, 4, 7], |entry, by| changes.push((entry, by)));
/// assert_eq!(changes, [(1, -1), (4, 1), (7, 1)]);
/// ```
pub fn pod_changes(before: &[u64], after: &[u64], mut each: impl FnMut(u32, i64)) {
    let (mut before, mut after) = (before, after);
    loop {
        let entry = match (before.first(), after.first()) {
            (None, None) => return,
            (Some(a), Some(b)) => *a.min(b),
            (Some(one), None) | (None, Some(one)) => *one,
        };
        let run = |cell: &[u64]| cell.iter().take_while(|e| **e == entry).count();
        let (was, is) = (run(before), run(after));
        before = before.get(was..).unwrap_or(&[]);
        after = after.get(is..).unwrap_or(&[]);
        let by = i64::try_from(is).unwrap_or(0) - i64::try_from(was).unwrap_or(0);
        if by != 0 {
            each(u32::try_from(entry).unwrap_or(u32::MAX), by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::testing::Cluster;

    #[test]
    fn follows_nodes_that_come_change_and_go() {
        let mut cluster = Cluster::default();
        let a = cluster.node("a", &[("zone", "1"), ("zones", "9")]);
        let b = cluster.node("b", &[]);
        let (mut mirror, mut topology) = (Mirror::default(), Topology::default());
        mirror.apply(cluster.delta());
        let zone = topology.track(&mirror, "zone");
        let in_zone = |t: &Topology| [t.domain(zone, a as usize), t.domain(zone, b as usize)];
        assert_eq!(in_zone(&topology), [Some(0), None]);

        cluster.label(b, &[("zone", "2")]);
        let rows = mirror.apply(cluster.delta());
        topology.update(&mirror, &rows);
        assert_eq!(in_zone(&topology), [Some(0), Some(1)]);

        cluster.remove(a);
        let c = cluster.node("c", &[("zone", "2")]);
        let rows = mirror.apply(cluster.delta());
        topology.update(&mirror, &rows);
        assert_eq!(in_zone(&topology), [None, Some(1)]);
        assert_eq!(topology.domain(zone, c as usize), Some(1));
        assert_eq!((topology.nodes(zone, 0), topology.nodes(zone, 1)), (0, 2));
    }
}
