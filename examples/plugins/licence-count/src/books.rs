//! How many placed pods hold each licence.

use orlop_sdk::scheduler::{Mirror, Replaced, column, pod_changes};
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

/// Counts by name of the licence; its cost is that of what changed, not of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Books {
    used: HashMap<String, u64>,
}

impl Books {
    pub(crate) fn used(&self, licence: &str) -> u64 {
        self.used.get(licence).copied().unwrap_or(0)
    }

    /// Takes in the rows that `mirror` has just exchanged for `before`.
    pub(crate) fn update(
        &mut self,
        before: &Replaced,
        mirror: &Mirror,
        licence: impl Fn(&Value) -> Option<&str>,
    ) {
        for (position, slot) in before.rows.iter().enumerate() {
            let slot = *slot as usize;
            let was_live = before.was_live.get(position) == Some(&true);
            let was = before.list(column::PODS, position).filter(|_| was_live).unwrap_or(&[]);
            let is = if mirror.is_live(slot) { mirror.list(column::PODS, slot) } else { &[] };
            pod_changes(was, is, |entry, by| {
                let Some(name) = mirror.pod_entries().get(entry as usize).and_then(&licence) else { return };
                let count = self.used.entry(name.to_owned()).or_default();
                *count = count.saturating_add_signed(by);
            });
        }
        self.used.retain(|_, count| *count > 0);
    }
}
