//! Events: one storage, served as `v1` and as `events.k8s.io/v1`.
//!
//! Source: `pkg/apis/events/v1/conversion.go`, `printEvent`, `ValidateEventCreate`.

use super::json::{number, text};
use super::{Column, Context, NAME_COLUMN, SelectableField, Strategy, at, since};
use orlop_apimachinery::field::{Path, invalid};
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Value};

/// The strategy of `v1` events, the stored form.
#[derive(Debug)]
pub(super) struct Events;

/// The strategy of `events.k8s.io/v1` events.
#[derive(Debug)]
pub(super) struct NewEvents;

/// Seconds that an event is kept.
const TTL: u64 = 3600;

const COLUMNS: &[Column] = &[
    Column::new("Last Seen", "Time when this event was last observed"),
    Column::new("Type", "Type of this event (Normal, Warning), new types could be added in the future"),
    Column::new("Reason", "The reason for the transition into the object's current status."),
    Column::new("Object", "The object that this event is about."),
    Column::new("Subobject", "The part of the object that this event is about.").wide(),
    Column::new("Source", "The component reporting this event.").wide(),
    Column::new("Message", "A human-readable description of the status of this operation."),
    Column::new("First Seen", "Time when this event was first observed").wide(),
    Column::new("Count", "The number of times this event has occurred.").typed("string").wide(),
    Column { name: "Name", priority: 1, ..NAME_COLUMN },
];

const FIELDS: &[SelectableField] = &[
    SelectableField::new("involvedObject.kind", &[&["involvedObject", "kind"]]),
    SelectableField::new("involvedObject.namespace", &[&["involvedObject", "namespace"]]),
    SelectableField::new("involvedObject.name", &[&["involvedObject", "name"]]),
    SelectableField::new("involvedObject.uid", &[&["involvedObject", "uid"]]),
    SelectableField::new("involvedObject.apiVersion", &[&["involvedObject", "apiVersion"]]),
    SelectableField::new("involvedObject.resourceVersion", &[&["involvedObject", "resourceVersion"]]),
    SelectableField::new("involvedObject.fieldPath", &[&["involvedObject", "fieldPath"]]),
    SelectableField::new("reason", &[&["reason"]]),
    SelectableField::new("reportingComponent", &[&["reportingComponent"], &["source", "component"]]),
    SelectableField::new("source", &[&["source", "component"], &["reportingComponent"]]),
    SelectableField::new("type", &[&["type"]]),
];

const NEW_FIELDS: &[SelectableField] = &[
    SelectableField::new("regarding.kind", &[&["regarding", "kind"]]),
    SelectableField::new("regarding.namespace", &[&["regarding", "namespace"]]),
    SelectableField::new("regarding.name", &[&["regarding", "name"]]),
    SelectableField::new("regarding.uid", &[&["regarding", "uid"]]),
    SelectableField::new("regarding.apiVersion", &[&["regarding", "apiVersion"]]),
    SelectableField::new("regarding.resourceVersion", &[&["regarding", "resourceVersion"]]),
    SelectableField::new("regarding.fieldPath", &[&["regarding", "fieldPath"]]),
    SelectableField::new("reason", &[&["reason"]]),
    SelectableField::new("reportingController", &[&["reportingController"]]),
    SelectableField::new("type", &[&["type"]]),
];

/// Name in `v1`, name in `events.k8s.io/v1`.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename<'a>(object: &mut Value, pairs: impl Iterator<Item = (&'a str, &'a str)>, api_version: &str) {
    let Some(map) = object.as_object_mut() else { return };
    for (from, to) in pairs {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
    map.insert("apiVersion".into(), api_version.into());
}

/// A namespaced object's events are in its namespace, a cluster-scoped one's in `default`.
fn namespace_faults(object: &Value, regarding: &str) -> Vec<Cause> {
    let own = text(object, &["metadata", "namespace"]);
    let of_object = text(object, &[regarding, "namespace"]);
    let fits =
        if of_object.is_empty() { matches!(own, "" | "default" | "kube-system") } else { own == of_object };
    if fits {
        return Vec::new();
    }
    vec![invalid(&Path::new(regarding).child("namespace"), of_object, "does not match event.namespace")]
}

fn cells(cx: &Context<'_>, event: &Value) -> Vec<Value> {
    let time = |key: &str| event.get(key).filter(|t| t.as_str().is_some_and(|t| !t.is_empty()));
    let series = at(event, &["series"]).filter(|s| !s.is_null());
    let first = time("firstTimestamp").or_else(|| time("eventTime"));
    let last = series.and_then(|s| s.get("lastObservedTime")).or_else(|| time("lastTimestamp")).or(first);
    let count = match series {
        Some(series) => number(series, &["count"]),
        None => number(event, &["count"]).max(1),
    };
    let object = |kind: &str, name: &str| -> Value {
        if name.is_empty() {
            kind.to_lowercase().into()
        } else {
            format!("{}/{name}", kind.to_lowercase()).into()
        }
    };
    let component = match text(event, &["source", "component"]) {
        "" => text(event, &["reportingComponent"]),
        component => component,
    };
    let host = match text(event, &["source", "host"]) {
        "" => text(event, &["reportingInstance"]),
        host => host,
    };
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        since(cx, last).into(),
        text(event, &["type"]).into(),
        text(event, &["reason"]).into(),
        object(text(event, &["involvedObject", "kind"]), text(event, &["involvedObject", "name"])),
        text(event, &["involvedObject", "fieldPath"]).into(),
        source.into(),
        text(event, &["message"]).trim().into(),
        since(cx, first).into(),
        count.to_string().into(),
        text(event, &["metadata", "name"]).into(),
    ]
}

impl Strategy for Events {
    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        namespace_faults(object, "involvedObject")
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        cells(cx, object)
    }

    fn ttl(&self) -> Option<u64> {
        Some(TTL)
    }
}

impl Strategy for NewEvents {
    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        namespace_faults(object, "regarding")
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        NEW_FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let mut stored = object.clone();
        self.to_storage(&mut stored);
        cells(cx, &stored)
    }

    fn from_storage(&self, object: &mut Value) {
        rename(object, RENAMED.iter().copied(), "events.k8s.io/v1");
    }

    fn to_storage(&self, object: &mut Value) {
        rename(object, RENAMED.iter().map(|(old, new)| (*new, *old)), "v1");
        if let Some(map) = object.as_object_mut() {
            map.entry("source").or_insert_with(|| Map::new().into());
        }
    }

    fn ttl(&self) -> Option<u64> {
        Some(TTL)
    }
}
