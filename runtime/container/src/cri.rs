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

mod pods;
mod streams;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use crate::error::RuntimeError;
pub use pods::*;
pub use streams::*;

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
