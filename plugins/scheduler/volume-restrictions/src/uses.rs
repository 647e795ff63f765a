//! Which claims placed pods use, and which disks.

use crate::disk::Disk;
use orlop_sdk::scheduler::volumes::requested_claims;
use orlop_sdk::scheduler::{Delta, DictionaryDelta, Mirror, column, dictionary};
use orlop_sdk::serde_json::{Value, from_str};
use std::collections::{BTreeSet, HashMap};

/// Namespace and name.
pub(crate) type ClaimKey = (String, String);

/// An entry of the dictionary of placed pods.
#[derive(Debug, Default)]
struct Entry {
    claims: Vec<ClaimKey>,
    disks: Vec<Disk>,
}

/// The claims of a pod, but for those of ephemeral volumes, which are of no other pod.
pub(crate) fn claims_of(pod: &Value) -> Vec<ClaimKey> {
    let claims = requested_claims(pod).into_iter().filter(|claim| claim.pod.is_none());
    claims.map(|claim| (claim.namespace, claim.name)).collect()
}

/// Uses, kept as pods come and go.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    entries: Vec<Entry>,
    /// By claim: how many volumes of placed pods use it.
    claims: HashMap<ClaimKey, usize>,
}

impl Uses {
    /// Decodes new entries.
    pub(crate) fn extend(&mut self, dictionaries: Vec<DictionaryDelta>) {
        for DictionaryDelta { first, entries, .. } in dictionaries {
            self.entries.truncate(first as usize);
            self.entries.extend(entries.iter().map(|entry| {
                let pod: Value = from_str(entry).unwrap_or_default();
                Entry { claims: claims_of(&pod), disks: Disk::of(&pod) }
            }));
        }
    }

    /// Takes in a delta; answers the claims whose first use came or whose last use went.
    pub(crate) fn apply(&mut self, mirror: &mut Mirror, mut delta: Delta) -> BTreeSet<ClaimKey> {
        let new = delta.take_dictionary(dictionary::PODS);
        let mut changed = BTreeSet::new();
        if delta.full {
            changed.extend(std::mem::take(&mut self.claims).into_keys());
            self.entries.clear();
        } else {
            for slot in &delta.rows {
                self.count(mirror, *slot as usize, &mut changed, |uses| uses.saturating_sub(1));
            }
        }
        self.extend(new);
        for slot in mirror.apply(delta) {
            self.count(mirror, slot as usize, &mut changed, |uses| uses + 1);
        }
        changed
    }

    fn count(
        &mut self,
        mirror: &Mirror,
        slot: usize,
        changed: &mut BTreeSet<ClaimKey>,
        change: impl Fn(usize) -> usize,
    ) {
        let numbers = mirror.list(column::PODS, slot).iter().filter_map(|n| usize::try_from(*n).ok());
        for claim in numbers.filter_map(|n| self.entries.get(n)).flat_map(|entry| &entry.claims) {
            let before = self.claims.get(claim).copied().unwrap_or(0);
            let after = change(before);
            if after == 0 {
                self.claims.remove(claim);
            } else {
                self.claims.insert(claim.clone(), after);
            }
            if (before == 0) != (after == 0) && !changed.remove(claim) {
                // What goes and comes back within a delta did not change.
                changed.insert(claim.clone());
            }
        }
    }

    fn at(&self, mirror: &Mirror, slot: usize) -> impl Iterator<Item = &Entry> {
        let numbers = mirror.list(column::PODS, slot).iter().filter_map(|n| usize::try_from(*n).ok());
        numbers.filter_map(|n| self.entries.get(n)).collect::<Vec<_>>().into_iter()
    }

    /// How many volumes of placed pods use one of the claims.
    pub(crate) fn of_claims(&self, claims: &[ClaimKey]) -> usize {
        claims.iter().filter_map(|claim| self.claims.get(claim)).sum()
    }

    /// The same for the pods of one slot.
    pub(crate) fn of_claims_at(&self, mirror: &Mirror, slot: usize, claims: &[ClaimKey]) -> usize {
        self.at(mirror, slot).flat_map(|entry| &entry.claims).filter(|claim| claims.contains(claim)).count()
    }

    /// Whether a pod of a slot uses a disk that conflicts with one of these.
    pub(crate) fn conflicts_at(&self, mirror: &Mirror, slot: usize, disks: &[Disk]) -> bool {
        !disks.is_empty()
            && self
                .at(mirror, slot)
                .flat_map(|e| &e.disks)
                .any(|used| disks.iter().any(|d| d.conflicts(used)))
    }
}
