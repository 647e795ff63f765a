//! The volumes that suit a claim, so ordered that those of one node are found without looking at all.
//!
//! Source: `FindMatchingVolume` of `k8s.io/component-helpers/storage/volume`.

use crate::storage::{Claim, ClaimKey, Storage, Volume};
use orlop_sdk::apimachinery::selector::{NodeSelector, Operator};
use std::collections::HashMap;

/// Positions of volumes by the value that a label must have.
type ByValue = HashMap<Box<str>, Vec<usize>>;

/// Volumes, the smallest first.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    names: Vec<String>,
    /// Positions of those whose affinity asks for a value of one label: by key, then by value.
    by_label: Vec<(Box<str>, ByValue)>,
    /// Positions of all others, with the affinity that they have.
    others: Vec<(usize, Option<NodeSelector>)>,
}

impl Candidates {
    /// Those for a claim. A volume that is set aside for the claim is the only one.
    pub(crate) fn of(storage: &Storage, key: &ClaimKey, claim: &Claim) -> Self {
        let mut own = None;
        let mut free: Vec<(&str, &Volume)> = Vec::new();
        for (name, volume) in storage.of_class(&claim.class).filter(|(_, v)| v.suits(claim)) {
            match storage.is_for(name, volume, key, &claim.uid) {
                Some(true) => own = own.or(Some((name, volume))),
                Some(false) => {}
                None if volume.is_free_for(claim) => free.push((name, volume)),
                None => {}
            }
        }
        if let Some(own) = own {
            free = vec![own];
        }
        free.sort_by_key(|(_, volume)| volume.capacity);
        let mut candidates = Self::default();
        for (position, (name, volume)) in free.into_iter().enumerate() {
            candidates.names.push(name.to_owned());
            candidates.list(position, volume.affinity.as_ref());
        }
        candidates
    }

    fn list(&mut self, position: usize, affinity: Option<&NodeSelector>) {
        let single = affinity.and_then(|affinity| match &affinity.terms[..] {
            [term] if term.fields.is_empty() => match &term.expressions[..] {
                [only] if only.operator == Operator::In => Some(only),
                _ => None,
            },
            _ => None,
        });
        let Some(requirement) = single else {
            return self.others.push((position, affinity.cloned()));
        };
        let at = self.by_label.iter().position(|(key, _)| *key == requirement.key).unwrap_or_else(|| {
            self.by_label.push((requirement.key.clone(), HashMap::new()));
            self.by_label.len() - 1
        });
        let Some((_, values)) = self.by_label.get_mut(at) else { return };
        for value in &requirement.values {
            let positions: &mut Vec<usize> = values.entry(value.clone()).or_default();
            if positions.last() != Some(&position) {
                positions.push(position);
            }
        }
    }

    /// The smallest that a node with these labels can reach, and that is not `taken`.
    pub(crate) fn find<'a>(&self, label: impl Fn(&str) -> Option<&'a str>, taken: &[&str]) -> Option<&str> {
        let free = |position: &usize| self.names.get(*position).is_some_and(|n| !taken.contains(&n.as_str()));
        let listed = self.by_label.iter().filter_map(|(key, values)| {
            values.get(label(key)?)?.iter().copied().find(|position| free(position))
        });
        let best = listed.min();
        let other = self
            .others
            .iter()
            .take_while(|(position, _)| best.is_none_or(|best| *position < best))
            .find(|(position, affinity)| {
                free(position) && affinity.as_ref().is_none_or(|a| a.matches("", &label))
            })
            .map(|(position, _)| *position);
        self.names.get(other.or(best)?).map(String::as_str)
    }
}

#[cfg(test)]
mod tests;
