//! Versions, sandboxes and containers, in CRI's words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// CRI's VersionResponse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionResponse {
    /// Version of this interface ("v1").
    pub version: String,
    /// Name of the runtime.
    pub runtime_name: String,
    /// Version of the runtime.
    pub runtime_version: String,
    /// CRI API version of the runtime.
    pub runtime_api_version: String,
}

/// CRI's RuntimeStatus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// `RuntimeReady` and `NetworkReady`, perhaps more.
    pub conditions: Vec<RuntimeCondition>,
}

impl RuntimeStatus {
    /// The condition of that type.
    pub fn condition(&self, r#type: &str) -> Option<&RuntimeCondition> {
        self.conditions.iter().find(|c| c.r#type == r#type)
    }
}

/// CRI's RuntimeCondition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeCondition {
    /// [`RUNTIME_READY`] or [`NETWORK_READY`].
    pub r#type: String,
    /// Whether it holds.
    pub status: bool,
    /// CamelCase reason when it does not.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// The runtime is up and can run containers.
pub const RUNTIME_READY: &str = "RuntimeReady";
/// The runtime's network is up.
pub const NETWORK_READY: &str = "NetworkReady";

// === sandboxes ===

/// CRI's PodSandboxMetadata.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodSandboxMetadata {
    /// Pod name.
    pub name: String,
    /// Pod UID.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
}

/// CRI's PodSandboxConfig, the Linux part folded in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxConfig {
    /// Identity of the sandbox.
    pub metadata: PodSandboxMetadata,
    /// Host name in the pod; empty with the host's network.
    pub hostname: String,
    /// Folder that the containers' `log_path` is relative to. Created when missing.
    pub log_directory: PathBuf,
    /// When set, the runtime writes `/etc/resolv.conf` for containers that bring no mount for it.
    pub dns_config: Option<DnsConfig>,
    /// Host ports, handed on to the pod network.
    pub port_mappings: Vec<PortMapping>,
    /// For filters.
    pub labels: BTreeMap<String, String>,
    /// Opaque to the runtime.
    pub annotations: BTreeMap<String, String>,
    /// The pod's cgroup (`/<root>/<qos>/pod<uid>`), under which the containers' are made. The runtime
    /// makes it, applies `resources`, and removes it with the sandbox. Empty: `/orlop/pod<uid>`.
    pub cgroup_parent: String,
    /// Limits of the pod's cgroup (the sum of its containers, where bounded).
    pub resources: LinuxContainerResources,
    /// Kernel parameters, set in the sandbox's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Namespaces, identity and privileges of the sandbox.
    pub security_context: SandboxSecurityContext,
}

/// CRI's LinuxSandboxSecurityContext.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSecurityContext {
    /// Which namespaces the pod has for itself.
    pub namespace_options: NamespaceOption,
    /// Sandbox may run privileged containers.
    pub privileged: bool,
}

/// CRI's NamespaceMode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Shared by the pod.
    #[default]
    Pod,
    /// One for each container (pid only).
    Container,
    /// The node's.
    Node,
    /// That of another container of the pod (pid only; `target_id`).
    Target,
}

/// CRI's NamespaceOption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOption {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// `Pod` (shareProcessNamespace), `Container` (the default), `Node` or `Target`.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// Container whose pid namespace is joined when `pid` is `Target`.
    pub target_id: String,
}

impl Default for NamespaceOption {
    fn default() -> Self {
        Self {
            network: NamespaceMode::Pod,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
            target_id: String::new(),
        }
    }
}

/// CRI's DNSConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// Transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// CRI's PortMapping.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node.
    pub host_port: u16,
    /// Address on the node; `None` means all.
    pub host_ip: Option<IpAddr>,
}

/// CRI's PodSandboxState.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodSandboxState {
    /// Containers can be created in it.
    Ready,
    /// Stopped, or its supervisor died: remove it and make another.
    NotReady,
}

/// CRI's PodSandboxStatus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxStatus {
    /// Sandbox id.
    pub id: String,
    /// Identity.
    pub metadata: PodSandboxMetadata,
    /// State.
    pub state: PodSandboxState,
    /// Unix nanoseconds.
    pub created_at: i64,
    /// The pod's addresses, the primary first; empty with the host's network.
    pub ips: Vec<IpAddr>,
    /// Namespace modes it was made with.
    pub namespace_options: NamespaceOption,
    /// Labels from the config.
    pub labels: BTreeMap<String, String>,
    /// Annotations from the config.
    pub annotations: BTreeMap<String, String>,
    /// Path of the pinned network namespace, when the pod has its own.
    pub netns_path: Option<PathBuf>,
}

/// CRI's PodSandbox (the list entry).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandbox {
    /// Sandbox id.
    pub id: String,
    /// Identity.
    pub metadata: PodSandboxMetadata,
    /// State.
    pub state: PodSandboxState,
    /// Unix nanoseconds.
    pub created_at: i64,
    /// Labels from the config.
    pub labels: BTreeMap<String, String>,
    /// Annotations from the config.
    pub annotations: BTreeMap<String, String>,
}

/// CRI's PodSandboxFilter: fields are ANDed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSandboxFilter {
    /// Exact id.
    pub id: Option<String>,
    /// State.
    pub state: Option<PodSandboxState>,
    /// All these labels.
    pub label_selector: BTreeMap<String, String>,
}

// === containers ===

/// CRI's ContainerMetadata.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// Container name in the pod.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
}

/// CRI's ImageSpec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// Tag, digest reference or image id.
    pub image: String,
    /// What the user wrote in the pod.
    pub user_specified_image: String,
    /// Opaque to the runtime.
    pub annotations: BTreeMap<String, String>,
}

impl ImageSpec {
    /// The image that the user wrote.
    pub fn new(image: impl Into<String>) -> Self {
        let image = image.into();
        Self { user_specified_image: image.clone(), image, annotations: BTreeMap::new() }
    }
}

/// CRI's ContainerConfig, the Linux part folded in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Identity.
    pub metadata: ContainerMetadata,
    /// Which image.
    pub image: ImageSpec,
    /// The pod's `command`; empty: the image's entrypoint.
    pub command: Vec<String>,
    /// The pod's `args`; empty: the image's cmd, unless `command` is set.
    pub args: Vec<String>,
    /// Empty: the image's, else `/`.
    pub working_dir: String,
    /// Added to the image's environment, overriding it.
    pub envs: Vec<KeyValue>,
    /// Bind mounts. A missing `host_path` is an error.
    pub mounts: Vec<Mount>,
    /// Host devices.
    pub devices: Vec<Device>,
    /// For filters.
    pub labels: BTreeMap<String, String>,
    /// Opaque to the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Log file relative to the sandbox's `log_directory`; empty: output is thrown away.
    pub log_path: String,
    /// Keep stdin open for attach.
    pub stdin: bool,
    /// Close stdin when the first attached client goes.
    pub stdin_once: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// cgroup limits.
    pub resources: LinuxContainerResources,
    /// Identity and privileges.
    pub security_context: ContainerSecurityContext,
    /// Overrides the image's stop signal ("SIGTERM", "TERM" or a number); empty: the image's, else SIGTERM.
    pub stop_signal: String,
}

/// CRI's KeyValue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// Name.
    pub key: String,
    /// Value.
    pub value: String,
}

/// CRI's MountPropagation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// `None` in the Kubernetes API.
    #[default]
    Private,
    /// `HostToContainer`.
    HostToContainer,
    /// `Bidirectional`.
    Bidirectional,
}

/// CRI's Mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Absolute path in the container.
    pub container_path: String,
    /// Path on the node.
    pub host_path: PathBuf,
    /// Read-only.
    pub readonly: bool,
    /// Also the mounts below it are read-only.
    pub recursive_read_only: bool,
    /// Propagation.
    pub propagation: MountPropagation,
}

/// CRI's Device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Path in the container.
    pub container_path: String,
    /// Path on the node.
    pub host_path: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}

/// CRI's LinuxContainerResources. Zero and empty mean "not set".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerResources {
    /// CFS period in µs.
    pub cpu_period: u64,
    /// CFS quota in µs per period; negative: unlimited.
    pub cpu_quota: i64,
    /// CPU shares, v1 scale (2–262144); converted to weight on v2.
    pub cpu_shares: u64,
    /// Bytes; negative: unlimited.
    pub memory_limit_in_bytes: i64,
    /// Bytes of memory and swap together; on v2 converted.
    pub memory_swap_limit_in_bytes: i64,
    /// −1000 to 1000. Lowering below the host's own needs CAP_SYS_RESOURCE and is skipped without it.
    pub oom_score_adj: i32,
    /// CPU list, such as `0-1`.
    pub cpuset_cpus: String,
    /// NUMA node list.
    pub cpuset_mems: String,
    /// Not in CRI: processes at most; negative: unlimited. The kubelet sets it on the pod's cgroup.
    pub pids_limit: i64,
    /// Raw v2 files, written last. Refused on v1.
    pub unified: BTreeMap<String, String>,
}

/// CRI's LinuxContainerSecurityContext.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSecurityContext {
    /// Capabilities added to and dropped from the default set; `ALL` is understood.
    pub capabilities: Capability,
    /// All capabilities, all devices, no masks, no seccomp.
    pub privileged: bool,
    /// Namespaces (pid can differ per container).
    pub namespace_options: NamespaceOption,
    /// Numeric user; wins over `run_as_username`.
    pub run_as_user: Option<i64>,
    /// Numeric group; needs a user.
    pub run_as_group: Option<i64>,
    /// User name, looked up in the image.
    pub run_as_username: String,
    /// Read-only root filesystem.
    pub readonly_rootfs: bool,
    /// supplementalGroups and fsGroup.
    pub supplemental_groups: Vec<i64>,
    /// Whether groups of the user in the image's `/etc/group` count too.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Not `allowPrivilegeEscalation`.
    pub no_new_privs: bool,
    /// `/proc` paths hidden; empty with `Unmasked` or privileged. `None`: the default list.
    pub masked_paths: Option<Vec<String>>,
    /// `/proc` paths made read-only. `None`: the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// seccomp.
    pub seccomp: SecurityProfile,
}

/// CRI's SupplementalGroupsPolicy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// The image's groups and the pod's.
    #[default]
    Merge,
    /// The pod's only.
    Strict,
}

/// CRI's Capability.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capability {
    /// With or without `CAP_`.
    pub add_capabilities: Vec<String>,
    /// With or without `CAP_`.
    pub drop_capabilities: Vec<String>,
}

/// CRI's SecurityProfile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityProfile {
    /// No filter.
    #[default]
    Unconfined,
    /// The runtime's own profile.
    RuntimeDefault,
    /// A profile file on the node.
    Localhost(PathBuf),
}

/// CRI's ContainerState.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Finished; exit code and time are set.
    Exited,
    /// Cannot be told (its supervisor is gone and left no record).
    Unknown,
}

/// CRI's Container (the list entry).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Container id.
    pub id: String,
    /// Its sandbox.
    pub pod_sandbox_id: String,
    /// Identity.
    pub metadata: ContainerMetadata,
    /// What was asked for.
    pub image: ImageSpec,
    /// Image reference by digest, else id.
    pub image_ref: String,
    /// State.
    pub state: ContainerState,
    /// Unix nanoseconds.
    pub created_at: i64,
    /// Labels from the config.
    pub labels: BTreeMap<String, String>,
    /// Annotations from the config.
    pub annotations: BTreeMap<String, String>,
}

/// CRI's ContainerStatus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Container id.
    pub id: String,
    /// Its sandbox.
    pub pod_sandbox_id: String,
    /// Identity.
    pub metadata: ContainerMetadata,
    /// State.
    pub state: ContainerState,
    /// Unix nanoseconds.
    pub created_at: i64,
    /// Unix nanoseconds.
    pub started_at: i64,
    /// Unix nanoseconds.
    pub finished_at: i64,
    /// 128 + signal when killed by one; 128 with reason StartError; 255 when unknown.
    pub exit_code: i32,
    /// What was asked for.
    pub image: ImageSpec,
    /// Image reference by digest, else id (for `imageID`).
    pub image_ref: String,
    /// Image id.
    pub image_id: String,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`; empty while not exited.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Labels from the config.
    pub labels: BTreeMap<String, String>,
    /// Annotations from the config.
    pub annotations: BTreeMap<String, String>,
    /// Mounts from the config.
    pub mounts: Vec<Mount>,
    /// Absolute path of the log file; empty when none.
    pub log_path: PathBuf,
    /// Limits as last set.
    pub resources: LinuxContainerResources,
    /// uid, gid and groups of its first process.
    pub user: Option<ContainerUser>,
    /// Process id of the main process on the node while it runs, else 0.
    pub pid: i32,
    /// Stop signal in effect, such as `SIGTERM`.
    pub stop_signal: String,
}

/// CRI's LinuxContainerUser.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUser {
    /// uid.
    pub uid: i64,
    /// Primary gid.
    pub gid: i64,
    /// Supplementary gids, the primary included.
    pub supplemental_groups: Vec<i64>,
}

/// CRI's ContainerFilter: fields are ANDed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// Exact id.
    pub id: Option<String>,
    /// State.
    pub state: Option<ContainerState>,
    /// Sandbox.
    pub pod_sandbox_id: Option<String>,
    /// All these labels.
    pub label_selector: BTreeMap<String, String>,
}
