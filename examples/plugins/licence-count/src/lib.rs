//! LicenceCount: a pod with the annotation `licence: NAME` is placed only while fewer such pods are
//! placed in the cluster than the configuration has licences of that name.
//!
//! The count is the plugin's own book, kept from column `node.pods`. The host puts a pod there as soon
//! as a node was chosen for it, and takes it out again when it ended or its binding failed: so the
//! book is right at every question, and right again after a restart.

mod books;

use books::Books;
use orlop_sdk::scheduler::{Asked, BatchPlugin, Delta, Explanation, Mirror, Prepared, Reason, Stale, Synced};
use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::Value;
use std::collections::{BTreeMap, HashMap};

#[derive(Default, Deserialize)]
#[serde(crate = "orlop_sdk::serde", deny_unknown_fields, default)]
struct Arguments {
    /// How many there are, by name. Of a licence that is not named there is none.
    licences: BTreeMap<String, u64>,
}

/// The plugin.
pub struct LicenceCount {
    arguments: Arguments,
    mirror: Mirror,
    books: Books,
    /// The licence that each class wants.
    classes: HashMap<u32, String>,
}

/// The licence that a pod, or the entry of a placed pod, is about.
fn licence(pod: &Value) -> Option<&str> {
    pod.pointer("/metadata/annotations/licence").and_then(Value::as_str)
}

impl LicenceCount {
    fn total(&self, licence: &str) -> u64 {
        self.arguments.licences.get(licence).copied().unwrap_or(0)
    }

    fn is_free(&self, licence: &str) -> bool {
        self.books.used(licence) < self.total(licence)
    }
}

impl BatchPlugin for LicenceCount {
    fn new(args: &[u8]) -> Result<Self, String> {
        let arguments = orlop_sdk::parse_config(args)?;
        let (mirror, books, classes) = (Mirror::default(), Books::default(), HashMap::new());
        Ok(Self { arguments, mirror, books, classes })
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        let was: Vec<(u32, bool)> = self.classes.iter().map(|(c, name)| (*c, self.is_free(name))).collect();
        if delta.full {
            self.books = Books::default();
        }
        let before = self.mirror.exchange(delta);
        self.books.update(&before, &self.mirror, licence);
        // The last licence that is taken or given back concerns every node, not only those of the delta.
        let turned = |(class, was): (u32, bool)| {
            let name = self.classes.get(&class)?;
            (self.is_free(name) != was).then_some(class)
        };
        let stale: Vec<u32> = was.into_iter().filter_map(turned).collect();
        Synced { checksum: self.mirror.checksum(), stale: Stale::from(stale) }
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.classes.remove(&class);
        let Some(licence) = licence(pod) else { return Ok(Prepared::skip()) };
        if self.total(licence) == 0 {
            let reason = format!("the cluster has no licence {licence}");
            return Ok(Prepared::reject(Reason::unresolvable(reason)));
        }
        self.classes.insert(class, licence.to_owned());
        Ok(Prepared::default())
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let free = self.classes.get(&class).is_some_and(|name| self.is_free(name));
        Asked::new(rows, self.mirror.slots()).mask(|slot| free && self.mirror.is_live(slot))
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        for _ in rows {
            if let Some(name) = self.classes.get(&class).filter(|name| !self.is_free(name)) {
                // Evicting a pod that holds one would help: `overlay` says where.
                explanation.because(Reason::new(format!("no free licence {name}")));
            }
            explanation.end_row();
        }
        explanation
    }

    // The count if one node had other pods: what is used, without what this node has now, with what it
    // would have.
    fn overlay(&mut self, class: u32, delta: Delta) -> Vec<u64> {
        let Some(name) = self.classes.get(&class) else { return vec![0; delta.rows.len().div_ceil(64)] };
        let count = |mirror: &Mirror, slot| {
            mirror.pods(slot).filter(|pod| licence(pod) == Some(name.as_str())).count() as u64
        };
        let now: HashMap<usize, u64> =
            delta.rows.iter().map(|slot| (*slot as usize, count(&self.mirror, *slot as usize))).collect();
        let (used, total) = (self.books.used(name), self.total(name));
        self.mirror.overlay(delta, |mirror, slot| {
            let elsewhere = used.saturating_sub(now.get(&slot).copied().unwrap_or(0));
            mirror.is_live(slot) && elsewhere + count(mirror, slot) < total
        })
    }
}

orlop_sdk::export_scheduler!(LicenceCount);

#[cfg(test)]
mod tests;
