//! What the scheduler does at the API besides bindings: evictions, nominations, writes of plugins.

use crate::live::{EVENTS, Live, NODES, PODS, condition, node, node_of, pod};
use crate::native::Builtin;
use crate::scripted::{Shared, scripted};
use orlop_apimachinery::Gvr;
use orlop_scheduler::framework::{Hooks, PluginError, PluginFactory, SchedulerPlugin, Verdict};
use orlop_testkit::{MemoryApi, eventually};
use serde_json::{Value, json};
use std::sync::Arc;

static BUDGETS: Gvr = Gvr::new("policy", "v1", "poddisruptionbudgets");

fn important(name: &str, cpu: &str) -> Value {
    let mut pod = pod(name, cpu);
    pod["spec"]["priority"] = json!(1000);
    pod
}

/// The built-in plugins and a scripted one.
struct WithScripted(Shared, Hooks);

impl PluginFactory for WithScripted {
    fn names(&self) -> Vec<String> {
        Builtin.names().into_iter().chain(["S".to_owned()]).collect()
    }
    fn open(&self, name: &str, args: &Value) -> Result<Box<dyn SchedulerPlugin>, PluginError> {
        if name == "S" {
            return Ok(scripted("S", self.1, &self.0).plugin);
        }
        Builtin.open(name, args)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn victims_are_marked_and_end_gracefully() {
    let api = MemoryApi::new();
    api.put(&NODES, node("a", "4")).unwrap();
    let live = Live::start(api.clone(), None);
    let mut low = pod("low", "3");
    low["metadata"]["labels"] = json!({"app": "low"});
    api.put(&PODS, low).unwrap();
    let mut spared = pod("spared", "1");
    spared["metadata"]["labels"] = json!({"app": "spared"});
    api.put(&PODS, spared).unwrap();
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "spared", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "spared"}}}, "status": {"disruptionsAllowed": 0},
    });
    api.put(&BUDGETS, budget).unwrap();
    let bound = || ["low", "spared"].iter().all(|name| node_of(&api, name).is_some());
    eventually("both are bound", bound).await.unwrap();

    api.put(&PODS, important("high", "3")).unwrap();
    let of_low = || api.peek(&PODS, "default", "low").unwrap().to_value();
    eventually("the victim is being deleted", || !of_low()["metadata"]["deletionTimestamp"].is_null())
        .await
        .unwrap();
    let low = of_low();
    assert_eq!(low["metadata"]["deletionGracePeriodSeconds"], 30);
    let conditions = low["status"]["conditions"].as_array().unwrap();
    let marked = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&marked["status"], &marked["reason"]), (&json!("True"), &json!("PreemptionByScheduler")));
    assert_eq!(marked["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    eventually("the pod is nominated", || {
        api.peek(&PODS, "default", "high").unwrap().to_value()["status"]["nominatedNodeName"] == "a"
    })
    .await
    .unwrap();
    eventually("the victim's event is there", || {
        api.peek_all(&EVENTS).iter().any(|e| {
            let e = e.to_value();
            e["reason"] == "Preempted" && e["involvedObject"]["name"] == "low" && e["type"] == "Normal"
        })
    })
    .await
    .unwrap();
    assert_eq!(node_of(&api, "high"), None);
    assert_eq!(condition(&api, "high").unwrap()["reason"], "Unschedulable");
    // The node is done with it.
    let gone = orlop_client::DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
    api.client().delete(orlop_client::ResourceRef::new(&PODS, "default", "low"), &gone).await.unwrap();
    eventually("the pod has the place", || node_of(&api, "high").as_deref() == Some("a")).await.unwrap();
    assert!(!api.peek(&PODS, "default", "spared").unwrap().is_being_deleted());
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_plugins_are_done_before_the_binding() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scheduler.yaml");
    let text = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
                profiles: [{plugins: {multiPoint: {enabled: [{name: S}]}}}]\n";
    std::fs::write(&file, text).unwrap();
    let api = MemoryApi::new();
    api.put(&NODES, node("a", "4")).unwrap();
    let script = Shared::default();
    let write = json!({
        "op": "patch", "apiVersion": "v1", "resource": "pods", "namespace": "default", "name": "p",
        "body": {"metadata": {"annotations": {"prepared": "yes"}}},
    });
    let missing = json!({
        "op": "delete", "apiVersion": "v1", "resource": "pods", "namespace": "default", "name": "nobody",
        "ignore": ["NotFound"],
    });
    let writes = [missing, write].iter().map(|w| w.to_string().into_bytes()).collect();
    script.lock().unwrap().pre_bind.push_back((Verdict::Allow, writes));
    let plugins = Arc::new(WithScripted(script.clone(), Hooks::PRE_BIND.or(Hooks::POST_BIND)));
    let live = Live::with(api.clone(), Some(file), plugins);
    api.put(&PODS, pod("p", "1")).unwrap();
    eventually("the pod is bound", || node_of(&api, "p").is_some()).await.unwrap();
    let bound = api.peek(&PODS, "default", "p").unwrap().to_value();
    assert_eq!(bound["metadata"]["annotations"]["prepared"], "yes");
    assert!(live.users.lock().unwrap().contains("system:plugin:s"));
    let heard = || script.lock().unwrap().calls.last().is_some_and(|call| call == "S post-bind p");
    eventually("the plugin hears of it", heard).await.unwrap();
    // A write that fails keeps the next one from its node.
    let refused = json!({
        "op": "patch", "apiVersion": "v1", "resource": "pods", "namespace": "default", "name": "nobody", "body": {},
    });
    let writes = vec![refused.to_string().into_bytes()];
    script.lock().unwrap().pre_bind.push_back((Verdict::Allow, writes));
    api.put(&PODS, pod("q", "1")).unwrap();
    eventually("the failure is told", || condition(&api, "q").is_some()).await.unwrap();
    let told = condition(&api, "q").unwrap();
    assert_eq!(told["reason"], "SchedulerError");
    assert!(told["message"].as_str().unwrap().starts_with("running PreBind plugin \"S\": "), "{told}");
    eventually("the next try succeeds", || node_of(&api, "q").is_some()).await.unwrap();
    live.stop().await;
}
