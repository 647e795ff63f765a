//! What a schema must be: structural, and nothing in it that would be ignored.

use super::super::{structural, text, validate};
use orlop_apimachinery::field::{self, Path};
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Value, json};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// What has no effect inside of a junctor.
const OUTSIDE: [&str; 9] = [
    "additionalProperties",
    "default",
    "nullable",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
];

/// Faults of the schema of a version.
pub(super) fn faults(schema: &Value, path: &Path, out: &mut Vec<Cause>) {
    structural_faults(schema, path, true, out);
    everywhere(schema, path, out);
}

fn is(schema: &Value, key: &str) -> bool {
    schema.get(key).is_some_and(|v| *v == true)
}

fn some(schema: &Value, key: &str) -> bool {
    schema.get(key).is_some_and(|v| !v.is_null() && *v != json!([]))
}

fn structural_faults(schema: &Value, path: &Path, root: bool, out: &mut Vec<Cause>) {
    let kind = text(schema, &["type"]);
    let open = is(schema, "x-kubernetes-int-or-string") || structural::preserves(schema);
    if kind.is_empty() && !root && !open {
        out.push(field::required(&path.child("type"), "must not be empty for specified object fields"));
    } else if !kind.is_empty() && !TYPES.contains(&kind) {
        out.push(field::not_supported(&path.child("type"), kind, TYPES));
    }
    if kind == "array" && !schema.get("items").is_some_and(Value::is_object) {
        out.push(field::required(&path.child("items"), "must be specified"));
    }
    let both = schema.get("properties").and_then(Value::as_object).is_some_and(|p| !p.is_empty())
        && schema.get("additionalProperties").is_some();
    if both {
        let why = "additionalProperties and properties are mutual exclusive";
        out.push(field::forbidden(&path.child("additionalProperties"), why));
    }
    if schema.get("x-kubernetes-preserve-unknown-fields").is_some_and(|p| *p == false) {
        let here = path.child("x-kubernetes-preserve-unknown-fields");
        out.push(field::invalid(&here, false, "must be true or undefined"));
    }
    list_faults(schema, path, out);
    default_faults(schema, path, root, out);
    for (key, inner) in schema.get("properties").and_then(Value::as_object).unwrap_or(&Map::new()) {
        structural_faults(inner, &path.child("properties").key(key), false, out);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(key).filter(|i| i.is_object()) {
            structural_faults(inner, &path.child(key), false, out);
        }
    }
}

fn default_faults(schema: &Value, path: &Path, root: bool, out: &mut Vec<Cause>) {
    let Some(default) = schema.get("default") else { return };
    let here = path.child("default");
    if root {
        out.push(field::forbidden(&here, "must not be set at the root"));
        return;
    }
    if default.is_null() && !is(schema, "nullable") {
        out.push(field::invalid(&here, Value::Null, "must be of a type that the schema allows"));
        return;
    }
    let mut pruned = default.clone();
    let unknown = structural::prune_inner(schema, &mut pruned);
    if let Some(first) = unknown.first() {
        out.push(field::invalid(&here, default.clone(), &format!("must not have unknown fields: {first}")));
    }
    out.extend(validate::against(schema, default, &here));
}

fn list_faults(schema: &Value, path: &Path, out: &mut Vec<Cause>) {
    let here = path.child("x-kubernetes-list-type");
    let list = text(schema, &["x-kubernetes-list-type"]);
    if !matches!(list, "" | "atomic" | "set" | "map") {
        out.push(field::not_supported(&here, list, &["atomic", "map", "set"]));
    }
    if !list.is_empty() && text(schema, &["type"]) != "array" {
        let why = "must be array if x-kubernetes-list-type is specified";
        out.push(field::invalid(&path.child("type"), text(schema, &["type"]), why));
    }
    let map = text(schema, &["x-kubernetes-map-type"]);
    if !matches!(map, "" | "atomic" | "granular") {
        out.push(field::not_supported(&path.child("x-kubernetes-map-type"), map, &["atomic", "granular"]));
    }
    let here = path.child("x-kubernetes-list-map-keys");
    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
    let keys: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
    if list != "map" {
        if !keys.is_empty() {
            out.push(field::forbidden(&here, "must not be set if x-kubernetes-list-type is not map"));
        }
        return;
    }
    if keys.is_empty() {
        out.push(field::required(&here, "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = schema.get("items").unwrap_or(&Value::Null);
    let required = items.get("required").and_then(Value::as_array);
    for (index, key) in keys.into_iter().enumerate() {
        let here = here.index(index);
        let Some(of_key) = items.get("properties").and_then(|p| p.get(key)) else {
            out.push(field::invalid(&here, key, "must be a property of items"));
            continue;
        };
        if matches!(text(of_key, &["type"]), "array" | "object") {
            out.push(field::invalid(&here, key, "must be a scalar property of items"));
        }
        if !required.is_some_and(|r| r.iter().any(|r| r == key)) && of_key.get("default").is_none() {
            out.push(field::required(&here, "must be required or have a default in items"));
        }
    }
}

/// What no schema may have, however deep it lies.
fn everywhere(schema: &Value, path: &Path, out: &mut Vec<Cause>) {
    structural::walk(schema, path.as_str(), &mut |at, inner| {
        let here = Path::new(at);
        if some(inner, "x-kubernetes-validations") {
            out.push(field::forbidden(
                &here.child("x-kubernetes-validations"),
                "rules in CEL are not supported yet: remove them, or check the objects with an admission plugin",
            ));
        }
        for key in ["$ref", "patternProperties", "definitions", "dependencies", "additionalItems"] {
            if some(inner, key) {
                out.push(field::forbidden(&here.child(key), &format!("{key} is not supported")));
            }
        }
        if is(inner, "uniqueItems") {
            out.push(field::forbidden(
                &here.child("uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ));
        }
        let pattern = text(inner, &["pattern"]);
        if !pattern.is_empty()
            && let Err(error) = regex::Regex::new(pattern)
        {
            let why = format!("must be a valid regular expression, but isn't: {error}");
            out.push(field::invalid(&here.child("pattern"), pattern, &why));
        }
        for key in JUNCTORS {
            for (index, part) in inner.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
                inside(part, &here.child(key).index(index), out);
            }
        }
        if let Some(part) = inner.get("not").filter(|n| n.is_object()) {
            inside(part, &here.child("not"), out);
        }
    });
}

/// A part of a junctor checks values and does nothing else.
fn inside(part: &Value, path: &Path, out: &mut Vec<Cause>) {
    for key in OUTSIDE.into_iter().filter(|key| some(part, key)) {
        out.push(field::forbidden(&path.child(key), "must not be used in allOf, anyOf, oneOf or not"));
    }
    for (key, inner) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
        inside(inner, &path.child("properties").key(key), out);
    }
    if let Some(inner) = part.get("items").filter(|i| i.is_object()) {
        inside(inner, &path.child("items"), out);
    }
}
