//! The rules. Source: `plugin/pkg/admission/priority`.

use orlop_sdk::admission::{Operation, Patch};
use serde_json::{Value, json};

const PREEMPT: &str = "PreemptLowerPriority";

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn value(class: &Value) -> i64 {
    class.pointer("/value").and_then(Value::as_i64).unwrap_or_default()
}

/// The class for pods that name none: of several the one with the lowest value, since they came
/// about while nobody could tell.
fn default_class(classes: &Value) -> Option<&Value> {
    let all = classes.as_array().into_iter().flatten();
    all.filter(|c| c.pointer("/globalDefault") == Some(&Value::Bool(true))).min_by_key(|c| value(c))
}

/// What a new pod gets. The error is what stands after `is forbidden: `.
///
/// `named` is the class that the pod names, `classes` all there are.
pub(crate) fn resolve(pod: &Value, named: &Value, classes: &Value) -> Result<Patch, String> {
    let mut patch = Patch::new();
    let name = text(pod, "/spec/priorityClassName");
    let class = match name {
        "" => default_class(classes),
        name if named.is_null() => return Err(format!("no PriorityClass with name {name} was found")),
        _ => Some(named),
    };
    let (priority, policy) = match class {
        Some(class) => (value(class), text(class, "/preemptionPolicy")),
        None => (0, PREEMPT),
    };
    if let Some(class) = class.filter(|_| name.is_empty()) {
        patch.set(pod, &["spec", "priorityClassName"], json!(text(class, "/metadata/name")));
    }
    match pod.pointer("/spec/priority").and_then(Value::as_i64) {
        Some(given) if given != priority => {
            return Err(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            ));
        }
        Some(_) => {}
        None => patch.set(pod, &["spec", "priority"], json!(priority)),
    }
    match text(pod, "/spec/preemptionPolicy") {
        _ if policy.is_empty() => {}
        "" => patch.set(pod, &["spec", "preemptionPolicy"], json!(policy)),
        given if given != policy => {
            return Err(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            ));
        }
        _ => {}
    }
    Ok(patch)
}

/// Gives an updated pod back what its author left out.
pub(crate) fn keep(pod: &Value, old: &Value) -> Patch {
    let mut patch = Patch::new();
    for key in ["priority", "preemptionPolicy"] {
        let of =
            |pod: &Value| pod.pointer("/spec").and_then(|s| s.get(key)).filter(|v| !v.is_null()).cloned();
        if let (None, Some(before)) = (of(pod), of(old)) {
            patch.set(pod, &["spec", key], before);
        }
    }
    patch
}

/// Refuses a second default.
pub(crate) fn only_default(
    class: &Value,
    name: &str,
    operation: Operation,
    classes: &Value,
) -> Result<(), String> {
    if class.pointer("/globalDefault") != Some(&Value::Bool(true)) {
        return Ok(());
    }
    let Some(default) = default_class(classes) else { return Ok(()) };
    let other = text(default, "/metadata/name");
    if operation == Operation::Create || other != name {
        return Err(format!(
            "PriorityClass {other} is already marked as default. Only one default can exist"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, value: i64, default: bool) -> Value {
        json!({ "metadata": { "name": name }, "value": value, "globalDefault": default, "preemptionPolicy": "Never" })
    }

    #[test]
    fn every_case_of_the_table() {
        let cases: Value = serde_json::from_str(include_str!("../testdata/cases.json")).unwrap();
        for case in cases.as_array().unwrap() {
            let found = match resolve(&case["pod"], &case["class"], &case["classes"]) {
                Ok(patch) => serde_json::from_slice(&patch.into_bytes()).unwrap_or(Value::Null),
                Err(why) => json!(why),
            };
            assert_eq!(found, case["expected"], "{}", case["name"]);
        }
    }

    #[test]
    fn an_update_keeps_what_was_resolved() {
        let old = json!({ "spec": { "priority": 5, "preemptionPolicy": "Never" } });
        let patch = keep(&json!({ "spec": { "priority": null } }), &old);
        let patch: Value = serde_json::from_slice(&patch.into_bytes()).unwrap();
        assert_eq!(
            patch,
            json!([
                { "op": "add", "path": "/spec/priority", "value": 5 },
                { "op": "add", "path": "/spec/preemptionPolicy", "value": "Never" }
            ])
        );
        assert!(keep(&old, &old).into_bytes().is_empty());
    }

    #[test]
    fn there_is_one_default() {
        let classes = json!([class("a", 1, true), class("b", 2, false)]);
        let refused = only_default(&class("c", 3, true), "c", Operation::Create, &classes).unwrap_err();
        assert_eq!(refused, "PriorityClass a is already marked as default. Only one default can exist");
        assert!(only_default(&class("b", 2, true), "b", Operation::Update, &classes).is_err());
        assert!(only_default(&class("a", 1, true), "a", Operation::Update, &classes).is_ok());
        assert!(only_default(&class("c", 3, false), "c", Operation::Create, &classes).is_ok());
        assert!(only_default(&class("c", 3, true), "c", Operation::Create, &json!([])).is_ok());
    }

    #[test]
    fn of_two_defaults_the_lower_one_counts() {
        let classes = json!([class("high", 9, true), class("low", 1, true)]);
        assert_eq!(default_class(&classes).map(|c| text(c, "/metadata/name")), Some("low"));
    }
}
