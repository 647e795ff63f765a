//! Faults of where a pod may go: affinity, spread, and the selectors in them.
//!
//! Source of the rules and of their words: `ValidateNodeSelector`, `validateAffinity`,
//! `validateTopologySpreadConstraints`, `ValidateLabelSelector`.

use super::super::at;
use super::super::json::{items, number, text};
use orlop_apimachinery::field::{Path, duplicate, forbidden, invalid, not_supported, required};
use orlop_apimachinery::names;
use orlop_apimachinery::status::Cause;
use serde_json::Value;
use std::collections::BTreeSet;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const IN: &str = "must be specified when `operator` is 'In' or 'NotIn'";
const EXISTS: &str = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";

/// Faults of `spec.affinity` and `spec.topologySpreadConstraints`.
pub(super) fn placement(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    if let Some(affinity) = spec.get("affinity") {
        let path = path.child("affinity");
        if let Some(node) = affinity.get("nodeAffinity") {
            node_affinity(node, &path.child("nodeAffinity"), faults);
        }
        for kind in ["podAffinity", "podAntiAffinity"] {
            if let Some(pods) = affinity.get(kind) {
                pod_affinity(pods, &path.child(kind), faults);
            }
        }
    }
    spread(spec, path, faults);
}

fn node_affinity(affinity: &Value, path: &Path, faults: &mut Vec<Cause>) {
    if let Some(selector) = affinity.get(REQUIRED) {
        node_selector(selector, &path.child(REQUIRED), faults);
    }
    for (i, preferred) in items(affinity, &[PREFERRED]).iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        weight(preferred, &path, faults);
        let empty = Value::Null;
        let term = preferred.get("preference").unwrap_or(&empty);
        node_selector_term(term, &path.child("preference"), faults);
    }
}

/// Faults of a `v1.NodeSelector`.
pub(in super::super) fn node_selector(selector: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let path = path.child("nodeSelectorTerms");
    let terms = items(selector, &["nodeSelectorTerms"]);
    if terms.is_empty() {
        faults.push(required(&path, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        node_selector_term(term, &path.index(i), faults);
    }
}

fn weight(preferred: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let weight = number(preferred, &["weight"]);
    if !(1..=100).contains(&weight) {
        faults.push(invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn node_selector_term(term: &Value, path: &Path, faults: &mut Vec<Cause>) {
    for (i, one) in items(term, &["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = items(one, &["values"]);
        match text(one, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => faults.push(required(&path.child("values"), IN)),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                faults.push(forbidden(&path.child("values"), EXISTS))
            }
            "Gt" | "Lt" if values.len() != 1 => faults.push(required(
                &path.child("values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => faults.push(invalid(&path.child("operator"), other, "not a valid selector operator")),
        }
        names::check_label_name(text(one, &["key"]), &path.child("key"), faults);
        for (j, value) in values.iter().filter_map(Value::as_str).enumerate() {
            for why in names::label_value(value) {
                faults.push(invalid(&path.child("values").index(j), value, &why));
            }
        }
    }
    for (i, one) in items(term, &["matchFields"]).iter().enumerate() {
        let path = path.child("matchFields").index(i);
        match text(one, &["operator"]) {
            "In" | "NotIn" => {
                if items(one, &["values"]).len() != 1 {
                    let detail =
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    faults.push(required(&path.child("values"), detail));
                }
            }
            other => faults.push(invalid(&path.child("operator"), other, "not a valid selector operator")),
        }
        let key = text(one, &["key"]);
        if key != "metadata.name" {
            faults.push(invalid(&path.child("key"), key, "not a valid field selector key"));
        }
    }
}

fn pod_affinity(affinity: &Value, path: &Path, faults: &mut Vec<Cause>) {
    for (i, term) in items(affinity, &[REQUIRED]).iter().enumerate() {
        pod_affinity_term(term, &path.child(REQUIRED).index(i), faults);
    }
    for (i, preferred) in items(affinity, &[PREFERRED]).iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        weight(preferred, &path, faults);
        let empty = Value::Null;
        let term = preferred.get("podAffinityTerm").unwrap_or(&empty);
        pod_affinity_term(term, &path.child("podAffinityTerm"), faults);
    }
}

fn pod_affinity_term(term: &Value, path: &Path, faults: &mut Vec<Cause>) {
    for key in ["labelSelector", "namespaceSelector"] {
        if let Some(selector) = term.get(key) {
            label_selector(selector, &path.child(key), faults);
        }
    }
    for (i, name) in items(term, &["namespaces"]).iter().filter_map(Value::as_str).enumerate() {
        for why in names::dns1123_label(name) {
            faults.push(invalid(&path.child("namespaces").index(i), name, &why));
        }
    }
    let topology = text(term, &["topologyKey"]);
    if topology.is_empty() {
        faults.push(required(&path.child("topologyKey"), "can not be empty"));
    }
    names::check_label_name(topology, &path.child("topologyKey"), faults);
}

/// Faults of a `meta/v1.LabelSelector`.
pub(in super::super) fn label_selector(selector: &Value, path: &Path, faults: &mut Vec<Cause>) {
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        names::check_labels(labels, &path.child("matchLabels"), faults);
    }
    for (i, one) in items(selector, &["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = items(one, &["values"]);
        match text(one, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => faults.push(required(&path.child("values"), IN)),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                faults.push(forbidden(&path.child("values"), EXISTS))
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => faults.push(invalid(&path.child("operator"), other, "not a valid selector operator")),
        }
        names::check_label_name(text(one, &["key"]), &path.child("key"), faults);
        for (j, value) in values.iter().filter_map(Value::as_str).enumerate() {
            for why in names::label_value(value) {
                faults.push(invalid(&path.child("values").index(j), value, &why));
            }
        }
    }
}

fn spread(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    const WHEN: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    let mut known = BTreeSet::new();
    for (i, one) in items(spec, &["topologySpreadConstraints"]).iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(i);
        let skew = number(one, &["maxSkew"]);
        if skew <= 0 {
            faults.push(invalid(&path.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (key, when) = (text(one, &["topologyKey"]), text(one, &["whenUnsatisfiable"]));
        if key.is_empty() {
            faults.push(required(&path.child("topologyKey"), "can not be empty"));
        } else {
            names::check_label_name(key, &path.child("topologyKey"), faults);
        }
        if !WHEN.contains(&when) {
            faults.push(not_supported(&path.child("whenUnsatisfiable"), when, &WHEN));
        }
        if !known.insert((key, when)) {
            let at = path.child("{topologyKey, whenUnsatisfiable}");
            faults.push(duplicate(&at, format!("{{{key}, {when}}}")));
        }
        if let Some(least) = one.get("minDomains").and_then(Value::as_i64) {
            if least <= 0 {
                faults.push(invalid(&path.child("minDomains"), least, "must be greater than zero"));
            }
            if when != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                faults.push(invalid(&path.child("minDomains"), least, &detail));
            }
        }
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = text(one, &[key]);
            if !policy.is_empty() && !["Honor", "Ignore"].contains(&policy) {
                faults.push(not_supported(&path.child(key), policy, &["Honor", "Ignore"]));
            }
        }
        if let Some(selector) = at(one, &["labelSelector"]) {
            label_selector(selector, &path.child("labelSelector"), faults);
        }
    }
}
