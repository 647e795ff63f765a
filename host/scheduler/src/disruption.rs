//! PodDisruptionBudgets, as far as preemption respects them.

use crate::action::Key;
use orlop_apimachinery::Object;
use orlop_apimachinery::selector::Selector;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

#[derive(Debug)]
struct Budget {
    selector: Selector,
    /// `status.disruptionsAllowed`
    allowed: i64,
    /// `status.disruptedPods`: their eviction is counted already.
    disrupted: HashSet<Box<str>>,
}

/// All budgets, by namespace.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    by_namespace: HashMap<Arc<str>, BTreeMap<Arc<str>, Budget>>,
}

/// How many evictions the budgets still allow, while pods of one node are gone through.
#[derive(Debug, Default)]
pub(crate) struct Allowance<'a> {
    left: HashMap<(&'a str, &'a str), i64>,
}

impl Budgets {
    /// A PodDisruptionBudget appeared, changed, or went.
    pub(crate) fn set(&mut self, key: &Key, object: Option<&Object>) {
        let Some(object) = object else {
            if let Some(budgets) = self.by_namespace.get_mut(&key.0) {
                budgets.remove(&key.1);
                if budgets.is_empty() {
                    self.by_namespace.remove(&key.0);
                }
            }
            return;
        };
        let value = object.to_value();
        let selector = value.pointer("/spec/selector").filter(|s| !s.is_null());
        // As upstream: no selector selects nothing, an empty one everything; one that is wrong counts for none.
        let selector = selector.map_or_else(Selector::nothing, |s| {
            Selector::from_label_selector(s).unwrap_or_else(|_| Selector::nothing())
        });
        let disrupted = value.pointer("/status/disruptedPods").and_then(Value::as_object);
        let budget = Budget {
            selector,
            allowed: value.pointer("/status/disruptionsAllowed").and_then(Value::as_i64).unwrap_or(0),
            disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.as_str().into()).collect(),
        };
        self.by_namespace.entry(key.0.clone()).or_default().insert(key.1.clone(), budget);
    }

    /// Whether the eviction of `pod`, after those that were asked about with the same allowance, violates
    /// a budget.
    pub(crate) fn violated<'a>(&'a self, pod: &Object, allowance: &mut Allowance<'a>) -> bool {
        let Some((namespace, budgets)) = self.by_namespace.get_key_value(pod.namespace()) else {
            return false;
        };
        let labels = &pod.meta().labels;
        if labels.is_empty() {
            return false;
        }
        let mut violated = false;
        for (name, budget) in budgets {
            if budget.disrupted.contains(pod.name()) || !budget.selector.matches(labels) {
                continue;
            }
            let left = allowance.left.entry((namespace, name)).or_insert(budget.allowed);
            *left -= 1;
            violated |= *left < 0;
        }
        violated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn pod(name: &str, labels: &Value) -> Object {
        object(&json!({"metadata": {"namespace": "ns", "name": name, "labels": labels}}))
    }

    #[test]
    fn every_matching_budget_is_counted_down() {
        let mut budgets = Budgets::default();
        let key = |name: &str| -> Key { ("ns".into(), name.into()) };
        let budget = |allowed: i64, selector: Value| {
            object(&json!({
                "spec": {"selector": selector},
                "status": {"disruptionsAllowed": allowed, "disruptedPods": {"gone": "2026-01-01T00:00:00Z"}},
            }))
        };
        budgets.set(&key("two"), Some(&budget(2, json!({"matchLabels": {"app": "x"}}))));
        budgets.set(&key("all"), Some(&budget(9, json!({}))));
        budgets.set(&key("none"), Some(&budget(0, Value::Null)));
        let x = json!({"app": "x"});
        let mut allowance = Allowance::default();
        assert!(!budgets.violated(&pod("gone", &x), &mut allowance));
        assert!(!budgets.violated(&pod("a", &x), &mut allowance));
        assert!(!budgets.violated(&pod("b", &x), &mut allowance));
        assert!(budgets.violated(&pod("c", &x), &mut allowance));
        assert!(!budgets.violated(&pod("d", &json!({"app": "y"})), &mut allowance));
        // Pods without labels belong to no budget.
        budgets.set(&key("all"), Some(&budget(0, json!({}))));
        assert!(!budgets.violated(&pod("e", &json!({})), &mut Allowance::default()));
        assert!(budgets.violated(&pod("d", &json!({"app": "y"})), &mut Allowance::default()));
        budgets.set(&key("all"), None);
        assert!(!budgets.violated(&pod("d", &json!({"app": "y"})), &mut Allowance::default()));
    }
}
