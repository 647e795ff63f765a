//! The container runtime as the node sees it, in the words of CRI v1 (`runtime.v1`).
//!
//! One trait, [`Runtime`], object safe, with two kinds of implementation: the embedded runc driver of
//! this crate, and (later) a client of a CRI socket. Field and method names are CRI's; what CRI makes
//! of two round trips (a streaming URL, then a connection to it) is one call here, which returns the
//! streams themselves.
//!
//! Obligations of every implementation:
//! - Every method is idempotent where CRI says so: stopping or removing what is stopped or gone is `Ok`.
//! - Containers and sandboxes outlive the implementation: after a crash, a new one lists the same.
//! - Changes are pushed through [`Runtime::get_container_events`]; nobody needs to poll.
//! - Every method is safe to call concurrently, for the same id too.
//!
//! Times are nanoseconds since the Unix epoch; 0 means "not yet".

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use crate::error::RuntimeError;

/// Result of every runtime call.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

// === the traits ===

/// CRI's RuntimeService, and through its supertrait the image service.
#[async_trait]
pub trait Runtime: ImageService {
    /// Name and versions of the runtime.
    async fn version(&self) -> Result<VersionResponse>;

    /// `RuntimeReady` and `NetworkReady`, with what to do when one is false.
    async fn status(&self) -> Result<RuntimeStatus>;

    /// Creates and starts a pod sandbox: its namespaces, its cgroup, its network. On return it is ready.
    /// On error nothing is left behind. Returns the sandbox's id.
    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String>;

    /// Kills every container of the sandbox and takes its network away. Idempotent.
    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<()>;

    /// Removes the sandbox and all its containers, by force when they run. Idempotent.
    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<()>;

    /// `NotFound` when there is no such sandbox.
    async fn pod_sandbox_status(&self, sandbox_id: &str) -> Result<PodSandboxStatus>;

    /// Sandboxes that match every field set in `filter`, in no particular order.
    async fn list_pod_sandbox(&self, filter: PodSandboxFilter) -> Result<Vec<PodSandbox>>;

    /// Resizes the pod's own cgroup.
    async fn update_pod_sandbox_resources(
        &self,
        sandbox_id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()>;

    /// Makes a container ready to start. The image must be present. Returns the container's id.
    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String>;

    /// Starts a created container. On error the container is `Exited` with code 128 and a reason, as
    /// with containerd, and must be removed by the caller.
    async fn start_container(&self, container_id: &str) -> Result<()>;

    /// Sends the stop signal, waits up to `timeout`, then kills. Zero kills at once. Returns when the
    /// container has exited. Idempotent; a container that does not exist is `Ok`.
    async fn stop_container(&self, container_id: &str, timeout: Duration) -> Result<()>;

    /// Removes a container, by force when it runs. Its log file stays. Idempotent.
    async fn remove_container(&self, container_id: &str) -> Result<()>;

    /// Containers that match every field set in `filter`, in no particular order.
    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<Container>>;

    /// `NotFound` when there is no such container.
    async fn container_status(&self, container_id: &str) -> Result<ContainerStatus>;

    /// Changes the limits of a container without restarting it. Zero fields stay as they are.
    async fn update_container_resources(
        &self,
        container_id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()>;

    /// Reopens the log file after the node has renamed it. On return new lines go to the new file.
    async fn reopen_container_log(&self, container_id: &str) -> Result<()>;

    /// Runs a command and collects its output (at most 16 MiB of each stream). Zero `timeout` means
    /// none; when it passes, the command is killed and the answer is `DeadlineExceeded`.
    async fn exec_sync(
        &self,
        container_id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecSyncResponse>;

    /// Runs a command with its streams. Dropping the session ends the command.
    async fn exec(&self, request: ExecRequest) -> Result<ExecSession>;

    /// Joins the streams of the container's main process. Dropping the session leaves the container be.
    async fn attach(&self, request: AttachRequest) -> Result<ExecSession>;

    /// Connects to a TCP port on the loopback of the sandbox's network namespace. One call, one connection.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Connection>>;

    /// Usage of one container.
    async fn container_stats(&self, container_id: &str) -> Result<ContainerStats>;

    /// Usage of all matching containers.
    async fn list_container_stats(&self, filter: ContainerFilter) -> Result<Vec<ContainerStats>>;

    /// Usage of one pod: its cgroup, its network, its containers.
    async fn pod_sandbox_stats(&self, sandbox_id: &str) -> Result<PodSandboxStats>;

    /// Usage of all matching pods.
    async fn list_pod_sandbox_stats(&self, filter: PodSandboxFilter) -> Result<Vec<PodSandboxStats>>;

    /// Everything that happens from now on. The stream ends when the consumer fell too far behind or
    /// the runtime went away; the consumer then subscribes again and lists. Subscribe before listing.
    fn get_container_events(&self) -> BoxStream<'static, ContainerEvent>;
}

/// CRI's ImageService.
#[async_trait]
pub trait ImageService: Send + Sync + 'static {
    /// Images present, or only the one that `filter` names.
    async fn list_images(&self, filter: Option<ImageSpec>) -> Result<Vec<Image>>;

    /// `None` when the image is not present. Accepts a tag, a digest reference or an image id.
    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>>;

    /// Pulls an image and returns its reference by id, to be used as `image_ref`.
    async fn pull_image(&self, image: &ImageSpec, auth: Option<AuthConfig>) -> Result<String>;

    /// Imports an archive: OCI layout or `docker save`, plain, gzip or zstd. Returns the references
    /// that it brought. `Unimplemented` where the runtime has no such call.
    async fn import_image(&self, archive: PathBuf) -> Result<Vec<String>>;

    /// Removes the image and all its tags. Idempotent. Running containers keep their files.
    async fn remove_image(&self, image: &ImageSpec) -> Result<()>;

    /// Disk usage of the image store and of the containers' writable layers.
    async fn image_fs_info(&self) -> Result<ImageFsInfo>;
}

/// Joins pods to the pod network. Owned by this crate (the consumer); implemented over `host/network`.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the namespace at `netns` its interfaces and addresses (loopback is already up) and the
    /// pod's host ports. Idempotent for the same pod and namespace. Never called for host-network pods.
    async fn attach(
        &self,
        pod: &PodKey,
        netns: &std::path::Path,
        ports: &[PortMapping],
    ) -> Result<Vec<IpAddr>, NetworkError>;

    /// Takes back what `attach` gave. The namespace may be gone already. Idempotent.
    async fn detach(&self, pod: &PodKey, netns: &std::path::Path) -> Result<(), NetworkError>;

    /// `Err` with what to do when pods cannot be attached now (reported as `NetworkReady`).
    async fn ready(&self) -> Result<(), NetworkError> {
        Ok(())
    }
}

/// The pod network refused or failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NetworkError {
    /// What happened and what to do.
    pub message: String,
    /// Cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl NetworkError {
    /// An error without a further cause.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }
}

/// Which pod (and which of its sandboxes) a network attachment is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Pod UID.
    pub uid: String,
    /// Sandbox id: unique per sandbox, so that a rebuilt sandbox does not clash with the old one.
    pub sandbox_id: String,
}

// === version and status ===

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

// === exec, attach, port-forward ===

/// CRI's ExecSyncResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSyncResponse {
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
    /// Its exit code.
    pub exit_code: i32,
}

/// CRI's ExecRequest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// In which container.
    pub container_id: String,
    /// Command and arguments.
    pub cmd: Vec<String>,
    /// Give it a terminal; stdout and stderr are then one stream, stdout.
    pub tty: bool,
    /// Wire stdin.
    pub stdin: bool,
    /// Wire stdout.
    pub stdout: bool,
    /// Wire stderr; must be false with `tty`.
    pub stderr: bool,
}

/// CRI's AttachRequest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// To which container.
    pub container_id: String,
    /// The container has a terminal.
    pub tty: bool,
    /// Wire stdin.
    pub stdin: bool,
    /// Wire stdout.
    pub stdout: bool,
    /// Wire stderr.
    pub stderr: bool,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The streams of an exec or attach. Streams that were not asked for are `None`.
pub struct ExecSession {
    /// Shutting it down gives the process end of file.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Ends when the process has closed it.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Ends when the process has closed it.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Terminal sizes; `None` without a terminal.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// The exit code. For attach: that of the container's main process. Output may still be unread
    /// when it resolves: drain stdout and stderr too. Dropping it ends an exec'd command.
    pub exit: BoxFuture<'static, Result<i32>>,
}

impl std::fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecSession")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("tty", &self.resize.is_some())
            .finish_non_exhaustive()
    }
}

/// A byte stream in both directions.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

// === events ===

/// CRI's ContainerEventType.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerEventType {
    /// Made.
    Created,
    /// Started.
    Started,
    /// Exited; for a sandbox: no longer ready.
    Stopped,
    /// Removed.
    Deleted,
}

/// CRI's ContainerEventResponse, without the statuses: ask for those that you need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Container id, or the sandbox's own id for events of the sandbox itself.
    pub container_id: String,
    /// What happened.
    pub container_event_type: ContainerEventType,
    /// Unix nanoseconds.
    pub created_at: i64,
    /// Sandbox id.
    pub pod_sandbox_id: String,
    /// Which pod.
    pub pod: PodSandboxMetadata,
}

impl ContainerEvent {
    /// Whether it tells of the sandbox itself.
    pub fn is_sandbox(&self) -> bool {
        self.container_id == self.pod_sandbox_id
    }
}

// === statistics ===

/// CRI's CpuUsage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuUsage {
    /// When read.
    pub timestamp: i64,
    /// CPU time used since creation, ns.
    pub usage_core_nano_seconds: u64,
}

/// CRI's MemoryUsage, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUsage {
    /// When read.
    pub timestamp: i64,
    /// Usage less inactive file pages: what eviction and `kubectl top` look at.
    pub working_set_bytes: u64,
    /// What is left of the limit; 0 without a limit.
    pub available_bytes: u64,
    /// Usage, page cache included.
    pub usage_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Minor page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
}

/// CRI's FilesystemUsage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemUsage {
    /// When measured.
    pub timestamp: i64,
    /// Folder measured.
    pub mountpoint: PathBuf,
    /// Bytes used.
    pub used_bytes: u64,
    /// Inodes used.
    pub inodes_used: u64,
}

/// CRI's ContainerStats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// Container id.
    pub id: String,
    /// Its sandbox.
    pub pod_sandbox_id: String,
    /// Identity.
    pub metadata: ContainerMetadata,
    /// Labels from the config.
    pub labels: BTreeMap<String, String>,
    /// CPU.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Writable layer; measured at most once a minute, `None` until first measured.
    pub writable_layer: Option<FilesystemUsage>,
    /// Processes.
    pub pids: u64,
}

/// One interface's counters, as the pod sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInterfaceUsage {
    /// Name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Send errors.
    pub tx_errors: u64,
}

/// CRI's PodSandboxStats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodSandboxStats {
    /// Sandbox id.
    pub id: String,
    /// Identity.
    pub metadata: PodSandboxMetadata,
    /// Labels from the config.
    pub labels: BTreeMap<String, String>,
    /// CPU of the pod's cgroup.
    pub cpu: CpuUsage,
    /// Memory of the pod's cgroup.
    pub memory: MemoryUsage,
    /// Processes of the pod's cgroup.
    pub pids: u64,
    /// Interfaces of the pod's network namespace, without loopback; empty with the host's.
    pub network: Vec<NetworkInterfaceUsage>,
    /// The containers that run.
    pub containers: Vec<ContainerStats>,
}

// === images ===

/// CRI's Image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the image's config: `sha256:…`.
    pub id: String,
    /// Normalised names with a tag (`docker.io/library/busybox:latest`).
    pub repo_tags: Vec<String>,
    /// Normalised names with a digest (`docker.io/library/busybox@sha256:…`).
    pub repo_digests: Vec<String>,
    /// Bytes of the compressed layers and the config.
    pub size: u64,
    /// Numeric user of the image, when it is one (for `runAsNonRoot`).
    pub uid: Option<i64>,
    /// User name of the image, when it is one.
    pub username: String,
    /// Never removed by garbage collection.
    pub pinned: bool,
}

/// CRI's AuthConfig. Its `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuthConfig {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// base64 of `user:password`, used when `username` is empty.
    pub auth: String,
    /// Identity token.
    pub identity_token: String,
    /// Bearer token, sent as it is.
    pub registry_token: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").finish_non_exhaustive()
    }
}

/// CRI's ImageFsInfoResponse.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFsInfo {
    /// Blobs and unpacked layers.
    pub image_filesystem: FilesystemUsage,
    /// Writable layers of the containers.
    pub container_filesystem: FilesystemUsage,
}
