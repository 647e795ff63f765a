//! RequireLabels: a Deployment, StatefulSet or DaemonSet without the labels that the configuration
//! names, or with a value that it does not list, is refused, with all that is wrong in one message.

use orlop_sdk::admission::{AdmissionPlugin, Request, Response};
use orlop_sdk::serde::Deserialize;
use std::collections::BTreeMap;

/// The plugin, which is its configuration.
#[derive(Deserialize)]
#[serde(crate = "orlop_sdk::serde", rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RequireLabels {
    /// Keys, each with the values that are allowed; any, where none is listed.
    labels: BTreeMap<String, Vec<String>>,
    exempt_namespaces: Vec<String>,
}

impl Default for RequireLabels {
    fn default() -> Self {
        Self {
            labels: BTreeMap::from([("team".to_owned(), Vec::new())]),
            exempt_namespaces: vec!["kube-system".to_owned()],
        }
    }
}

/// What is wrong with one label, if anything is.
fn fault(key: &str, allowed: &[String], value: Option<&str>) -> Option<String> {
    match value {
        None | Some("") => Some(format!("label {key} is missing")),
        Some(value) if allowed.is_empty() || allowed.iter().any(|a| a == value) => None,
        Some(value) => Some(format!("label {key} is `{value}`, not one of {}", allowed.join(", "))),
    }
}

impl AdmissionPlugin for RequireLabels {
    fn new(config: &[u8]) -> Result<Self, String> {
        orlop_sdk::parse_config(config)
    }

    fn validate(&self, request: &Request) -> Response {
        let metadata = &request.object["metadata"];
        // What is on its way out must not be kept from losing its last finalizer.
        if self.exempt_namespaces.contains(&request.namespace) || !metadata["deletionTimestamp"].is_null() {
            return Response::allow();
        }
        let labels = &metadata["labels"];
        let faults: Vec<String> = self
            .labels
            .iter()
            .filter_map(|(key, allowed)| fault(key, allowed, labels[key].as_str()))
            .collect();
        if faults.is_empty() {
            return Response::allow();
        }
        Response::deny(request.forbidden(&faults.join("; ")))
    }
}

orlop_sdk::export_admission!(RequireLabels);

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::admission::Operation;
    use orlop_sdk::apimachinery::Gvr;
    use orlop_sdk::serde_json::{Value, json};

    /// The message of the refusal of a Deployment in `namespace`; nothing where it passes.
    fn refusal(config: &Value, namespace: &str, metadata: Value) -> Option<String> {
        let plugin = RequireLabels::new(config.to_string().as_bytes()).unwrap();
        let gvr = Gvr::new("apps", "v1", "deployments");
        let object = json!({ "metadata": metadata });
        let request = Request::new(Operation::Create, &gvr, "Deployment", namespace, object);
        plugin.validate(&request).denied().map(|status| status.message.to_string())
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let config = json!({"labels": {"team": [], "tier": ["front", "back"]}});
        let told = refusal(&config, "shop", json!({"name": "web", "labels": {"tier": "middle"}})).unwrap();
        assert!(
            told.ends_with("label team is missing; label tier is `middle`, not one of front, back"),
            "{told}"
        );
        let good = json!({"name": "web", "labels": {"team": "sales", "tier": "back"}});
        assert_eq!(refusal(&config, "shop", good), None);
    }

    #[test]
    fn exempt_namespaces_and_what_is_being_deleted_pass() {
        let config = json!({"exemptNamespaces": ["infra"]});
        assert!(refusal(&config, "shop", json!({"name": "web"})).is_some());
        assert_eq!(refusal(&config, "infra", json!({"name": "web"})), None);
        let going = json!({"name": "web", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(refusal(&config, "shop", going), None);
    }

    #[test]
    fn an_unknown_field_of_the_configuration_is_refused() {
        let error = RequireLabels::new(br#"{"label": {}}"#).err().unwrap();
        assert!(error.contains("unknown field `label`"), "{error}");
    }
}
