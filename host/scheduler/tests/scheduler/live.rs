//! The whole scheduler against an API in memory.

use crate::native::Builtin;
use orlop_apimachinery::{Gvr, Reason, Status};
use orlop_client::ApiError;
use orlop_scheduler::framework::PluginFactory;
use orlop_scheduler::{Scheduler, SchedulerOptions};
use orlop_testkit::{MemoryApi, Verb, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) static PODS: Gvr = Gvr::new("", "v1", "pods");
pub(crate) static NODES: Gvr = Gvr::new("", "v1", "nodes");
pub(crate) static EVENTS: Gvr = Gvr::new("", "v1", "events");

pub(crate) struct Live {
    /// Users whose clients were asked for.
    pub(crate) users: Arc<Mutex<BTreeSet<String>>>,
    scheduler: Scheduler,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Live {
    pub(crate) fn start(api: MemoryApi, config_file: Option<PathBuf>) -> Self {
        Self::with(api, config_file, Arc::new(Builtin))
    }

    /// With plugins of one's own.
    pub(crate) fn with(
        api: MemoryApi,
        config_file: Option<PathBuf>,
        plugins: Arc<dyn PluginFactory>,
    ) -> Self {
        let clients = api.clone();
        let users: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let asked = users.clone();
        let options = SchedulerOptions {
            client: api.client(),
            clients: Arc::new(move |user| {
                asked.lock().unwrap().insert(user.to_owned());
                clients.client()
            }),
            plugins,
            config_file,
            seed: 1,
        };
        let scheduler = Scheduler::new(options).unwrap();
        let cancel = CancellationToken::new();
        let (running, stop) = (scheduler.clone(), cancel.clone());
        let task = tokio::spawn(async move { running.run(stop).await.unwrap() });
        Self { users, scheduler, cancel, task }
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn node(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": "64Gi", "pods": "1000"}},
    })
}

pub(crate) fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    })
}

pub(crate) fn node_of(api: &MemoryApi, name: &str) -> Option<String> {
    let pod = api.peek(&PODS, "default", name)?.to_value();
    pod.pointer("/spec/nodeName").and_then(Value::as_str).map(str::to_owned)
}

pub(crate) fn condition(api: &MemoryApi, name: &str) -> Option<Value> {
    let pod = api.peek(&PODS, "default", name)?.to_value();
    pod.pointer("/status/conditions")?.as_array()?.iter().find(|c| c["type"] == "PodScheduled").cloned()
}

fn bound(api: &MemoryApi) -> HashMap<String, u32> {
    let mut on = HashMap::new();
    for pod in api.peek_all(&PODS) {
        if let Some(node) = pod.to_value().pointer("/spec/nodeName").and_then(Value::as_str) {
            *on.entry(node.to_owned()).or_insert(0) += 1;
        }
    }
    on
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_bound_and_told() {
    let api = MemoryApi::new();
    api.put(&NODES, node("a", "4")).unwrap();
    let live = Live::start(api.clone(), None);
    api.put(&PODS, pod("p", "1")).unwrap();
    eventually("the pod is bound", || node_of(&api, "p").as_deref() == Some("a")).await.unwrap();
    let message = "Successfully assigned default/p to a";
    eventually("the event is there", || {
        api.peek_all(&EVENTS).iter().any(|e| {
            let e = e.to_value();
            e["reason"] == "Scheduled" && e["message"] == message && e["type"] == "Normal"
        })
    })
    .await
    .unwrap();

    api.put(&PODS, pod("big", "8")).unwrap();
    eventually("the pod is said to be unschedulable", || condition(&api, "big").is_some()).await.unwrap();
    let condition = condition(&api, "big").unwrap();
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Unschedulable")));
    let says = condition["message"].as_str().unwrap();
    assert!(says.starts_with("0/1 nodes are available: 1 Insufficient cpu. no new claims"), "{says}");
    // It fits once a larger node comes.
    api.put(&NODES, node("b", "16")).unwrap();
    eventually("the pod is bound", || node_of(&api, "big").as_deref() == Some("b")).await.unwrap();
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_load_places_every_pod_once() {
    let api = MemoryApi::new();
    for i in 0..10 {
        api.put(&NODES, node(&format!("n{i}"), "10")).unwrap();
    }
    // Every third binding fails, some of them after they were written.
    let calls = Arc::new(AtomicU32::new(0));
    let count = calls.clone();
    api.intercept(move |call| {
        if call.verb == Verb::Create
            && call.subresource == "binding"
            && count.fetch_add(1, Ordering::SeqCst).is_multiple_of(3)
        {
            return Err(ApiError::Status(Status::failure(Reason::ServiceUnavailable, "try again")));
        }
        Ok(())
    });
    let live = Live::start(api.clone(), None);
    for i in 0..60 {
        api.put(&PODS, pod(&format!("p{i}"), "1")).unwrap();
    }
    eventually("some are bound", || bound(&api).values().sum::<u32>() > 20).await.unwrap();
    live.stop().await;
    for i in 60..110 {
        api.put(&PODS, pod(&format!("p{i}"), "1")).unwrap();
    }
    let live = Live::start(api.clone(), None);
    // 100 of 110 fit; no node gets more than it can take.
    eventually("the cluster is full", || bound(&api).values().sum::<u32>() == 100).await.unwrap();
    assert!(bound(&api).values().all(|n| *n == 10), "{:?}", bound(&api));
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_put_to_work_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scheduler.yaml");
    let with = |profiles: &str| {
        let text = format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n{profiles}"
        );
        std::fs::write(&file, text).unwrap();
    };
    with("");
    let api = MemoryApi::new();
    api.put(&NODES, node("a", "4")).unwrap();
    let live = Live::start(api.clone(), Some(file.clone()));
    api.put(&PODS, pod("big", "8")).unwrap();
    eventually("it does not fit", || condition(&api, "big").is_some()).await.unwrap();
    with(
        "profiles: [{plugins: {multiPoint: {disabled: [{name: NoSuch}, {name: '*'}], enabled: [{name: Nope}]}}}]",
    );
    api.put(&PODS, pod("small", "1")).unwrap();
    eventually("the old profile goes on", || node_of(&api, "small").is_some()).await.unwrap();
    assert_eq!(node_of(&api, "big"), None);
    with("profiles: [{plugins: {multiPoint: {disabled: [{name: NodeResourcesFit}]}}}]");
    eventually("the new profile fits it", || node_of(&api, "big").is_some()).await.unwrap();
    assert!(live.scheduler.plugins_changed().is_ok());
    live.stop().await;
}
