//! Devices: classes, claims, templates of claims, slices of what nodes have.
//!
//! Source: `pkg/registry/resource`, `pkg/apis/resource/v1`.

use super::json::{items, object, objects, set_default, set_text, text};
use super::pod_spec::placement::node_selector;
use super::{AGE_COLUMN, Column, Context, GenerationRule, NAME_COLUMN, SelectableField, Strategy};
use super::{age_cell, at, name_cell};
use orlop_apimachinery::field::{
    Path, duplicate, forbidden, invalid, not_found, not_supported, required, too_many,
};
use orlop_apimachinery::names;
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The strategy of deviceclasses.
#[derive(Debug)]
pub(super) struct DeviceClasses;

/// The strategy of resourceclaims.
#[derive(Debug)]
pub(super) struct ResourceClaims;

/// The strategy of resourceclaimtemplates.
#[derive(Debug)]
pub(super) struct ResourceClaimTemplates;

/// The strategy of resourceslices.
#[derive(Debug)]
pub(super) struct ResourceSlices;

const MOST_REQUESTS: usize = 32;
const MOST_SUBREQUESTS: usize = 8;
const MOST_RESERVED: usize = 256;
const MOST_DEVICES: usize = 128;
const MODES: [&str; 2] = ["All", "ExactCount"];
const IMMUTABLE: &str = "field is immutable";

fn default_request(request: &mut Map<String, Value>) {
    set_text(request, "allocationMode", "ExactCount");
    if request.get("allocationMode").is_some_and(|mode| mode == "ExactCount")
        && request.get("count").is_none_or(|n| n.is_null() || n == 0)
    {
        request.insert("count".to_owned(), 1.into());
    }
    for toleration in objects(request, "tolerations") {
        set_text(toleration, "operator", "Equal");
    }
}

fn default_claim(spec: &mut Map<String, Value>) {
    let Some(devices) = spec.get_mut("devices").and_then(Value::as_object_mut) else { return };
    for request in objects(devices, "requests") {
        if request.contains_key("exactly")
            && let Some(exactly) = object(request, "exactly")
        {
            default_request(exactly);
        }
        objects(request, "firstAvailable").for_each(default_request);
    }
}

fn label(value: &str, path: &Path, faults: &mut Vec<Cause>) {
    if value.is_empty() {
        faults.push(required(path, ""));
    } else {
        faults.extend(names::dns1123_label(value).iter().map(|why| invalid(path, value, why)));
    }
}

fn claim_spec(spec: &Value, path: &Path) -> Vec<Cause> {
    let mut faults = Vec::new();
    let path = path.child("devices");
    let requests = items(spec, &["devices", "requests"]);
    if requests.len() > MOST_REQUESTS {
        faults.push(too_many(&path.child("requests"), requests.len(), MOST_REQUESTS));
    }
    let mut known = BTreeSet::new();
    for (i, request) in requests.iter().enumerate() {
        let path = path.child("requests").index(i);
        let name = text(request, &["name"]);
        label(name, &path.child("name"), &mut faults);
        if !known.insert(name.to_owned()) {
            faults.push(duplicate(&path.child("name"), name));
        }
        let options = items(request, &["firstAvailable"]);
        let exactly = request.get("exactly").filter(|e| !e.is_null());
        match (exactly, options) {
            (None, []) => {
                faults.push(required(&path, "exactly one of `exactly` or `firstAvailable` is required"))
            }
            (Some(_), [_, ..]) => {
                let detail =
                    "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                faults.push(invalid(&path, Value::Null, detail));
            }
            (Some(one), []) => request_faults(one, &path.child("exactly"), &mut faults),
            (None, options) => {
                if options.len() > MOST_SUBREQUESTS {
                    faults.push(too_many(&path.child("firstAvailable"), options.len(), MOST_SUBREQUESTS));
                }
                for (j, one) in options.iter().enumerate() {
                    let path = path.child("firstAvailable").index(j);
                    label(text(one, &["name"]), &path.child("name"), &mut faults);
                    known.insert(format!("{name}/{}", text(one, &["name"])));
                    request_faults(one, &path, &mut faults);
                }
            }
        }
    }
    for list in ["constraints", "config"] {
        for (i, one) in items(spec, &["devices", list]).iter().enumerate() {
            let path = path.child(list).index(i).child("requests");
            for (j, name) in items(one, &["requests"]).iter().filter_map(Value::as_str).enumerate() {
                if !known.contains(name) {
                    let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
                    faults.push(invalid(&path.index(j), name, detail));
                }
            }
        }
    }
    faults
}

fn request_faults(request: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let class = text(request, &["deviceClassName"]);
    if class.is_empty() {
        faults.push(required(&path.child("deviceClassName"), ""));
    } else {
        let why = names::dns1123_subdomain(class);
        faults.extend(why.iter().map(|why| invalid(&path.child("deviceClassName"), class, why)));
    }
    let count = request.get("count").and_then(Value::as_i64).unwrap_or(0);
    match text(request, &["allocationMode"]) {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            faults.push(invalid(&path.child("count"), count, detail));
        }
        "ExactCount" if count <= 0 => {
            faults.push(invalid(&path.child("count"), count, "must be greater than zero"));
        }
        "All" | "ExactCount" => {}
        other => faults.push(not_supported(&path.child("allocationMode"), other, &MODES)),
    }
    selectors(request, path, faults);
}

fn selectors(holder: &Value, path: &Path, faults: &mut Vec<Cause>) {
    for (i, selector) in items(holder, &["selectors"]).iter().enumerate() {
        if text(selector, &["cel", "expression"]).is_empty() {
            faults.push(required(&path.child("selectors").index(i).child("cel"), ""));
        }
    }
}

impl Strategy for DeviceClasses {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        selectors(object.get("spec").unwrap_or(&Value::Null), &Path::new("spec"), &mut faults);
        faults
    }
}

impl Strategy for ResourceClaims {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            default_claim(spec);
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({});
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        claim_spec(object.get("spec").unwrap_or(&Value::Null), &Path::new("spec"))
    }

    fn validate_update(&self, _cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        if new.get("spec") == old.get("spec") {
            return Vec::new();
        }
        vec![invalid(&Path::new("spec"), new.get("spec").cloned().unwrap_or_default(), IMMUTABLE)]
    }

    fn validate_status_update(&self, _cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let path = Path::new("status");
        let set = |object, key: &str| at(object, &["status", key]).filter(|v| !v.is_null()).cloned();
        let reserved = items(new, &["status", "reservedFor"]);
        let at_reserved = path.child("reservedFor");
        if reserved.len() > MOST_RESERVED {
            faults.push(too_many(&at_reserved, reserved.len(), MOST_RESERVED));
        }
        let allocation = set(new, "allocation");
        if allocation.is_none() && !reserved.is_empty() {
            faults.push(forbidden(&at_reserved, "may not be specified when `allocated` is not set"));
        }
        if let (Some(before), Some(after)) = (set(old, "allocation"), &allocation)
            && &before != after
        {
            faults.push(invalid(&path.child("allocation"), after.clone(), IMMUTABLE));
        }
        let known: BTreeSet<&str> =
            items(new, &["spec", "devices", "requests"]).iter().map(|r| text(r, &["name"])).collect();
        for (i, result) in items(new, &["status", "allocation", "devices", "results"]).iter().enumerate() {
            let request = text(result, &["request"]);
            if !known.contains(request.split('/').next().unwrap_or_default()) {
                let path =
                    path.child("allocation").child("devices").child("results").index(i).child("request");
                faults.push(not_found(&path, request));
            }
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("State", "A summary of the current state (allocated, pending, reserved, etc.)."),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let mut state = Vec::new();
        if at(object, &["metadata", "deletionTimestamp"]).is_some() {
            state.push("deleted");
        }
        if at(object, &["status", "allocation"]).is_some_and(|a| !a.is_null()) {
            state.push("allocated");
            if !items(object, &["status", "reservedFor"]).is_empty() {
                state.push("reserved");
            }
        } else {
            state.push("pending");
        }
        vec![name_cell(object), state.join(",").into(), age_cell(cx, object)]
    }
}

impl Strategy for ResourceClaimTemplates {
    fn default(&self, object: &mut Value) {
        let spec = object.get_mut("spec").and_then(|s| s.get_mut("spec")).and_then(Value::as_object_mut);
        if let Some(spec) = spec {
            default_claim(spec);
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let path = Path::new("spec");
        let template = object.get("spec").unwrap_or(&Value::Null);
        let mut faults = Vec::new();
        if let Some(labels) = at(template, &["metadata", "labels"]).and_then(Value::as_object) {
            names::check_labels(labels, &path.child("metadata").child("labels"), &mut faults);
        }
        faults.extend(claim_spec(template.get("spec").unwrap_or(&Value::Null), &path.child("spec")));
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        ResourceClaims.validate_update(cx, new, old)
    }
}

impl Strategy for ResourceSlices {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
        for device in objects(spec, "devices") {
            for taint in objects(device, "taints") {
                set_default(taint, "value", "");
            }
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        if text(spec, &["driver"]).is_empty() {
            faults.push(required(&path.child("driver"), ""));
        }
        if text(spec, &["pool", "name"]).is_empty() {
            faults.push(required(&path.child("pool").child("name"), ""));
        }
        if at(spec, &["pool", "resourceSliceCount"]).and_then(Value::as_i64).unwrap_or(0) <= 0 {
            let at = path.child("pool").child("resourceSliceCount");
            faults.push(invalid(
                &at,
                spec["pool"]["resourceSliceCount"].clone(),
                "must be greater than zero",
            ));
        }
        let flag = |key: &str| spec.get(key).and_then(Value::as_bool).unwrap_or(false);
        let selector = spec.get("nodeSelector").filter(|s| !s.is_null());
        let places = [
            !text(spec, &["nodeName"]).is_empty(),
            selector.is_some(),
            flag("allNodes"),
            flag("perDeviceNodeSelection"),
        ];
        if places.into_iter().filter(|p| *p).count() != 1 {
            let detail =
                "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
            faults.push(required(&path, detail));
        }
        if let Some(selector) = selector {
            node_selector(selector, &path.child("nodeSelector"), &mut faults);
        }
        let devices = items(spec, &["devices"]);
        if devices.len() > MOST_DEVICES {
            faults.push(too_many(&path.child("devices"), devices.len(), MOST_DEVICES));
        }
        let mut known = BTreeSet::new();
        for (i, device) in devices.iter().enumerate() {
            let name = text(device, &["name"]);
            let at = path.child("devices").index(i).child("name");
            label(name, &at, &mut faults);
            if !known.insert(name) {
                faults.push(duplicate(&at, name));
            }
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        for key in [&["driver"][..], &["pool", "name"], &["nodeName"]] {
            let path = key.iter().fold(Path::new("spec"), |path, part| path.child(part));
            let whole: Vec<&str> = std::iter::once("spec").chain(key.iter().copied()).collect();
            if at(new, &whole) != at(old, &whole) {
                faults.push(invalid(&path, text(new, &whole), IMMUTABLE));
            }
        }
        faults
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const {
            &[
                SelectableField::new("spec.nodeName", &[&["spec", "nodeName"]]),
                SelectableField::new("spec.driver", &[&["spec", "driver"]]),
            ]
        }
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Node", "The node to which the devices belong."),
                Column::new("Driver", "The driver that manages the devices."),
                Column::new("Pool", "The pool that the slice is a part of."),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let node = match text(object, &["spec", "nodeName"]) {
            "" => "<unset>",
            node => node,
        };
        vec![
            name_cell(object),
            node.into(),
            text(object, &["spec", "driver"]).into(),
            text(object, &["spec", "pool", "name"]).into(),
            age_cell(cx, object),
        ]
    }
}

#[cfg(test)]
mod tests;
