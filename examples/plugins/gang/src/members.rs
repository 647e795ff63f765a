//! How many pods of each gang have a node.

use orlop_sdk::scheduler::{Mirror, Replaced, column, pod_changes};
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

/// Namespace and name of a gang.
pub(crate) type Name = (String, String);

/// The gang of a pod, if it has one.
pub(crate) fn gang(pod: &Value) -> Option<Name> {
    let text = |pointer| pod.pointer(pointer).and_then(Value::as_str);
    Some((
        text("/metadata/namespace").unwrap_or_default().to_owned(),
        text("/metadata/labels/gang")?.to_owned(),
    ))
}

/// Counts by gang; a pod that is being deleted does not count.
#[derive(Debug, Default)]
pub(crate) struct Members {
    placed: HashMap<Name, u64>,
}

impl Members {
    pub(crate) fn of(&self, name: &Name) -> u64 {
        self.placed.get(name).copied().unwrap_or(0)
    }

    /// Takes in the rows that `mirror` has just exchanged for `before`.
    pub(crate) fn update(&mut self, before: &Replaced, mirror: &Mirror) {
        for (position, slot) in before.rows.iter().enumerate() {
            let slot = *slot as usize;
            let was_live = before.was_live.get(position) == Some(&true);
            let was = before.list(column::PODS, position).filter(|_| was_live).unwrap_or(&[]);
            let is = if mirror.is_live(slot) { mirror.list(column::PODS, slot) } else { &[] };
            pod_changes(was, is, |entry, by| {
                let Some(pod) = mirror.pod_entries().get(entry as usize) else { return };
                let leaves = pod.pointer("/computed/terminating") == Some(&Value::Bool(true));
                let Some(name) = gang(pod).filter(|_| !leaves) else { return };
                let count = self.placed.entry(name).or_default();
                *count = count.saturating_add_signed(by);
            });
        }
        self.placed.retain(|_, count| *count > 0);
    }
}
