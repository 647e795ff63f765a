//! The plugin.

use crate::disk::Disk;
use crate::uses::{ClaimKey, Uses, claims_of};
use orlop_sdk::scheduler::volumes::not_found;
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, ObjectChange, Prepared, Reason, Stale, Synced, dictionary,
};
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

const DISK: &str = "node(s) had no available disk";
const IN_USE: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";

/// What a class uses that may be used once only.
#[derive(Debug)]
struct Class {
    disks: Vec<Disk>,
    /// Claims with access mode ReadWriteOncePod.
    claims: Vec<ClaimKey>,
}

/// The plugin; it has no arguments.
#[derive(Debug, Default)]
pub struct VolumeRestrictions {
    mirror: Mirror,
    /// By claim: whether it is for one pod only.
    claims: HashMap<ClaimKey, bool>,
    uses: Uses,
    /// Those that use something.
    classes: HashMap<u32, Class>,
}

fn is_for_one_pod(claim: &Value) -> bool {
    let modes = claim.pointer("/spec/accessModes").and_then(Value::as_array);
    modes.is_some_and(|modes| modes.iter().any(|mode| mode == "ReadWriteOncePod"))
}

impl BatchPlugin for VolumeRestrictions {
    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        let changed = self.uses.apply(&mut self.mirror, delta);
        let mut stale = Vec::new();
        if !changed.is_empty() {
            let concerned = |class: &Class| class.claims.iter().any(|claim| changed.contains(claim));
            stale
                .extend(self.classes.iter().filter(|(_, class)| concerned(class)).map(|(number, _)| *number));
        }
        Synced { checksum: self.mirror.checksum(), stale: stale.into() }
    }

    fn objects(&mut self, full: bool, changes: Vec<ObjectChange>) -> Stale {
        if full {
            self.claims.clear();
        }
        for ObjectChange { namespace, name, object, .. } in changes {
            match object {
                Some(claim) => _ = self.claims.insert((namespace, name), is_for_one_pod(&claim)),
                None => _ = self.claims.remove(&(namespace, name)),
            }
        }
        // Every class that has claims is prepared again.
        Stale::Nothing
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.classes.remove(&class);
        let disks = Disk::of(pod);
        let all = claims_of(pod);
        let mut prepared = Prepared { reads_objects: !all.is_empty(), ..Prepared::skip() };
        let mut claims = Vec::new();
        for claim in all {
            let Some(for_one_pod) = self.claims.get(&claim) else {
                let missing = not_found("persistentvolumeclaim", &claim.1);
                let rejected = Some(Reason::unresolvable(missing));
                return Ok(Prepared { skip_filter: false, rejected, ..prepared });
            };
            if *for_one_pod {
                claims.push(claim);
            }
        }
        if !disks.is_empty() || !claims.is_empty() {
            prepared.skip_filter = false;
            self.classes.insert(class, Class { disks, claims });
        }
        Ok(prepared)
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let Some(class) = self.classes.get(&class) else { return Vec::new() };
        let in_use = self.uses.of_claims(&class.claims) > 0;
        Asked::new(rows, self.mirror.slots())
            .mask(|slot| !in_use && !self.uses.conflicts_at(&self.mirror, slot, &class.disks))
    }

    fn overlay(&mut self, class: u32, mut delta: Delta) -> Vec<u64> {
        self.uses.extend(delta.take_dictionary(dictionary::PODS));
        let Self { mirror, uses, classes, .. } = self;
        let Some(class) = classes.get(&class) else { return Vec::new() };
        let total = uses.of_claims(&class.claims);
        // What each row uses as it is; the overlay has the row as it would be.
        let now: HashMap<u32, usize> = delta
            .rows
            .iter()
            .map(|slot| (*slot, uses.of_claims_at(mirror, *slot as usize, &class.claims)))
            .collect();
        mirror.overlay(delta, |mirror, slot| {
            let now = u32::try_from(slot).ok().and_then(|slot| now.get(&slot)).copied().unwrap_or(0);
            total.saturating_sub(now) + uses.of_claims_at(mirror, slot, &class.claims) == 0
                && !uses.conflicts_at(mirror, slot, &class.disks)
        })
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        let class = self.classes.get(&class);
        for slot in rows {
            if let Some(class) = class {
                let disk = self.uses.conflicts_at(&self.mirror, *slot as usize, &class.disks);
                explanation.because(Reason::new(if disk { DISK } else { IN_USE }));
            }
            explanation.end_row();
        }
        explanation
    }
}

#[cfg(test)]
mod tests;
