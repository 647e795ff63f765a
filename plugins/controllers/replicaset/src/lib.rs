//! Keeps the number of pods that a ReplicaSet asks for: the `replicaset-controller`.

mod ranking;
mod replicas;

use orlop_sdk::apimachinery::Selector;
use orlop_sdk::controller::{Controller, Item, Plan};
use replicas::Flavor;

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct ReplicaSet;

static FLAVOR: Flavor = Flavor {
    api_version: "apps/v1",
    resource: "replicasets",
    kind: "ReplicaSet",
    selector: |selector| Selector::from_label_selector(selector).map_err(|e| e.to_string()),
    terminating_replicas: true,
};

impl Controller for ReplicaSet {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, now: i64) -> Plan {
        replicas::reconcile(&FLAVOR, item, now).unwrap_or_else(Plan::error)
    }
}

orlop_sdk::export_controller!(ReplicaSet);
