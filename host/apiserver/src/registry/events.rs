//! Events: one storage, served as `v1` and as `events.k8s.io/v1`.
//!
//! Source: `pkg/apis/events/v1/conversion.go`, `printEvent`, `ValidateEventCreate`.

use super::json::{number, text};
use super::{Column, Context, NAME_COLUMN, SelectableField, Strategy, at, since};
use orlop_apimachinery::field::{Path, invalid, required};
use orlop_apimachinery::names;
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
/// Longest action, reason and reporting instance of the new form.
const MOST_NAME: usize = 128;
/// Longest note of the new form.
const MOST_NOTE: usize = 1024;

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

/// What the new form asks for beyond the old one. Source: `ValidateEventCreate`.
fn strict_faults(event: &Value) -> Vec<Cause> {
    let mut faults = Vec::new();
    for (key, qualified) in
        [("reportingController", true), ("reportingInstance", false), ("action", false), ("reason", false)]
    {
        let (path, value) = (Path::new(key), text(event, &[key]));
        if value.is_empty() {
            faults.push(required(&path, ""));
        } else if qualified {
            faults.extend(names::qualified_name(value).iter().map(|why| invalid(&path, value, why)));
        } else if value.len() > MOST_NAME {
            faults.push(invalid(&path, "", &format!("can have at most {MOST_NAME} characters")));
        }
    }
    if text(event, &["note"]).len() > MOST_NOTE {
        faults.push(invalid(&Path::new("message"), "", &format!("can have at most {MOST_NOTE} characters")));
    }
    if text(event, &["eventTime"]).is_empty() {
        faults.push(required(&Path::new("eventTime"), ""));
    }
    let kind = text(event, &["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        faults.push(invalid(&Path::new("type"), "", &format!("has invalid value: {kind}")));
    }
    for (old, new) in
        [("firstTimestamp", "deprecatedFirstTimestamp"), ("lastTimestamp", "deprecatedLastTimestamp")]
    {
        if !text(event, &[new]).is_empty() {
            faults.push(invalid(&Path::new(old), "", "needs to be unset"));
        }
    }
    if number(event, &["deprecatedCount"]) != 0 {
        faults.push(invalid(&Path::new("count"), "", "needs to be unset"));
    }
    if ["component", "host"].iter().any(|key| !text(event, &["deprecatedSource", key]).is_empty()) {
        faults.push(invalid(&Path::new("source"), "", "needs to be unset"));
    }
    faults
}

impl Strategy for NewEvents {
    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = namespace_faults(object, "regarding");
        faults.extend(strict_faults(object));
        faults
    }

    fn validate_update(&self, _cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = namespace_faults(new, "regarding");
        for key in ["regarding", "reason", "type", "action", "reportingController", "reportingInstance"] {
            if new.get(key) != old.get(key) {
                let value = new.get(key).cloned().unwrap_or_default();
                faults.push(invalid(&Path::new(key), value, "field is immutable"));
            }
        }
        faults
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        NEW_FIELDS
    }

    fn stored_field<'n>(&self, name: &'n str) -> std::borrow::Cow<'n, str> {
        match name.strip_prefix("regarding.") {
            Some(rest) => format!("involvedObject.{rest}").into(),
            None if name == "reportingController" => "reportingComponent".into(),
            None => name.into(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;
    use serde_json::json;

    fn with<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
        let user = UserInfo::master("admin");
        f(&Context { now: "2026-01-01T01:00:00Z".parse().unwrap(), user: &user, random: 0 })
    }

    fn event() -> Value {
        json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
            "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Scheduled", "type": "Normal",
            "action": "Binding", "note": "done", "eventTime": "2026-01-01T00:59:50.000000Z",
            "reportingController": "default-scheduler", "reportingInstance": "n"})
    }

    #[test]
    fn both_forms_are_one_event() {
        let mut stored = event();
        NewEvents.to_storage(&mut stored);
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["involvedObject"]["name"], "p");
        assert_eq!(stored["message"], "done");
        let cells = with(|cx| Events.cells(cx, &stored));
        assert_eq!(
            cells[..5],
            [json!("10s"), json!("Normal"), json!("Scheduled"), json!("pod/p"), json!("")]
        );
        assert_eq!(cells, with(|cx| NewEvents.cells(cx, &event())));
        let mut again = stored;
        NewEvents.from_storage(&mut again);
        assert_eq!(again["regarding"], event()["regarding"]);
        assert_eq!(again["note"], "done");
    }

    #[test]
    fn the_new_form_is_strict() {
        assert_eq!(with(|cx| NewEvents.validate(cx, &event())), Vec::new());
        let mut bare = event();
        for key in ["action", "eventTime"] {
            bare.as_object_mut().unwrap().remove(key);
        }
        bare["deprecatedCount"] = 1.into();
        let faults = with(|cx| NewEvents.validate(cx, &bare));
        let faults: Vec<String> = faults.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
        assert_eq!(
            faults,
            [
                "action: Required value",
                "eventTime: Required value",
                "count: Invalid value: \"\": needs to be unset"
            ]
        );
        let mut elsewhere = event();
        elsewhere["metadata"]["namespace"] = "other".into();
        assert_eq!(
            with(|cx| NewEvents.validate(cx, &elsewhere))[0].message,
            "Invalid value: \"default\": does not match event.namespace"
        );
    }
}
