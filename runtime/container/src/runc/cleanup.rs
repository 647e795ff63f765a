//! Removes everything that a driver made: for `down`, and for tests.

use std::path::Path;

use super::records::{ContainerRecord, Folders, SandboxRecord, folders_in, load};
use super::{CGROUP_ROOT, mounts, sandbox};
use crate::cgroups::Cgroups;
use crate::error::RuntimeError;

/// Kills every shim and container of the driver over these folders, and removes its mounts, cgroups and
/// both folders. Idempotent; no driver may be open over them. What the pod network made is the network's
/// to remove. Blocks.
///
/// # Errors
/// The first failure, after trying everything else.
pub fn cleanup_all(root: &Path, run: &Path) -> Result<(), RuntimeError> {
    let folders = Folders { root: root.to_owned(), run: run.to_owned() };
    let cgroups = Cgroups::detect()?;
    let mut first: Result<(), RuntimeError> = Ok(());
    let mut note = |result: Result<(), RuntimeError>| {
        if let Err(error) = result
            && first.is_ok()
        {
            first = Err(error);
        }
    };
    // Shims first: they would record ends into folders that are about to go.
    for id in folders_in(&run.join("sandboxes")).unwrap_or_default() {
        sandbox::kill_shim(&folders.sandbox_run(&id));
    }
    for id in folders_in(&root.join("containers")).unwrap_or_default() {
        if let Ok(Some(record)) = load::<ContainerRecord>(&folders.container_record(&id))
            && !record.cgroup.is_empty()
        {
            note(cgroups.remove(&record.cgroup));
        }
    }
    for id in folders_in(&root.join("sandboxes")).unwrap_or_default() {
        if let Ok(Some(record)) = load::<SandboxRecord>(&folders.sandbox_record(&id))
            && !record.cgroup.is_empty()
        {
            note(cgroups.remove(&record.cgroup));
        }
    }
    if let Ok(parent) = std::fs::read_to_string(root.join(CGROUP_ROOT)) {
        cgroups.prune(&parent);
    }
    for folder in [root, run] {
        match mounts::below(folder) {
            Ok(points) => points.iter().for_each(|point| note(mounts::unmount(point))),
            Err(error) => note(Err(error)),
        }
        note(mounts::remove_folder(folder));
    }
    first
}
