//! A controller with a custom resource: a Website (`crd.yaml`) becomes a ConfigMap with its page, a
//! Deployment that serves it and a Service in front, all three named and owned by it.
//!
//! What it owns goes with it, by the garbage collector; what somebody changes or deletes comes back.

mod children;

use children::{Child, Site, covers};
use orlop_sdk::controller::{Controller, Event, Item, Meta, Object, Plan, Write};
use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(crate = "orlop_sdk::serde", deny_unknown_fields, default)]
struct Config {
    /// Something with busybox's `httpd` in it.
    image: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { image: "docker.io/library/busybox:latest".to_owned() }
    }
}

/// The plugin.
pub struct WebsiteController {
    config: Config,
}

/// `spec` of a Website; the CRD says what may be in it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(crate = "orlop_sdk::serde", default)]
struct Spec {
    page: String,
    replicas: i64,
}

impl Controller for WebsiteController {
    fn new(config: &[u8]) -> Result<Self, String> {
        Ok(Self { config: orlop_sdk::parse_config(config)? })
    }

    fn reconcile(&self, item: &Item<'_>, _now: i64) -> Plan {
        self.plan(item).unwrap_or_else(Plan::error)
    }
}

impl WebsiteController {
    /// Everything that is missing or different is written; then the status says what is there.
    fn plan(&self, item: &Item<'_>) -> Result<Plan, String> {
        let Some(website) = item.object::<Object<Spec>>()? else { return Ok(Plan::default()) };
        if website.metadata.is_being_deleted() {
            return Ok(Plan::default());
        }
        let site =
            Site { meta: &website.metadata, page: &website.spec.page, replicas: website.spec.replicas };
        let mut writes = Vec::new();
        for child in site.children(&self.config.image) {
            let there = existing(item, &child, &website.metadata)?;
            writes.extend(write(&child, there.as_ref(), &website.metadata));
        }
        writes.extend(status(item, &website)?);
        Ok(Plan::writes(writes))
    }
}

/// The child as it is, if it is there.
fn existing(item: &Item<'_>, child: &Child, website: &Meta) -> Result<Option<Value>, String> {
    let owned = item.input::<Value>(child.resource)?;
    Ok(owned.into_iter().find(|o| o["metadata"]["name"] == website.name.as_str()))
}

/// What has to be written so that the child is as it should be.
fn write(child: &Child, there: Option<&Value>, website: &Meta) -> Option<Write> {
    let Some(there) = there else {
        let create = Write::create(child.api_version, child.resource, &website.namespace, child.object());
        let told = Event::normal("Created", format!("created {} {{name}}", child.kind));
        // Most likely somebody else has an object of this name, and the author of the Website must know.
        let why = Event::warning("CannotCreate", format!("cannot create {}: {{error}}", child.kind));
        return Some(create.then(told).or_else(why));
    };
    if covers(there, &child.content) {
        return None;
    }
    let uid = there["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let meta = Meta { uid, ..website.clone() };
    Some(Write::patch(child.api_version, child.resource, &meta, child.content.clone()).ignoring("NotFound"))
}

/// The new status, where it differs.
fn status(item: &Item<'_>, website: &Object<Spec>) -> Result<Option<Write>, String> {
    let meta = &website.metadata;
    let named = |name: &str| -> Result<Option<Value>, String> {
        Ok(item.input::<Value>(name)?.into_iter().find(|o| o["metadata"]["name"] == meta.name.as_str()))
    };
    let deployment = named("deployments")?.unwrap_or_default();
    let service = named("services")?.unwrap_or_default();
    let status = json!({
        "observedGeneration": meta.generation,
        "readyReplicas": deployment["status"]["readyReplicas"].as_i64().unwrap_or(0),
        "address": service["spec"]["clusterIP"].as_str().unwrap_or_default(),
    });
    if covers(&website.status, &status) {
        return Ok(None);
    }
    let patch = Write::patch("example.org/v1", "websites", meta, json!({ "status": status }));
    Ok(Some(patch.subresource("status").ignoring("NotFound")))
}

orlop_sdk::export_controller!(WebsiteController);

#[cfg(test)]
mod tests;
