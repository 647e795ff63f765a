//! The embedded driver: pods of runc containers, without a daemon.
//!
//! Each pod has a supervisor, the shim (`orlop-shim`), which holds its namespaces, launches its
//! containers and outlives this process. [`RuncRuntime::open`] finds again whatever an earlier host left
//! running. What is true is on disk and in the shims; this process keeps a copy in memory, which one
//! task per pod keeps current from the shim's messages. Nothing polls.

mod adopt;
mod cleanup;
mod container;
mod exec;
mod facts;
mod mounts;
mod pty;
mod records;
mod sandbox;
mod service;
mod shim;
mod stats;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroups::Cgroups;
use crate::cri::{ContainerEvent, ContainerEventType, PodNetwork};
use crate::error::RuntimeError;
use crate::image::pull::{ProgressFn, Puller};
use crate::image::store::{ImageStore, Lease};
use records::{ContainerRecord, Folders, SandboxRecord};

pub use cleanup::cleanup_all;

/// Events that a slow subscriber may be behind before its stream ends.
const EVENTS: usize = 4096;

/// File that tells `cleanup_all` under which cgroup the pods' were.
const CGROUP_ROOT: &str = "cgroup_root";

/// How to set the driver up.
#[derive(Clone)]
pub struct RuncConfig {
    /// Images, containers, records: on a disk that overlayfs can use.
    pub root: PathBuf,
    /// Sockets and pins: on a tmpfs, one folder per cluster (`/run/orlop/<id>`).
    pub run: PathBuf,
    /// The `orlop-shim` program.
    pub shim: PathBuf,
    /// runc; `None` looks in `PATH`.
    pub runc: Option<PathBuf>,
    /// Parent of the pods' cgroups where the node names none.
    pub cgroup_root: String,
    /// The pod network; `None`: pods have loopback only.
    pub network: Option<Arc<dyn PodNetwork>>,
    /// Registries spoken to over plain HTTP, besides those on loopback.
    pub insecure_registries: Vec<String>,
    /// Told how far pulls have come.
    pub progress: Option<ProgressFn>,
    /// Every task of the driver is tracked here.
    pub tracker: TaskTracker,
    /// Ends the driver's tasks. Containers run on.
    pub cancel: CancellationToken,
}

impl RuncConfig {
    /// Defaults: cgroups under `/orlop`, runc from `PATH`, no pod network.
    pub fn new(root: impl Into<PathBuf>, run: impl Into<PathBuf>, shim: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            run: run.into(),
            shim: shim.into(),
            runc: None,
            cgroup_root: "/orlop".to_owned(),
            network: None,
            insecure_registries: Vec::new(),
            progress: None,
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
        }
    }
}

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct RuncRuntime {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: RuncConfig,
    pub(crate) folders: Folders,
    pub(crate) store: Arc<ImageStore>,
    pub(crate) puller: Puller,
    pub(crate) cgroups: Cgroups,
    pub(crate) sandboxes: Mutex<HashMap<String, Arc<Sandbox>>>,
    pub(crate) containers: Mutex<HashMap<String, Arc<Container>>>,
    pub(crate) events: broadcast::Sender<ContainerEvent>,
    /// runc's path and version once found.
    pub(crate) runc: Mutex<Option<(PathBuf, String)>>,
    pub(crate) writable: Mutex<HashMap<String, crate::cri::FilesystemUsage>>,
    /// The root is used by one driver at a time.
    _lock: std::fs::File,
}

/// A sandbox in memory.
pub(crate) struct Sandbox {
    pub(crate) record: Mutex<SandboxRecord>,
    /// Whether its shim is there.
    pub(crate) alive: watch::Sender<bool>,
    /// One stop or removal at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

impl Sandbox {
    fn new(record: SandboxRecord, alive: bool) -> Arc<Self> {
        Arc::new(Self {
            record: Mutex::new(record),
            alive: watch::Sender::new(alive),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    fn is_ready(&self) -> bool {
        *self.alive.borrow() && !self.record.lock().stopped
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Created,
    Running { pid: i32, started_at: i64 },
    Exited { started_at: i64, finished_at: i64, exit_code: i32, reason: String, message: String },
}

/// A container in memory.
pub(crate) struct Container {
    pub(crate) record: Mutex<ContainerRecord>,
    pub(crate) phase: watch::Sender<Phase>,
    /// One start, stop or removal at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Keeps its image's layers.
    _lease: Lease,
}

impl Container {
    fn new(record: ContainerRecord, phase: Phase, lease: Lease) -> Arc<Self> {
        Arc::new(Self {
            record: Mutex::new(record),
            phase: watch::Sender::new(phase),
            turn: tokio::sync::Mutex::new(()),
            _lease: lease,
        })
    }

    fn sandbox_id(&self) -> String {
        self.record.lock().sandbox_id.clone()
    }
}

/// Unix nanoseconds.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// 64 random hexadecimal digits, as container ids are everywhere.
fn new_id() -> Result<String, RuntimeError> {
    use std::io::Read;
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| RuntimeError::io("read /dev/urandom", e))?;
    Ok(hex::encode(bytes))
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, RuntimeError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, RuntimeError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|e| RuntimeError::Internal(e.to_string()))?
}

impl RuncRuntime {
    /// Opens the driver over its folders and adopts what runs there. Succeeds without runc, too:
    /// `status` then says what to install.
    ///
    /// # Errors
    /// `FailedPrecondition` when another process uses `root`; `Unavailable` without cgroups; `Io`;
    /// `Internal` when records are damaged.
    pub async fn open(config: RuncConfig) -> Result<Self, RuntimeError> {
        let folders = Folders { root: config.root.clone(), run: config.run.clone() };
        let (lock, store, cgroups, runc) = blocking({
            let folders = folders.clone();
            let (wanted, cgroup_root) = (config.runc.clone(), config.cgroup_root.clone());
            move || {
                use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
                for folder in [&folders.root, &folders.run] {
                    std::fs::DirBuilder::new()
                        .recursive(true)
                        .mode(0o711)
                        .create(folder)
                        .map_err(|e| RuntimeError::io(format!("create {}", folder.display()), e))?;
                }
                // Containers' files are nobody else's business.
                let _ = std::fs::set_permissions(&folders.run, std::fs::Permissions::from_mode(0o711));
                for folder in ["sandboxes", "containers"] {
                    let folder = folders.root.join(folder);
                    std::fs::create_dir_all(&folder)
                        .map_err(|e| RuntimeError::io(format!("create {}", folder.display()), e))?;
                }
                let lock = take_lock(&folders.root)?;
                std::fs::write(folders.root.join(CGROUP_ROOT), cgroup_root)
                    .map_err(|e| RuntimeError::io("note the cgroup root", e))?;
                let store = ImageStore::open(&folders.root.join("images"))?;
                let cgroups = Cgroups::detect()?;
                let runc = facts::find_runc(wanted.as_deref()).ok();
                Ok((lock, Arc::new(store), cgroups, runc))
            }
        })
        .await?;
        let puller = Puller::new(store.clone(), config.insecure_registries.clone(), config.progress.clone());
        let inner = Arc::new(Inner {
            config,
            folders,
            store,
            puller,
            cgroups,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
            runc: Mutex::new(runc),
            writable: Mutex::default(),
            _lock: lock,
        });
        adopt::adopt(&inner).await?;
        Ok(Self { inner })
    }

    /// The image store, for what CRI has no call for.
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.inner.store
    }

    /// The machine's cgroups: the node makes and limits its QoS cgroups with it.
    pub fn cgroups(&self) -> &Cgroups {
        &self.inner.cgroups
    }
}

fn take_lock(root: &Path) -> Result<std::fs::File, RuntimeError> {
    let path = root.join("lock");
    let file =
        std::fs::File::create(&path).map_err(|e| RuntimeError::io(format!("open {}", path.display()), e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(RuntimeError::FailedPrecondition(format!(
            "{} is in use by another process: stop it, or use another data folder",
            root.display()
        ))),
        Err(std::fs::TryLockError::Error(e)) => Err(RuntimeError::io(format!("lock {}", path.display()), e)),
    }
}

impl Inner {
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, RuntimeError> {
        let found = self.sandboxes.lock().get(id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { kind: "sandbox", id: id.to_owned() })
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, RuntimeError> {
        let found = self.containers.lock().get(id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { kind: "container", id: id.to_owned() })
    }

    /// The containers of a sandbox.
    pub(crate) fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        let all: Vec<_> = self.containers.lock().values().cloned().collect();
        all.into_iter().filter(|c| c.record.lock().sandbox_id == sandbox_id).collect()
    }

    /// Tells the subscribers. `container_id` is the sandbox's own id for the sandbox itself.
    pub(crate) fn tell(&self, sandbox_id: &str, container_id: &str, kind: ContainerEventType) {
        let Ok(sandbox) = self.sandbox(sandbox_id) else { return };
        let pod = sandbox.record.lock().config.metadata.clone();
        // No subscriber is no error.
        let _ = self.events.send(ContainerEvent {
            container_id: container_id.to_owned(),
            container_event_type: kind,
            created_at: now(),
            pod_sandbox_id: sandbox_id.to_owned(),
            pod,
        });
    }

    /// runc's path and version.
    ///
    /// # Errors
    /// `Unavailable`, with what to install.
    pub(crate) fn runc(&self) -> Result<(PathBuf, String), RuntimeError> {
        if let Some(found) = self.runc.lock().clone() {
            return Ok(found);
        }
        let found = facts::find_runc(self.config.runc.as_deref())?;
        *self.runc.lock() = Some(found.clone());
        Ok(found)
    }
}
