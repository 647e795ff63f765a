//! VolumeAttachments and VolumeAttributesClasses.

use super::super::json::text;
use super::super::volumes::volume_spec;
use super::super::{AGE_COLUMN, Column, Context, NAME_COLUMN, Strategy, age_cell, at, name_cell};
use super::{fixed, flag};
use orlop_apimachinery::field::{Path, forbidden, required};
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// The strategy of volumeattachments.
#[derive(Debug)]
pub(in super::super) struct Attachments;

/// The strategy of volumeattributesclasses.
#[derive(Debug)]
pub(in super::super) struct AttributesClasses;

impl Strategy for Attachments {
    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({"attached": false});
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        for key in ["attacher", "nodeName"] {
            if text(spec, &[key]).is_empty() {
                faults.push(required(&path.child(key), ""));
            }
        }
        let source = path.child("source");
        let inline = at(spec, &["source", "inlineVolumeSpec"]).filter(|v| !v.is_null());
        match (inline, text(spec, &["source", "persistentVolumeName"])) {
            (None, "") => {
                faults.push(required(
                    &source,
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ));
            }
            (Some(_), name) if !name.is_empty() => {
                faults.push(forbidden(
                    &source,
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ));
            }
            (Some(volume), _) => faults.extend(volume_spec(volume, true, &source.child("inlineVolumeSpec"))),
            (None, _) => {}
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        faults.extend(fixed(new, old, &["spec"], None));
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Attacher", "The driver that attaches the volume."),
                Column::new("PV", "The volume to attach."),
                Column::new("Node", "The node to which it is attached."),
                Column::new("Attached", "Whether the volume is attached.").typed("boolean"),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        vec![
            name_cell(object),
            text(object, &["spec", "attacher"]).into(),
            text(object, &["spec", "source", "persistentVolumeName"]).into(),
            text(object, &["spec", "nodeName"]).into(),
            flag(object, &["status", "attached"]).into(),
            age_cell(cx, object),
        ]
    }
}

impl Strategy for AttributesClasses {
    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let driver = text(object, &["driverName"]);
        let mut faults = Vec::new();
        if driver.is_empty() {
            faults.push(required(&Path::new("driverName"), ""));
        }
        if object.get("parameters").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
            faults.push(required(&Path::new("parameters"), "must contain at least one key/value pair"));
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        for key in ["driverName", "parameters"] {
            if new.get(key) != old.get(key) {
                faults.push(forbidden(&Path::new(key), &format!("updates to {key} are forbidden.")));
            }
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME_COLUMN, Column::new("DriverName", "The driver that knows the attributes."), AGE_COLUMN] }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        vec![name_cell(object), text(object, &["driverName"]).into(), age_cell(cx, object)]
    }
}
