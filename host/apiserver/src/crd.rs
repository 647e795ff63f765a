//! Types that are defined at run time: `apiextensions.k8s.io/v1 CustomResourceDefinition`.
//!
//! The watch cache sees a definition, in revision order, and has its rows made here: one per served
//! version, like those of the built-in table. Rows live as long as the process; equal definitions
//! share them, so a definition that comes and goes costs nothing more.

pub(crate) mod controller;
pub(crate) mod definition;
pub(crate) mod json_path;
pub(crate) mod openapi;
pub(crate) mod strategy;
pub(crate) mod structural;
pub(crate) mod table;
pub(crate) mod validate;

use crate::registry::{Allocation, Backing, Gvk3, Resource, ScalePaths, Subresource, SubresourceKind, at};
use orlop_apimachinery::Gvr;
use orlop_apimachinery::schema::{SchemaSet, TypeId};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Group of definitions.
pub(crate) const GROUP: &str = "apiextensions.k8s.io";
/// Resource of definitions.
pub(crate) const RESOURCE: &str = "customresourcedefinitions";

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const TERMINATING: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const GET_PATCH_UPDATE: &[&str] = &["get", "patch", "update"];

/// What the machine knows of one version of a custom type.
#[derive(Debug)]
pub struct Custom {
    /// `openAPIV3Schema` as it was written.
    pub(crate) schema: Value,
    pub(crate) types: SchemaSet,
    pub(crate) root: TypeId,
    pub(crate) patterns: HashMap<String, regex::Regex>,
    /// Whether this is the form that is stored.
    pub(crate) storage: bool,
    /// Whether objects may be stored in another version, or by an earlier schema, or lack defaults.
    pub(crate) converts: bool,
    /// The definition is being deleted: nothing new is taken.
    pub(crate) terminating: bool,
    pub(crate) deprecation: Option<String>,
}

type Rows = &'static [&'static Resource];

static MADE: LazyLock<Mutex<HashMap<[u8; 32], Rows>>> = LazyLock::new(Mutex::default);

/// The rows of a definition; none where it is not established.
pub(crate) fn rows(definition: &Value) -> Rows {
    if !has_condition(definition, "Established") {
        return &[];
    }
    let Some(spec) = definition.get("spec") else { return &[] };
    let terminating = at(definition, &["metadata", "deletionTimestamp"]).is_some_and(|t| !t.is_null());
    let names = at(definition, &["status", "acceptedNames"]);
    // What is stored may be of an earlier schema.
    let evolved = at(definition, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(1) > 1;
    let mut hash = Sha256::new();
    hash.update([u8::from(terminating), u8::from(evolved)]);
    hash.update(spec.to_string());
    hash.update(names.unwrap_or(&Value::Null).to_string());
    let key: [u8; 32] = hash.finalize().into();
    let mut made = MADE.lock();
    if let Some(known) = made.get(&key) {
        return known;
    }
    let rows: Rows =
        Box::leak(make(spec, names.unwrap_or(&Value::Null), terminating, evolved).into_boxed_slice());
    made.insert(key, rows);
    rows
}

/// Whether a condition of the status is true.
pub(crate) fn has_condition(definition: &Value, kind: &str) -> bool {
    let list = at(definition, &["status", "conditions"]).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .any(|c| c.get("type").is_some_and(|t| t == kind) && c.get("status").is_some_and(|s| s == "True"))
}

/// Where instances are stored.
pub(crate) fn prefix(group: &str, plural: &str) -> String {
    format!("custom/{group}/{plural}")
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn leak_path(path: &str) -> &'static [&'static str] {
    let steps: Vec<&'static str> = path.split('.').filter(|s| !s.is_empty()).map(leak).collect();
    Box::leak(steps.into_boxed_slice())
}

fn leak_list(list: Option<&Value>) -> &'static [&'static str] {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    let items: Vec<&'static str> = items.filter_map(Value::as_str).map(leak).collect();
    Box::leak(items.into_boxed_slice())
}

pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The versions of a spec.
pub(crate) fn versions(spec: &Value) -> impl Iterator<Item = &Value> {
    spec.get("versions").and_then(Value::as_array).into_iter().flatten()
}

/// The name of the version that is stored.
pub(crate) fn storage_version(spec: &Value) -> &str {
    let found = versions(spec).find(|v| v.get("storage").is_some_and(|s| *s == true));
    found.map_or("", |v| text(v, &["name"]))
}

fn make(spec: &Value, names: &Value, terminating: bool, evolved: bool) -> Vec<&'static Resource> {
    let group = text(spec, &["group"]);
    let plural = text(names, &["plural"]);
    let stored = leak(&prefix(group, plural));
    let served = versions(spec).filter(|v| v.get("served").is_some_and(|s| *s == true));
    let mut served: Vec<&Value> = served.collect();
    served.sort_by_key(|v| Reverse(priority(text(v, &["name"]))));
    let many = versions(spec).count() > 1;
    let rows = served.into_iter().map(|version| {
        let name = text(version, &["name"]);
        let kind = leak(text(names, &["kind"]));
        let schema = at(version, &["schema", "openAPIV3Schema"]).cloned().unwrap_or_default();
        let preserve = spec.get("preserveUnknownFields").is_some_and(|p| *p == true);
        let built = structural::types(&schema, preserve);
        let deprecation = version.get("deprecated").is_some_and(|d| *d == true).then(|| {
            let own = text(version, &["deprecationWarning"]);
            if own.is_empty() { format!("{group}/{name} {kind} is deprecated") } else { own.to_owned() }
        });
        let custom: &'static Custom = Box::leak(Box::new(Custom {
            converts: many || evolved || structural::has_defaults(&schema),
            patterns: validate::patterns(&schema),
            types: built.0,
            root: built.1,
            storage: version.get("storage").is_some_and(|s| *s == true),
            terminating,
            deprecation,
            schema,
        }));
        let strategy: &'static strategy::Instances =
            Box::leak(Box::new(strategy::Instances::new(custom, version)));
        let row: &'static Resource = Box::leak(Box::new(Resource {
            gvr: Gvr {
                group: group.to_owned().into(),
                version: name.to_owned().into(),
                resource: plural.to_owned().into(),
            },
            kind,
            singular: leak(text(names, &["singular"])),
            short_names: leak_list(names.get("shortNames")),
            categories: leak_list(names.get("categories")),
            namespaced: text(spec, &["scope"]) == "Namespaced",
            verbs: if terminating { TERMINATING } else { ALL },
            backing: Backing::Stored(stored),
            strategy,
            subresources: subresources(version, kind),
            allocation: Allocation::None,
            custom: Some(custom),
        }));
        row
    });
    rows.collect()
}

fn subresources(version: &Value, kind: &'static str) -> &'static [Subresource] {
    let mut out = Vec::new();
    if at(version, &["subresources", "status"]).is_some() {
        out.push(Subresource {
            name: "status",
            kind: SubresourceKind::Status,
            object_kind: Gvk3("", "", kind),
            verbs: GET_PATCH_UPDATE,
        });
    }
    if let Some(scale) = at(version, &["subresources", "scale"]) {
        let path = |key: &str| leak_path(text(scale, &[key]));
        out.push(Subresource {
            name: "scale",
            kind: SubresourceKind::Scale(ScalePaths {
                spec_replicas: path("specReplicasPath"),
                status_replicas: path("statusReplicasPath"),
                selector: path("labelSelectorPath"),
                selector_is_map: false,
            }),
            object_kind: Gvk3("autoscaling", "v1", "Scale"),
            verbs: GET_PATCH_UPDATE,
        });
    }
    Box::leak(out.into_boxed_slice())
}

/// How versions are ordered: `v2` before `v1` before `v1beta1` before `v1alpha1` before the others.
fn priority(version: &str) -> (u8, u64, u64, Reverse<String>) {
    let other = (0, 0, 0, Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, rest) = rest.split_at(digits);
    let Ok(major) = major.parse() else { return other };
    let none = Reverse(String::new());
    for (word, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some(minor) = rest.strip_prefix(word) {
            return minor.parse().map_or(other, |minor| (rank, major, minor, none));
        }
    }
    if rest.is_empty() { (3, major, 0, none) } else { other }
}
