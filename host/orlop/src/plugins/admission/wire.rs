//! Requests on their way into the sandbox, and verdicts on their way out.

use bytes::Bytes;
use orlop_apimachinery::{Reason, Status};
use orlop_apiserver::admission::{AdmissionRequest, Operation};
use orlop_plugin::PluginError;
use orlop_plugin::admission::{Request, Verdict, operation};
use orlop_plugin::manifest::admission::AdmissionManifest;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The request as a plugin with this manifest sees it.
pub(super) fn request(
    manifest: &AdmissionManifest,
    request: &AdmissionRequest,
    context: Vec<Bytes>,
) -> Request {
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
        object: object(manifest, request),
        old_object: old_object(manifest, request),
        context: context.iter().map(|c| c.to_vec()).collect(),
        attributes: attributes(request),
        seed: seed(&request.uid),
    }
}

/// What the plugin sees of the object.
pub(super) fn object(manifest: &AdmissionManifest, request: &AdmissionRequest) -> Vec<u8> {
    request.object.as_ref().map(|o| manifest.project(o)).unwrap_or_default()
}

/// What the plugin sees of the stored object.
pub(super) fn old_object(manifest: &AdmissionManifest, request: &AdmissionRequest) -> Vec<u8> {
    match (&request.old_object, manifest.old_object) {
        (Some(old), true) if manifest.projection.is_empty() => old.bytes().to_vec(),
        (Some(old), true) => manifest.project(&old.to_value()),
        _ => Vec::new(),
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

/// What names the object. No patch may change it.
const IDENTITY: [&str; 6] = [
    "/apiVersion",
    "/kind",
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/uid",
    "/metadata/resourceVersion",
];

/// Whether the patch touches what names the object, or something that holds it.
pub(super) fn may_rename(patch: &json_patch::Patch) -> bool {
    use json_patch::PatchOperation as P;
    let touches = |path: &str| {
        IDENTITY.iter().any(|i| *i == path || i.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
    };
    patch.iter().any(|operation| match operation {
        P::Move(m) => touches(m.path.as_str()) || touches(m.from.as_str()),
        other => touches(other.path().as_str()),
    })
}

/// Applies a verdict's patch. Returns whether the object changed.
///
/// # Errors
/// [`PluginError::BadOutput`] where the patch does not apply or touches what names the object; the
/// object is as it was.
pub(super) fn apply(object: Option<&mut Value>, patch: &[u8]) -> Result<bool, PluginError> {
    if patch.is_empty() {
        return Ok(false);
    }
    let bad = |e: String| PluginError::bad_output(format!("the patch {e}"));
    let patch: json_patch::Patch =
        serde_json::from_slice(patch).map_err(|e| bad(format!("is no JSON Patch: {e}")))?;
    let Some(object) = object else {
        return Err(bad("is for a request without an object".into()));
    };
    let does_not_apply = |e: json_patch::PatchError| bad(format!("does not apply: {e}"));
    if !may_rename(&patch) {
        // A patch that fails halfway is taken back by the library.
        json_patch::patch(object, &patch).map_err(does_not_apply)?;
        return Ok(!patch.is_empty());
    }
    let identity = |o: &Value| IDENTITY.map(|p| o.pointer(p).cloned());
    let before = identity(object);
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch).map_err(does_not_apply)?;
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
