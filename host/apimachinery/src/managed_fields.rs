//! `metadata.managedFields`: who set which field, kept up on every write.
//!
//! Source: `k8s.io/apimachinery/pkg/util/managedfields` and `sigs.k8s.io/structured-merge-diff`.
//! Objects of other versions than the entry's are not converted: the types served here have one
//! version each, or versions with the same fields.

use crate::schema::{SchemaSet, TypeId};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

pub mod compare;
pub mod field_set;
pub mod typed;

pub use compare::{Comparison, compare};
pub use field_set::{FieldSet, PathElement};

/// Most managers of plain updates; the oldest beyond are summed up as `ancient-changes`.
const MOST_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Who writes, how and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or the first part of the user agent.
    pub manager: &'a str,
    /// `status`, `scale` …; empty for the object itself.
    pub subresource: &'a str,
    /// Of the object in the request, such as `apps/v1`.
    pub api_version: &'a str,
    /// RFC 3339 with seconds.
    pub now: &'a str,
}

/// Why entries cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManagedFieldsError {
    /// `fieldsV1` or a path in it has another shape. Answered 400 for a client's entries.
    #[error("error decoding managed fields: {0}")]
    Malformed(String),
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Name of the manager.
    pub manager: String,
    /// Whether it applies (and not updates).
    pub applies: bool,
    /// `apps/v1`
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// RFC 3339; empty for none.
    pub time: String,
    /// What it owns.
    pub fields: FieldSet,
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managed {
    /// In no particular order until encoded.
    pub entries: Vec<Entry>,
}

impl Entry {
    fn is(&self, writer: &Writer<'_>, applies: bool) -> bool {
        self.manager == writer.manager
            && self.applies == applies
            && self.subresource == writer.subresource
            && (applies || self.api_version == writer.api_version)
    }
}

impl Managed {
    /// Reads the entries of an object.
    ///
    /// # Errors
    /// [`ManagedFieldsError::Malformed`]
    pub fn decode(object: &Value) -> Result<Self, ManagedFieldsError> {
        let list = object.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array);
        let mut entries: Vec<Entry> = Vec::new();
        for entry in list.into_iter().flatten() {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let applies = match text("operation").as_str() {
                "Apply" => true,
                "Update" => false,
                other => {
                    return Err(ManagedFieldsError::Malformed(format!("invalid operation: {other:?}")));
                }
            };
            let fields = match entry.get("fieldsV1") {
                Some(fields) => FieldSet::from_value(fields)?,
                None => FieldSet::default(),
            };
            let entry = Entry {
                manager: text("manager"),
                applies,
                api_version: text("apiVersion"),
                subresource: text("subresource"),
                time: text("time"),
                fields,
            };
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// Writes the entries into an object, or takes the field away where there are none.
    pub fn encode(mut self, object: &mut Value) {
        self.entries.retain(|e| !e.fields.is_empty());
        self.cap();
        self.entries.sort_by(|a, b| {
            let key = |e: &Entry| {
                (!e.applies, e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone())
            };
            key(a).cmp(&key(b))
        });
        let list: Vec<Value> = self
            .entries
            .iter()
            .map(|entry| {
                let mut value = Map::new();
                value.insert("manager".into(), entry.manager.as_str().into());
                value.insert("operation".into(), if entry.applies { "Apply" } else { "Update" }.into());
                value.insert("apiVersion".into(), entry.api_version.as_str().into());
                if !entry.time.is_empty() {
                    value.insert("time".into(), entry.time.as_str().into());
                }
                value.insert("fieldsType".into(), "FieldsV1".into());
                value.insert("fieldsV1".into(), entry.fields.to_value());
                if !entry.subresource.is_empty() {
                    value.insert("subresource".into(), entry.subresource.as_str().into());
                }
                Value::Object(value)
            })
            .collect();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            if list.is_empty() {
                metadata.remove("managedFields");
            } else {
                metadata.insert("managedFields".into(), list.into());
            }
        }
    }

    /// Sums up the oldest update managers where there are too many.
    fn cap(&mut self) {
        let count = self.entries.iter().filter(|e| !e.applies).count();
        if count <= MOST_UPDATE_MANAGERS {
            return;
        }
        let (mut updates, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(|e| !e.applies);
        updates.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
        self.entries = rest;
        let mut excess = count - MOST_UPDATE_MANAGERS + 1;
        for entry in updates {
            let bucket = self.entries.iter_mut().find(|e| {
                e.manager == ANCIENT
                    && !e.applies
                    && e.api_version == entry.api_version
                    && e.subresource == entry.subresource
            });
            match bucket {
                Some(bucket) if excess > 0 => {
                    excess -= 1;
                    bucket.fields = bucket.fields.union(&entry.fields);
                    bucket.time = bucket.time.clone().max(entry.time);
                }
                None if excess > 0 => {
                    excess -= 1;
                    self.entries.push(Entry { manager: ANCIENT.to_owned(), ..entry });
                }
                _ => self.entries.push(entry),
            }
        }
    }

    /// Takes what changed from everybody's sets, and drops managers that have nothing left.
    pub(crate) fn release(&mut self, comparison: &Comparison, keep: Option<usize>) {
        for (at, entry) in self.entries.iter_mut().enumerate() {
            if keep != Some(at) {
                for gone in [&comparison.modified, &comparison.added, &comparison.removed] {
                    entry.fields.subtract(gone, false);
                }
            }
        }
    }

    pub(crate) fn position(&self, writer: &Writer<'_>, applies: bool) -> Option<usize> {
        self.entries.iter().position(|e| e.is(writer, applies))
    }
}

/// Paths that nobody manages.
pub(crate) static STRIPPED: LazyLock<FieldSet> = LazyLock::new(|| {
    let mut set = FieldSet::default();
    for path in [&["apiVersion"][..], &["kind"], &["metadata"]] {
        set.insert_fields(path);
    }
    for field in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.insert_fields(&["metadata", field]);
    }
    set
});

/// A copy without `metadata.managedFields`.
pub(crate) fn without_managed(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// `managedFields: [{}]` asks to forget everything.
fn is_reset(object: &Value) -> bool {
    let list = object.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array);
    matches!(list.map(Vec::as_slice), Some([only]) if *only == json!({}))
}

/// Records a create, update or non-apply patch: sets `metadata.managedFields` of `new`.
///
/// `live` is the stored object, `None` for a create. `reset` are fields that this endpoint does
/// not let its callers own. Entries that the client sent along count on the main endpoint, those
/// of `live` otherwise; entries that cannot be read are forgotten, as upstream.
pub fn track_update(
    set: &SchemaSet,
    id: TypeId,
    live: Option<&Value>,
    new: &mut Value,
    writer: &Writer<'_>,
    reset: Option<&FieldSet>,
) {
    let stored = || live.map(|live| Managed::decode(live).unwrap_or_default()).unwrap_or_default();
    let mut managed = if !writer.subresource.is_empty() {
        stored()
    } else if is_reset(new) {
        Managed::default()
    } else {
        match Managed::decode(new) {
            Ok(managed) if !managed.entries.is_empty() => managed,
            _ => stored(),
        }
    };
    let empty = json!({});
    let comparison = compare(set, id, live.unwrap_or(&empty), new).without(&STRIPPED, reset);
    let own = managed.position(writer, false);
    managed.release(&comparison, own);
    let Comparison { removed, modified, added } = comparison;
    let taken = modified.join(added);
    match own.and_then(|at| managed.entries.get_mut(at)) {
        Some(entry) => {
            let fields = entry.fields.difference(&removed).union(&taken);
            if fields != entry.fields || !taken.is_empty() {
                entry.fields = fields;
                writer.now.clone_into(&mut entry.time);
            }
        }
        None if !taken.is_empty() => managed.entries.push(Entry {
            manager: writer.manager.to_owned(),
            applies: false,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: writer.now.to_owned(),
            fields: taken,
        }),
        None => {}
    }
    managed.encode(new);
}
