//! What the drivers of volumes bring: storage classes, drivers, nodes' drivers, capacities, attachments.
//!
//! Source: `pkg/registry/storage`, `pkg/apis/storage`.

mod attachments;

pub(super) use attachments::{Attachments, AttributesClasses};

use super::json::{items, set_default, set_text, text};
use super::pod_spec::placement::label_selector;
use super::volumes::{not_negative, one_of};
use super::{AGE_COLUMN, Column, Context, NAME_COLUMN, Strategy, age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, duplicate, forbidden, invalid, not_supported, required, too_long};
use orlop_apimachinery::names;
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The strategy of storageclasses.
#[derive(Debug)]
pub(super) struct StorageClasses;

/// The strategy of csidrivers.
#[derive(Debug)]
pub(super) struct CsiDrivers;

/// The strategy of csinodes.
#[derive(Debug)]
pub(super) struct CsiNodes;

/// The strategy of csistoragecapacities.
#[derive(Debug)]
pub(super) struct CsiStorageCapacities;

const IMMUTABLE: &str = "field is immutable";

fn flag(object: &Value, path: &[&str]) -> bool {
    at(object, path).and_then(Value::as_bool).unwrap_or(false)
}

/// The parts of `new` that differ from `old` and may not.
fn fixed(new: &Value, old: &Value, keys: &[&str], path: Option<&Path>) -> Vec<Cause> {
    let changed = keys.iter().filter(|key| new.get(key) != old.get(key));
    let fault = |key: &&str| {
        let path = path.map_or_else(|| Path::new(key), |p| p.child(key));
        invalid(&path, new.get(key).cloned().unwrap_or_default(), IMMUTABLE)
    };
    changed.map(fault).collect()
}

impl Strategy for StorageClasses {
    fn default(&self, object: &mut Value) {
        if let Value::Object(map) = object {
            set_text(map, "reclaimPolicy", "Delete");
            set_text(map, "volumeBindingMode", "Immediate");
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let provisioner = text(object, &["provisioner"]);
        let path = Path::new("provisioner");
        if provisioner.is_empty() {
            faults.push(required(&path, ""));
        } else {
            let why = names::qualified_name(&provisioner.to_lowercase());
            faults.extend(why.iter().map(|why| invalid(&path, provisioner, why)));
        }
        let root = Path::root();
        one_of(object, "reclaimPolicy", &["Delete", "Retain"], &root, &mut faults);
        one_of(object, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], &root, &mut faults);
        let mut terms = BTreeSet::new();
        for (i, term) in items(object, &["allowedTopologies"]).iter().enumerate() {
            let path = Path::new("allowedTopologies").index(i);
            if !terms.insert(term.to_string()) {
                faults.push(duplicate(&path.child("matchLabelExpressions"), ""));
            }
            for (j, one) in items(term, &["matchLabelExpressions"]).iter().enumerate() {
                let path = path.child("matchLabelExpressions").index(j);
                names::check_label_name(text(one, &["key"]), &path.child("key"), &mut faults);
                if items(one, &["values"]).is_empty() {
                    faults.push(required(&path.child("values"), ""));
                }
            }
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        for key in ["parameters", "provisioner", "reclaimPolicy"] {
            if new.get(key) != old.get(key) {
                faults.push(forbidden(&Path::new(key), &format!("updates to {key} are forbidden.")));
            }
        }
        faults.extend(fixed(new, old, &["volumeBindingMode"], None));
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Provisioner", "Provisioner indicates the type of the provisioner."),
                Column::new("ReclaimPolicy", "What becomes of volumes of this class that are released."),
                Column::new("VolumeBindingMode", "When volumes are provisioned and bound."),
                Column::new("AllowVolumeExpansion", "Whether claims of this class may grow.")
                    .typed("boolean"),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .into_iter()
        .any(|key| text(object, &["metadata", "annotations", key]) == "true");
        let name = text(object, &["metadata", "name"]);
        vec![
            if default { format!("{name} (default)").into() } else { name.into() },
            text(object, &["provisioner"]).into(),
            text(object, &["reclaimPolicy"]).into(),
            text(object, &["volumeBindingMode"]).into(),
            flag(object, &["allowVolumeExpansion"]).into(),
            age_cell(cx, object),
        ]
    }
}

impl Strategy for CsiDrivers {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
        set_default(spec, "attachRequired", true);
        for key in ["podInfoOnMount", "requiresRepublish", "seLinuxMount", "storageCapacity"] {
            set_default(spec, key, false);
        }
        set_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let name = text(object, &["metadata", "name"]);
        if name.len() > names::LABEL_MAX {
            faults.push(too_long(&Path::new("metadata").child("name"), names::LABEL_MAX));
        }
        one_of(spec, "fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], &path, &mut faults);
        for mode in items(spec, &["volumeLifecycleModes"]).iter().filter_map(Value::as_str) {
            let modes = ["Ephemeral", "Persistent"];
            if !modes.contains(&mode) {
                let at = path.child("volumeLifecycleModes");
                faults.push(not_supported(&at, mode, &modes));
            }
        }
        let mut audiences = BTreeSet::new();
        for (i, request) in items(spec, &["tokenRequests"]).iter().enumerate() {
            let path = path.child("tokenRequests").index(i);
            let audience = text(request, &["audience"]);
            if !audiences.insert(audience) {
                faults.push(duplicate(&path.child("audience"), audience));
            }
            if let Some(seconds) = request.get("expirationSeconds").and_then(Value::as_i64)
                && seconds < 600
            {
                let detail = "may not specify a duration less than 10 minutes";
                faults.push(invalid(&path.child("expirationSeconds"), seconds, detail));
            }
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        let (spec, before) = (&new["spec"], &old["spec"]);
        faults.extend(fixed(
            spec,
            before,
            &["attachRequired", "volumeLifecycleModes"],
            Some(&Path::new("spec")),
        ));
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("AttachRequired", "Whether volumes of this driver must be attached to nodes.")
                    .typed("boolean"),
                Column::new("PodInfoOnMount", "Whether the driver is told of the pod that mounts.")
                    .typed("boolean"),
                Column::new(
                    "StorageCapacity",
                    "Whether scheduling looks at the capacity that the driver publishes.",
                )
                .typed("boolean"),
                Column::new("TokenRequests", "Audiences of the service account tokens that the driver gets."),
                Column::new(
                    "RequiresRepublish",
                    "Whether mounted volumes are published again from time to time.",
                )
                .typed("boolean"),
                Column::new("Modes", "Which kinds of volumes the driver supports."),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let modes: Vec<&str> =
            items(object, &["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
        let audiences: Vec<&str> =
            items(object, &["spec", "tokenRequests"]).iter().map(|r| text(r, &["audience"])).collect();
        let shown =
            |list: Vec<&str>, none: &str| if list.is_empty() { none.to_owned() } else { list.join(",") };
        vec![
            name_cell(object),
            flag(object, &["spec", "attachRequired"]).into(),
            flag(object, &["spec", "podInfoOnMount"]).into(),
            flag(object, &["spec", "storageCapacity"]).into(),
            shown(audiences, "<unset>").into(),
            flag(object, &["spec", "requiresRepublish"]).into(),
            shown(modes, "<none>").into(),
            age_cell(cx, object),
        ]
    }
}

impl Strategy for CsiNodes {
    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let mut known = BTreeSet::new();
        for (i, driver) in items(object, &["spec", "drivers"]).iter().enumerate() {
            let path = Path::new("spec").child("drivers").index(i);
            let name = text(driver, &["name"]);
            if name.is_empty() {
                faults.push(required(&path.child("name"), ""));
            } else if !known.insert(name) {
                faults.push(duplicate(&path.child("name"), name));
            }
            if text(driver, &["nodeID"]).is_empty() {
                faults.push(required(&path.child("nodeID"), ""));
            }
            for (j, key) in items(driver, &["topologyKeys"]).iter().filter_map(Value::as_str).enumerate() {
                let why = names::qualified_name(key);
                let path = path.child("topologyKeys").index(j);
                faults.extend(why.iter().map(|why| invalid(&path, key, why)));
            }
            if let Some(allocatable) = driver.get("allocatable") {
                not_negative(allocatable, &["count"], &path.child("allocatable"), &mut faults);
            }
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Drivers", "Drivers indicates the number of CSI drivers registered on the node")
                    .typed("integer"),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        vec![name_cell(object), items(object, &["spec", "drivers"]).len().into(), age_cell(cx, object)]
    }
}

impl Strategy for CsiStorageCapacities {
    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        if let Some(selector) = object.get("nodeTopology").filter(|s| !s.is_null()) {
            label_selector(selector, &Path::new("nodeTopology"), &mut faults);
        }
        let class = text(object, &["storageClassName"]);
        let why = names::dns1123_subdomain(class);
        faults.extend(why.iter().map(|why| invalid(&Path::new("storageClassName"), class, why)));
        for key in ["capacity", "maximumVolumeSize"] {
            let size = text(object, &[key]);
            if size.starts_with('-') {
                faults.push(invalid(&Path::new(key), size, "must be greater than or equal to 0"));
            }
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        faults.extend(fixed(new, old, &["nodeTopology", "storageClassName"], None));
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("StorageClassName", "The class to which the capacity applies."),
                Column::new("Capacity", "What is available."),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let capacity = match text(object, &["capacity"]) {
            "" => "<unset>",
            capacity => capacity,
        };
        vec![
            name_cell(object),
            text(object, &["storageClassName"]).into(),
            capacity.into(),
            age_cell(cx, object),
        ]
    }
}

#[cfg(test)]
mod tests;
