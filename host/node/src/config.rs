//! What a node is told at start.
//!
//! Everything here is fixed for the life of the process; what changes at run time comes from the
//! API or the runtime.

use k8s_openapi::api::core::v1::Taint;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Configuration of one node agent.
#[derive(Clone)]
pub struct NodeConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// The address under which other nodes and the API server reach this one.
    pub node_ip: IpAddr,
    /// The agent's own folder: `pods/<uid>/…` for volumes and managed files.
    pub root_dir: PathBuf,
    /// Root of container logs: `<ns>_<name>_<uid>/<container>/<attempt>.log` below it.
    pub log_dir: PathBuf,
    /// Folder of static pod manifests; `None` for no static pods.
    pub static_pod_dir: Option<PathBuf>,
    /// How often the static pod folder is read again even where inotify said nothing.
    pub static_pod_rescan: Duration,
    /// The node's slice of the pod network, for `spec.podCIDR`; `None` leaves the field alone.
    pub pod_cidr: Option<String>,
    /// Addresses of the cluster's DNS; empty where there is none (the host's resolvers are used).
    pub cluster_dns: Vec<IpAddr>,
    /// `cluster.local`
    pub cluster_domain: String,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// Capacity of `pods`.
    pub max_pods: u32,
    /// Milli-CPUs kept back from `allocatable`.
    pub reserved_cpu_millis: i64,
    /// Bytes of memory kept back from `allocatable`.
    pub reserved_memory_bytes: i64,
    /// Labels set on the Node in addition to the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints set when the Node object is first created.
    pub taints: Vec<Taint>,
    /// `nodeInfo.kubeletVersion`
    pub kubelet_version: String,
    /// First component of every pod's cgroup path, `kubepods` by default.
    pub cgroup_root: String,
    /// HTTPS server for logs, exec and the rest; `None` serves nothing.
    pub server: Option<NodeServer>,
    /// How often volumes are compared with their sources even where no watch fired.
    pub sync_period: Duration,
}

/// The node's HTTPS endpoint.
#[derive(Clone)]
pub struct NodeServer {
    /// Where to listen; port 0 takes a free one (and reports it in `daemonEndpoints`).
    pub listen: SocketAddr,
    /// Certificate and client verification.
    pub tls: Arc<rustls::ServerConfig>,
}

impl NodeConfig {
    /// The defaults of a node called `node_name` that keeps its files under `root_dir`.
    #[must_use]
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, root_dir: impl Into<PathBuf>) -> Self {
        let root_dir = root_dir.into();
        Self {
            node_name: node_name.into(),
            node_ip,
            log_dir: root_dir.join("logs"),
            root_dir,
            static_pod_dir: None,
            static_pod_rescan: Duration::from_secs(20),
            pod_cidr: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            max_pods: 110,
            reserved_cpu_millis: 0,
            reserved_memory_bytes: 0,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            kubelet_version: concat!("v1.36.0+orlop-", env!("CARGO_PKG_VERSION")).to_owned(),
            cgroup_root: "kubepods".to_owned(),
            server: None,
            sync_period: Duration::from_secs(60),
        }
    }

    /// Folder of one pod's files.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Folder of one pod's logs.
    #[must_use]
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}
