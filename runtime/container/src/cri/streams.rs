//! Exec and attach, events, usage and images, in CRI's words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::{ContainerMetadata, PodSandboxMetadata, Result};

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
