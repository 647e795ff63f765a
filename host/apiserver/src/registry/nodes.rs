//! Nodes.
//!
//! Source: `pkg/registry/core/node/strategy.go`, `printNode`.

use super::json::{items, or_none, text};
use super::{AGE_COLUMN, Column, Context, NAME_COLUMN, SelectableField, Strategy, age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, duplicate, forbidden, invalid, not_supported};
use orlop_apimachinery::names;
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The strategy of nodes.
#[derive(Debug)]
pub(super) struct Nodes;

const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Status", "The status of the node"),
    Column::new("Roles", "The roles of the node"),
    AGE_COLUMN,
    Column::new("Version", "Kubelet Version reported by the node."),
    Column::new("Internal-IP", "Address by which the cluster reaches the node.").wide(),
    Column::new("External-IP", "Address by which the world reaches the node.").wide(),
    Column::new("OS-Image", "OS Image reported by the node.").wide(),
    Column::new("Kernel-Version", "Kernel Version reported by the node.").wide(),
    Column::new("Container-Runtime", "ContainerRuntime Version reported by the node.").wide(),
];

const FIELDS: &[SelectableField] =
    &[SelectableField::new("spec.unschedulable", &[&["spec", "unschedulable"]]).or("false")];

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

impl Strategy for Nodes {
    fn default(&self, node: &mut Value) {
        // SetDefaults_NodeStatus: what a node can allocate is what it has, where nobody said less.
        let Some(status) = node.get_mut("status").and_then(Value::as_object_mut) else { return };
        if status.get("allocatable").and_then(Value::as_object).is_none_or(Map::is_empty)
            && let Some(capacity) = status.get("capacity").cloned()
        {
            status.insert("allocatable".into(), capacity);
        }
    }

    fn validate(&self, _cx: &Context<'_>, node: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let path = Path::new("spec").child("taints");
        let mut known = BTreeSet::new();
        for (i, taint) in items(node, &["spec", "taints"]).iter().enumerate() {
            let at = path.index(i);
            let (key, effect) = (text(taint, &["key"]), text(taint, &["effect"]));
            faults.extend(names::qualified_name(key).iter().map(|why| invalid(&at.child("key"), key, why)));
            let value = text(taint, &["value"]);
            faults
                .extend(names::label_value(value).iter().map(|why| invalid(&at.child("value"), value, why)));
            let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
            if !effects.contains(&effect) {
                faults.push(not_supported(&at.child("effect"), effect, &effects));
            }
            if !known.insert((key, effect)) {
                faults.push(duplicate(&at, taint.clone()));
            }
        }
        for (i, range) in items(node, &["spec", "podCIDRs"]).iter().enumerate() {
            let range = range.as_str().unwrap_or_default();
            let at = Path::new("spec").child("podCIDRs").index(i);
            faults.extend(names::cidr(range).iter().map(|why| invalid(&at, range, why)));
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        for key in ["podCIDR", "providerID"] {
            let (now, before) = (text(new, &["spec", key]), text(old, &["spec", key]));
            if !before.is_empty() && now != before {
                let detail = "node updates may not change it once it is set";
                faults.push(forbidden(&Path::new("spec").child(key), detail));
            }
        }
        faults
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, node: &Value) -> Vec<Value> {
        let conditions = items(node, &["status", "conditions"]);
        let ready = conditions.iter().find(|c| text(c, &["type"]) == "Ready").map(|c| text(c, &["status"]));
        let mut status = match ready {
            Some("True") => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }
        .to_owned();
        if at(node, &["spec", "unschedulable"]).and_then(Value::as_bool) == Some(true) {
            status.push_str(",SchedulingDisabled");
        }
        let address = |kind: &str| -> Value {
            let all = items(node, &["status", "addresses"]);
            let one = all.iter().find(|a| text(a, &["type"]) == kind).map_or("", |a| text(a, &["address"]));
            or_none(one.to_owned()).into()
        };
        let info = |key: &str| -> Value {
            match text(node, &["status", "nodeInfo", key]) {
                "" => "<unknown>".into(),
                said => said.into(),
            }
        };
        vec![
            name_cell(node),
            status.into(),
            or_none(roles(node).join(",")).into(),
            age_cell(cx, node),
            text(node, &["status", "nodeInfo", "kubeletVersion"]).into(),
            address("InternalIP"),
            address("ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    }
}

fn roles(node: &Value) -> Vec<String> {
    let labels = at(node, &["metadata", "labels"]).and_then(Value::as_object);
    let roles: BTreeSet<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role.to_owned()).filter(|r| !r.is_empty()),
            None => (key == "kubernetes.io/role").then(|| value.as_str().unwrap_or_default().to_owned()),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.into_iter().collect()
}
