//! The logic, natively testable.

use orlop_sdk::scheduler::node_selector::{Postings, RequiredNodeAffinity, Term};
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, Prepared, Reason, Synced, test_bit,
};
use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

#[derive(Debug, Default, Deserialize)]
#[serde(crate = "orlop_sdk::serde", rename_all = "camelCase", deny_unknown_fields, default)]
struct Args {
    added_affinity: Option<Value>,
}

/// Terms that are ORed; no terms match nothing.
type Required = Vec<Term>;
/// Terms and their weights.
type Preferred = Vec<(i64, Term)>;

#[derive(Debug, Default)]
struct Class {
    required: RequiredNodeAffinity,
    preferred: Preferred,
}

fn preferred_of(affinity: Option<&Value>) -> Preferred {
    let terms = affinity.and_then(|a| a.get("preferredDuringSchedulingIgnoredDuringExecution"));
    let terms = terms.and_then(Value::as_array).into_iter().flatten();
    let weighed = |t: &Value| {
        let weight = t.get("weight").and_then(Value::as_i64).filter(|w| *w != 0)?;
        Some((weight, Term::read(t.get("preference")?)?))
    };
    terms.filter_map(weighed).collect()
}

/// The plugin.
#[derive(Debug)]
pub struct NodeAffinity {
    mirror: Mirror,
    postings: Postings,
    classes: HashMap<u32, Class>,
    /// `addedAffinity`: holds for every pod of the profile.
    added_required: Option<Required>,
    added_preferred: Preferred,
}

impl NodeAffinity {
    fn any(&self, terms: &Required) -> Vec<u64> {
        let mut any = vec![0_u64; self.mirror.live().len()];
        for term in terms {
            let mut mask = self.mirror.live().to_vec();
            term.narrow(&self.mirror, &self.postings, &mut mask);
            any.iter_mut().zip(mask).for_each(|(any, word)| *any |= word);
        }
        any
    }

    fn is_any(&self, terms: &Required, slot: usize) -> bool {
        terms.iter().any(|t| t.matches(&self.mirror, slot))
    }

    fn score_of(&self, class: &Class, slot: usize) -> i64 {
        let matching = |term: &Term| term.matches(&self.mirror, slot);
        let added = self.added_preferred.iter().filter(|(_, t)| matching(t)).map(|(w, _)| *w).sum::<i64>();
        added + class.preferred.iter().filter(|(_, t)| matching(t)).map(|(w, _)| *w).sum::<i64>()
    }
}

impl BatchPlugin for NodeAffinity {
    fn new(args: &[u8]) -> Result<Self, String> {
        let args: Args = orlop_sdk::parse_config(args)?;
        let added = args.added_affinity.as_ref();
        Ok(Self {
            mirror: Mirror::default(),
            postings: Postings::default(),
            classes: HashMap::new(),
            added_required: RequiredNodeAffinity::terms_of(added),
            added_preferred: preferred_of(added),
        })
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        if delta.full {
            self.postings.clear();
        }
        let rows = self.mirror.apply(delta);
        self.postings.update(&self.mirror, &rows);
        Synced::rows(self.mirror.checksum())
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        let affinity = pod.pointer("/spec/affinity/nodeAffinity");
        let entry = Class { required: RequiredNodeAffinity::read(pod), preferred: preferred_of(affinity) };
        let asks = !entry.required.is_everything() || self.added_required.is_some();
        let named: Option<Vec<Vec<&str>>> =
            entry.required.terms.as_ref().and_then(|terms| terms.iter().map(Term::names).collect());
        let conflict = named.is_some_and(|terms| !terms.is_empty() && terms.iter().all(Vec::is_empty));
        let prepared = Prepared {
            skip_filter: !asks,
            skip_score: entry.preferred.is_empty() && self.added_preferred.is_empty(),
            rejected: conflict.then(|| Reason::unresolvable("pod affinity terms conflict")),
            ..Prepared::default()
        };
        self.classes.insert(class, entry);
        Ok(prepared)
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let Some(class) = self.classes.get(&class) else { return Vec::new() };
        let required = self.added_required.iter().chain(&class.required.terms);
        if !rows.is_empty() {
            let added = self.added_required.as_ref();
            return Asked::new(rows, self.mirror.slots()).mask(|slot| {
                class.required.matches(&self.mirror, slot)
                    && added.is_none_or(|terms| self.is_any(terms, slot))
            });
        }
        let mut mask = self.mirror.live().to_vec();
        if let Some(selector) = &class.required.selector {
            selector.narrow(&self.mirror, &self.postings, &mut mask);
        }
        for terms in required {
            mask.iter_mut().zip(self.any(terms)).for_each(|(word, any)| *word &= any);
        }
        mask
    }

    fn score_raw(&mut self, class: u32, rows: &[u32]) -> Vec<i64> {
        let Some(class) = self.classes.get(&class) else { return Vec::new() };
        let asked = Asked::new(rows, self.mirror.slots());
        if !rows.is_empty() {
            return asked.map(|slot| self.score_of(class, slot));
        }
        let mut scores = vec![0; self.mirror.slots()];
        for (weight, term) in self.added_preferred.iter().chain(&class.preferred) {
            let mut mask = self.mirror.live().to_vec();
            term.narrow(&self.mirror, &self.postings, &mut mask);
            for (slot, score) in scores.iter_mut().enumerate() {
                if test_bit(&mask, slot) {
                    *score += weight;
                }
            }
        }
        scores
    }

    fn explain(&mut self, _class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        for slot in rows {
            let enforced = self.added_required.as_ref().is_some_and(|t| !self.is_any(t, *slot as usize));
            explanation.because(Reason::unresolvable(if enforced {
                "node(s) didn't match scheduler-enforced node affinity"
            } else {
                "node(s) didn't match Pod's node affinity/selector"
            }));
            explanation.end_row();
        }
        explanation
    }
}

#[cfg(test)]
mod tests;
