//! Gives every namespace the certificate of the cluster's CA, as ConfigMap `kube-root-ca.crt`: the
//! `root-ca-certificate-publisher-controller`.
//!
//! The certificate is the plugin's configuration: `{"rootCA": "-----BEGIN CERTIFICATE-----…"}`.

use orlop_sdk::controller::{Controller, Item, Meta, Object, Plan, Write};
use orlop_sdk::serde_json::{Value, json};
use serde::Deserialize;
use std::collections::BTreeMap;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// Upstream's words, word for word, because clients may compare them.
const TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// The plugin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootCaPublisher {
    #[serde(rename = "rootCA")]
    root_ca: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigMap {
    metadata: Meta,
    data: BTreeMap<String, String>,
}

impl Controller for RootCaPublisher {
    fn new(config: &[u8]) -> Result<Self, String> {
        let plugin: Self = orlop_sdk::parse_config(config)?;
        if plugin.root_ca.contains("-----BEGIN CERTIFICATE-----") {
            Ok(plugin)
        } else {
            Err("config: rootCA: must be a certificate in PEM".into())
        }
    }

    fn reconcile(&self, item: &Item<'_>, _now: i64) -> Plan {
        self.plan(item).unwrap_or_else(Plan::error)
    }
}

impl RootCaPublisher {
    fn plan(&self, item: &Item<'_>) -> Result<Plan, String> {
        let Some(namespace) = item.object::<Object<Value>>()? else { return Ok(Plan::default()) };
        if namespace.metadata.is_being_deleted() || namespace.status["phase"] == "Terminating" {
            return Ok(Plan::default());
        }
        let Some(known) = item.first::<ConfigMap>("published")? else {
            let body = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": NAME, "annotations": {DESCRIPTION: TEXT}},
                "data": {"ca.crt": self.root_ca},
            });
            return Ok(Plan::write(
                Write::create("v1", "configmaps", &item.key.name, body)
                    .ignoring("AlreadyExists")
                    .ignoring("NamespaceTerminating"),
            ));
        };
        let data_is_right = known.data.len() == 1 && known.data.get("ca.crt") == Some(&self.root_ca);
        if data_is_right && known.metadata.annotations.contains_key(DESCRIPTION) {
            return Ok(Plan::default());
        }
        let mut data: BTreeMap<&str, Value> = known.data.keys().map(|k| (k.as_str(), Value::Null)).collect();
        data.insert("ca.crt", json!(self.root_ca));
        let body = json!({"metadata": {"annotations": {DESCRIPTION: TEXT}}, "data": data});
        Ok(Plan::write(Write::patch("v1", "configmaps", &known.metadata, body).ignoring("NotFound")))
    }
}

orlop_sdk::export_controller!(RootCaPublisher);
