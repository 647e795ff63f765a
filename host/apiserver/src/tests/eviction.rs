//! Evictions, and the budgets that refuse them.

use super::*;

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

fn eviction(name: &str) -> Value {
    json!({"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":name}})
}

impl Fixture {
    /// A pod that runs, with the label `app=web`.
    async fn running(&self, name: &str, ready: &str) {
        let mut p = pod(name);
        p["metadata"]["labels"] = json!({"app": "web"});
        p["spec"]["nodeName"] = json!("n1");
        self.post(PODS, &p).await.ok();
        let status = json!({"status":{"phase":"Running","conditions":[{"type":"Ready","status":ready}]}});
        self.patch(&format!("{PODS}/{name}/status"), "merge-patch+json", &status).await.ok();
    }

    /// A budget for `app=web`, with the status that its controller would write.
    async fn budget(&self, name: &str, spec: Value, allowed: i64, healthy: i64, desired: i64) {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        let made = self.post(BUDGETS, &json!({"metadata": {"name": name}, "spec": spec})).await.ok();
        assert_eq!(made["status"]["disruptionsAllowed"], 0);
        let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed,
            "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": healthy}});
        self.patch(&format!("{BUDGETS}/{name}/status"), "merge-patch+json", &status).await.ok();
    }

    async fn evict(&self, name: &str) -> Answer {
        self.post(&format!("{PODS}/{name}/eviction"), &eviction(name)).await
    }
}

#[test]
fn a_budget_lets_as_many_pods_go_as_it_can_spare() {
    run(async {
        let f = start().await;
        for name in ["a", "b"] {
            f.running(name, "True").await;
        }
        f.budget("web", json!({"minAvailable": 1}), 1, 2, 1).await;
        let dry = f.post(&format!("{PODS}/a/eviction?dryRun=All"), &eviction("a")).await;
        assert_eq!(dry.code, 201, "{}", dry.text);
        assert_eq!(f.get(&format!("{BUDGETS}/web")).await.ok()["status"]["disruptionsAllowed"], 1);
        let done = f.evict("a").await;
        assert_eq!((done.code, &done.body["status"]), (201, &json!("Success")), "{}", done.text);
        let gone = f.get(&format!("{PODS}/a")).await.ok();
        assert!(gone["metadata"]["deletionTimestamp"].is_string());
        let conditions = gone["status"]["conditions"].as_array().unwrap();
        let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
        assert_eq!(target["reason"], "EvictionByEvictionAPI");
        let budget = f.get(&format!("{BUDGETS}/web")).await.ok();
        assert_eq!(budget["status"]["disruptionsAllowed"], 0);
        assert!(budget["status"]["disruptedPods"]["a"].is_string());
        assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");

        let refused = f.evict("b").await;
        let cause = &refused.body["details"]["causes"][0];
        assert_eq!(cause["reason"], "DisruptionBudget");
        assert_eq!(cause["message"], "The disruption budget web needs 1 healthy pods and has 2 currently");
        assert_eq!(refused.body["reason"], "TooManyRequests");
        let words = refused.refused(429);
        assert_eq!(words, "Cannot evict pod as it would violate the pod's disruption budget.");
        assert!(f.get(&format!("{PODS}/b")).await.ok()["metadata"]["deletionTimestamp"].is_null());
        // One that is going already needs no allowance.
        assert_eq!(f.evict("a").await.code, 201);
    });
}

#[test]
fn a_budget_that_nobody_counted_yet_is_asked_again_later() {
    run(async {
        let f = start().await;
        f.running("a", "True").await;
        let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
        f.post(BUDGETS, &json!({"metadata": {"name": "web"}, "spec": spec})).await.ok();
        let refused = f.evict("a").await;
        assert_eq!(refused.headers["retry-after"], "10");
        assert_eq!(
            refused.body["details"]["causes"][0]["message"],
            "The disruption budget web is still being processed by the server."
        );
        refused.refused(429);
        f.budget("other", json!({"minAvailable": 1}), 1, 1, 1).await;
        let two = f.evict("a").await.refused(500);
        assert_eq!(
            two,
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        );
    });
}

#[test]
fn a_pod_that_is_not_ready_may_go_where_enough_others_are() {
    run(async {
        let f = start().await;
        for name in ["a", "b"] {
            f.running(name, "False").await;
        }
        f.budget("web", json!({"minAvailable": 1}), 0, 0, 1).await;
        f.evict("a").await.refused(429);
        let always = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
        f.patch(&format!("{BUDGETS}/web"), "merge-patch+json", &always).await.ok();
        assert_eq!(f.evict("a").await.code, 201);
        let enough = json!({"spec": {"unhealthyPodEvictionPolicy": null}, "status": null});
        f.patch(&format!("{BUDGETS}/web"), "merge-patch+json", &enough).await.ok();
        f.evict("b").await.refused(429);
        let status = json!({"status": {"currentHealthy": 1}});
        f.patch(&format!("{BUDGETS}/web/status"), "merge-patch+json", &status).await.ok();
        assert_eq!(f.evict("b").await.code, 201);
    });
}
