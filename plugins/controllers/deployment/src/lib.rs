//! Rolls out what a Deployment describes, by way of ReplicaSets: the `deployment-controller`.
//!
//! The logic works on a [`model::Rollout`], a copy of the state in which changes are noted, and ends
//! in one patch per changed object. Source of the behaviour:
//! `k8s.io/kubernetes/pkg/controller/deployment`.

mod model;
mod revision;
mod rollout;
mod scale;
mod status;

use orlop_sdk::controller::{Controller, Item, Plan};

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct Deployment;

impl Controller for Deployment {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, now: i64) -> Plan {
        rollout::reconcile(item, now).unwrap_or_else(Plan::error)
    }
}

orlop_sdk::export_controller!(Deployment);
