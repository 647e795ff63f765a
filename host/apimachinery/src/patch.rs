//! The three patches that carry a difference: JSON patch, JSON merge patch, strategic merge patch.
//! Server-side apply is `apply`.

use crate::schema::{SchemaSet, TypeId};
use serde_json::{Map, Value};

mod strategic;

/// Why a patch cannot be applied. The words are upstream's where a client sees them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed. Answered 400; the client must fix it.
    #[error("{0}")]
    Malformed(String),
    /// The patch is fine but does not fit the object. Answered 422; a retry on another state of
    /// the object may succeed.
    #[error("{0}")]
    DoesNotApply(String),
}

/// RFC 7386: objects merge, null deletes, everything else replaces.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (key, change) in changes {
        if change.is_null() {
            object.remove(key);
        } else {
            merge_patch(object.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

/// The merge patch that turns `from` into `to`; an empty object where they are equal. Nulls in
/// `to` cannot be expressed.
#[must_use]
pub fn merge_diff(from: &Value, to: &Value) -> Value {
    let (Some(old), Some(new)) = (from.as_object(), to.as_object()) else { return to.clone() };
    let mut patch = Map::new();
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => {
                patch.insert(key.clone(), merge_diff(before, value));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    patch.into()
}

/// RFC 6902. Atomic: on an error `target` is unchanged.
///
/// # Errors
/// [`PatchError::Malformed`] where the patch is no list of operations, else
/// [`PatchError::DoesNotApply`].
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|fault| PatchError::Malformed(format!("error decoding patch: {fault}")))?;
    // The crate's own way back loses what a failed `move` took away.
    let mut patched = target.clone();
    json_patch::patch_unsafe(&mut patched, &operations).map_err(|fault| {
        let operation = operations.0.get(fault.operation).map_or("", operation_name);
        PatchError::DoesNotApply(match fault.kind {
            json_patch::PatchErrorKind::TestFailed => {
                format!("testing value {} failed: test failed", fault.path)
            }
            _ => format!(
                "{operation} operation does not apply: doc is missing path: {}: missing value",
                fault.path
            ),
        })
    })?;
    *target = patched;
    Ok(())
}

fn operation_name(operation: &json_patch::PatchOperation) -> &'static str {
    match operation {
        json_patch::PatchOperation::Add(_) => "add",
        json_patch::PatchOperation::Remove(_) => "remove",
        json_patch::PatchOperation::Replace(_) => "replace",
        json_patch::PatchOperation::Move(_) => "move",
        json_patch::PatchOperation::Copy(_) => "copy",
        json_patch::PatchOperation::Test(_) => "test",
    }
}

/// `application/strategic-merge-patch+json` on an object of the type.
///
/// # Errors
/// [`PatchError::Malformed`] for unknown directives, items without their merge key and the like.
pub fn strategic_merge_patch(
    set: &SchemaSet,
    id: TypeId,
    target: &mut Value,
    patch: &Value,
) -> Result<(), PatchError> {
    let Some(changes) = patch.as_object() else {
        return Err(PatchError::Malformed("invalid JSON document".to_owned()));
    };
    let merged = strategic::merge_root(set, id, target, changes)?;
    *target = merged;
    Ok(())
}

#[cfg(test)]
mod tests;
