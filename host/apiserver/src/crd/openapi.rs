//! Definitions of custom types in OpenAPI.

use crate::registry::Resource;
use orlop_apimachinery::schema::openapi::Dialect;
use serde_json::{Map, Value, json};

/// `com.example.v1.Widget`
pub(crate) fn name(row: &Resource) -> String {
    let mut parts: Vec<&str> = row.gvr.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), row.gvr.version, row.kind)
}

fn reference(name: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

/// Adds the definitions of a custom row; others are left alone.
pub(crate) fn add(row: &Resource, dialect: Dialect, out: &mut Map<String, Value>) {
    let Some(custom) = row.custom else { return };
    let mut schema = custom.schema.clone();
    if schema.is_null() {
        schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    if dialect == Dialect::V2 {
        simplify(&mut schema);
    }
    let meta = |kind: &str| reference(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"), dialect);
    let words = |text: &str| json!({"type": "string", "description": text});
    let own = |list: bool| {
        [
            (
                "apiVersion",
                words("APIVersion defines the versioned schema of this representation of an object."),
            ),
            ("kind", words("Kind is a string value representing the REST resource this object represents.")),
            ("metadata", meta(if list { "ListMeta" } else { "ObjectMeta" })),
        ]
    };
    let gvk = |kind: &str| json!([{"group": row.gvr.group, "version": row.gvr.version, "kind": kind}]);
    if let Value::Object(map) = &mut schema {
        let properties = map.entry("properties").or_insert_with(|| json!({}));
        if let Value::Object(properties) = properties {
            properties.extend(own(false).map(|(k, v)| (k.to_owned(), v)));
        }
        map.insert("x-kubernetes-group-version-kind".to_owned(), gvk(row.kind));
    }
    let name = name(row);
    let mut properties = Map::from_iter(own(true).map(|(k, v)| (k.to_owned(), v)));
    properties.insert("items".to_owned(), json!({"type": "array", "items": reference(&name, dialect)}));
    out.insert(
        format!("{name}List"),
        json!({
            "description": format!("{} is a list of {}", row.list_kind(), row.kind),
            "type": "object", "required": ["items"], "properties": properties,
            "x-kubernetes-group-version-kind": gvk(&row.list_kind()),
        }),
    );
    out.insert(name, schema);
}

/// Leaves out what OpenAPI v2 has no words for.
fn simplify(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if map.get("nullable").is_some_and(|n| *n == true) {
        // A client that checks types would refuse null.
        map.retain(|key, _| matches!(key.as_str(), "description" | "x-kubernetes-preserve-unknown-fields"));
        return;
    }
    if map.get("x-kubernetes-int-or-string").is_some_and(|n| *n == true) {
        map.remove("type");
    }
    for key in ["oneOf", "anyOf", "allOf", "not", "nullable"] {
        map.remove(key);
    }
    for inner in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        simplify(inner.1);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            simplify(inner);
        }
    }
}
