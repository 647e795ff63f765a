//! Requests on their way into the sandbox, and verdicts on their way out.

use orlop_apimachinery::{Reason, Status};
use orlop_apiserver::admission::{AdmissionRequest, Operation};
use orlop_plugin::PluginError;
use orlop_plugin::admission::{Request, Verdict, operation};
use orlop_plugin::manifest::admission::AdmissionManifest;
use serde_json::{Map, Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The request as a plugin with this manifest sees it.
pub(super) fn request(
    manifest: &AdmissionManifest,
    request: &AdmissionRequest,
    context: Vec<Vec<u8>>,
) -> Request {
    let old_object = match (&request.old_object, manifest.old_object) {
        (Some(old), true) if manifest.projection.is_empty() => old.bytes().to_vec(),
        (Some(old), true) => project(&manifest.projection, &old.to_value()),
        _ => Vec::new(),
    };
    Request {
        operation: match request.operation {
            Operation::Create => operation::CREATE,
            Operation::Update => operation::UPDATE,
            Operation::Delete => operation::DELETE,
            Operation::Connect => operation::CONNECT,
        },
        group: request.gvr.group.to_string(),
        version: request.gvr.version.to_string(),
        resource: request.gvr.resource.to_string(),
        subresource: request.subresource.clone(),
        kind: request.gvk.kind.to_string(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
        dry_run: request.dry_run,
        object: request.object.as_ref().map(|o| project(&manifest.projection, o)).unwrap_or_default(),
        old_object,
        context,
        attributes: attributes(request),
        seed: seed(&request.uid),
    }
}

fn attributes(request: &AdmissionRequest) -> Vec<u8> {
    let user = &request.user;
    let attributes = json!({
        "user": { "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra },
        "options": request.options,
    });
    serde_json::to_vec(&attributes).unwrap_or_default()
}

/// The request's uid is random; the same in both phases.
fn seed(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

/// JSON of the parts of `object` that `paths` name; of all of it where there are none.
fn project(paths: &[String], object: &Value) -> Vec<u8> {
    if paths.is_empty() {
        return serde_json::to_vec(object).unwrap_or_default();
    }
    let mut out = Value::Object(Map::new());
    for path in paths {
        let (mut from, mut to) = (object, &mut out);
        let mut keys = path.split('.').peekable();
        // The objects on the way are there even where the leaf is not, so that a plugin knows
        // whether it must make them.
        while let Some(key) = keys.next() {
            let (Some(found), Value::Object(map)) = (from.get(key), to) else { break };
            if keys.peek().is_none() {
                map.insert(key.to_owned(), found.clone());
                break;
            }
            if !found.is_object() {
                break;
            }
            (from, to) = (found, map.entry(key).or_insert_with(|| Value::Object(Map::new())));
        }
    }
    serde_json::to_vec(&out).unwrap_or_default()
}

/// Applies a verdict's patch. Returns whether the object changed.
///
/// # Errors
/// [`PluginError::BadOutput`] where the patch does not apply or touches what names the object; the
/// object is as it was.
pub(super) fn apply(request: &mut AdmissionRequest, patch: &[u8]) -> Result<bool, PluginError> {
    if patch.is_empty() {
        return Ok(false);
    }
    let bad = |e: String| PluginError::bad_output(format!("the patch {e}"));
    let patch: json_patch::Patch =
        serde_json::from_slice(patch).map_err(|e| bad(format!("is no JSON Patch: {e}")))?;
    let Some(object) = &mut request.object else {
        return Err(bad("is for a request without an object".into()));
    };
    let identity = |o: &Value| {
        [
            "/apiVersion",
            "/kind",
            "/metadata/name",
            "/metadata/namespace",
            "/metadata/uid",
            "/metadata/resourceVersion",
        ]
        .map(|p| o.pointer(p).cloned())
    };
    let before = identity(object);
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch).map_err(|e| bad(format!("does not apply: {e}")))?;
    if identity(&patched) != before {
        return Err(bad("changes the object's kind, name, namespace, uid or resourceVersion".into()));
    }
    let changed = *object != patched;
    *object = patched;
    Ok(changed)
}

/// The refusal that the client gets.
///
/// # Errors
/// [`PluginError::BadOutput`] where it is no Status of a failure.
pub(super) fn refusal(request: &AdmissionRequest, verdict: &Verdict) -> Result<Status, PluginError> {
    if verdict.status.is_empty() {
        return Ok(Status::forbidden(&request.gvr, &request.name, "an admission plugin refused it"));
    }
    let bad = |e: String| PluginError::bad_output(format!("the refusal {e}"));
    let mut status: Status =
        serde_json::from_slice(&verdict.status).map_err(|e| bad(format!("is no Status: {e}")))?;
    if status.code == 0 {
        status.code = Reason::Forbidden.code();
    }
    if !(400..=599).contains(&status.code) {
        return Err(bad(format!("has the code {}", status.code)));
    }
    status.status = "Failure".to_owned();
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projections_keep_what_they_name() {
        let object = json!({ "metadata": { "name": "a", "uid": "u" }, "spec": { "x": 1, "y": { "z": 2 } }, "status": {} });
        let paths = ["metadata.name".to_owned(), "spec.y".to_owned(), "spec.none.deep".to_owned()];
        let out: Value = serde_json::from_slice(&project(&paths, &object)).unwrap();
        assert_eq!(out, json!({ "metadata": { "name": "a" }, "spec": { "y": { "z": 2 } } }));
        let all: Value = serde_json::from_slice(&project(&[], &object)).unwrap();
        assert_eq!(all, object);
    }
}
