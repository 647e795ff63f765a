//! StatefulSets and ControllerRevisions.
//!
//! Source: `pkg/registry/apps/statefulset`, `ValidateStatefulSet`, `pkg/registry/apps/controllerrevision`.

use super::claims::{claim_spec, default_claim};
use super::json::{items, number, object, objects, set_default, set_text, text};
use super::workloads::{
    CONTAINERS, IMAGES, default_template, not_negative, selector_faults, template_cells, template_faults,
    template_warnings,
};
use super::{AGE_COLUMN, Column, Context, GenerationRule, NAME_COLUMN, NameRule, Strategy};
use super::{age_cell, copy_field, name_cell};
use orlop_apimachinery::field::{Path, forbidden, invalid, not_supported, required};
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// The strategy of statefulsets.
#[derive(Debug)]
pub(super) struct StatefulSets;

/// The strategy of controllerrevisions.
#[derive(Debug)]
pub(super) struct Revisions;

const POLICIES: [&str; 2] = ["OrderedReady", "Parallel"];
const STRATEGIES: [&str; 2] = ["OnDelete", "RollingUpdate"];
const RETENTION: [&str; 2] = ["Delete", "Retain"];
/// What may change.
const FREE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

impl Strategy for StatefulSets {
    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }

    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn default(&self, set: &mut Value) {
        default_template(set);
        let Some(spec) = set.get_mut("spec").and_then(Value::as_object_mut) else { return };
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_text(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = object(spec, "updateStrategy") {
            set_text(strategy, "type", "RollingUpdate");
            if strategy.get("type").is_some_and(|t| t == "RollingUpdate")
                && let Some(rolling) = object(strategy, "rollingUpdate")
            {
                set_default(rolling, "partition", 0);
            }
        }
        if let Some(retention) = object(spec, "persistentVolumeClaimRetentionPolicy") {
            set_text(retention, "whenDeleted", "Retain");
            set_text(retention, "whenScaled", "Retain");
        }
        for claim in objects(spec, "volumeClaimTemplates") {
            set_text(claim, "apiVersion", "v1");
            set_text(claim, "kind", "PersistentVolumeClaim");
            default_claim(claim);
            if let Some(status) = object(claim, "status") {
                set_text(status, "phase", "Pending");
            }
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({"replicas": 0, "availableReplicas": 0});
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let mut faults = Vec::new();
        let policy = text(spec, &["podManagementPolicy"]);
        if !POLICIES.contains(&policy) {
            let detail = format!("must be '{}' or '{}'", POLICIES[0], POLICIES[1]);
            faults.push(invalid(&path.child("podManagementPolicy"), policy, &detail));
        }
        update_strategy(spec, &path.child("updateStrategy"), &mut faults);
        for key in ["whenDeleted", "whenScaled"] {
            let at = path.child("persistentVolumeClaimRetentionPolicy").child(key);
            let value = text(spec, &["persistentVolumeClaimRetentionPolicy", key]);
            if !RETENTION.contains(&value) {
                faults.push(not_supported(&at, value, &RETENTION));
            }
        }
        not_negative(spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"], &path, &mut faults);
        if let Some(ordinals) = spec.get("ordinals") {
            not_negative(ordinals, &["start"], &path.child("ordinals"), &mut faults);
        }
        selector_faults(spec, "statefulset", &path, &mut faults);
        template_faults(spec, &path, &mut faults);
        for (i, claim) in items(spec, &["volumeClaimTemplates"]).iter().enumerate() {
            let path = path.child("volumeClaimTemplates").index(i);
            faults.extend(claim_spec(claim.get("spec").unwrap_or(&Value::Null), &path.child("spec")));
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        let mut allowed = old.get("spec").cloned().unwrap_or_default();
        let spec = new.get("spec").unwrap_or(&Value::Null);
        for key in FREE {
            copy_field(&mut allowed, spec, key);
        }
        if &allowed != spec {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            faults.push(forbidden(&Path::new("spec"), detail));
        }
        faults
    }

    fn validate_status_update(&self, _cx: &Context<'_>, new: &Value, _old: &Value) -> Vec<Cause> {
        let keys = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        let mut faults = Vec::new();
        let status = new.get("status").unwrap_or(&Value::Null);
        not_negative(status, &keys, &Path::new("status"), &mut faults);
        let replicas = number(status, &["replicas"]);
        for key in keys.into_iter().skip(1).filter(|key| number(status, &[key]) > replicas) {
            let at = Path::new("status").child(key);
            faults.push(invalid(&at, number(status, &[key]), "cannot be greater than status.replicas"));
        }
        faults
    }

    fn warnings(&self, _cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Ready", "Number of the pod with ready state"),
                AGE_COLUMN,
                CONTAINERS,
                IMAGES,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let ready = number(object, &["status", "readyReplicas"]);
        let wanted = number(object, &["spec", "replicas"]);
        let [containers, images, _] = template_cells(object);
        vec![name_cell(object), format!("{ready}/{wanted}").into(), age_cell(cx, object), containers, images]
    }
}

fn update_strategy(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    let rolling = strategy.get("rollingUpdate").filter(|r| !r.is_null());
    match text(strategy, &["type"]) {
        "" => faults.push(required(path, "")),
        "OnDelete" => {
            if let Some(rolling) = rolling {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                faults.push(invalid(&path.child("rollingUpdate"), rolling.clone(), detail));
            }
        }
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            let rolling = rolling.unwrap_or(&Value::Null);
            not_negative(rolling, &["partition"], &path, faults);
            if let Some(most) = rolling.get("maxUnavailable").filter(|m| !m.is_null()) {
                let at = path.child("maxUnavailable");
                super::budgets::int_or_percent(most, &at, faults);
                if most == 0 || most == "0%" {
                    faults.push(invalid(&at, most.clone(), "cannot be 0"));
                }
            }
        }
        other => {
            let detail = format!("must be '{}' or '{}'", STRATEGIES[1], STRATEGIES[0]);
            faults.push(invalid(path, other, &detail));
        }
    }
}

impl Strategy for Revisions {
    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let revision = number(object, &["revision"]);
        if revision < 0 {
            let detail = "must be greater than or equal to 0";
            faults.push(invalid(&Path::new("revision"), revision, detail));
        }
        match object.get("data") {
            None | Some(Value::Null) => faults.push(required(&Path::new("data"), "data is mandatory")),
            Some(Value::Object(_)) => {}
            Some(_) => {
                let detail = "data must be a valid JSON object";
                faults.push(invalid(&Path::new("data"), "<data>", detail));
            }
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        if new.get("data") != old.get("data") {
            faults.push(invalid(&Path::new("data"), "<data>", "field is immutable"));
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Controller", "Controller of the object"),
                Column::new("Revision", "Revision indicates the revision of the state represented by Data.")
                    .typed("integer"),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let owners = items(object, &["metadata", "ownerReferences"]);
        let controller = owners.iter().find(|o| o.get("controller").is_some_and(|c| c == true));
        let shown = controller.map_or_else(
            || "<none>".to_owned(),
            |owner| {
                let group = text(owner, &["apiVersion"]).rsplit_once('/').map_or("", |(group, _)| group);
                let kind = text(owner, &["kind"]).to_lowercase();
                let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
                format!("{kind}/{}", text(owner, &["name"]))
            },
        );
        vec![name_cell(object), shown.into(), number(object, &["revision"]).into(), age_cell(cx, object)]
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

    fn words(faults: &[Cause]) -> Vec<String> {
        faults.iter().map(|f| format!("{}: {}", f.field, f.message)).collect()
    }

    fn set() -> Value {
        let mut set = json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "a", "image": "i",
                "terminationMessagePolicy": "File", "imagePullPolicy": "Always"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}});
        StatefulSets.default(&mut set);
        set
    }

    #[test]
    fn defaults_are_upstreams() {
        let set = set();
        let spec = &set["spec"];
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        assert_eq!(
            spec["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(
            spec["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        assert_eq!(spec["volumeClaimTemplates"][0]["status"], json!({"phase": "Pending"}));
        assert_eq!(spec["volumeClaimTemplates"][0]["kind"], "PersistentVolumeClaim");
        assert_eq!(words(&with(|cx| StatefulSets.validate(cx, &set))), [""; 0]);
    }

    #[test]
    fn only_some_fields_may_change() {
        let old = set();
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(3);
        new["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(2);
        assert_eq!(words(&with(|cx| StatefulSets.validate_update(cx, &new, &old))), [""; 0]);
        new["spec"]["serviceName"] = json!("other");
        let found = words(&with(|cx| StatefulSets.validate_update(cx, &new, &old)));
        assert!(
            found[0].starts_with("spec: Forbidden: updates to statefulset spec for fields other than"),
            "{found:?}"
        );
        let mut bad = old.clone();
        bad["spec"]["updateStrategy"] = json!({"type": "Sometimes"});
        assert_eq!(
            words(&with(|cx| StatefulSets.validate(cx, &bad))),
            ["spec.updateStrategy: Invalid value: \"Sometimes\": must be 'RollingUpdate' or 'OnDelete'"]
        );
    }

    #[test]
    fn a_revision_shows_whose_it_is() {
        let revision = json!({"metadata": {"name": "db-1", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]}, "revision": 4, "data": {}});
        let cells = with(|cx| Revisions.cells(cx, &revision));
        assert_eq!((&cells[1], &cells[2]), (&json!("statefulset.apps/db"), &json!(4)));
        let mut other = revision.clone();
        other["data"] = json!({"a": 1});
        assert_eq!(
            words(&with(|cx| Revisions.validate_update(cx, &other, &revision))),
            ["data: Invalid value: \"<data>\": field is immutable"]
        );
    }
}
