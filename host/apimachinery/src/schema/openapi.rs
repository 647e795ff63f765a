//! Renders types as OpenAPI v3 component schemas or v2 definitions.
//!
//! Nothing is kept: a document is rendered when it is asked for, from the set and the embedded
//! descriptions.

use super::{Kind, ListType, Node, SchemaSet, Shape, StructType, TypeId};
use crate::gvk::Gvk;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};

/// Which dialect to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `#/definitions/…`
    V2,
    /// `#/components/schemas/…`
    V3,
}

/// Descriptions of types and fields, indexed by type for as long as this lives.
#[derive(Debug, Default)]
pub struct Docs {
    /// Full type name → its block: the type's own text, then one line per field.
    blocks: HashMap<String, &'static str>,
}

impl Docs {
    /// Indexes documentation files in the format of `tools/schemagen`.
    #[must_use]
    pub fn index(files: &[&'static str]) -> Self {
        let mut blocks = HashMap::new();
        for file in files {
            let mut package = "";
            let mut open: Option<(String, usize)> = None;
            let mut offset = 0;
            for line in file.split_inclusive('\n') {
                let next = offset + line.len();
                let head = line.strip_prefix("= ");
                let named = line.strip_prefix("package ").map(str::trim_end);
                if head.is_some() || named.is_some() {
                    if let Some((name, from)) = open.take() {
                        blocks.insert(name, file.get(from..offset).unwrap_or_default());
                    }
                    package = named.unwrap_or(package);
                    if let Some(name) = head.and_then(|h| h.split('\t').next()) {
                        open = Some((format!("{package}.{name}"), offset + "= ".len() + name.len() + 1));
                    }
                }
                offset = next;
            }
            if let Some((name, from)) = open {
                blocks.insert(name, file.get(from..).unwrap_or_default());
            }
        }
        Self { blocks }
    }

    fn of_type(&self, name: &str) -> String {
        unescape(self.blocks.get(name).and_then(|b| b.lines().next()).unwrap_or_default())
    }

    fn of_fields(&self, name: &str) -> HashMap<&'static str, &'static str> {
        let lines = self.blocks.get(name).into_iter().flat_map(|block| block.lines().skip(1));
        lines.filter_map(|line| line.split_once('\t')).collect()
    }
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some('t') => plain.push('\t'),
                Some(other) => plain.push(other),
                None => {}
            },
            _ => plain.push(c),
        }
    }
    plain
}

/// The schemas of `roots` and of everything that they refer to, by full name (`io.k8s.…`).
#[must_use]
pub fn schemas(
    set: &SchemaSet,
    docs: &Docs,
    roots: impl IntoIterator<Item = TypeId>,
    dialect: Dialect,
) -> Map<String, Value> {
    let mut queue: Vec<TypeId> = roots.into_iter().collect();
    let mut seen: BTreeSet<TypeId> = queue.iter().copied().collect();
    let mut rendered = Map::new();
    while let Some(id) = queue.pop() {
        let Some(one) = set.get(id) else { continue };
        let mut on_reference = |other: TypeId| {
            if seen.insert(other) {
                queue.push(other);
            }
        };
        let value = Renderer { set, dialect, on_reference: &mut on_reference }.definition(one, docs);
        rendered.insert(full_name(&one.name), value);
    }
    rendered
}

/// `io.k8s.api.core.v1.Pod`; types of other projects keep their own name.
#[must_use]
pub fn full_name(name: &str) -> String {
    let ours = ["api.", "apimachinery.", "apiextensions-apiserver.", "kube-aggregator."];
    if ours.iter().any(|prefix| name.starts_with(prefix)) {
        format!("io.k8s.{name}")
    } else {
        name.to_owned()
    }
}

/// Where special types that fields hold by value are defined in OpenAPI.
const TIME: &str = "apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "apimachinery.pkg.apis.meta.v1.MicroTime";
const QUANTITY: &str = "apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "apimachinery.pkg.util.intstr.IntOrString";

struct Renderer<'a, F> {
    set: &'a SchemaSet,
    dialect: Dialect,
    on_reference: &'a mut F,
}

impl<F: FnMut(TypeId)> Renderer<'_, F> {
    fn definition(&mut self, one: &StructType, docs: &Docs) -> Value {
        let mut schema = Map::new();
        let description = docs.of_type(&one.name);
        if !description.is_empty() {
            schema.insert("description".into(), description.into());
        }
        if let Some(alias) = &one.alias {
            schema.extend(self.alias(&one.name, alias));
            return schema.into();
        }
        schema.insert("type".into(), "object".into());
        if one.open {
            schema.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
        }
        let texts = docs.of_fields(&one.name);
        let mut properties = Map::new();
        for field in &one.fields {
            let text = texts.get(field.name.as_ref()).map(|t| unescape(t)).unwrap_or_default();
            properties.insert(field.name.to_string(), self.property(&field.node, text));
        }
        if !properties.is_empty() {
            schema.insert("properties".into(), properties.into());
        }
        let required: Vec<Value> =
            one.fields.iter().filter(|f| f.required).map(|f| f.name.as_ref().into()).collect();
        if !required.is_empty() {
            schema.insert("required".into(), required.into());
        }
        if let Some(kind) = &one.kind {
            schema.insert("x-kubernetes-group-version-kind".into(), kinds(kind));
        }
        if one.atomic {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        schema.into()
    }

    fn alias(&mut self, name: &str, alias: &Shape) -> Map<String, Value> {
        let value = match (alias, self.dialect) {
            (Shape::Quantity, Dialect::V2) => json!({"type": "string"}),
            (Shape::Quantity, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            (Shape::IntOrString, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
            (Shape::IntOrString, Dialect::V3) => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            (Shape::Time | Shape::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
            (Shape::Any, _) if name.starts_with("apimachinery.") => json!({"type": "object"}),
            (other, _) => self.shape(other),
        };
        value.as_object().cloned().unwrap_or_default()
    }

    fn property(&mut self, node: &Node, description: String) -> Value {
        let mut schema = self.shape(&node.shape);
        // In v3 a reference must stand alone, so that its siblings count.
        if self.dialect == Dialect::V3 && schema.get("$ref").is_some() {
            schema = json!({"allOf": [schema]});
        }
        let Some(object) = schema.as_object_mut() else { return schema };
        if !description.is_empty() {
            object.insert("description".into(), description.into());
        }
        let merge = node.merge();
        if let Some(default) = &merge.default {
            object.insert("default".into(), default.clone());
        } else if self.dialect == Dialect::V3 && object.contains_key("allOf") && is_by_value(&node.shape) {
            object.insert("default".into(), json!({}));
        }
        let mut strategies = Vec::new();
        if merge.patch_merge {
            strategies.push("merge");
        }
        if merge.patch_replace {
            strategies.push("replace");
        }
        if merge.retain_keys {
            strategies.push("retainKeys");
        }
        if !strategies.is_empty() {
            object.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
        }
        if let Some(key) = &merge.merge_key {
            object.insert("x-kubernetes-patch-merge-key".into(), key.as_ref().into());
        }
        if let Some(list) = merge.list {
            let list = match list {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            object.insert("x-kubernetes-list-type".into(), list.into());
        }
        if !merge.keys.is_empty() {
            let keys: Vec<Value> = merge.keys.iter().map(|k| k.as_ref().into()).collect();
            object.insert("x-kubernetes-list-map-keys".into(), keys.into());
        }
        if let Some(atomic) = merge.atomic {
            let map = if atomic { "atomic" } else { "granular" };
            object.insert("x-kubernetes-map-type".into(), map.into());
        }
        if merge.nullable {
            object.insert("nullable".into(), true.into());
        }
        schema
    }

    fn reference(&mut self, name: &str) -> Value {
        if let Some(id) = self.set.by_name(name) {
            (self.on_reference)(id);
        }
        let base = if self.dialect == Dialect::V2 { "#/definitions/" } else { "#/components/schemas/" };
        json!({"$ref": format!("{base}{}", full_name(name))})
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::Any => json!({}),
            Shape::String => json!({"type": "string"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Number => json!({"type": "number", "format": "double"}),
            Shape::Time => self.reference(TIME),
            Shape::MicroTime => self.reference(MICRO_TIME),
            Shape::Quantity => self.reference(QUANTITY),
            Shape::IntOrString => self.reference(INT_OR_STRING),
            Shape::List(item) => json!({"type": "array", "items": self.property(item, String::new())}),
            Shape::Map(item) => {
                json!({"type": "object", "additionalProperties": self.property(item, String::new())})
            }
            Shape::Struct(id) => match self.set.get(*id) {
                Some(one) => self.reference(&one.name),
                None => json!({}),
            },
        }
    }
}

/// Go structs held by value default to `{}` in upstream's documents.
fn is_by_value(shape: &Shape) -> bool {
    matches!(shape, Shape::Struct(_))
}

fn kinds(kind: &Kind) -> Value {
    let gvk: &Gvk = &kind.gvk;
    json!([{"group": gvk.group, "kind": gvk.kind, "version": gvk.version}])
}
