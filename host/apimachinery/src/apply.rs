//! Server-side apply: merge what a manager wants, take away what it wanted before and wants no
//! more, and refuse where another manager's field would change.

use crate::gvk::Gvr;
use crate::managed_fields::field_set::{FieldSet, PathElement, render};
use crate::managed_fields::typed::{self, View};
use crate::managed_fields::{Entry, Managed, ManagedFieldsError, STRIPPED, Writer, compare, without_managed};
use crate::schema::{SchemaSet, TypeId};
use crate::status::{Cause, Details, Reason, Status};
use serde_json::{Map, Value};

/// A field that the manager wants to change and another owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// `"kubectl" using apps/v1`
    pub manager: String,
    /// `.spec.replicas`
    pub path: String,
}

/// Why an apply is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields with other values. Answered 409; `force` takes them over.
    #[error("{}", message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration may not be applied at all. Answered 400.
    #[error("{0}")]
    BadRequest(String),
    /// The stored entries cannot be read. Answered 500.
    #[error("the stored managed fields cannot be read")]
    Stored(#[source] ManagedFieldsError),
}

impl ApplyError {
    /// As the client sees it; `gvr` and `name` are of the object.
    #[must_use]
    pub fn to_status(&self, gvr: &Gvr, name: &str) -> Status {
        match self {
            Self::BadRequest(message) => Status::bad_request(message.clone()),
            Self::Stored(source) => Status::internal(format!("{self}: {source}")),
            Self::Conflicts(conflicts) => {
                let cause = |c: &Conflict| Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: format!("conflict with {}", c.manager),
                    field: c.path.clone(),
                };
                let details = Details {
                    name: name.to_owned(),
                    group: gvr.group.to_string(),
                    kind: gvr.resource.to_string(),
                    causes: conflicts.iter().map(cause).collect(),
                    ..Details::default()
                };
                Status {
                    details: Some(Box::new(details)),
                    ..Status::failure(Reason::Conflict, self.to_string())
                }
            }
        }
    }
}

fn message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path);
    }
    let mut lines = Vec::new();
    let mut managers: Vec<&str> = conflicts.iter().map(|c| c.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(conflicts.iter().filter(|c| c.manager == manager).map(|c| format!("- {}", c.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

fn describe(entry: &Entry) -> String {
    let mut text = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    if !entry.applies {
        text.push_str(&format!(" using {}", entry.api_version));
    }
    text
}

/// Applies `config` on `live` (`None` where the object does not exist yet) and returns the new
/// object with its `managedFields`, before defaulting. `config` must be normalised against the
/// schema. Where nothing changes, the result equals `live`.
///
/// `reset` are fields that this endpoint does not let its callers own.
///
/// # Errors
/// [`ApplyError`]
pub fn apply(
    set: &SchemaSet,
    id: TypeId,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
    reset: Option<&FieldSet>,
) -> Result<Value, ApplyError> {
    if config.get("metadata").and_then(|m| m.get("managedFields")).is_some() {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    let mut managed =
        live.map_or_else(|| Ok(Managed::default()), Managed::decode).map_err(ApplyError::Stored)?;
    let old = live.map_or_else(|| Value::Object(Map::new()), without_managed);
    let root = typed::root(set, id);
    let mut wanted = typed::field_set(set, id, config).difference(&STRIPPED);
    if let Some(reset) = reset {
        wanted = wanted.recursive_difference(reset);
    }
    let own = managed.position(writer, true);
    let last = own.and_then(|at| managed.entries.get(at)).map(|e| e.fields.clone()).unwrap_or_default();
    let merged = typed::merge(set, root, &old, config);
    let object = prune(set, root, id, merged, &managed, own, &last, &wanted);
    let comparison = compare(set, id, &old, &object).without(&STRIPPED, reset);
    let changed = comparison.modified.union(&comparison.added);
    // What kubectl applied on the client's side before, it may go on changing.
    let allowed = if force || writer.manager != "kubectl" {
        FieldSet::default()
    } else {
        live.map_or_else(FieldSet::default, |live| client_side_applied(set, id, live))
    };
    let conflicts = find_conflicts(&managed, own, &changed.difference(&allowed));
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    managed.release(&comparison, own);
    let unchanged = live.is_some() && object == old;
    match own.and_then(|at| managed.entries.get_mut(at)) {
        Some(entry) => {
            if !unchanged || entry.fields != wanted || entry.api_version != writer.api_version {
                writer.now.clone_into(&mut entry.time);
            }
            entry.fields = wanted;
            writer.api_version.clone_into(&mut entry.api_version);
        }
        None => managed.entries.push(Entry {
            manager: writer.manager.to_owned(),
            applies: true,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: writer.now.to_owned(),
            fields: wanted,
        }),
    }
    let mut object = object;
    if writer.manager == "kubectl" {
        keep_annotation(&mut object, config);
    }
    managed.encode(&mut object);
    Ok(object)
}

/// Where `kubectl apply` without `--server-side` keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The fields that a client-side apply set and that still are as it set them.
fn client_side_applied(set: &SchemaSet, id: TypeId, live: &Value) -> FieldSet {
    let annotation =
        live.get("metadata").and_then(|m| m.get("annotations")).and_then(|a| a.get(LAST_APPLIED));
    let last = annotation.and_then(Value::as_str).and_then(|text| set.decode(id, text.as_bytes()).ok());
    let Some(last) = last.map(|decoded| decoded.value) else { return FieldSet::default() };
    let difference = compare(set, id, &last, live);
    typed::field_set(set, id, &last)
        .difference(&difference.modified)
        .difference(&difference.added)
        .difference(&difference.removed)
}

/// Where the annotation of client-side apply exists, it follows what kubectl applies now.
fn keep_annotation(object: &mut Value, config: &Value) {
    let annotation = object
        .get_mut("metadata")
        .and_then(|m| m.get_mut("annotations"))
        .and_then(|a| a.get_mut(LAST_APPLIED));
    let Some(annotation) = annotation else { return };
    let mut applied = config.clone();
    if let Some(annotations) =
        applied.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
    *annotation = format!("{applied}\n").into();
}

fn find_conflicts(managed: &Managed, own: Option<usize>, changed: &FieldSet) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for (at, entry) in managed.entries.iter().enumerate() {
        if own == Some(at) {
            continue;
        }
        let manager = describe(entry);
        for path in entry.fields.intersection(changed).paths() {
            conflicts.push(Conflict { manager: manager.clone(), path: render(&path) });
        }
    }
    conflicts.sort_by(|a, b| a.manager.cmp(&b.manager));
    conflicts
}

/// Takes away what the manager owned by its last apply and neither it nor anybody else wants now.
#[expect(clippy::too_many_arguments, reason = "one step of apply, named for its own sake")]
fn prune(
    set: &SchemaSet,
    root: View<'_>,
    id: TypeId,
    merged: Value,
    managed: &Managed,
    own: Option<usize>,
    last: &FieldSet,
    wanted: &FieldSet,
) -> Value {
    if last.is_empty() {
        return merged;
    }
    let named = |fields: &FieldSet| typed::with_named_fields(set, root, fields);
    let remove = |gone: &FieldSet| {
        typed::remove(set, root, &merged, gone).unwrap_or_else(|| Value::Object(Map::new()))
    };
    let last = named(last);
    let everything = named(&typed::field_set(set, id, &merged));
    let pruned = remove(&last);
    // What others own, or what this manager still wants, comes back.
    let mut owned = wanted.clone();
    for (at, entry) in managed.entries.iter().enumerate() {
        if own != Some(at) {
            owned = owned.union(&entry.fields);
        }
    }
    let kept = named(&typed::field_set(set, id, &pruned));
    let pruned = remove(&everything.difference(&kept.union(&named(&owned))));
    // So does what nobody owns and what lay below a removed item.
    let kept = named(&typed::field_set(set, id, &pruned));
    remove(&everything.difference(&kept).intersection(&last))
}

/// Convenience for tests and callers that build reset sets: `["status"]` and the like.
#[must_use]
pub fn fields(paths: &[&[&str]]) -> FieldSet {
    let mut set = FieldSet::default();
    for path in paths {
        let path: Vec<PathElement> = path.iter().map(|name| PathElement::field(name)).collect();
        set.insert(&path);
    }
    set
}

#[cfg(test)]
mod tests;
