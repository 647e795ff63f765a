//! `metadata`, as the machine sets, protects and checks it for every type.
//!
//! Source: `apiserver/pkg/registry/rest/{create,update,meta}.go`, `apimachinery/pkg/api/validation`.

use crate::core::RequestCx;
use crate::registry::{NameRule, Resource};
use orlop_apimachinery::status::Cause;
use orlop_apimachinery::{Status, field, names};
use serde_json::{Map, Value};

/// Set by the server alone; what a client sends there is dropped or must equal what is stored.
const SYSTEM: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

/// `metadata` of an object; created where missing.
///
/// # Errors
/// 400 where the object or its metadata is no JSON object.
pub(crate) fn of(object: &mut Value) -> Result<&mut Map<String, Value>, Status> {
    let Value::Object(map) = object else {
        return Err(Status::bad_request("the object provided is unrecognized: it is not a JSON object"));
    };
    match map.entry("metadata").or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(meta) => Ok(meta),
        other if other.is_null() => {
            *other = Value::Object(Map::new());
            other.as_object_mut().ok_or_else(|| Status::internal("metadata"))
        }
        _ => Err(Status::bad_request("metadata must be an object")),
    }
}

/// A string of `metadata`; empty where missing.
pub(crate) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// The strings of `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    let list = object.get("metadata").and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Puts the namespace of the URL into the object.
///
/// # Errors
/// 400 where they differ.
pub(crate) fn settle_namespace(row: &Resource, object: &mut Value, namespace: &str) -> Result<(), Status> {
    let meta = of(object)?;
    let given = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !row.namespaced {
        if !given.is_empty() {
            return Err(Status::bad_request("namespace may not be set on a cluster-scoped object"));
        }
        meta.remove("namespace");
        return Ok(());
    }
    if given.is_empty() {
        meta.insert("namespace".to_owned(), namespace.into());
    } else if given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Prepares the metadata of a new object: drops what only the server sets, and sets it.
pub(crate) fn fill_for_create(cx: &RequestCx, object: &mut Value, generation: bool) -> Result<(), Status> {
    let timestamp = cx.timestamp();
    let meta = of(object)?;
    if meta.get("resourceVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty() && v != "0") {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    meta.remove("resourceVersion");
    for key in SYSTEM {
        meta.remove(key);
    }
    meta.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".to_owned(), timestamp.into());
    if generation {
        meta.insert("generation".to_owned(), 1.into());
    }
    Ok(())
}

/// Gives the object its name.
///
/// # Errors
/// 400 where URL and body differ.
pub(crate) fn settle_name(object: &mut Value, url_name: &str) -> Result<(), Status> {
    let meta = of(object)?;
    let given = meta.get("name").and_then(Value::as_str).unwrap_or_default();
    if url_name.is_empty() {
        if given.is_empty()
            && let Some(base) = meta.get("generateName").and_then(Value::as_str).filter(|b| !b.is_empty())
        {
            let name = names::generate_name(base, rand::random());
            meta.insert("name".to_owned(), name.into());
        }
        return Ok(());
    }
    if given.is_empty() {
        meta.insert("name".to_owned(), url_name.into());
    } else if given != url_name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({url_name})"
        )));
    }
    Ok(())
}

/// Carries over what an update cannot change.
pub(crate) fn carry_over(new: &mut Value, old: &Value) -> Result<(), Status> {
    let meta = of(new)?;
    let old = old.get("metadata").and_then(Value::as_object);
    for key in SYSTEM {
        match old.and_then(|o| o.get(key)) {
            Some(value) => {
                if meta.get(key) != Some(value) {
                    meta.insert(key.to_owned(), value.clone());
                }
            }
            None => {
                meta.remove(key);
            }
        }
    }
    meta.remove("resourceVersion");
    if let Some(base) = old.and_then(|o| o.get("generateName")) {
        meta.entry("generateName").or_insert_with(|| base.clone());
    }
    Ok(())
}

/// Faults of names, labels, annotations, finalizers and owner references.
pub(crate) fn faults(row: &Resource, object: &Value) -> Vec<Cause> {
    let path = field::Path::new("metadata");
    let mut out = Vec::new();
    let name = text(object, "name");
    if name.is_empty() {
        let base = text(object, "generateName");
        if base.is_empty() {
            out.push(field::required(&path.child("name"), "name or generateName is required"));
        }
    } else {
        let found = match row.strategy.name_rule() {
            NameRule::DnsSubdomain => names::dns1123_subdomain(name),
            NameRule::DnsLabel => names::dns1123_label(name),
            NameRule::Dns1035Label => names::dns1035_label(name),
            NameRule::PathSegment => names::path_segment(name),
        };
        for fault in found {
            out.push(field::invalid(&path.child("name"), name, &fault));
        }
    }
    if row.namespaced {
        for fault in names::dns1123_label(text(object, "namespace")) {
            out.push(field::invalid(&path.child("namespace"), text(object, "namespace"), &fault));
        }
    }
    let meta = object.get("metadata");
    if let Some(labels) = meta.and_then(|m| m.get("labels")).and_then(Value::as_object) {
        names::check_labels(labels, &path.child("labels"), &mut out);
    }
    if let Some(annotations) = meta.and_then(|m| m.get("annotations")).and_then(Value::as_object) {
        names::check_annotations(annotations, &path.child("annotations"), &mut out);
    }
    finalizer_faults(row, object, &path, &mut out);
    owner_faults(meta, &path, &mut out);
    out
}

fn finalizer_faults(row: &Resource, object: &Value, path: &field::Path, out: &mut Vec<Cause>) {
    let list = finalizers(object);
    // Definitions and custom objects are held by names of any form.
    let any = row.custom.is_some() || row.gvr.group == crate::crd::GROUP;
    for (at, finalizer) in list.iter().enumerate() {
        let path = path.child("finalizers").index(at);
        for fault in names::qualified_name(finalizer) {
            out.push(field::invalid(&path, finalizer.as_str(), &fault));
        }
        if !any
            && !finalizer.contains('/')
            && !matches!(finalizer.as_str(), "orphan" | "foregroundDeletion" | "kubernetes")
        {
            out.push(field::invalid(
                &path,
                finalizer.as_str(),
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    if list.iter().any(|f| f == "orphan") && list.iter().any(|f| f == "foregroundDeletion") {
        out.push(field::invalid(
            &path.child("finalizers"),
            Value::from(list),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

fn owner_faults(meta: Option<&Value>, path: &field::Path, out: &mut Vec<Cause>) {
    let owners = meta.and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
    let mut controllers = 0;
    for (at, owner) in owners.into_iter().flatten().enumerate() {
        let path = path.child("ownerReferences").index(at);
        for (key, words) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            let value = owner.get(key).and_then(Value::as_str).unwrap_or_default();
            if value.is_empty() {
                out.push(field::invalid(&path.child(key), value, words));
            }
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            controllers += 1;
        }
    }
    if controllers > 1 {
        out.push(field::invalid(
            &path.child("ownerReferences"),
            owners.cloned().map_or(Value::Null, Value::Array),
            "Only one reference can have Controller set to true. Found \"true\" in several references",
        ));
    }
}

/// Faults of a change of metadata.
pub(crate) fn update_faults(new: &Value, old: &Value) -> Vec<Cause> {
    if text(old, "deletionTimestamp").is_empty() {
        return Vec::new();
    }
    let known = finalizers(old);
    let added: Vec<String> = finalizers(new).into_iter().filter(|f| !known.contains(f)).collect();
    if added.is_empty() {
        return Vec::new();
    }
    vec![field::forbidden(
        &field::Path::new("metadata").child("finalizers"),
        &format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ")
        ),
    )]
}
