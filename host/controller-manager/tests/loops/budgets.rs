//! PodDisruptionBudgets, and aggregated ClusterRoles.

use crate::harness::{BUDGETS, Cluster, DEPLOYMENTS, PODS, ROLES, plugin, value};
use crate::workloads::{deployment, is_rolled_out, workloads};
use orlop_plugin_clusterrole_aggregation::ClusterRoleAggregation;
use orlop_plugin_disruption::Disruption;
use serde_json::{Value, json};

#[tokio::test]
async fn a_budget_follows_the_deployment_whose_pods_it_guards() {
    let mut specs = workloads();
    specs.push(plugin::<Disruption>(orlop_plugin_disruption::MANIFEST, "{}"));
    let cluster = Cluster::start(specs);
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.api.put(&BUDGETS, budget).unwrap();
    cluster.api.put(&DEPLOYMENTS, deployment("web", 3, "a")).unwrap();
    let counts = || {
        let status = value(cluster.api.peek(&BUDGETS, "default", "web"))["status"].clone();
        ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"]
            .map(|key| status[key].as_i64().unwrap_or(-1))
    };
    cluster.until("three pods are counted", || counts() == [3, 2, 3, 1]).await;
    let name = cluster.pods()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster
        .api
        .modify(&PODS, "default", &name, |p| {
            p["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}])
        })
        .unwrap();
    cluster.until("a pod that is not ready is missed", || counts() == [3, 2, 2, 0]).await;
    cluster.api.modify(&DEPLOYMENTS, "default", "web", |d| d["spec"]["replicas"] = json!(1)).unwrap();
    cluster
        .until("fewer are expected", || is_rolled_out(&cluster, "web", 1) && counts() == [1, 0, 1, 1])
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_role_with_the_label_adds_to_the_aggregated_one() {
    let spec = plugin::<ClusterRoleAggregation>(orlop_plugin_clusterrole_aggregation::MANIFEST, "{}");
    let cluster = Cluster::start(vec![spec]);
    let rule = |resource: &str| json!({"verbs": ["get"], "apiGroups": ["x.io"], "resources": [resource]});
    let whole = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "view"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}]}});
    cluster.api.put(&ROLES, whole).unwrap();
    let part = |name: &str, rules: &[Value]| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name, "labels": {"to-view": "true"}}, "rules": rules})
    };
    let rules = || value(cluster.api.peek(&ROLES, "", "view"))["rules"].clone();
    cluster.api.put(&ROLES, part("b", &[rule("bees")])).unwrap();
    cluster.until("one part is there", || rules() == json!([rule("bees")])).await;
    cluster.api.put(&ROLES, part("a", &[rule("ants")])).unwrap();
    cluster.until("both parts are there", || rules() == json!([rule("ants"), rule("bees")])).await;
    cluster.api.modify(&ROLES, "", "b", |r| r["metadata"]["labels"] = json!({})).unwrap();
    cluster.until("a part is gone", || rules() == json!([rule("ants")])).await;
    cluster.stop().await;
}
