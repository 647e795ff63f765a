//! PodDisruptionBudgets.
//!
//! Source: `pkg/registry/policy/poddisruptionbudget`, `pkg/apis/policy/validation`.

use super::json::{number, text};
use super::pod_spec::placement::label_selector;
use super::{AGE_COLUMN, Column, Context, GenerationRule, NAME_COLUMN, Strategy, age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, invalid, not_supported};
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// The strategy of poddisruptionbudgets.
#[derive(Debug)]
pub(super) struct Budgets;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
const COUNTS: [&str; 4] = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];

impl Strategy for Budgets {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] =
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let path = Path::new("spec");
        let set = |key: &str| spec.get(key).filter(|v| !v.is_null());
        if set("minAvailable").is_some() && set("maxUnavailable").is_some() {
            faults.push(invalid(&path, spec.clone(), "minAvailable and maxUnavailable cannot be both set"));
        }
        for key in ["minAvailable", "maxUnavailable"] {
            if let Some(value) = set(key) {
                int_or_percent(value, &path.child(key), &mut faults);
            }
        }
        if let Some(selector) = set("selector") {
            label_selector(selector, &path.child("selector"), &mut faults);
        }
        let policy = text(spec, &["unhealthyPodEvictionPolicy"]);
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        if !policy.is_empty() && !policies.contains(&policy) {
            faults.push(not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, &policies));
        }
        faults
    }

    fn validate_status_update(&self, _cx: &Context<'_>, new: &Value, _old: &Value) -> Vec<Cause> {
        let path = Path::new("status");
        let count = |key| (key, number(new, &["status", key]));
        let negative = COUNTS.into_iter().map(count).filter(|(_, n)| *n < 0);
        negative.map(|(key, n)| invalid(&path.child(key), n, NOT_NEGATIVE)).collect()
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Min Available", "The minimum number of pods that must be available."),
                Column::new("Max Unavailable", "The maximum number of pods that may be unavailable."),
                Column::new(
                    "Allowed Disruptions",
                    "Calculated number of pods that may be disrupted at this time.",
                )
                .typed("integer"),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let shown = |key: &str| -> Value {
            match at(object, &["spec", key]) {
                Some(Value::String(percent)) => percent.clone().into(),
                Some(Value::Number(n)) => n.to_string().into(),
                _ => "N/A".into(),
            }
        };
        vec![
            name_cell(object),
            shown("minAvailable"),
            shown("maxUnavailable"),
            number(object, &["status", "disruptionsAllowed"]).into(),
            age_cell(cx, object),
        ]
    }
}

/// A count that is not negative, or a percentage of at most 100.
pub(super) fn int_or_percent(value: &Value, path: &Path, faults: &mut Vec<Cause>) {
    match value {
        Value::Number(n) if n.as_i64().is_some_and(|n| n < 0) => {
            faults.push(invalid(path, value.clone(), NOT_NEGATIVE));
        }
        Value::String(percent) => match percent.strip_suffix('%').and_then(|p| p.parse::<u64>().ok()) {
            None => faults.push(invalid(path, value.clone(), PERCENT)),
            Some(percent) if percent > 100 => {
                faults.push(invalid(path, value.clone(), "must not be greater than 100%"));
            }
            Some(_) => {}
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;

    #[track_caller]
    fn check(spec: Value, expected: &[&str]) {
        let user = UserInfo::master("admin");
        let cx = Context { now: jiff::Timestamp::UNIX_EPOCH, user: &user, random: 0 };
        let found = Budgets.validate(&cx, &json!({"metadata": {"name": "b"}, "spec": spec}));
        let found: Vec<String> = found.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn faults_are_named_in_upstreams_words() {
        check(json!({"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}), &[]);
        check(json!({"maxUnavailable": "50%"}), &[]);
        check(
            json!({"minAvailable": -1}),
            &["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"],
        );
        check(
            json!({"minAvailable": "101%"}),
            &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"],
        );
        check(
            json!({"unhealthyPodEvictionPolicy": "Never"}),
            &[
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ],
        );
        check(
            json!({"minAvailable": 1, "maxUnavailable": 1}),
            &[
                "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set",
            ],
        );
    }
}
