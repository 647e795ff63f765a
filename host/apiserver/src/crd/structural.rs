//! Structural schemas: pruning, defaulting, and the types that server-side apply asks for.

use super::text;
use crate::registry::at;
use orlop_apimachinery::schema::{Field, ListType, Merge, Node, SchemaSet, Shape, StructType, TypeId};
use serde_json::{Map, Value};

/// Fields that every object has, whatever its schema says.
const OWN: [&str; 3] = ["apiVersion", "kind", "metadata"];

fn is(schema: &Value, key: &str) -> bool {
    schema.get(key).is_some_and(|v| *v == true)
}

pub(super) fn preserves(schema: &Value) -> bool {
    is(schema, "x-kubernetes-preserve-unknown-fields")
}

/// Removes unknown fields; returns their paths.
pub(crate) fn prune(schema: &Value, value: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if !schema.is_null() {
        prune_at(schema, value, true, "", &mut unknown);
    }
    unknown
}

/// [`prune`] of a value inside of an object.
pub(super) fn prune_inner(schema: &Value, value: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_at(schema, value, false, "", &mut unknown);
    unknown
}

fn prune_at(schema: &Value, value: &mut Value, root: bool, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let additional = schema.get("additionalProperties");
            let open = preserves(schema) || additional.is_some_and(|a| *a == true);
            let embedded = root || is(schema, "x-kubernetes-embedded-resource");
            map.retain(|key, inner| {
                if embedded && OWN.contains(&key.as_str()) {
                    return true;
                }
                let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if let Some(known) = properties.and_then(|p| p.get(key)) {
                    prune_at(known, inner, false, &here, unknown);
                    return true;
                }
                if let Some(known) = additional.filter(|a| a.is_object()) {
                    prune_at(known, inner, false, &here, unknown);
                    return true;
                }
                if !open {
                    unknown.push(here);
                }
                open
            });
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items").filter(|i| i.is_object()) else { return };
            for (index, item) in items.iter_mut().enumerate() {
                prune_at(schema, item, false, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Whether any field has a default.
pub(super) fn has_defaults(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            map.contains_key("default")
                || map
                    .get("properties")
                    .and_then(Value::as_object)
                    .is_some_and(|p| p.values().any(has_defaults))
                || map.get("items").is_some_and(has_defaults)
                || map.get("additionalProperties").is_some_and(has_defaults)
        }
        _ => false,
    }
}

/// Fills in defaults.
pub(crate) fn defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            for (key, inner) in properties.into_iter().flatten() {
                let missing = match map.get(key) {
                    None => true,
                    Some(Value::Null) => !is(inner, "nullable"),
                    Some(_) => false,
                };
                if missing && let Some(default) = inner.get("default") {
                    map.insert(key.clone(), default.clone());
                }
                if let Some(value) = map.get_mut(key) {
                    defaults(inner, value);
                }
            }
            if let Some(inner) = schema.get("additionalProperties").filter(|a| a.is_object()) {
                let known = |key: &String| properties.is_some_and(|p| p.contains_key(key));
                map.iter_mut().filter(|(key, _)| !known(key)).for_each(|(_, value)| defaults(inner, value));
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                items.iter_mut().for_each(|item| defaults(inner, item));
            }
        }
        _ => {}
    }
}

/// The types of a schema, for merging.
pub(super) fn types(schema: &Value, preserve: bool) -> (SchemaSet, TypeId) {
    let mut builder = Builder { set: SchemaSet::default(), next: 0 };
    let meta = builder.meta();
    let mut fields: Vec<Field> = builder.fields(schema, true);
    fields.push(field("apiVersion", Node::plain(Shape::String)));
    fields.push(field("kind", Node::plain(Shape::String)));
    fields.push(field("metadata", Node::plain(Shape::Struct(meta))));
    let open = preserve || preserves(schema) || schema.is_null();
    let root = builder.add(fields, open, false);
    (builder.set, root)
}

fn field(name: &str, node: Node) -> Field {
    Field { name: name.to_owned().into(), required: false, number: (0, 0), node }
}

struct Builder {
    set: SchemaSet,
    next: u32,
}

impl Builder {
    fn add(&mut self, fields: Vec<Field>, open: bool, atomic: bool) -> TypeId {
        self.next += 1;
        let name = format!("custom.{}", self.next).into();
        self.set.add(StructType { name, fields, atomic, open, alias: None, kind: None })
    }

    /// Of the metadata: what is merged by keys.
    fn meta(&mut self) -> TypeId {
        let owner = self.add(vec![field("uid", Node::plain(Shape::String))], true, true);
        let text = || Box::new(Node::plain(Shape::String));
        let listed = |shape, list, keys: Vec<_>| Node {
            shape,
            merge: Some(Box::new(Merge { list: Some(list), keys, ..Merge::default() })),
        };
        let owners = Shape::List(Box::new(Node::plain(Shape::Struct(owner))));
        let fields = vec![
            field("labels", Node::plain(Shape::Map(text()))),
            field("annotations", Node::plain(Shape::Map(text()))),
            field("finalizers", listed(Shape::List(text()), ListType::Set, Vec::new())),
            field("ownerReferences", listed(owners, ListType::Map, vec!["uid".into()])),
        ];
        self.add(fields, true, false)
    }

    fn fields(&mut self, schema: &Value, root: bool) -> Vec<Field> {
        let properties = schema.get("properties").and_then(Value::as_object);
        let known = properties.into_iter().flatten().filter(|(k, _)| !root || !OWN.contains(&k.as_str()));
        known.map(|(key, inner)| field(key, self.node(inner))).collect()
    }

    fn node(&mut self, schema: &Value) -> Node {
        let mut merge = Merge {
            default: schema.get("default").cloned(),
            nullable: is(schema, "nullable"),
            ..Merge::default()
        };
        let shape = match text(schema, &["type"]) {
            _ if is(schema, "x-kubernetes-int-or-string") => Shape::IntOrString,
            "string" => Shape::String,
            "boolean" => Shape::Bool,
            "integer" => Shape::Int64,
            "number" => Shape::Number,
            "array" => {
                merge.list = match text(schema, &["x-kubernetes-list-type"]) {
                    "set" => Some(ListType::Set),
                    "map" => Some(ListType::Map),
                    "atomic" => Some(ListType::Atomic),
                    _ => None,
                };
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                let keys = keys.into_iter().flatten().filter_map(Value::as_str);
                merge.keys = keys.map(|k| k.to_owned().into()).collect();
                Shape::List(Box::new(schema.get("items").map_or(Node::plain(Shape::Any), |i| self.node(i))))
            }
            "object" => {
                merge.atomic = (text(schema, &["x-kubernetes-map-type"]) == "atomic").then_some(true);
                match schema.get("additionalProperties") {
                    Some(inner) if inner.is_object() => Shape::Map(Box::new(self.node(inner))),
                    Some(Value::Bool(true)) => Shape::Map(Box::new(Node::plain(Shape::Any))),
                    _ if schema.get("properties").is_none() => Shape::Any,
                    _ => {
                        let fields = self.fields(schema, false);
                        Shape::Struct(self.add(fields, preserves(schema), false))
                    }
                }
            }
            _ => Shape::Any,
        };
        Node { shape, merge: Some(Box::new(merge)) }
    }
}

/// Calls `visit` with every schema inside `schema`, itself first, and its path.
pub(super) fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for (key, inner) in properties {
        walk(inner, &format!("{path}.properties[{key}]"), visit);
    }
    for key in ["items", "additionalProperties", "not"] {
        if let Some(inner) = at(schema, &[key]).filter(|i| i.is_object()) {
            walk(inner, &format!("{path}.{key}"), visit);
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in schema.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
            walk(inner, &format!("{path}.{key}[{index}]"), visit);
        }
    }
}
