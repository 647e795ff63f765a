//! The patch that brings the API object's status to the computed one.
//!
//! A strategic merge patch on `/status`: conditions of others (readiness gates, the scheduler's)
//! stay, fields that no longer hold are nulled, and addresses, which merge by key, are removed by
//! name. The pod's uid is a precondition, so that a status never reaches a namesake.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

/// Fields of `status` that the node owns besides conditions.
const OWNED: [&str; 14] = [
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "initContainerStatuses",
    "containerStatuses",
    "observedGeneration",
    "resources",
    "allocatedResources",
];

/// The body of the patch, or `None` where `current` already says the same.
pub(crate) fn status_patch(uid: &str, current: &Value, wanted: &PodStatus) -> Option<Value> {
    let Ok(Value::Object(wanted)) = serde_json::to_value(wanted) else { return None };
    let empty = Map::new();
    let current = current.as_object().unwrap_or(&empty);
    let mut status = Map::new();
    for field in OWNED {
        let (old, new) = (current.get(field), wanted.get(field));
        if equal(old, new) {
            continue;
        }
        let value = match (field, new) {
            ("podIPs" | "hostIPs", new) => merged_ips(old, new),
            (_, Some(new)) => new.clone(),
            (_, None) => Value::Null,
        };
        status.insert(field.to_owned(), value);
    }
    let changed: Vec<Value> = wanted
        .get("conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|new| {
            let old = current.get("conditions").and_then(Value::as_array).into_iter().flatten();
            !old.into_iter().any(|old| old["type"] == new["type"] && conditions_equal(old, new))
        })
        .map(|new| {
            // A condition merges by key: what it no longer says has to be taken away.
            let mut new = new.clone();
            if let Some(fields) = new.as_object_mut() {
                for field in ["reason", "message"] {
                    fields.entry(field).or_insert(Value::Null);
                }
            }
            new
        })
        .collect();
    if !changed.is_empty() {
        status.insert("conditions".to_owned(), Value::Array(changed));
    }
    if status.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": uid}, "status": status}))
}

fn equal(old: Option<&Value>, new: Option<&Value>) -> bool {
    match (old, new) {
        (None | Some(Value::Null), None | Some(Value::Null)) => true,
        (Some(old), Some(new)) => without_empty(old) == without_empty(new),
        _ => false,
    }
}

/// Drops nulls and empty maps, which the server may or may not store.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(k, v)| (k.clone(), without_empty(v)))
                .filter(|(_, v)| !v.is_null() && v.as_object().is_none_or(|m| !m.is_empty()))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.iter().map(without_empty).collect()),
        other => other.clone(),
    }
}

fn conditions_equal(old: &Value, new: &Value) -> bool {
    ["status", "reason", "message", "observedGeneration"].iter().all(|f| equal(old.get(f), new.get(f)))
}

fn merged_ips(old: Option<&Value>, new: Option<&Value>) -> Value {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, mut new) = (list(old), list(new));
    let gone: Vec<Value> = old
        .iter()
        .filter(|o| !new.iter().any(|n| n["ip"] == o["ip"]))
        .map(|o| json!({"ip": o["ip"], "$patch": "delete"}))
        .collect();
    new.extend(gone);
    Value::Array(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn nothing_to_say() {
        let s = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "example.com/gate", "status": "True"}
        ]});
        assert_eq!(status_patch("u", &s, &status(s.clone())), None);
    }

    #[test]
    fn takes_away_what_no_longer_holds() {
        let old = json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "x"}
        ]});
        let new = status(json!({"phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}]}));
        let patch = status_patch("u", &old, &new).unwrap();
        assert_eq!(
            patch,
            json!({"metadata": {"uid": "u"}, "status": {
                "podIP": "10.0.0.2",
                "podIPs": [{"ip": "10.0.0.2"}, {"ip": "10.0.0.1", "$patch": "delete"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]
            }})
        );
    }
}
