//! The schemas of the served types, from the data files, and what the pipeline asks of them.

use crate::crd::Custom;
use crate::registry::Resource;
use orlop_apimachinery::schema::protobuf::ProtobufError;
use orlop_apimachinery::schema::{DecodeError, Decoded, LoadError, SchemaSet, TypeId};
use orlop_apimachinery::{Gvk, Status};
use serde_json::Value;
use std::sync::LazyLock;

macro_rules! data {
    ($folder:literal: $($name:literal)*) => {
        &[$(include_str!(concat!("../data/", $folder, "/", $name, ".txt"))),*]
    };
}

/// Structure files.
const SCHEMA_FILES: &[&str] = data!("schema":
    "admissionregistration_v1" "apiextensions_v1" "apiregistration_v1" "apps_v1" "authentication_v1"
    "authorization_v1" "autoscaling_v1" "autoscaling_v2" "batch_v1" "certificates_v1" "coordination_v1" "core_v1"
    "discovery_v1" "events_v1" "flowcontrol_v1" "meta_v1" "networking_v1" "node_v1" "orlop.dev_v1" "policy_v1" "rbac_v1"
    "resource_v1" "scheduling_v1" "storage_v1");

/// Descriptions, used by OpenAPI alone.
pub(crate) const DOC_FILES: &[&str] = data!("docs":
    "admissionregistration_v1" "apiextensions_v1" "apiregistration_v1" "apps_v1" "authentication_v1"
    "authorization_v1" "autoscaling_v1" "autoscaling_v2" "batch_v1" "certificates_v1" "coordination_v1" "core_v1"
    "discovery_v1" "events_v1" "flowcontrol_v1" "meta_v1" "networking_v1" "node_v1" "orlop.dev_v1" "policy_v1" "rbac_v1"
    "resource_v1" "scheduling_v1" "storage_v1");

static LOADED: LazyLock<Result<SchemaSet, LoadError>> = LazyLock::new(|| SchemaSet::load(SCHEMA_FILES));

/// Stands in where the data are broken; [`check`] keeps a server from starting on it.
static SET: LazyLock<&SchemaSet> = LazyLock::new(|| match &*LOADED {
    Ok(set) => set,
    Err(_) => &EMPTY,
});

static EMPTY: LazyLock<SchemaSet> = LazyLock::new(SchemaSet::default);

/// Whether the embedded schemas can be used.
///
/// # Errors
/// The line that cannot be read.
pub(crate) fn check() -> Result<(), &'static LoadError> {
    LOADED.as_ref().map(|_| ())
}

/// All types.
pub(crate) fn set() -> &'static SchemaSet {
    &SET
}

/// The type of a kind; `None` for kinds without a schema, whose fields are all taken.
pub(crate) fn of_kind(gvk: &Gvk) -> Option<TypeId> {
    SET.by_kind(gvk)
}

/// The type of a row's objects.
pub(crate) fn of_row(row: &Resource) -> Option<TypeId> {
    of_kind(&row.gvk())
}

/// The types of a row's objects, for merging.
pub(crate) fn merged(row: &Resource) -> Option<(&'static SchemaSet, TypeId)> {
    match row.custom {
        Some(custom) => Some((&custom.types, custom.root)),
        None => of_row(row).map(|id| (*SET, id)),
    }
}

/// Parses and checks JSON of a kind, without defaults.
pub(crate) fn decode(gvk: &Gvk, json: &[u8]) -> Result<Decoded, DecodeError> {
    match of_kind(gvk) {
        Some(id) => SET.decode(id, json),
        None => {
            let mut decoded = orlop_apimachinery::schema::decode::parse_json(json)?;
            decoded.faults.extend(normalize(gvk, &mut decoded.value)?);
            Ok(decoded)
        }
    }
}

/// Reads the protobuf message of a kind, without its envelope.
pub(crate) fn decode_protobuf(gvk: &Gvk, raw: &[u8]) -> Result<Decoded, DecodeError> {
    let broken = |message: String| DecodeError::Type { message };
    let id = of_kind(gvk).ok_or_else(|| broken(format!("{gvk} has no protobuf form")))?;
    let mut value = SET.decode_protobuf(id, raw).map_err(|e| broken(e.to_string()))?;
    let faults = SET.normalize(id, &mut value)?;
    Ok(Decoded { value, faults })
}

/// Reads the protobuf message of `DeleteOptions`.
pub(crate) fn delete_options(raw: &[u8]) -> Result<Value, ProtobufError> {
    match SET.by_name("apimachinery.pkg.apis.meta.v1.DeleteOptions") {
        Some(id) => SET.decode_protobuf(id, raw),
        None => Ok(Value::Null),
    }
}

/// Checks and cleans a value of a kind; returns the unknown fields.
pub(crate) fn normalize(gvk: &Gvk, value: &mut Value) -> Result<Vec<String>, DecodeError> {
    match of_kind(gvk) {
        Some(id) => SET.normalize(id, value),
        None => match crate::crd::table::of_kind(gvk) {
            Some(custom) => normalize_custom(custom, value),
            None => Ok(Vec::new()),
        },
    }
}

fn normalize_custom(custom: &Custom, value: &mut Value) -> Result<Vec<String>, DecodeError> {
    let mut faults = Vec::new();
    if let (Some(id), Some(meta)) =
        (SET.by_name("apimachinery.pkg.apis.meta.v1.ObjectMeta"), value.get_mut("metadata"))
    {
        let unknown = SET.normalize(id, meta)?;
        faults.extend(unknown.iter().map(|f| f.replacen("field \"", "field \"metadata.", 1)));
    }
    let unknown = crate::crd::structural::prune(&custom.schema, value);
    faults.extend(unknown.iter().map(|path| format!("unknown field \"{path}\"")));
    Ok(faults)
}

/// Applies the schema's static defaults.
pub(crate) fn defaults(row: &Resource, value: &mut Value) {
    if let Some(custom) = row.custom {
        crate::crd::structural::defaults(&custom.schema, value);
    } else if let Some(id) = of_row(row) {
        SET.apply_defaults(id, value);
    }
}

/// Cleans and defaults what an admission plugin left behind.
///
/// # Errors
/// 500 where a plugin made something that is no object of the type.
pub(crate) fn after_admission(row: &Resource, value: &mut Value) -> Result<(), Status> {
    let unknown = normalize(&row.gvk(), value)
        .map_err(|e| Status::internal(format!("an admission plugin returned an invalid object: {e}")))?;
    if !unknown.is_empty() {
        tracing::warn!(gvk = %row.gvk(), fields = unknown.join(", "), "admission plugin set unknown fields");
    }
    defaults(row, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Backing, served};

    #[test]
    fn every_served_kind_of_kubernetes_has_a_schema() {
        let missing: Vec<String> = served()
            .filter(|r| r.gvr.group != "orlop.dev" && !matches!(r.backing, Backing::Review(_)))
            .filter(|r| of_row(r).is_none())
            .map(|r| r.gvr.to_string())
            .collect();
        assert_eq!(missing, Vec::<String>::new());
    }
}
