//! Empties a namespace that is being deleted, pods first, then lets it go: the `namespace-controller`.
//!
//! Source of the behaviour and the words: `k8s.io/kubernetes/pkg/controller/namespace/deletion`.

use orlop_sdk::controller::{Condition, Controller, Item, Meta, Plan, Write, now_text};
use orlop_sdk::serde_json::{Value, json};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Looks again after so many milliseconds, doubled while nothing goes, up to the second number.
const SOON: i64 = 20;
const LATER: i64 = 15_000;

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct Namespace;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    finalizers: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
}

/// What is left of one resource.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    api_version: String,
    resource: String,
    items: Vec<Left>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Left {
    metadata: Meta,
}

impl Content {
    fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl Controller for Namespace {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, now: i64) -> Plan {
        plan(item, now).unwrap_or_else(Plan::error)
    }
}

fn plan(item: &Item<'_>, now: i64) -> Result<Plan, String> {
    let Some(namespace) = item.object::<Object>()? else { return Ok(Plan::default()) };
    let ours = namespace.spec.finalizers.iter().any(|f| f == "kubernetes");
    if !namespace.metadata.is_being_deleted() || !ours {
        return Ok(Plan::default());
    }
    let content: Vec<Content> = item.input("content")?;
    let status = status(&namespace, &content, item, now);
    let mut plan = Plan::default();
    if content.is_empty() {
        plan.writes.extend(status.filter(|_| !namespace.status.conditions.is_empty()));
        let mut body = item.raw_object();
        let rest: Vec<&String> = namespace.spec.finalizers.iter().filter(|f| *f != "kubernetes").collect();
        body["spec"]["finalizers"] = json!(rest);
        // The status may have been written just before, so the revision is left out; uid stays.
        if let Some(meta) = body["metadata"].as_object_mut() {
            meta.remove("resourceVersion");
        }
        plan.writes.push(
            Write::update("v1", "namespaces", &namespace.metadata, body)
                .subresource("finalize")
                .ignoring("NotFound"),
        );
        return Ok(plan);
    }
    plan.writes.extend(status);
    // Pods first, so that nothing that they use goes while they end.
    let pods_left = content.iter().any(|c| c.resource == "pods" && c.group().is_empty());
    let mut deleted = false;
    for c in content.iter().filter(|c| !pods_left || (c.resource == "pods" && c.group().is_empty())) {
        if c.items.iter().any(|i| !i.metadata.is_being_deleted()) {
            let write = Write::delete_collection(&c.api_version, &c.resource, &item.key.name);
            plan.writes.push(write.ignoring("NotFound").ignoring("MethodNotAllowed"));
            deleted = true;
        }
    }
    let left: usize = content.iter().map(|c| c.items.len()).sum();
    let moved = deleted || item.memo["left"] != json!(left);
    let wait = if moved { SOON } else { (item.memo["wait"].as_i64().unwrap_or(SOON) * 2).min(LATER) };
    plan.memo = json!({"left": left, "wait": wait});
    plan.look_again(wait);
    Ok(plan)
}

/// Phase and conditions, where they differ from what is stored.
fn status(namespace: &Object, content: &[Content], item: &Item<'_>, now: i64) -> Option<Write> {
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for left in content.iter().flat_map(|c| &c.items) {
        for finalizer in &left.metadata.finalizers {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let remaining: Vec<String> = content
        .iter()
        .map(|c| format!("{}.{} has {} resource instances", c.resource, c.group(), c.items.len()))
        .collect();
    let finalizing: Vec<String> =
        finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let failure = item.failure.as_ref().filter(|f| f.op == "deletecollection");
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        match failure {
            Some(f) => (
                "NamespaceDeletionContentFailure",
                true,
                "ContentDeletionFailed",
                format!("Failed to delete all resource types, 1 remaining: {}", f.message),
            ),
            None => (
                "NamespaceDeletionContentFailure",
                false,
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".to_owned(),
            ),
        },
        if remaining.is_empty() {
            (
                "NamespaceContentRemaining",
                false,
                "ContentRemoved",
                "All content successfully removed".to_owned(),
            )
        } else {
            let message = format!("Some resources are remaining: {}", remaining.join(", "));
            ("NamespaceContentRemaining", true, "SomeResourcesRemain", message)
        },
        if finalizing.is_empty() {
            let message = "All content-preserving finalizers finished".to_owned();
            ("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", message)
        } else {
            let message =
                format!("Some content in the namespace has finalizers remaining: {}", finalizing.join(", "));
            ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
        },
    ];
    let mut conditions = namespace.status.conditions.clone();
    for (kind, holds, reason, message) in wanted {
        let status = if holds { "True" } else { "False" };
        let known = conditions.iter_mut().find(|c| c.kind == kind);
        match known {
            Some(c) if c.status == status && c.reason == reason && c.message == message => {}
            Some(c) => {
                if c.status != status {
                    c.last_transition_time = Some(now_text(now));
                }
                c.status = status.into();
                c.reason = reason.into();
                c.message = message;
            }
            None => conditions.push(Condition {
                kind: kind.into(),
                status: status.into(),
                last_transition_time: Some(now_text(now)),
                reason: reason.into(),
                message,
                ..Condition::default()
            }),
        }
    }
    if namespace.status.phase == "Terminating" && conditions == namespace.status.conditions {
        return None;
    }
    let body: Value = json!({"status": {"phase": "Terminating", "conditions": conditions}});
    Some(
        Write::patch("v1", "namespaces", &namespace.metadata, body)
            .subresource("status")
            .ignoring("NotFound"),
    )
}

orlop_sdk::export_controller!(Namespace);
