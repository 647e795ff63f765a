//! Notices nodes that went silent, and taints nodes by their conditions: the `node-lifecycle-controller`.
//!
//! A node shows that it lives by its Lease or its status. Both carry the node's own clock, so only
//! that they change counts, and when this side saw it: the memo.
//!
//! Source of the behaviour and the words: `k8s.io/kubernetes/pkg/controller/nodelifecycle`.

mod health;
mod taints;

use orlop_sdk::controller::{Controller, Item, Plan};
use serde::Deserialize;

/// The plugin.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeLifecycle {
    /// Silence after which a node's state is unknown.
    pub(crate) node_monitor_grace_period_seconds: i64,
    /// The same for a node that has never reported.
    pub(crate) node_startup_grace_period_seconds: i64,
}

impl Default for NodeLifecycle {
    fn default() -> Self {
        Self { node_monitor_grace_period_seconds: 50, node_startup_grace_period_seconds: 60 }
    }
}

impl Controller for NodeLifecycle {
    fn new(config: &[u8]) -> Result<Self, String> {
        let plugin: Self = orlop_sdk::parse_config(config)?;
        if plugin.node_monitor_grace_period_seconds < 1 || plugin.node_startup_grace_period_seconds < 1 {
            return Err("config: grace periods must be at least one second".into());
        }
        Ok(plugin)
    }

    fn reconcile(&self, item: &Item<'_>, now: i64) -> Plan {
        health::reconcile(self, item, now).unwrap_or_else(Plan::error)
    }
}

orlop_sdk::export_controller!(NodeLifecycle);
