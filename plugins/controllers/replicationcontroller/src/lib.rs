//! Keeps the number of pods that a ReplicationController asks for: the
//! `replicationcontroller-controller`.
//!
//! As upstream, it is the ReplicaSet's logic with another kind and another form of selector. The
//! files are shared, not the crate, because a crate of a plugin exports that plugin.

#[path = "../../replicaset/src/ranking.rs"]
mod ranking;
#[path = "../../replicaset/src/replicas.rs"]
mod replicas;

use orlop_sdk::apimachinery::Selector;
use orlop_sdk::controller::{Controller, Item, Plan};
use replicas::Flavor;

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct ReplicationController;

static FLAVOR: Flavor = Flavor {
    api_version: "v1",
    resource: "replicationcontrollers",
    kind: "ReplicationController",
    selector: |selector| match selector.as_object() {
        Some(map) if !map.is_empty() => Ok(Selector::from_map(selector)),
        _ => Ok(Selector::nothing()),
    },
    terminating_replicas: false,
};

impl Controller for ReplicationController {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, now: i64) -> Plan {
        replicas::reconcile(&FLAVOR, item, now).unwrap_or_else(Plan::error)
    }
}

orlop_sdk::export_controller!(ReplicationController);
