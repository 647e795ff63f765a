//! Says where the pods of a Service are, in Endpoints: the `endpoints-controller`.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/endpoint`.

#[path = "../../endpointslice/src/service.rs"]
mod service;
mod subsets;

use orlop_sdk::controller::{Controller, Event, Item, Meta, Plan, Write};
use orlop_sdk::serde_json::{Value, json};
use serde::Deserialize;
use service::{Pod, Service};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses of one object.
const CAPACITY: usize = 1000;

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct Endpoints;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Meta,
    subsets: Option<Vec<Value>>,
}

impl Controller for Endpoints {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, _now: i64) -> Plan {
        plan(item).unwrap_or_else(Plan::error)
    }
}

fn plan(item: &Item<'_>) -> Result<Plan, String> {
    let known = item.first::<Object>("endpoints")?;
    let Some(service) = item.object::<Service>()? else {
        // Only what this controller made goes with the Service; what users made is theirs.
        let ours = |o: &Object| o.metadata.labels.get(MANAGED_BY).map(String::as_str) == Some(MANAGER);
        let gone = known.filter(ours).map(|o| Write::delete("v1", "endpoints", &o.metadata));
        return Ok(gone.map(Plan::write).unwrap_or_default());
    };
    if !service.is_managed() || service.metadata.is_being_deleted() {
        return Ok(Plan::default());
    }
    let pods: Vec<Pod> = item.input("pods")?;
    let (subsets, truncated) = subsets::of(&service, &pods, CAPACITY);

    let mut labels = service.metadata.labels.clone();
    labels.remove(HEADLESS);
    if service.is_headless() {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let name = &service.metadata.name;
    let mut annotations = known.as_ref().map(|o| o.metadata.annotations.clone()).unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    let mut body = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": name, "namespace": service.metadata.namespace, "labels": labels},
        "subsets": subsets,
    });
    if !annotations.is_empty() {
        body["metadata"]["annotations"] = json!(annotations);
    }
    let Some(known) = known else {
        let failed = Event::warning(
            "FailedToCreateEndpoint",
            format!("Failed to create endpoint for service {}/{name}: {{error}}", service.metadata.namespace),
        );
        return Ok(Plan::write(
            Write::create("v1", "endpoints", &service.metadata.namespace, body)
                .ignoring("NamespaceTerminating")
                .or_else(failed),
        ));
    };
    let same: bool = without_revisions(known.subsets.unwrap_or_default()) == subsets
        && known.metadata.labels == labels
        && known.metadata.annotations == annotations;
    if same || known.metadata.is_being_deleted() {
        return Ok(Plan::default());
    }
    body["metadata"]["resourceVersion"] = json!(known.metadata.resource_version);
    body["metadata"]["uid"] = json!(known.metadata.uid);
    let failed = Event::warning(
        "FailedToUpdateEndpoint",
        format!("Failed to update endpoint {}/{name}: {{error}}", service.metadata.namespace),
    );
    Ok(Plan::write(Write::update("v1", "endpoints", &known.metadata, body).or_else(failed)))
}

/// Stored subsets in the form in which they are computed.
fn without_revisions(mut subsets: Vec<Value>) -> Vec<Value> {
    for subset in &mut subsets {
        for list in ["addresses", "notReadyAddresses"] {
            let Some(addresses) = subset.get_mut(list).and_then(Value::as_array_mut) else { continue };
            for target in
                addresses.iter_mut().filter_map(|a| a.get_mut("targetRef")).filter_map(Value::as_object_mut)
            {
                target.remove("resourceVersion");
            }
        }
    }
    subsets
}

orlop_sdk::export_controller!(Endpoints);
