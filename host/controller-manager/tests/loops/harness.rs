//! A cluster without a server: [`MemoryApi`], the controllers, and a node that runs every pod at once.

use orlop_apimachinery::{Gvk, Gvr, Object};
use orlop_client::{ApiClient, WatchEvent, WatchOptions};
use orlop_controller_manager::{
    ApiResource, ControllerInstance, ControllerManager, ControllerPlugin, ControllerSpec, Declaration, Grant,
    ManagerOptions, PluginFailure, Resources,
};
use orlop_sdk::controller::{Controller, serve};
use orlop_testkit::MemoryApi;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) static PODS: Gvr = Gvr::new("", "v1", "pods");
pub(crate) static EVENTS: Gvr = Gvr::new("", "v1", "events");
pub(crate) static DEPLOYMENTS: Gvr = Gvr::new("apps", "v1", "deployments");
pub(crate) static REPLICASETS: Gvr = Gvr::new("apps", "v1", "replicasets");
pub(crate) static BUDGETS: Gvr = Gvr::new("policy", "v1", "poddisruptionbudgets");
pub(crate) static ROLES: Gvr = Gvr::new("rbac.authorization.k8s.io", "v1", "clusterroles");
pub(crate) static CONTROLLERS: Gvr = Gvr::new("", "v1", "replicationcontrollers");

type Make = fn(&[u8]) -> Result<Box<dyn Controller>, String>;

/// A plugin that runs natively, through the same bytes as on WebAssembly.
struct Native {
    declaration: Declaration,
    make: Make,
    config: Vec<u8>,
}

struct Instance(Box<dyn Controller>);

impl ControllerPlugin for Native {
    fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    fn instantiate(&self) -> Result<Box<dyn ControllerInstance>, PluginFailure> {
        Ok(Box::new(Instance((self.make)(&self.config).map_err(PluginFailure::Invalid)?)))
    }
}

impl ControllerInstance for Instance {
    fn reconcile(&mut self, request: &[u8]) -> Result<Vec<u8>, PluginFailure> {
        serve(self.0.as_ref(), request).map_err(PluginFailure::Invalid)
    }
}

/// A plugin with the permissions of its manifest.
pub(crate) fn plugin<C: Controller>(manifest: &str, config: &str) -> ControllerSpec {
    let manifest: Value = serde_json::from_str(manifest).unwrap();
    let grants: Vec<Grant> = serde_json::from_value(manifest["permissions"].clone()).unwrap();
    let plugin = Native {
        declaration: Declaration::parse(&manifest["controller"]).unwrap(),
        make: |config| C::new(config).map(|c| Box::new(c) as Box<dyn Controller>),
        config: config.as_bytes().to_vec(),
    };
    ControllerSpec::new(Arc::new(plugin), grants)
}

/// Resources of the test cluster.
pub(crate) fn resources() -> Vec<ApiResource> {
    let resource = |group, resource, kind, namespaced| ApiResource {
        gvr: Gvr::new(group, "v1", resource),
        gvk: Gvk::new(group, "v1", kind),
        namespaced,
        deletable: true,
    };
    vec![
        resource("", "pods", "Pod", true),
        resource("", "services", "Service", true),
        resource("", "endpoints", "Endpoints", true),
        resource("", "configmaps", "ConfigMap", true),
        resource("", "serviceaccounts", "ServiceAccount", true),
        resource("", "replicationcontrollers", "ReplicationController", true),
        resource("", "events", "Event", true),
        resource("", "namespaces", "Namespace", false),
        resource("", "nodes", "Node", false),
        resource("apps", "deployments", "Deployment", true),
        resource("apps", "replicasets", "ReplicaSet", true),
        resource("apps", "statefulsets", "StatefulSet", true),
        resource("policy", "poddisruptionbudgets", "PodDisruptionBudget", true),
        resource("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", false),
        resource("discovery.k8s.io", "endpointslices", "EndpointSlice", true),
        resource("coordination.k8s.io", "leases", "Lease", true),
    ]
}

pub(crate) struct Cluster {
    pub(crate) api: MemoryApi,
    pub(crate) manager: ControllerManager,
    cancel: CancellationToken,
    manager_task: JoinHandle<()>,
    node: JoinHandle<()>,
}

impl Cluster {
    /// Starts the given controllers, and a node.
    pub(crate) fn start(specs: Vec<ControllerSpec>) -> Self {
        Self::over(MemoryApi::new(), specs, true)
    }

    /// Starts over an API that there is.
    pub(crate) fn over(api: MemoryApi, specs: Vec<ControllerSpec>, with_node: bool) -> Self {
        Self::serving(api, specs, with_node, Arc::new(resources))
    }

    /// Starts over an API that serves what `served` says at the moment.
    pub(crate) fn serving(
        api: MemoryApi,
        specs: Vec<ControllerSpec>,
        with_node: bool,
        served: Resources,
    ) -> Self {
        let cancel = CancellationToken::new();
        let client = api.client();
        let clients = move |_user: &str| -> Arc<dyn ApiClient> { client.clone() };
        let manager = ControllerManager::new(Arc::new(clients), served, ManagerOptions::new("test"));
        for spec in specs {
            manager.apply(spec);
        }
        let manager_task = tokio::spawn(manager.clone().run(cancel.clone()));
        let node = if with_node { tokio::spawn(run_pods(api.clone())) } else { tokio::spawn(async {}) };
        Self { api, manager, cancel, manager_task, node }
    }

    /// Stops the manager in an orderly way.
    pub(crate) async fn stop(self) {
        self.node.abort();
        self.cancel.cancel();
        self.manager_task.await.unwrap();
    }

    /// Drops the manager as `kill -9` would: at its next await.
    pub(crate) async fn kill(self) -> MemoryApi {
        self.node.abort();
        self.manager_task.abort();
        let _ = self.manager_task.await;
        self.api
    }

    pub(crate) fn pods(&self) -> Vec<Value> {
        self.api.peek_all(&PODS).iter().map(|p| p.to_value()).collect()
    }

    /// Waits until `holds`; prints the workloads where it never does.
    pub(crate) async fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        if let Err(error) = orlop_testkit::eventually(what, holds).await {
            for gvr in [&DEPLOYMENTS, &REPLICASETS, &CONTROLLERS, &PODS, &EVENTS] {
                for object in self.api.peek_all(gvr) {
                    eprintln!("{}", String::from_utf8_lossy(object.bytes()));
                }
            }
            eprintln!("{:#?}", self.manager.status());
            panic!("{error}");
        }
    }

    pub(crate) fn events(&self, reason: &str) -> Vec<Value> {
        let all = self.api.peek_all(&EVENTS);
        all.iter().map(|e| e.to_value()).filter(|e| e["reason"] == reason).collect()
    }
}

pub(crate) fn value(object: Option<Arc<Object>>) -> Value {
    object.map(|o| o.to_value()).unwrap_or_default()
}

/// Binds every pod, reports it ready, and ends what is to be deleted.
pub(crate) async fn run_pods(api: MemoryApi) {
    use futures::StreamExt;
    let options = WatchOptions { send_initial_events: true, ..WatchOptions::default() };
    let mut stream = api.watch(&PODS, &options).await.unwrap();
    let mut address = 1u32;
    while let Some(Ok(event)) = stream.next().await {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
        if pod.is_being_deleted() {
            let options = orlop_client::DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
            let at = orlop_client::ResourceRef::new(&PODS, pod.namespace(), pod.name());
            let _ = api.delete(at, &options).await;
            continue;
        }
        let known = pod.to_value();
        if known.pointer("/status/podIP").is_some() {
            continue;
        }
        address += 1;
        api.modify(&PODS, pod.namespace(), pod.name(), |pod| {
            pod["spec"]["nodeName"] = json!("node-1");
            pod["status"] = json!({
                "phase": "Running",
                "podIP": format!("10.0.{}.{}", address / 250, address % 250),
                "podIPs": [{"ip": format!("10.0.{}.{}", address / 250, address % 250)}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            });
        });
    }
}
