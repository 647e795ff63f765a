//! DaemonSets.
//!
//! Source: `pkg/registry/apps/daemonset`, `ValidateDaemonSet`.

use super::budgets::int_or_percent;
use super::json::{number, object, or_none, set_default, set_text, text};
use super::workloads::{
    CONTAINERS, IMAGES, SELECTOR, default_template, immutable_selector, not_negative, selector_faults,
    template_cells, template_faults, template_warnings,
};
use super::{AGE_COLUMN, Column, Context, GenerationRule, NAME_COLUMN, Strategy, age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, invalid, not_supported, required};
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// The strategy of daemonsets.
#[derive(Debug)]
pub(super) struct DaemonSets;

const STRATEGIES: [&str; 2] = ["OnDelete", "RollingUpdate"];
const COUNTS: [&str; 5] = [
    "desiredNumberScheduled",
    "currentNumberScheduled",
    "numberReady",
    "updatedNumberScheduled",
    "numberAvailable",
];

const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Desired", "The total number of nodes that should be running the daemon pod.").typed("integer"),
    Column::new("Current", "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod.").typed("integer"),
    Column::new("Ready", "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition.").typed("integer"),
    Column::new("Up-to-date", "The total number of nodes that are running updated daemon pod").typed("integer"),
    Column::new("Available", "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available.").typed("integer"),
    Column::new("Node Selector", "The nodes on which the daemon pods run."),
    AGE_COLUMN,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

impl Strategy for DaemonSets {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn default(&self, set: &mut Value) {
        default_template(set);
        let Some(spec) = set.get_mut("spec").and_then(Value::as_object_mut) else { return };
        set_default(spec, "revisionHistoryLimit", 10);
        let Some(strategy) = object(spec, "updateStrategy") else { return };
        set_text(strategy, "type", "RollingUpdate");
        if strategy.get("type").is_some_and(|t| t == "RollingUpdate")
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            set_default(rolling, "maxUnavailable", 1);
            set_default(rolling, "maxSurge", 0);
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        });
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let mut faults = Vec::new();
        selector_faults(spec, "daemonset", &path, &mut faults);
        template_faults(spec, &path, &mut faults);
        not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, &mut faults);
        let at_strategy = path.child("updateStrategy");
        match text(spec, &["updateStrategy", "type"]) {
            "OnDelete" => {}
            "RollingUpdate" => rolling(spec, &at_strategy.child("rollingUpdate"), &mut faults),
            other => faults.push(not_supported(&at_strategy.child("type"), other, &STRATEGIES)),
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        immutable_selector(new, old, &mut faults);
        faults
    }

    fn validate_status_update(&self, _cx: &Context<'_>, new: &Value, _old: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let keys = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
        ];
        not_negative(new.get("status").unwrap_or(&Value::Null), &keys, &Path::new("status"), &mut faults);
        faults
    }

    fn warnings(&self, _cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let selector = at(object, &["spec", "template", "spec", "nodeSelector"]).and_then(Value::as_object);
        let selector: Vec<String> = selector
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let mut cells = vec![name_cell(object)];
        cells.extend(COUNTS.map(|key| Value::from(number(object, &["status", key]))));
        cells.extend([or_none(selector.join(",")).into(), age_cell(cx, object)]);
        cells.extend(template_cells(object));
        cells
    }
}

fn rolling(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let Some(rolling) = at(spec, &["updateStrategy", "rollingUpdate"]).filter(|r| !r.is_null()) else {
        faults.push(required(path, ""));
        return;
    };
    let is_zero = |key: &str| rolling.get(key).is_none_or(|v| v == 0 || v == "0%" || v.is_null());
    for key in ["maxUnavailable", "maxSurge"] {
        if let Some(value) = rolling.get(key).filter(|v| !v.is_null()) {
            int_or_percent(value, &path.child(key), faults);
        }
    }
    let most = || rolling.get("maxUnavailable").cloned().unwrap_or_default();
    match (is_zero("maxUnavailable"), is_zero("maxSurge")) {
        (true, true) => {
            faults.push(invalid(&path.child("maxUnavailable"), most(), "cannot be 0 when maxSurge is 0"));
        }
        (false, false) => {
            let value = rolling.get("maxSurge").cloned().unwrap_or_default();
            let detail = "may not be set when maxUnavailable is non-zero";
            faults.push(invalid(&path.child("maxSurge"), value, detail));
        }
        _ => {}
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

    fn set() -> Value {
        let mut set = json!({"metadata": {"name": "log"}, "spec": {
            "selector": {"matchLabels": {"app": "log"}}, "template": {"metadata": {"labels": {"app": "log"}},
            "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "a", "image": "i"}]}}}});
        DaemonSets.default(&mut set);
        set
    }

    #[test]
    fn one_node_after_the_other_is_the_default() {
        let set = set();
        assert_eq!(
            set["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
        );
        assert_eq!(with(|cx| DaemonSets.validate(cx, &set)), []);
        assert_eq!(with(|cx| DaemonSets.cells(cx, &set))[6], "disk=ssd");
    }

    #[test]
    fn surging_and_taking_away_exclude_each_other() {
        let mut set = set();
        let mut fault = |rolling: Value| {
            set["spec"]["updateStrategy"]["rollingUpdate"] = rolling;
            let found = with(|cx| DaemonSets.validate(cx, &set));
            found.iter().map(|f| format!("{}: {}", f.field, f.message)).collect::<Vec<_>>()
        };
        assert_eq!(
            fault(json!({"maxUnavailable": 0, "maxSurge": 0})),
            [
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0 when maxSurge is 0"
            ]
        );
        assert_eq!(
            fault(json!({"maxUnavailable": 1, "maxSurge": "10%"})),
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"10%\": may not be set when maxUnavailable is non-zero"
            ]
        );
        assert_eq!(fault(json!({"maxUnavailable": 0, "maxSurge": 1})), [""; 0]);
    }
}
