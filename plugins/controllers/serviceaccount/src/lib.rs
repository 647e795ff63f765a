//! Gives every namespace its default ServiceAccount: the `serviceaccount-controller`.

use orlop_sdk::controller::{Controller, Item, Object, Plan, Write};
use orlop_sdk::serde_json::{Value, json};

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct ServiceAccount;

impl Controller for ServiceAccount {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, _now: i64) -> Plan {
        let namespace = match item.object::<Object<Value>>() {
            Ok(Some(namespace)) => namespace,
            Ok(None) => return Plan::default(),
            Err(message) => return Plan::error(message),
        };
        let ending = namespace.metadata.is_being_deleted() || namespace.status["phase"] == "Terminating";
        if ending || !item.metas("account").is_empty() {
            return Plan::default();
        }
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        Plan::write(
            Write::create("v1", "serviceaccounts", &item.key.name, body)
                .ignoring("AlreadyExists")
                .ignoring("NamespaceTerminating"),
        )
    }
}

orlop_sdk::export_controller!(ServiceAccount);
