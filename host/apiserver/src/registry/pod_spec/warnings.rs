//! What is allowed in a pod spec but hardly meant.
//!
//! Source of the rules and of their words: `pkg/api/pod/warnings.go`.

use super::super::at;
use super::super::json::{items, number, text};
use orlop_apimachinery::quantity::Quantity;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Node labels that have successors.
const OLD_LABELS: [(&str, &str); 6] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "failure-domain.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
];

/// Warnings about the spec at `path`, such as `spec` or `spec.template.spec`.
pub(in super::super) fn warnings(spec: &Value, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    for (label, why) in OLD_LABELS {
        if at(spec, &["nodeSelector", label]).is_some() {
            warnings.push(format!("{path}.nodeSelector[{label}]: {why}"));
        }
    }
    let mut secrets = BTreeMap::new();
    for (i, secret) in items(spec, &["imagePullSecrets"]).iter().enumerate() {
        let name = text(secret, &["name"]);
        if name.is_empty() {
            warnings.push(format!("{path}.imagePullSecrets[{i}].name: invalid empty name {name:?}"));
        } else if let Some(first) = secrets.insert(name, i) {
            warnings.push(format!(
                "{path}.imagePullSecrets[{i}].name: duplicate name {name:?} with imagePullSecrets[{first}].name"
            ));
        }
    }
    let mut aliases = BTreeSet::new();
    for (i, alias) in items(spec, &["hostAliases"]).iter().enumerate() {
        if !aliases.insert(text(alias, &["ip"])) {
            warnings.push(format!("{path}.hostAliases[{i}].ip: duplicate ip {:?}", text(alias, &["ip"])));
        }
    }
    if number(spec, &["terminationGracePeriodSeconds"]) < 0 {
        warnings.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for list in ["initContainers", "containers"] {
        for (i, container) in items(spec, &[list]).iter().enumerate() {
            of_container(container, &format!("{path}.{list}[{i}]"), &mut warnings);
        }
    }
    warnings
}

fn of_container(container: &Value, path: &str, warnings: &mut Vec<String>) {
    for kind in ["requests", "limits"] {
        for name in ["ephemeral-storage", "memory"] {
            let given = text(container, &["resources", kind, name]);
            if Quantity::parse(given).is_ok_and(|q| !q.is_integer()) {
                warnings.push(format!(
                    "{path}.resources.{kind}[{name}]: fractional byte value {given:?} is invalid, must be an integer"
                ));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (i, var) in items(container, &["env"]).iter().enumerate() {
        let name = text(var, &["name"]);
        if !seen.insert(name) && !text(var, &["value"]).contains(&format!("$({name})")) {
            warnings.push(format!(
                "{path}.env[{i}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
    let mut ports = BTreeMap::new();
    for (i, port) in items(container, &["ports"]).iter().enumerate() {
        let key = (number(port, &["containerPort"]), text(port, &["protocol"]));
        if let Some(first) = ports.insert(key, i) {
            warnings.push(format!("{path}.ports[{i}]: duplicate port definition with {path}.ports[{first}]"));
        }
    }
}
