//! `metadata.managedFields`: who set which field.

use crate::core::RequestCx;
use crate::metadata;
use crate::query::WriteQuery;
use crate::registry::Resource;
use crate::schema;
use orlop_apimachinery::Status;
use orlop_apimachinery::managed_fields::{FieldSet, Writer, track_update};
use serde_json::Value;
use std::sync::LazyLock;

/// How a write is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteKind {
    /// The manager owns what the write changed.
    Update,
    /// Server-side apply has settled the ownership itself.
    Applied,
}

/// Fields that nobody owns through the main endpoint.
static STATUS: LazyLock<FieldSet> = LazyLock::new(|| {
    let mut set = FieldSet::default();
    set.insert_fields(&["status"]);
    set
});

/// What the callers of an endpoint cannot own.
pub(crate) fn reset(row: &Resource, subresource: &str) -> Option<&'static FieldSet> {
    (subresource.is_empty() && row.subresource("status").is_some()).then(|| &*STATUS)
}

/// The name under which a write is recorded.
pub(crate) fn manager<'a>(cx: &'a RequestCx, query: &'a WriteQuery) -> &'a str {
    if query.field_manager.is_empty() { &cx.agent } else { &query.field_manager }
}

/// Records the write in the object.
pub(crate) fn record(
    cx: &RequestCx,
    row: &Resource,
    new: &mut Value,
    old: Option<&Value>,
    kind: WriteKind,
    query: &WriteQuery,
    subresource: &str,
) -> Result<(), Status> {
    let Some((set, id)) = schema::merged(row) else {
        metadata::of(new)?.remove("managedFields");
        return Ok(());
    };
    if kind == WriteKind::Applied {
        return Ok(());
    }
    let now = cx.timestamp();
    let api_version = row.gvr.api_version();
    let writer = Writer { manager: manager(cx, query), subresource, api_version: &api_version, now: &now };
    track_update(set, id, old, new, &writer, reset(row, subresource));
    Ok(())
}
