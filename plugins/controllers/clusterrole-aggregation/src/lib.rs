//! Gathers the rules of aggregated ClusterRoles: the `clusterrole-aggregation-controller`.
//!
//! There is one key for all of them, since every role may be a part of any other; a role that is
//! part of an aggregated one and is itself aggregated comes about in another round.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/clusterroleaggregation`.

use orlop_sdk::apimachinery::Selector;
use orlop_sdk::controller::{Controller, Item, Meta, Plan, Write};
use orlop_sdk::serde_json::{Value, json};
use serde::Deserialize;

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct ClusterRoleAggregation;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Role {
    metadata: Meta,
    rules: Option<Vec<Value>>,
    aggregation_rule: Option<Aggregation>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Aggregation {
    cluster_role_selectors: Vec<Value>,
}

impl Role {
    fn rules(&self) -> &[Value] {
        self.rules.as_deref().unwrap_or_default()
    }
}

/// The rules of all roles that a selector selects, each once, in the order of the roles' names.
fn gathered(role: &Role, aggregation: &Aggregation, roles: &[Role]) -> Result<Vec<Value>, String> {
    let mut rules: Vec<Value> = Vec::new();
    for selector in &aggregation.cluster_role_selectors {
        let selector = Selector::from_label_selector(selector).map_err(|e| e.to_string())?;
        let parts = roles.iter().filter(|r| r.metadata.name != role.metadata.name);
        for part in parts.filter(|r| selector.matches(&r.metadata.label_pairs())) {
            for rule in part.rules() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Ok(rules)
}

fn reconcile(item: &Item<'_>) -> Result<Plan, String> {
    let mut roles: Vec<Role> = item.input("roles")?;
    roles.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut writes = Vec::new();
    for role in &roles {
        let Some(aggregation) = &role.aggregation_rule else { continue };
        let rules = gathered(role, aggregation, &roles)?;
        // Their order says nothing.
        let same = rules.len() == role.rules().len() && rules.iter().all(|r| role.rules().contains(r));
        if !same {
            let body = json!({ "rules": rules });
            let write = Write::patch("rbac.authorization.k8s.io/v1", "clusterroles", &role.metadata, body);
            writes.push(write.ignoring("NotFound"));
        }
    }
    Ok(Plan::writes(writes))
}

impl Controller for ClusterRoleAggregation {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, _now: i64) -> Plan {
        reconcile(item).unwrap_or_else(Plan::error)
    }
}

orlop_sdk::export_controller!(ClusterRoleAggregation);

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::controller::serve;
    use orlop_sdk::serde_json;

    fn writes(roles: &Value) -> Vec<(String, Value)> {
        let request = json!({"now": 0, "items": [{"key": {"name": "all"}, "object": null, "inputs": {"roles": roles}}]});
        let answer = serve(&ClusterRoleAggregation, request.to_string().as_bytes()).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let writes = answer["plans"][0]["writes"].as_array().cloned().unwrap_or_default();
        let one = |w: &Value| (w["name"].as_str().unwrap().to_owned(), w["body"]["rules"].clone());
        writes.iter().map(one).collect()
    }

    fn rule(resource: &str) -> Value {
        json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]})
    }

    fn part(name: &str, label: &str, rules: &[Value]) -> Value {
        json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules})
    }

    fn whole(name: &str, label: &str, rules: &[Value]) -> Value {
        let selectors = json!([{"matchLabels": {label: "true"}}]);
        json!({"metadata": {"name": name}, "rules": rules, "aggregationRule": {"clusterRoleSelectors": selectors}})
    }

    #[test]
    fn rules_are_gathered_once_each_in_the_order_of_names() {
        let roles = json!([
            whole("all", "x", &[]),
            part("b", "x", &[rule("pods"), rule("nodes")]),
            part("a", "x", &[rule("nodes")]),
            part("c", "y", &[rule("secrets")]),
        ]);
        assert_eq!(writes(&roles), [("all".to_owned(), json!([rule("nodes"), rule("pods")]))]);
    }

    #[test]
    fn what_is_gathered_already_is_left_alone() {
        let roles =
            json!([whole("all", "x", &[rule("b"), rule("a")]), part("p", "x", &[rule("a"), rule("b")])]);
        assert_eq!(writes(&roles), []);
        let gone = json!([whole("all", "x", &[rule("b")])]);
        assert_eq!(writes(&gone), [("all".to_owned(), json!([]))]);
    }

    #[test]
    fn a_role_is_no_part_of_itself() {
        let mut itself = whole("all", "x", &[rule("a")]);
        itself["metadata"]["labels"] = json!({"x": "true"});
        assert_eq!(writes(&json!([itself])), [("all".to_owned(), json!([]))]);
    }
}
