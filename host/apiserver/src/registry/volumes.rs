//! PersistentVolumes, and what claims share with them.
//!
//! Source: `pkg/registry/core/persistentvolume`, `ValidatePersistentVolume`.

use super::json::{items, number, set_text, text};
use super::pod_spec::placement::node_selector;
use super::{AGE_COLUMN, Column, Context, NAME_COLUMN, SelectableField, Strategy, age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, forbidden, invalid, not_supported, required};
use orlop_apimachinery::names;
use orlop_apimachinery::quantity::Quantity;
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// The strategy of persistentvolumes.
#[derive(Debug)]
pub(super) struct Volumes;

const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Capacity", "capacity is the description of the persistent volume's resources and capacity."),
    Column::new("Access Modes", "accessModes contains all ways the volume can be mounted."),
    Column::new(
        "Reclaim Policy",
        "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim.",
    ),
    Column::new("Status", "phase indicates if a volume is available, bound to a claim, or released by a claim."),
    Column::new("Claim", "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim."),
    Column::new("StorageClass", "StorageClass of the pv"),
    Column::new("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
    Column::new("Reason", "reason is a brief CamelCase string that describes any failure."),
    AGE_COLUMN,
    Column::new("VolumeMode", "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state.").wide(),
];

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const NO_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// `RWO,ROX`
pub(super) fn mode_letters(modes: &[Value]) -> String {
    let has = |mode: &str| modes.iter().any(|m| m == mode);
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    short.into_iter().filter(|(mode, _)| has(mode)).map(|(_, s)| s).collect::<Vec<_>>().join(",")
}

pub(super) fn access_modes(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let path = path.child("accessModes");
    let modes = items(spec, &["accessModes"]);
    for mode in modes {
        if !mode.as_str().is_some_and(|m| MODES.contains(&m)) {
            faults.push(not_supported(&path, mode.clone(), &MODES));
        }
    }
    if modes.len() > 1 && modes.iter().any(|m| m == "ReadWriteOncePod") {
        faults.push(forbidden(&path, "may not use ReadWriteOncePod with other access modes"));
    }
}

pub(super) fn storage_class(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    for key in ["storageClassName", "volumeAttributesClassName"] {
        let class = text(spec, &[key]);
        if !class.is_empty() {
            let why = names::dns1123_subdomain(class);
            faults.extend(why.iter().map(|why| invalid(&path.child(key), class, why)));
        }
    }
}

/// The text at `key`, where there is one, must be among `allowed`.
pub(super) fn one_of(spec: &Value, key: &str, allowed: &[&str], path: &Path, faults: &mut Vec<Cause>) {
    let value = text(spec, &[key]);
    if !value.is_empty() && !allowed.contains(&value) {
        faults.push(not_supported(&path.child(key), value, allowed));
    }
}

/// A quantity above zero.
pub(super) fn positive(value: &str, path: &Path, faults: &mut Vec<Cause>) {
    if Quantity::parse(value).is_ok_and(|q| q.signum() <= 0) {
        faults.push(invalid(path, value, "must be greater than zero"));
    }
}

/// Names of the fields that say where the volume is.
fn sources(spec: &Value) -> Vec<&str> {
    let fields = spec.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null());
    fields.map(|(key, _)| key.as_str()).filter(|key| !NO_SOURCES.contains(key)).collect()
}

/// Faults of a volume's spec; `inline` is the spec inside a VolumeAttachment.
pub(super) fn volume_spec(spec: &Value, inline: bool, path: &Path) -> Vec<Cause> {
    let mut faults = Vec::new();
    if items(spec, &["accessModes"]).is_empty() {
        faults.push(required(&path.child("accessModes"), ""));
    }
    access_modes(spec, path, &mut faults);
    if !inline {
        let capacity = spec.get("capacity").and_then(Value::as_object);
        let at_capacity = path.child("capacity");
        match capacity.filter(|c| !c.is_empty()) {
            None => faults.push(required(&at_capacity, "")),
            Some(capacity) if capacity.len() > 1 || !capacity.contains_key("storage") => {
                faults.push(not_supported(&at_capacity, Value::Object(capacity.clone()), &["storage"]));
            }
            Some(_) => {
                positive(text(spec, &["capacity", "storage"]), &at_capacity.key("storage"), &mut faults);
            }
        }
        one_of(spec, "persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], path, &mut faults);
    }
    let sources = sources(spec);
    match sources.as_slice() {
        [] => faults.push(required(path, "must specify a volume type")),
        [_] => {}
        [_, others @ ..] => {
            let more =
                others.iter().map(|o| forbidden(&path.child(o), "may not specify more than 1 volume type"));
            faults.extend(more);
        }
    }
    source_faults(spec, path, &mut faults);
    let affinity = at(spec, &["nodeAffinity", "required"]);
    let at_affinity = path.child("nodeAffinity");
    match affinity {
        Some(selector) => node_selector(selector, &at_affinity.child("required"), &mut faults),
        None if spec.get("nodeAffinity").is_some_and(Value::is_object) => {
            faults.push(required(&at_affinity.child("required"), "must specify required node constraints"));
        }
        None if sources.contains(&"local") => {
            let at = Path::new("metadata").child("annotations");
            faults.push(required(&at, "Local volume requires node affinity"));
        }
        None => {}
    }
    storage_class(spec, path, &mut faults);
    one_of(spec, "volumeMode", &["Block", "Filesystem"], path, &mut faults);
    faults
}

/// The sources that this cluster can mount are looked at closely.
fn source_faults(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let mut needs = |source: &str, keys: &[&str]| {
        if spec.get(source).is_none_or(Value::is_null) {
            return;
        }
        for key in keys.iter().filter(|key| text(spec, &[source, key]).is_empty()) {
            faults.push(required(&path.child(source).child(key), ""));
        }
    };
    needs("hostPath", &["path"]);
    needs("local", &["path"]);
    needs("nfs", &["server", "path"]);
    needs("csi", &["driver", "volumeHandle"]);
    for source in ["hostPath", "local"] {
        let value = text(spec, &[source, "path"]);
        if value.split('/').any(|part| part == "..") {
            faults.push(invalid(&path.child(source).child("path"), value, "must not contain '..'"));
        }
    }
    if text(spec, &["hostPath", "path"]) == "/" && text(spec, &["persistentVolumeReclaimPolicy"]) == "Recycle"
    {
        let at = path.child("persistentVolumeReclaimPolicy");
        faults.push(forbidden(&at, "may not be 'recycle' for a hostPath mount of '/'"));
    }
}

impl Strategy for Volumes {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
        set_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_text(spec, "volumeMode", "Filesystem");
        if let Some(path) = spec.get_mut("hostPath").and_then(Value::as_object_mut) {
            super::json::set_default(path, "type", "");
        }
    }

    fn prepare_for_create(&self, cx: &Context<'_>, object: &mut Value) {
        let now = crate::core::rfc3339(cx.now);
        object["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": now});
    }

    fn prepare_for_status_update(&self, cx: &Context<'_>, new: &mut Value, old: &Value) {
        super::keep_only_status(new, old);
        let changed = text(new, &["status", "phase"]) != text(old, &["status", "phase"]);
        let untold = at(new, &["status", "lastPhaseTransitionTime"])
            == at(old, &["status", "lastPhaseTransitionTime"]);
        if let (true, true, Some(status)) =
            (changed, untold, new.get_mut("status").and_then(Value::as_object_mut))
        {
            status.insert("lastPhaseTransitionTime".to_owned(), crate::core::rfc3339(cx.now).into());
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        volume_spec(object.get("spec").unwrap_or(&Value::Null), false, &Path::new("spec"))
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        let none = Value::Null;
        let (spec, before) = (new.get("spec").unwrap_or(&none), old.get("spec").unwrap_or(&none));
        let source =
            |spec: &Value| sources(spec).into_iter().map(|s| spec.get(s).cloned()).collect::<Vec<_>>();
        let path = Path::new("spec");
        if source(spec) != source(before) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            faults.push(forbidden(&path.child("persistentvolumesource"), detail));
        }
        if spec.get("volumeMode") != before.get("volumeMode") {
            faults.push(invalid(
                &path.child("volumeMode"),
                text(spec, &["volumeMode"]),
                "field is immutable",
            ));
        }
        let affinity = before.get("nodeAffinity").filter(|a| !a.is_null());
        if affinity.is_some() && spec.get("nodeAffinity") != affinity {
            let value = spec.get("nodeAffinity").cloned().unwrap_or_default();
            faults.push(invalid(&path.child("nodeAffinity"), value, "field is immutable"));
        }
        faults
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const { &[SelectableField::new("name", &[&["metadata", "name"]])] }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let deleted = at(object, &["metadata", "deletionTimestamp"]).is_some();
        let or_unset =
            |value: &str| -> Value { if value.is_empty() { "<unset>".into() } else { value.into() } };
        let claim = match text(object, &["spec", "claimRef", "name"]) {
            "" => String::new(),
            name => format!("{}/{name}", text(object, &["spec", "claimRef", "namespace"])),
        };
        let class =
            match text(object, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
                "" => text(object, &["spec", "storageClassName"]),
                class => class,
            };
        vec![
            name_cell(object),
            text(object, &["spec", "capacity", "storage"]).into(),
            mode_letters(items(object, &["spec", "accessModes"])).into(),
            text(object, &["spec", "persistentVolumeReclaimPolicy"]).into(),
            if deleted { "Terminating" } else { text(object, &["status", "phase"]) }.into(),
            claim.into(),
            class.into(),
            or_unset(text(object, &["spec", "volumeAttributesClassName"])),
            text(object, &["status", "reason"]).into(),
            age_cell(cx, object),
            or_unset(text(object, &["spec", "volumeMode"])),
        ]
    }
}

/// Whole numbers that may not be below zero.
pub(super) fn not_negative(object: &Value, keys: &[&str], path: &Path, faults: &mut Vec<Cause>) {
    for key in keys {
        let value = number(object, &[key]);
        if value < 0 {
            faults.push(invalid(&path.child(key), value, "must be greater than or equal to 0"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: Value, expected: &[&str]) {
        let found = volume_spec(&spec, false, &Path::new("spec"));
        let found: Vec<String> = found.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_volume_has_one_source_and_one_size() {
        let good = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}});
        check(good.clone(), &[]);
        let mut two = good.clone();
        two["nfs"] = json!({"server": "s", "path": "/p"});
        check(two, &["spec.nfs: Forbidden: may not specify more than 1 volume type"]);
        let mut local = good.clone();
        local["hostPath"] = Value::Null;
        local["local"] = json!({"path": "/x"});
        check(local, &["metadata.annotations: Required value: Local volume requires node affinity"]);
        check(
            json!({}),
            &[
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec: Required value: must specify a volume type",
            ],
        );
        let mut root = good;
        root["hostPath"]["path"] = json!("/");
        root["persistentVolumeReclaimPolicy"] = json!("Recycle");
        check(
            root,
            &[
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
            ],
        );
    }

    #[test]
    fn modes_are_shown_as_kubectl_does() {
        let modes = ["ReadWriteMany", "ReadWriteOnce"].map(Value::from);
        assert_eq!(mode_letters(&modes), "RWO,RWX");
    }
}
