//! What an API server would check and derive, as far as the API in memory does.

use orlop_apimachinery::{Gvr, Reason, Status};
use orlop_client::ResourceRef;
use serde_json::{Map, Value, json};

/// `metadata` of a body, made where it is missing.
pub(super) fn metadata(body: &mut Value) -> &mut Map<String, Value> {
    if !body.is_object() {
        *body = json!({});
    }
    let slot = &mut body["metadata"];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

pub(super) fn now(seconds_ahead: i64) -> String {
    let at = jiff::Timestamp::now().as_second().saturating_add(seconds_ahead);
    jiff::Timestamp::from_second(at).map(|t| t.to_string()).unwrap_or_default()
}

pub(super) fn namespace_is_empty(namespace: &Value) -> bool {
    namespace.pointer("/spec/finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty)
}

/// Pods that a node runs go gracefully; everything else at once.
pub(super) fn grace(gvr: &Gvr, object: &Value, wanted: Option<i64>) -> i64 {
    if gvr.resource != "pods" {
        return 0;
    }
    let bound = object.pointer("/spec/nodeName").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
    let over =
        matches!(object.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
    if !bound || over {
        return 0;
    }
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
    wanted.unwrap_or(own).max(0)
}

pub(super) fn check_versions(at: ResourceRef<'_>, before: &Value, after: &Value) -> Result<(), Status> {
    let text = |v: &Value, p: &str| v.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
    let wanted = text(after, "/metadata/resourceVersion");
    if !wanted.is_empty() && wanted != text(before, "/metadata/resourceVersion") {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Status::conflict(at.gvr, at.name, why));
    }
    let uid = text(after, "/metadata/uid");
    if !uid.is_empty() && uid != text(before, "/metadata/uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            text(before, "/metadata/uid")
        );
        return Err(Status::conflict(at.gvr, at.name, &why));
    }
    Ok(())
}

/// Lets a subresource change only its part, and the object everything but its status.
pub(super) fn confine(subresource: &str, before: &Value, after: &mut Value) -> Result<(), Status> {
    let keep = |after: &mut Value, field: &str| match before.get(field) {
        Some(v) => after[field] = v.clone(),
        None => {
            if let Some(map) = after.as_object_mut() {
                map.remove(field);
            }
        }
    };
    match subresource {
        "" => {
            if before.get("status").is_some() {
                keep(after, "status");
            }
        }
        "status" => {
            let status = after.get("status").cloned();
            *after = before.clone();
            if let (Some(map), Some(status)) = (after.as_object_mut(), status) {
                map.insert("status".into(), status);
            }
        }
        "finalize" => {
            let finalizers = after.pointer("/spec/finalizers").cloned();
            *after = before.clone();
            after["spec"]["finalizers"] = finalizers.unwrap_or_else(|| json!([]));
        }
        "scale" => {
            let replicas = after.pointer("/spec/replicas").cloned();
            *after = before.clone();
            after["spec"]["replicas"] = replicas.unwrap_or_else(|| json!(0));
        }
        other => return Err(Status::failure(Reason::MethodNotAllowed, format!("{other} cannot be written"))),
    }
    Ok(())
}

pub(super) fn kind_of(resource: &str) -> String {
    let kind = match resource {
        "endpoints" => "Endpoints",
        "endpointslices" => "EndpointSlice",
        "configmaps" => "ConfigMap",
        "serviceaccounts" => "ServiceAccount",
        "replicasets" => "ReplicaSet",
        "replicationcontrollers" => "ReplicationController",
        "limitranges" => "LimitRange",
        plural => {
            let single = plural.strip_suffix('s').unwrap_or(plural);
            let mut letters = single.chars();
            return letters.next().map(|c| c.to_uppercase().chain(letters).collect()).unwrap_or_default();
        }
    };
    kind.into()
}

pub(super) fn parse(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body).map_err(|e| Status::bad_request(format!("the body is not JSON: {e}")))
}

/// A strategic merge patch of this API is a merge patch, but for `status.conditions`, which are
/// merged by `type`: makes the patch's list the whole list.
pub(super) fn merge_conditions(before: &Value, patch: &mut Value) {
    let Some(changed) = patch.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    let known = before.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut all = known;
    for condition in std::mem::take(changed) {
        match all.iter_mut().find(|c| c["type"] == condition["type"]) {
            Some(found) => json_patch::merge(found, &condition),
            None => all.push(condition),
        }
    }
    *changed = all;
}
