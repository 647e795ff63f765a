//! Deployments, ReplicaSets and ReplicationControllers: what keeps pods running.
//!
//! Source: `pkg/apis/apps/v1/defaults.go`, `pkg/apis/apps/validation`, `pkg/registry/apps`.

use super::json::{items, number, object, set_default, text};
use super::pod_spec::default_pod_spec;
use super::pod_spec::placement::label_selector;
use super::pod_spec::validation::{Of, pod_spec};
use super::pod_spec::warnings::warnings;
use super::{AGE_COLUMN, Column, Context, GenerationRule, NAME_COLUMN, SelectableField, Strategy};
use super::{age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, forbidden, invalid, not_supported, required};
use orlop_apimachinery::names;
use orlop_apimachinery::selector::{Selector, format_label_selector};
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Value, json};

/// The strategy of deployments.
#[derive(Debug)]
pub(super) struct Deployments;

/// The strategy of replicasets.
#[derive(Debug)]
pub(super) struct ReplicaSets;

/// The strategy of replicationcontrollers.
#[derive(Debug)]
pub(super) struct ReplicationControllers;

/// The strategy of podtemplates.
#[derive(Debug)]
pub(super) struct PodTemplates;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const CONTAINERS: Column =
    Column::new("Containers", "Names of each container in the template.").wide();
pub(super) const IMAGES: Column =
    Column::new("Images", "Images referenced by each container in the template.").wide();
pub(super) const SELECTOR: Column = Column::new("Selector", "Label selector for pods.").wide();

const DEPLOYMENT_COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Ready", "Number of the pod with ready state"),
    Column::new(
        "Up-to-date",
        "Total number of non-terminated pods targeted by this deployment that have the desired template spec.",
    )
    .typed("integer"),
    Column::new(
        "Available",
        "Total number of available pods (ready for at least minReadySeconds) targeted by this deployment.",
    )
    .typed("integer"),
    AGE_COLUMN,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const REPLICA_COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Desired", "Replicas is the number of desired replicas.").typed("integer"),
    Column::new("Current", "Replicas is the most recently observed number of replicas.").typed("integer"),
    Column::new("Ready", "The number of ready replicas.").typed("integer"),
    AGE_COLUMN,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const REPLICA_FIELDS: &[SelectableField] =
    &[SelectableField::new("status.replicas", &[&["status", "replicas"]]).or("0")];

impl Strategy for Deployments {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn default(&self, deployment: &mut Value) {
        default_template(deployment);
        let Some(spec) = deployment.get_mut("spec").and_then(Value::as_object_mut) else { return };
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        let Some(strategy) = object(spec, "strategy") else { return };
        if strategy.get("type").and_then(Value::as_str) == Some("") {
            strategy.remove("type");
        }
        set_default(strategy, "type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            set_default(rolling, "maxUnavailable", "25%");
            set_default(rolling, "maxSurge", "25%");
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({});
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let mut faults = Vec::new();
        not_negative(spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"], &path, &mut faults);
        selector_faults(spec, "deployment", &path, &mut faults);
        template_faults(spec, &path, &mut faults);
        let (ready, deadline) =
            (number(spec, &["minReadySeconds"]), number(spec, &["progressDeadlineSeconds"]));
        if spec.get("progressDeadlineSeconds").is_some_and(|d| !d.is_null()) {
            let at = path.child("progressDeadlineSeconds");
            if deadline < 0 {
                faults.push(invalid(&at, deadline, NOT_NEGATIVE));
            }
            if deadline <= ready {
                faults.push(invalid(&at, deadline, "must be greater than minReadySeconds"));
            }
        }
        strategy_faults(spec, &path.child("strategy"), &mut faults);
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        immutable_selector(new, old, &mut faults);
        faults
    }

    fn warnings(&self, _cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        DEPLOYMENT_COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let (ready, wanted) =
            (number(object, &["status", "readyReplicas"]), number(object, &["spec", "replicas"]));
        let mut cells = vec![
            name_cell(object),
            format!("{ready}/{wanted}").into(),
            number(object, &["status", "updatedReplicas"]).into(),
            number(object, &["status", "availableReplicas"]).into(),
            age_cell(cx, object),
        ];
        cells.extend(template_cells(object));
        cells
    }
}

impl Strategy for ReplicaSets {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn default(&self, object: &mut Value) {
        default_template(object);
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            set_default(spec, "replicas", 1);
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({ "replicas": 0 });
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let mut faults = Vec::new();
        not_negative(spec, &["replicas", "minReadySeconds"], &path, &mut faults);
        selector_faults(spec, "deployment", &path, &mut faults);
        template_faults(spec, &path, &mut faults);
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        immutable_selector(new, old, &mut faults);
        faults
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        REPLICA_FIELDS
    }

    fn warnings(&self, _cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        REPLICA_COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        replica_cells(cx, object)
    }
}

impl Strategy for ReplicationControllers {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn default(&self, controller: &mut Value) {
        default_template(controller);
        let Some(spec) = controller.get_mut("spec").and_then(Value::as_object_mut) else { return };
        set_default(spec, "replicas", 1);
        let labels = spec.get("template").and_then(|t| at(t, &["metadata", "labels"])).cloned();
        let Some(Value::Object(labels)) = labels else { return };
        if spec.get("selector").and_then(Value::as_object).is_none_or(Map::is_empty) {
            spec.insert("selector".into(), Value::Object(labels.clone()));
        }
        if let Some(metadata) = controller.get_mut("metadata").and_then(Value::as_object_mut)
            && metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty)
        {
            metadata.insert("labels".into(), Value::Object(labels));
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({ "replicas": 0 });
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let mut faults = Vec::new();
        not_negative(spec, &["replicas", "minReadySeconds"], &path, &mut faults);
        let selector = spec.get("selector").and_then(Value::as_object);
        if selector.is_none_or(Map::is_empty) {
            faults.push(required(&path.child("selector"), ""));
        } else if let (Some(selector), Some(template)) = (selector, spec.get("template")) {
            let labels = at(template, &["metadata", "labels"]).unwrap_or(&Value::Null);
            if selector.iter().any(|(key, value)| labels.get(key) != Some(value)) {
                let at = path.child("template").child("metadata").child("labels");
                faults.push(invalid(&at, labels.clone(), "`selector` does not match template `labels`"));
            }
        }
        template_faults(spec, &path, &mut faults);
        faults
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        REPLICA_FIELDS
    }

    fn warnings(&self, _cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        REPLICA_COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        replica_cells(cx, object)
    }
}

impl Strategy for PodTemplates {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) =
            object.get_mut("template").and_then(|t| t.get_mut("spec")).and_then(Value::as_object_mut)
        {
            default_pod_spec(spec);
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let path = Path::new("template");
        let Some(template) = object.get("template") else { return vec![required(&path, "")] };
        let mut faults = metadata_faults(template, &path);
        let pod = template.get("spec").unwrap_or(&Value::Null);
        faults.extend(pod_spec(pod, Of::Pod, &path.child("spec")));
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Containers", "Names of each container in the template."),
                Column::new("Images", "Images referenced by each container in the template."),
                Column::new("Pod Labels", "The labels for the pod template."),
            ]
        }
    }

    fn cells(&self, _cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let containers = items(object, &["template", "spec", "containers"]);
        let joined =
            |key: &str| Value::from(containers.iter().map(|c| text(c, &[key])).collect::<Vec<_>>().join(","));
        let labels = at(object, &["template", "metadata", "labels"]).cloned().unwrap_or_default();
        let labels = format_label_selector(&json!({ "matchLabels": labels }));
        vec![name_cell(object), joined("name"), joined("image"), labels.into()]
    }
}

/// Warnings about the template, where it is new.
pub(super) fn template_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    const TEMPLATE: &[&str] = &["spec", "template", "spec"];
    let template = at(new, TEMPLATE);
    if old.is_some_and(|old| at(old, TEMPLATE) == template) {
        return Vec::new();
    }
    template.map_or_else(Vec::new, |spec| warnings(spec, "spec.template.spec"))
}

pub(super) fn default_template(object: &mut Value) {
    let spec = object.get_mut("spec").and_then(|s| s.get_mut("template")).and_then(|t| t.get_mut("spec"));
    if let Some(spec) = spec.and_then(Value::as_object_mut) {
        default_pod_spec(spec);
    }
}

pub(super) fn not_negative(spec: &Value, keys: &[&str], path: &Path, faults: &mut Vec<Cause>) {
    for key in keys {
        let value = number(spec, &[key]);
        if value < 0 {
            faults.push(invalid(&path.child(key), value, NOT_NEGATIVE));
        }
    }
}

pub(super) fn selector_faults(spec: &Value, what: &str, path: &Path, faults: &mut Vec<Cause>) {
    let at_selector = path.child("selector");
    let Some(selector) = spec.get("selector").filter(|s| !s.is_null()) else {
        faults.push(required(&at_selector, ""));
        return;
    };
    if selector.as_object().is_some_and(Map::is_empty) {
        let detail = format!("empty selector is invalid for {what}");
        faults.push(invalid(&at_selector, selector.clone(), &detail));
        return;
    }
    let before = faults.len();
    label_selector(selector, &at_selector, faults);
    if faults.len() > before {
        return;
    }
    match Selector::from_label_selector(selector) {
        Ok(parsed) => {
            let labels = at(spec, &["template", "metadata", "labels"]).unwrap_or(&Value::Null);
            if !parsed.matches_value(labels) {
                let at = path.child("template").child("metadata").child("labels");
                faults.push(invalid(&at, labels.clone(), "`selector` does not match template `labels`"));
            }
        }
        Err(error) => faults.push(invalid(&at_selector, selector.clone(), &error.to_string())),
    }
}

pub(super) fn template_faults(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let at_template = path.child("template");
    let Some(template) = spec.get("template").filter(|t| !t.is_null()) else {
        faults.push(required(&at_template, ""));
        return;
    };
    faults.extend(metadata_faults(template, &at_template));
    let pod = template.get("spec").unwrap_or(&Value::Null);
    let at_spec = at_template.child("spec");
    faults.extend(pod_spec(pod, Of::KeptTemplate, &at_spec));
    if pod.get("activeDeadlineSeconds").is_some_and(|d| !d.is_null()) {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        faults.push(forbidden(&at_spec.child("activeDeadlineSeconds"), detail));
    }
}

fn metadata_faults(template: &Value, path: &Path) -> Vec<Cause> {
    let mut faults = Vec::new();
    let path = path.child("metadata");
    if let Some(labels) = at(template, &["metadata", "labels"]).and_then(Value::as_object) {
        names::check_labels(labels, &path.child("labels"), &mut faults);
    }
    if let Some(annotations) = at(template, &["metadata", "annotations"]).and_then(Value::as_object) {
        names::check_annotations(annotations, &path.child("annotations"), &mut faults);
    }
    faults
}

fn strategy_faults(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let rolling = at(spec, &["strategy", "rollingUpdate"]).filter(|r| !r.is_null());
    match text(spec, &["strategy", "type"]) {
        "Recreate" => {
            if rolling.is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                faults.push(forbidden(&path.child("rollingUpdate"), detail));
            }
        }
        "RollingUpdate" => {
            let at = path.child("rollingUpdate");
            let Some(rolling) = rolling else {
                faults.push(required(&at, "this should be defaulted and never be nil"));
                return;
            };
            let mut zero = 0;
            for key in ["maxUnavailable", "maxSurge"] {
                match int_or_percent(rolling.get(key)) {
                    Some(0) => zero += 1,
                    Some(_) => {}
                    None => {
                        let value = rolling.get(key).cloned().unwrap_or_default();
                        let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                        let detail = if value.is_number() { NOT_NEGATIVE } else { detail };
                        faults.push(invalid(&at.child(key), value, detail));
                    }
                }
                if key == "maxUnavailable" && percent(rolling.get(key)).is_some_and(|p| p > 100) {
                    let value = rolling.get(key).cloned().unwrap_or_default();
                    faults.push(invalid(&at.child(key), value, "must not be greater than 100%"));
                }
            }
            if zero == 2 {
                let value = rolling.get("maxUnavailable").cloned().unwrap_or_default();
                faults.push(invalid(&at.child("maxUnavailable"), value, "may not be 0 when `maxSurge` is 0"));
            }
        }
        other => faults.push(not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"])),
    }
}

fn percent(value: Option<&Value>) -> Option<u64> {
    value?.as_str()?.strip_suffix('%')?.parse().ok()
}

fn int_or_percent(value: Option<&Value>) -> Option<u64> {
    value.and_then(Value::as_u64).or_else(|| percent(value))
}

pub(super) fn immutable_selector(new: &Value, old: &Value, faults: &mut Vec<Cause>) {
    let (new, old) = (at(new, &["spec", "selector"]), at(old, &["spec", "selector"]));
    if new != old {
        let value = new.cloned().unwrap_or_default();
        faults.push(invalid(&Path::new("spec").child("selector"), value, "field is immutable"));
    }
}

fn replica_cells(cx: &Context<'_>, object: &Value) -> Vec<Value> {
    let mut cells = vec![
        name_cell(object),
        number(object, &["spec", "replicas"]).into(),
        number(object, &["status", "replicas"]).into(),
        number(object, &["status", "readyReplicas"]).into(),
        age_cell(cx, object),
    ];
    cells.extend(template_cells(object));
    cells
}

pub(super) fn template_cells(object: &Value) -> [Value; 3] {
    let containers = items(object, &["spec", "template", "spec", "containers"]);
    let joined = |key: &str| -> Value {
        containers.iter().map(|c| text(c, &[key])).collect::<Vec<_>>().join(",").into()
    };
    let selector = at(object, &["spec", "selector"]).cloned().unwrap_or_default();
    let is_map = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let selector = if is_map { json!({ "matchLabels": selector }) } else { selector };
    [joined("name"), joined("image"), format_label_selector(&selector).into()]
}

#[cfg(test)]
mod tests;
