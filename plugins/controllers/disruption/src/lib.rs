//! Counts how many pods a PodDisruptionBudget can spare: the `disruption-controller`.
//!
//! Source of the behaviour and the words: `k8s.io/kubernetes/pkg/controller/disruption`.

mod budget;
mod scale;

use orlop_sdk::controller::{Controller, Item, Plan};

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct Disruption;

impl Controller for Disruption {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, now: i64) -> Plan {
        budget::reconcile(item, now).unwrap_or_else(Plan::error)
    }
}

orlop_sdk::export_controller!(Disruption);

#[cfg(test)]
mod tests;
