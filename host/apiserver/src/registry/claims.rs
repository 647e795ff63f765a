//! PersistentVolumeClaims.
//!
//! Source: `pkg/registry/core/persistentvolumeclaim`, `ValidatePersistentVolumeClaim`.

use super::json::{items, set_text, text};
use super::pod_spec::placement::label_selector;
use super::volumes::{access_modes, mode_letters, one_of, positive, storage_class};
use super::{AGE_COLUMN, Column, Context, NAME_COLUMN, SelectableField, Strategy, age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, forbidden, invalid, required};
use orlop_apimachinery::names;
use orlop_apimachinery::quantity::Quantity;
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Value, json};

/// The strategy of persistentvolumeclaims.
#[derive(Debug)]
pub(super) struct Claims;

const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Status", "phase represents the current phase of PersistentVolumeClaim."),
    Column::new("Volume", "volumeName is the binding reference to the PersistentVolume backing this claim."),
    Column::new("Capacity", "capacity represents the actual resources of the underlying volume."),
    Column::new(
        "Access Modes",
        "accessModes contains the actual access modes the volume backing the PVC has.",
    ),
    Column::new("StorageClass", "StorageClass of the pvc"),
    Column::new("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
    AGE_COLUMN,
    Column::new("VolumeMode", "volumeMode defines what type of volume is required by the claim.").wide(),
];

const STORAGE: &[&str] = &["resources", "requests", "storage"];

/// What a claim and the template of one have by default.
pub(super) fn default_claim(claim: &mut Map<String, Value>) {
    if let Some(spec) = claim.get_mut("spec").and_then(Value::as_object_mut) {
        set_text(spec, "volumeMode", "Filesystem");
        // The old way to name what a volume is filled from is kept equal to the new one.
        match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
            (Some(old), None | Some(Value::Null)) if old.is_object() => {
                spec.insert("dataSourceRef".to_owned(), old);
            }
            (None | Some(Value::Null), Some(Value::Object(new))) if !new.contains_key("namespace") => {
                spec.insert("dataSource".to_owned(), new.into());
            }
            _ => {}
        }
    }
}

/// Faults of the spec of a claim.
pub(super) fn claim_spec(spec: &Value, path: &Path) -> Vec<Cause> {
    let mut faults = Vec::new();
    if items(spec, &["accessModes"]).is_empty() {
        faults.push(required(&path.child("accessModes"), "at least 1 access mode is required"));
    }
    access_modes(spec, path, &mut faults);
    if let Some(selector) = spec.get("selector").filter(|s| !s.is_null()) {
        label_selector(selector, &path.child("selector"), &mut faults);
    }
    let storage = path.child("resources");
    match at(spec, STORAGE).and_then(Value::as_str) {
        None => faults.push(required(&storage.key("storage"), "")),
        Some(size) => positive(size, &storage.child("requests").key("storage"), &mut faults),
    }
    storage_class(spec, path, &mut faults);
    one_of(spec, "volumeMode", &["Block", "Filesystem"], path, &mut faults);
    for key in ["dataSource", "dataSourceRef"] {
        let Some(source) = spec.get(key).filter(|s| s.is_object()) else { continue };
        let path = path.child(key);
        for part in ["name", "kind"] {
            if text(source, &[part]).is_empty() {
                faults.push(required(&path.child(part), ""));
            }
        }
        if text(source, &["apiGroup"]).is_empty() && text(source, &["kind"]) != "PersistentVolumeClaim" {
            let kind = text(source, &["kind"]);
            faults.push(invalid(
                &path,
                kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ));
        }
    }
    faults
}

impl Strategy for Claims {
    fn default(&self, object: &mut Value) {
        if let Value::Object(claim) = object {
            default_claim(claim);
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({"phase": "Pending"});
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        claim_spec(object.get("spec").unwrap_or(&Value::Null), &Path::new("spec"))
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        let none = Value::Null;
        let (spec, before) = (new.get("spec").unwrap_or(&none), old.get("spec").unwrap_or(&none));
        let path = Path::new("spec");
        let volume = text(before, &["volumeName"]);
        let mut allowed = before.clone();
        let bound = text(old, &["status", "phase"]) == "Bound";
        let mut free = vec!["resources", "volumeAttributesClassName"];
        if volume.is_empty() {
            free.push("volumeName");
        }
        // A class that was left open may be filled in once.
        if before.get("storageClassName").is_none_or(Value::is_null) {
            free.push("storageClassName");
        }
        for key in free {
            super::copy_field(&mut allowed, spec, key);
        }
        if &allowed != spec {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            faults.push(forbidden(&path, detail));
            return faults;
        }
        let size = |spec| at(spec, STORAGE).and_then(Value::as_str).and_then(|s| Quantity::parse(s).ok());
        if let (Some(new_size), Some(old_size)) = (size(spec), size(before))
            && new_size.nanos() != old_size.nanos()
        {
            let at_size = path.child("resources").child("requests").child("storage");
            let actual = text(old, &["status", "capacity", "storage"]);
            let least = Quantity::parse(actual).unwrap_or(old_size);
            if !bound {
                let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
                faults.push(forbidden(&path, detail));
            } else if new_size.nanos() < least.nanos() {
                faults.push(forbidden(&at_size, "field can not be less than status.capacity"));
            }
        }
        faults
    }

    fn validate_status_update(&self, _cx: &Context<'_>, new: &Value, _old: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let path = Path::new("status");
        let status = new.get("status").unwrap_or(&Value::Null);
        for (name, size) in status.get("capacity").and_then(Value::as_object).into_iter().flatten() {
            let path = path.child("capacity").key(name);
            faults.extend(names::qualified_name(name).iter().map(|why| invalid(&path, name.as_str(), why)));
            let size = size.as_str().unwrap_or_default();
            if Quantity::parse(size).is_ok_and(|q| q.signum() < 0) {
                faults.push(invalid(&path, size, "must be greater than or equal to 0"));
            }
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
        let volume = text(object, &["spec", "volumeName"]);
        let deleted = at(object, &["metadata", "deletionTimestamp"]).is_some();
        let (mut capacity, mut modes) = ("", String::new());
        if !volume.is_empty() {
            capacity = text(object, &["status", "capacity", "storage"]);
            modes = mode_letters(items(object, &["status", "accessModes"]));
        }
        let class =
            match text(object, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
                "" => text(object, &["spec", "storageClassName"]),
                class => class,
            };
        let attributes = match text(object, &["status", "currentVolumeAttributesClassName"]) {
            "" => "<unset>",
            class => class,
        };
        vec![
            name_cell(object),
            if deleted { "Terminating" } else { text(object, &["status", "phase"]) }.into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class.into(),
            attributes.into(),
            age_cell(cx, object),
            match text(object, &["spec", "volumeMode"]) {
                "" => "<unset>",
                mode => mode,
            }
            .into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;

    fn with<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
        let user = UserInfo::master("admin");
        f(&Context { now: jiff::Timestamp::UNIX_EPOCH, user: &user, random: 0 })
    }

    fn claim(spec: Value, phase: &str) -> Value {
        let mut claim = json!({"metadata": {"name": "c"}, "spec": spec, "status": {"phase": phase}});
        Claims.default(&mut claim);
        claim
    }

    fn good(size: &str) -> Value {
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}})
    }

    fn words(faults: &[Cause]) -> Vec<String> {
        faults.iter().map(|f| format!("{}: {}", f.field, f.message)).collect()
    }

    #[test]
    fn a_claim_says_how_much_and_how_it_is_used() {
        let found = with(|cx| Claims.validate(cx, &claim(json!({}), "")));
        assert_eq!(
            words(&found),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value"
            ]
        );
        let both = json!({"accessModes": ["ReadWriteOncePod", "ReadOnlyMany"], "resources": {"requests": {"storage": "0"}}});
        assert_eq!(
            words(&with(|cx| Claims.validate(cx, &claim(both, "")))),
            [
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                "spec.resources.requests[storage]: Invalid value: \"0\": must be greater than zero"
            ]
        );
    }

    #[test]
    fn binding_and_growing_are_the_changes_that_are_let_through() {
        let open = claim(good("1Gi"), "Pending");
        let mut bound = open.clone();
        bound["spec"]["volumeName"] = json!("v");
        bound["spec"]["storageClassName"] = json!("fast");
        assert_eq!(words(&with(|cx| Claims.validate_update(cx, &bound, &open))), [""; 0]);
        bound["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        let mut larger = bound.clone();
        larger["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
        assert_eq!(words(&with(|cx| Claims.validate_update(cx, &larger, &bound))), [""; 0]);
        let mut smaller = bound.clone();
        smaller["spec"]["resources"]["requests"]["storage"] = json!("1Mi");
        assert_eq!(
            words(&with(|cx| Claims.validate_update(cx, &smaller, &bound))),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
        let mut other = bound.clone();
        other["spec"]["volumeName"] = json!("w");
        assert_eq!(
            words(&with(|cx| Claims.validate_update(cx, &other, &bound))),
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
            ]
        );
    }
}
