//! The Node object: registration, status, Lease.
//!
//! The status is a pure function of the machine, the runtime and the status before. It is written
//! when it changed, looked at every 10 s, and at least every 5 minutes; the Lease every 10 s.

use crate::config::NodeConfig;
use crate::events::{Recorder, Severity, Subject};
use crate::host_facts::{self, Available, Capacity};
use crate::quantity::{Resources, from_bytes, from_millis};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use orlop_apimachinery::{Gvr, Object};
use orlop_client::{ApiClient, ApiError, PatchType, ResourceRef, WriteOptions};
use orlop_container::Runtime;
use orlop_container::cri::{Image, NETWORK_READY, RUNTIME_READY, RuntimeStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

static NODES: Gvr = Gvr::new("", "v1", "nodes");
static LEASES: Gvr = Gvr::new("coordination.k8s.io", "v1", "leases");
const LEASE_NAMESPACE: &str = "kube-node-lease";

const PERIOD: Duration = Duration::from_secs(10);
/// An unchanged status is written this often.
const REPORT: SignedDuration = SignedDuration::from_secs(300);
const LEASE_SECONDS: i32 = 40;
/// At most this many images are listed, the largest first, as upstream.
const MAX_IMAGES: usize = 50;
/// Below this much available memory the node is under pressure.
const MEMORY_THRESHOLD: i64 = 100 << 20;

/// `status.allocatable`
pub(crate) fn allocatable(config: &NodeConfig, capacity: Capacity) -> Resources {
    resources(
        config,
        capacity.cpu_millis - config.reserved_cpu_millis,
        capacity.memory - config.reserved_memory_bytes,
        // Upstream's eviction threshold takes a tenth of the disk.
        capacity.ephemeral_storage / 10 * 9,
    )
}

fn resources(config: &NodeConfig, cpu: i64, memory: i64, storage: i64) -> Resources {
    BTreeMap::from([
        ("cpu".to_owned(), from_millis(cpu.max(0))),
        ("memory".to_owned(), from_bytes(memory.max(0))),
        ("ephemeral-storage".to_owned(), Quantity(storage.to_string())),
        ("hugepages-2Mi".to_owned(), Quantity("0".to_owned())),
        ("hugepages-1Gi".to_owned(), Quantity("0".to_owned())),
        ("pods".to_owned(), Quantity(config.max_pods.to_string())),
    ])
}

/// What the status is made of.
pub(crate) struct Inputs<'a> {
    pub(crate) config: &'a NodeConfig,
    pub(crate) capacity: Capacity,
    pub(crate) available: Available,
    /// What the runtime says, or why it says nothing.
    pub(crate) runtime: Result<RuntimeStatus, String>,
    pub(crate) info: core::NodeSystemInfo,
    pub(crate) images: Vec<Image>,
    pub(crate) port: Option<u16>,
    pub(crate) now: Timestamp,
}

fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn condition(
    kind: &str,
    (status, reason, message): (bool, &str, String),
    old: Option<&core::NodeStatus>,
    now: Timestamp,
) -> core::NodeCondition {
    let status = if status { "True" } else { "False" };
    let before = old.and_then(|s| s.conditions.as_ref()).and_then(|c| c.iter().find(|c| c.type_ == kind));
    core::NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(time(now)),
        last_transition_time: match before {
            Some(c) if c.status == status => c.last_transition_time.clone(),
            _ => Some(time(now)),
        },
    }
}

fn ready(runtime: &Result<RuntimeStatus, String>) -> (bool, &'static str, String) {
    let mut faults = Vec::new();
    match runtime {
        Err(why) => faults.push(format!("container runtime is down: {why}")),
        Ok(status) => {
            for (kind, what) in
                [(RUNTIME_READY, "container runtime"), (NETWORK_READY, "container runtime network")]
            {
                match status.condition(kind) {
                    Some(c) if c.status => {}
                    Some(c) => faults.push(format!(
                        "{what} not ready: {kind}=false reason:{} message:{}",
                        c.reason, c.message
                    )),
                    None => faults.push(format!("{what} not ready: condition {kind} is missing")),
                }
            }
        }
    }
    if faults.is_empty() {
        (true, "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        (false, "KubeletNotReady", format!("[{}]", faults.join(", ")))
    }
}

/// The status, with transition times taken over from `old`.
pub(crate) fn node_status(inputs: &Inputs<'_>, old: Option<&core::NodeStatus>) -> core::NodeStatus {
    let Inputs { config, capacity, available, now, .. } = inputs;
    let pressure = |under: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
        let (reason, message) = if under { yes } else { no };
        (under, reason, message.to_owned())
    };
    let memory = pressure(
        available.memory < MEMORY_THRESHOLD,
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    );
    let disk = pressure(
        available.disk_percent < 10 || available.inodes_percent < 5,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let pids = pressure(
        available.pids_percent < 5,
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    );
    let conditions = vec![
        condition("MemoryPressure", memory, old, *now),
        condition("DiskPressure", disk, old, *now),
        condition("PIDPressure", pids, old, *now),
        condition("Ready", ready(&inputs.runtime), old, *now),
    ];
    let address = |type_: &str, address: String| core::NodeAddress { type_: type_.to_owned(), address };
    let mut images: Vec<&Image> = inputs.images.iter().collect();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    core::NodeStatus {
        addresses: Some(vec![
            address("InternalIP", config.node_ip.to_string()),
            address("Hostname", config.node_name.clone()),
        ]),
        capacity: Some(resources(config, capacity.cpu_millis, capacity.memory, capacity.ephemeral_storage)),
        allocatable: Some(allocatable(config, *capacity)),
        conditions: Some(conditions),
        daemon_endpoints: inputs.port.map(|port| core::NodeDaemonEndpoints {
            kubelet_endpoint: Some(core::DaemonEndpoint { port: i32::from(port) }),
        }),
        images: Some(
            images
                .into_iter()
                .take(MAX_IMAGES)
                .map(|i| core::ContainerImage {
                    names: Some(i.repo_digests.iter().chain(&i.repo_tags).take(5).cloned().collect()),
                    size_bytes: i64::try_from(i.size).ok(),
                })
                .collect(),
        ),
        node_info: Some(inputs.info.clone()),
        ..Default::default()
    }
}

/// Whether two statuses differ in anything but heartbeats.
fn differs(old: &core::NodeStatus, new: &core::NodeStatus) -> bool {
    let quiet = |s: &core::NodeStatus| {
        let mut s = core::NodeStatus {
            addresses: s.addresses.clone(),
            capacity: s.capacity.clone(),
            allocatable: s.allocatable.clone(),
            conditions: s.conditions.clone(),
            daemon_endpoints: s.daemon_endpoints.clone(),
            images: s.images.clone().filter(|i| !i.is_empty()),
            node_info: s.node_info.clone(),
            ..Default::default()
        };
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
        }
        if let Some(conditions) = &mut s.conditions {
            conditions.retain(|c| {
                matches!(c.type_.as_str(), "Ready" | "MemoryPressure" | "DiskPressure" | "PIDPressure")
            });
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        s
    };
    quiet(old) != quiet(new)
}

/// Labels of the node itself.
fn labels(config: &NodeConfig) -> BTreeMap<String, String> {
    let arch = host_facts::architecture();
    let mut labels = config.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// Registers the node and keeps its status and Lease current.
pub(crate) struct Reporter {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) client: Arc<dyn ApiClient>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) recorder: Recorder,
    pub(crate) capacity: Capacity,
    pub(crate) port: Option<u16>,
    pub(crate) uid: watch::Sender<String>,
}

impl Reporter {
    /// Reports until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut wait = Duration::ZERO;
        let mut failures: u32 = 0;
        let mut last = None;
        let mut began = false;
        let info = self.system_info().await;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            match self.report(&info, &mut last).await {
                Ok(()) => {
                    if !began {
                        began = true;
                        let about = Subject::node(&self.config.node_name);
                        self.recorder.record(about, Severity::Normal, "Starting", "Starting kubelet.");
                        tracing::info!(node = self.config.node_name, "node registered");
                    }
                    failures = 0;
                    wait = PERIOD;
                }
                Err(error) => {
                    failures += 1;
                    // The first failures of a starting cluster are no news.
                    if failures > 3 {
                        tracing::warn!(node = self.config.node_name, %error, "the node's status could not be reported");
                    }
                    last = None;
                    wait = Duration::from_millis(100 << failures.min(7)).min(PERIOD);
                }
            }
        }
    }

    async fn system_info(&self) -> core::NodeSystemInfo {
        let runtime = match self.runtime.version().await {
            Ok(v) => format!("{}://{}", v.runtime_name, v.runtime_version),
            Err(_) => "unknown".to_owned(),
        };
        host_facts::system_info(&self.config.kubelet_version, &runtime)
    }

    async fn inputs(&self, info: &core::NodeSystemInfo) -> Inputs<'_> {
        let (runtime, images) = tokio::join!(self.runtime.status(), self.runtime.list_images(None));
        Inputs {
            config: &self.config,
            capacity: self.capacity,
            available: host_facts::available(&self.config.root_dir),
            runtime: runtime.map_err(|e| e.to_string()),
            info: info.clone(),
            images: images.unwrap_or_default(),
            port: self.port,
            now: Timestamp::now(),
        }
    }

    async fn report(
        &self,
        info: &core::NodeSystemInfo,
        last: &mut Option<(core::NodeStatus, Timestamp)>,
    ) -> Result<(), ApiError> {
        let inputs = self.inputs(info).await;
        if last.is_none() {
            let node = self.register(&inputs).await?;
            self.uid.send_if_modified(|uid| {
                let changed = uid != node.uid();
                node.uid().clone_into(uid);
                changed
            });
            let status = node.parse::<core::Node>().ok().and_then(|n| n.status).unwrap_or_default();
            // Not reported by this process yet: compare with what is there.
            *last = Some((status, Timestamp::UNIX_EPOCH));
        }
        if let Some((before, at)) = last {
            let status = node_status(&inputs, Some(before));
            if differs(before, &status) || inputs.now.duration_since(*at) > REPORT {
                let patch = json!({"status": status});
                let at_status = ResourceRef::new(&NODES, "", &self.config.node_name).subresource("status");
                let body = Bytes::from(patch.to_string());
                self.client
                    .patch(at_status, PatchType::StrategicMerge, body, &WriteOptions::default())
                    .await?;
                *last = Some((status, inputs.now));
            }
        }
        self.renew_lease().await
    }

    /// Creates the Node, or adopts the one that is there.
    async fn register(&self, inputs: &Inputs<'_>) -> Result<Arc<Object>, ApiError> {
        let name = &self.config.node_name;
        let at = ResourceRef::new(&NODES, "", name);
        let mut spec = serde_json::Map::new();
        if let Some(cidr) = &self.config.pod_cidr {
            spec.insert("podCIDR".into(), json!(cidr));
            spec.insert("podCIDRs".into(), json!([cidr]));
        }
        match self.client.get(at).await {
            Ok(node) => {
                let value = node.to_value();
                let mut patch = json!({});
                let missing: BTreeMap<String, String> = labels(&self.config)
                    .into_iter()
                    .filter(|(key, value)| node.label(key) != Some(value.as_str()))
                    .collect();
                if !missing.is_empty() {
                    patch["metadata"]["labels"] = json!(missing);
                }
                if !spec.is_empty() && value["spec"]["podCIDR"].as_str().is_none_or(str::is_empty) {
                    patch["spec"] = Value::Object(spec);
                }
                if patch.as_object().is_some_and(serde_json::Map::is_empty) {
                    return Ok(node);
                }
                let body = Bytes::from(patch.to_string());
                self.client.patch(at, PatchType::StrategicMerge, body, &WriteOptions::default()).await
            }
            Err(e) if e.is_not_found() => {
                if !self.config.taints.is_empty() {
                    spec.insert("taints".into(), json!(self.config.taints));
                }
                let body = json!({
                    "apiVersion": "v1", "kind": "Node",
                    "metadata": {"name": name, "labels": labels(&self.config)},
                    "spec": spec,
                    "status": node_status(inputs, None)
                });
                let at = ResourceRef::new(&NODES, "", "");
                self.client.create(at, Bytes::from(body.to_string()), &WriteOptions::default()).await
            }
            Err(e) => Err(e),
        }
    }

    async fn renew_lease(&self) -> Result<(), ApiError> {
        let name = &self.config.node_name;
        let at = ResourceRef::new(&LEASES, LEASE_NAMESPACE, name);
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now});
        let patch = Bytes::from(json!({"spec": spec}).to_string());
        match self.client.patch(at, PatchType::Merge, patch, &WriteOptions::default()).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => {
                let mut meta = json!({"name": name, "namespace": LEASE_NAMESPACE});
                let uid = self.uid.borrow().clone();
                if !uid.is_empty() {
                    meta["ownerReferences"] =
                        json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]);
                }
                let body = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec
                });
                let at = ResourceRef::new(&LEASES, LEASE_NAMESPACE, "");
                self.client
                    .create(at, Bytes::from(body.to_string()), &WriteOptions::default())
                    .await
                    .map(drop)
            }
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_container::cri::RuntimeCondition;

    fn status_of(
        conditions: &[(&str, bool)],
        memory: i64,
        old: Option<&core::NodeStatus>,
        second: i64,
    ) -> core::NodeStatus {
        let mut config = NodeConfig::new("n", "192.0.2.1".parse().unwrap(), "/r");
        config.reserved_cpu_millis = 500;
        let conditions = conditions
            .iter()
            .map(|(kind, status)| RuntimeCondition {
                r#type: (*kind).to_owned(),
                status: *status,
                reason: "R".into(),
                message: "m".into(),
            })
            .collect();
        let inputs = Inputs {
            config: &config,
            capacity: Capacity { cpu_millis: 2000, memory: 1 << 30, ephemeral_storage: 1000 },
            available: Available { memory, disk_percent: 50, inodes_percent: 50, pids_percent: 50 },
            runtime: Ok(RuntimeStatus { conditions }),
            info: core::NodeSystemInfo::default(),
            images: Vec::new(),
            port: Some(10250),
            now: Timestamp::from_second(second).unwrap(),
        };
        node_status(&inputs, old)
    }

    #[test]
    fn conditions_in_upstreams_words() {
        let good = status_of(&[(RUNTIME_READY, true), (NETWORK_READY, true)], 1 << 29, None, 1000);
        let find = |s: &core::NodeStatus, kind: &str| {
            s.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).cloned().unwrap()
        };
        let ready = find(&good, "Ready");
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("True", Some("KubeletReady")));
        assert_eq!(ready.message.as_deref(), Some("kubelet is posting ready status"));
        assert_eq!(good.allocatable.as_ref().unwrap()["cpu"].0, "1500m");
        assert_eq!(good.capacity.as_ref().unwrap()["memory"].0, "1048576Ki");

        let later = status_of(&[(RUNTIME_READY, true), (NETWORK_READY, true)], 1 << 29, Some(&good), 1060);
        assert!(!differs(&good, &later), "a heartbeat is no change");
        let bad = status_of(&[(RUNTIME_READY, true), (NETWORK_READY, false)], 1 << 20, Some(&good), 1060);
        assert!(differs(&good, &bad));
        let ready = find(&bad, "Ready");
        assert_eq!(
            ready.message.as_deref(),
            Some("[container runtime network not ready: NetworkReady=false reason:R message:m]")
        );
        assert_eq!(ready.last_transition_time.unwrap().0.as_second(), 1060);
        let memory = find(&bad, "MemoryPressure");
        assert_eq!(
            (memory.status.as_str(), memory.reason.as_deref()),
            ("True", Some("KubeletHasInsufficientMemory"))
        );
        assert_eq!(find(&bad, "DiskPressure").last_transition_time.unwrap().0.as_second(), 1000);
    }
}
