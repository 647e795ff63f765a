//! PATCH: from a patch and the stored object to the wished one.

use crate::core::{Core, RequestCx, Target};
use crate::decode::{self, Format};
use crate::managed::{self, WriteKind};
use crate::metadata;
use crate::query::{FieldValidation, WriteQuery};
use crate::schema;
use crate::write::{Wish, Written, part_of};
use bytes::Bytes;
use orlop_apimachinery::managed_fields::Writer;
use orlop_apimachinery::patch::{self, PatchError};
use orlop_apimachinery::{Reason, Status, apply, field};
use orlop_client::PatchType;
use serde_json::Value;

const MEDIA: [&str; 5] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];

/// The patch type of a `Content-Type`.
///
/// # Errors
/// 415
pub(crate) fn patch_type(content_type: Option<&str>) -> Result<PatchType, Status> {
    match content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::StrategicMerge),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(decode::unsupported("", MEDIA.get(..4).unwrap_or_default())),
    }
}

impl Core {
    /// PATCH of an object or of a subresource of its own kind.
    pub(crate) async fn patch(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        kind: PatchType,
        body: &Bytes,
        query: &WriteQuery,
    ) -> Result<Written, Status> {
        check_options(kind, query)?;
        let part = part_of(target);
        if kind == PatchType::Apply {
            let config = configuration(cx, target, body, query.field_validation)?;
            let transform = |old: Option<&Value>| applied(cx, target, query, &config, old);
            let creates = target.subresource.is_none();
            return self.update(cx, target, part, creates, query, &transform).await;
        }
        let patch = parse(body)?;
        let transform = |old: Option<&Value>| {
            let old = old.ok_or_else(|| target.not_found())?;
            let mut object = patched(cx, target, kind, &patch, old, query.field_validation)?;
            forget_revision(&mut object, old);
            Ok(Wish { object, kind: WriteKind::Update })
        };
        self.update(cx, target, part, false, query, &transform).await
    }
}

fn check_options(kind: PatchType, query: &WriteQuery) -> Result<(), Status> {
    let mut faults = Vec::new();
    if kind == PatchType::Apply {
        if query.field_manager.is_empty() {
            faults.push(field::required(&field::Path::new("fieldManager"), "is required for apply patch"));
        }
    } else if query.force.is_some() {
        faults.push(field::forbidden(&field::Path::new("force"), "may not be specified for non-apply patch"));
    }
    if faults.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "PatchOptions", "", faults)) }
}

fn parse(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
}

/// The object after a JSON, merge or strategic merge patch, checked against the schema.
pub(crate) fn patched(
    cx: &RequestCx,
    target: &Target<'_>,
    kind: PatchType,
    patch: &Value,
    old: &Value,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let mut new = old.clone();
    let gvk = target.row.gvk();
    let outcome = match kind {
        PatchType::Json => patch::json_patch(&mut new, patch),
        PatchType::Merge => {
            if !patch.is_object() {
                return Err(Status::bad_request("error decoding patch: a merge patch must be a JSON object"));
            }
            patch::merge_patch(&mut new, patch);
            Ok(())
        }
        PatchType::StrategicMerge | PatchType::Apply => match schema::of_kind(&gvk) {
            Some(id) => patch::strategic_merge_patch(schema::set(), id, &mut new, patch),
            None => {
                return Err(decode::unsupported(
                    "",
                    &["application/json-patch+json", "application/merge-patch+json"],
                ));
            }
        },
    };
    outcome.map_err(|e| refused(&e))?;
    let faults = schema::normalize(&gvk, &mut new).map_err(|e| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {e}",
            gvk.kind, gvk.version, gvk.kind
        ))
    })?;
    decode::judge_fields(cx, &gvk, &faults, validation)?;
    for (key, expected) in [("apiVersion", gvk.api_version()), ("kind", gvk.kind.to_string())] {
        if new.get(key).and_then(Value::as_str) != Some(expected.as_str()) {
            return Err(Status::bad_request(format!("the patch may not change {key}")));
        }
    }
    Ok(new)
}

fn refused(error: &PatchError) -> Status {
    match error {
        PatchError::Malformed(message) => Status::bad_request(message.clone()),
        PatchError::DoesNotApply(message) => Status::failure(
            Reason::Invalid,
            format!("the server rejected our request due to an error in our request: {message}"),
        ),
    }
}

/// The configuration of a server-side apply.
fn configuration(
    cx: &RequestCx,
    target: &Target<'_>,
    body: &Bytes,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let gvk = target.row.gvk();
    let value = decode::yaml_to_json(body)
        .map_err(|e| Status::bad_request(format!("error decoding YAML: {}", e.message)))?;
    for key in ["apiVersion", "kind"] {
        if value.get(key).and_then(Value::as_str).unwrap_or_default().is_empty() {
            return Err(Status::bad_request(format!(
                "invalid object type: {key} must be set in an apply patch"
            )));
        }
    }
    decode::object(cx, &gvk, Format::Yaml, body, validation)
}

fn applied(
    cx: &RequestCx,
    target: &Target<'_>,
    query: &WriteQuery,
    config: &Value,
    old: Option<&Value>,
) -> Result<Wish, Status> {
    let row = target.row;
    let Some((set, id)) = schema::merged(row) else {
        return Err(decode::unsupported(
            "",
            &["application/json-patch+json", "application/merge-patch+json"],
        ));
    };
    let subresource = target.subresource_name();
    let now = cx.timestamp();
    let api_version = row.gvr.api_version();
    let writer =
        Writer { manager: managed::manager(cx, query), subresource, api_version: &api_version, now: &now };
    let mut object = apply::apply(
        set,
        id,
        old,
        config,
        &writer,
        query.force == Some(true),
        managed::reset(row, subresource),
    )
    .map_err(|e| e.to_status(&row.gvr, target.name))?;
    if let Some(old) = old {
        forget_revision(&mut object, old);
    }
    Ok(Wish { object, kind: WriteKind::Applied })
}

/// A patch that leaves the revision alone does not insist on it; one that names another is then
/// refused by comparison with the state that it meets.
fn forget_revision(new: &mut Value, old: &Value) {
    if metadata::text(new, "resourceVersion") == metadata::text(old, "resourceVersion")
        && let Ok(meta) = metadata::of(new)
    {
        meta.remove("resourceVersion");
    }
}
