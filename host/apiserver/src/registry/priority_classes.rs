//! PriorityClasses.
//!
//! Source: `pkg/registry/scheduling/priorityclass`, `pkg/apis/scheduling`.

use super::json::{number, set_text, text};
use super::{AGE_COLUMN, Column, Context, NAME_COLUMN, Strategy, age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, forbidden, invalid, not_supported};
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// The strategy of priorityclasses.
#[derive(Debug)]
pub(super) struct PriorityClasses;

/// Priorities above are for the system.
const HIGHEST_USER: i64 = 1_000_000_000;
const RESERVED: &str = "system-";

/// Name, value and description of the classes that every cluster has.
const SYSTEM: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// The classes that every cluster has, each with its name.
pub(crate) fn system_classes() -> impl Iterator<Item = (&'static str, Value)> {
    SYSTEM.into_iter().map(|(name, value, description)| {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description,
        });
        (name, class)
    })
}

/// Why a class with a reserved name is not one of the system's.
fn not_a_system_class(object: &Value) -> Option<String> {
    let name = text(object, &["metadata", "name"]);
    let Some((_, value, _)) = SYSTEM.into_iter().find(|(known, ..)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if number(object, &["value"]) != value {
        return Some(format!("value of {name} PriorityClass must be {value}"));
    }
    let global = object.get("globalDefault").and_then(Value::as_bool).unwrap_or(false);
    global.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

impl Strategy for PriorityClasses {
    fn default(&self, object: &mut Value) {
        if let Value::Object(map) = object {
            set_text(map, "preemptionPolicy", "PreemptLowerPriority");
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["metadata"]["generation"] = 1.into();
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let value = number(object, &["value"]);
        if text(object, &["metadata", "name"]).starts_with(RESERVED) {
            if let Some(why) = not_a_system_class(object) {
                let detail = format!(
                    "priority class names with '{RESERVED}' prefix are reserved for system use only. error: {why}"
                );
                faults.push(forbidden(&Path::new("metadata").child("name"), &detail));
            }
        } else if value > HIGHEST_USER {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER}");
            faults.push(forbidden(&Path::new("value"), &detail));
        }
        let policy = text(object, &["preemptionPolicy"]);
        let policies = ["Never", "PreemptLowerPriority"];
        if !policies.contains(&policy) {
            faults.push(not_supported(&Path::new("preemptionPolicy"), policy, &policies));
        }
        faults
    }

    fn validate_update(&self, _cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        if number(new, &["value"]) != number(old, &["value"]) {
            faults.push(forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        if at(new, &["preemptionPolicy"]) != at(old, &["preemptionPolicy"]) {
            let value = text(new, &["preemptionPolicy"]);
            faults.push(invalid(&Path::new("preemptionPolicy"), value, "field is immutable"));
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Value", "Value represents the integer value of this priority class.")
                    .typed("integer"),
                Column::new("Global-Default", "Whether pods that name no class get this one.")
                    .typed("boolean"),
                AGE_COLUMN,
                Column::new("PreemptionPolicy", "Whether pods of this class may preempt others."),
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        vec![
            name_cell(object),
            number(object, &["value"]).into(),
            object.get("globalDefault").and_then(Value::as_bool).unwrap_or(false).into(),
            age_cell(cx, object),
            text(object, &["preemptionPolicy"]).into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;

    #[track_caller]
    fn check(name: &str, value: i64, expected: &[&str]) {
        let user = UserInfo::master("admin");
        let cx = Context { now: jiff::Timestamp::UNIX_EPOCH, user: &user, random: 0 };
        let mut class = json!({"metadata": {"name": name}, "value": value});
        PriorityClasses.default(&mut class);
        let found = PriorityClasses.validate(&cx, &class);
        let found: Vec<String> = found.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_systems_names_and_values_are_reserved() {
        check("high", 1_000_000_000, &[]);
        check(
            "high",
            1_000_000_001,
            &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        );
        check("system-node-critical", 2_000_001_000, &[]);
        check(
            "system-mine",
            1,
            &[
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
            ],
        );
        check(
            "system-cluster-critical",
            5,
            &[
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-cluster-critical PriorityClass must be 2000000000",
            ],
        );
    }
}
