//! What the driver keeps on disk: one folder per sandbox and per container, one JSON record in each.
//!
//! Under `root` (survives a reboot): `sandboxes/<id>/sandbox.json`, `containers/<id>/{container.json,
//! config.json, upper, work, rootfs}` and what the shim leaves beside them (`started`, `exit`). Under
//! `run` (does not): `sandboxes/<id>/` with the shim's socket and pins, and runc's own state.
//!
//! Records are replaced whole (written beside, renamed) but not synced: they tell of processes, and those
//! do not survive the machine either.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cri::{ContainerConfig, ContainerUser, LinuxContainerResources, PodSandboxConfig};
use crate::error::RuntimeError;

/// Version of both records.
pub(crate) const VERSION: u32 = 1;

/// A sandbox. Written when it is ready; a folder without it is half-made and is cleared away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    /// The pod's cgroup.
    pub(crate) cgroup: String,
    pub(crate) created_at: i64,
    pub(crate) ips: Vec<IpAddr>,
    /// Pid of the pod's init; 0 when pid namespaces are not shared.
    pub(crate) pause: i32,
    /// Pid of the shim.
    pub(crate) shim: i32,
    /// Stopped on purpose; its network is gone.
    pub(crate) stopped: bool,
}

/// A container. Written when it is created; a folder without it is cleared away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) config: ContainerConfig,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    /// Diff ids in use.
    pub(crate) layers: Vec<String>,
    pub(crate) created_at: i64,
    pub(crate) user: ContainerUser,
    /// Such as `SIGTERM`.
    pub(crate) stop_signal: String,
    /// Absolute; empty: none.
    pub(crate) log_path: PathBuf,
    /// Its cgroup.
    pub(crate) cgroup: String,
    /// As last set.
    pub(crate) resources: LinuxContainerResources,
    /// Why it could not be started.
    pub(crate) start_error: Option<String>,
}

/// Where everything is.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    pub(crate) root: PathBuf,
    pub(crate) run: PathBuf,
}

impl Folders {
    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.root.join("sandboxes").join(id)
    }

    pub(crate) fn sandbox_record(&self, id: &str) -> PathBuf {
        self.sandbox(id).join("sandbox.json")
    }

    pub(crate) fn sandbox_run(&self, id: &str) -> PathBuf {
        self.run.join("sandboxes").join(id)
    }

    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    pub(crate) fn container_record(&self, id: &str) -> PathBuf {
        self.container(id).join("container.json")
    }

    pub(crate) fn runc_root(&self) -> PathBuf {
        self.run.join("runc")
    }
}

/// Writes a record whole or not at all.
pub(crate) fn save<T: Serialize>(path: &Path, record: &T) -> Result<(), RuntimeError> {
    let bytes = serde_json::to_vec(record).map_err(|e| RuntimeError::Internal(e.to_string()))?;
    let partial = path.with_extension("tmp");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|e| RuntimeError::io(format!("write {}", path.display()), e))
}

/// Reads a record; `None` when there is none.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RuntimeError> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(RuntimeError::io(format!("read {}", path.display()), e)),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| RuntimeError::Internal(format!("{} is damaged: {e}", path.display()))),
    }
}

/// Names of the folders in a folder; none when it does not exist.
pub(crate) fn folders_in(path: &Path) -> Result<Vec<String>, RuntimeError> {
    let fail = |e: io::Error| RuntimeError::io(format!("list {}", path.display()), e);
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(fail)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        if entry.file_type().map_err(fail)?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}
