//! The whole agent against an API in memory and a runtime that only pretends.

mod api;
mod pods;
mod runtime;
mod serving;

use crate::{Node, NodeConfig};
use api::StrategicApi;
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, DeleteOptions, ResourceRef};
use orlop_testkit::{MemoryApi, eventually};
use runtime::FakeRuntime;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub(crate) static PODS: Gvr = Gvr::new("", "v1", "pods");

/// A node under test; dropped, it stops.
pub(crate) struct Cluster {
    pub(crate) api: MemoryApi,
    pub(crate) runtime: FakeRuntime,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: NodeConfig,
    agent: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::new("node-a", "192.0.2.1".parse().unwrap(), dir.path().join("root"));
        config.static_pod_dir = Some(dir.path().join("manifests"));
        std::fs::create_dir_all(dir.path().join("manifests")).unwrap();
        let api = MemoryApi::new();
        api.put(
            &Gvr::new("", "v1", "services"),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default"},
                   "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}),
        )
        .unwrap();
        Self { api, runtime: FakeRuntime::default(), dir, config, agent: None }
    }

    pub(crate) fn client(&self) -> Arc<dyn ApiClient> {
        Arc::new(StrategicApi(self.api.clone()))
    }

    pub(crate) fn start(&mut self) {
        let cancel = CancellationToken::new();
        let node = Node::new(self.config.clone(), self.client(), Arc::new(self.runtime.clone()));
        let token = cancel.clone();
        let task = tokio::spawn(async move { node.run(token).await.unwrap() });
        self.agent = Some((cancel, task));
    }

    /// Ends the agent; everything that it spawned must end with it.
    pub(crate) async fn stop(&mut self) {
        let (cancel, task) = self.agent.take().unwrap();
        cancel.cancel();
        tokio::time::timeout(std::time::Duration::from_secs(20), task).await.unwrap().unwrap();
    }

    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        self.api.peek(&PODS, "default", name).map(|o| o.to_value())
    }

    pub(crate) fn create(&self, name: &str, spec: Value) -> String {
        let mut spec = spec;
        spec["nodeName"] = json!("node-a");
        let body = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}}, "spec": spec});
        self.api.put(&PODS, body).unwrap().uid().to_owned()
    }

    pub(crate) async fn delete(&self, name: &str) {
        let at = ResourceRef::new(&PODS, "default", name);
        self.client().delete(at, &DeleteOptions::default()).await.unwrap();
    }

    /// Waits until the pod is as `holds` says.
    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let result = eventually(what, || self.pod(name).is_some_and(|p| holds(&p))).await;
        let pod = self.pod(name);
        assert!(result.is_ok(), "{what}: {:#}\n{:#?}", pod.unwrap_or_default(), self.runtime.calls());
        pod.unwrap()
    }

    pub(crate) async fn until_ready(&self, name: &str) -> Value {
        self.until(name, "the pod is Ready", ready).await
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        let result = eventually("the pod is gone", || self.pod(name).is_none()).await;
        assert!(result.is_ok(), "{:#}\n{:#?}", self.pod(name).unwrap_or_default(), self.runtime.calls());
    }

    pub(crate) fn events(&self) -> Vec<(String, String)> {
        let events = self.api.peek_all(&Gvr::new("", "v1", "events"));
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        events.iter().map(|e| e.to_value()).map(|e| (text(&e["reason"]), text(&e["message"]))).collect()
    }

    pub(crate) async fn until_event(&self, reason: &str, message: &str) {
        let found =
            eventually(reason, || self.events().iter().any(|(r, m)| r == reason && m.contains(message)))
                .await;
        assert!(found.is_ok(), "no event {reason} {message:?} in {:#?}", self.events());
    }
}

pub(crate) fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// A pod of one container.
pub(crate) fn one() -> Value {
    json!({"containers": [{"name": "c", "image": "busybox:1"}]})
}
