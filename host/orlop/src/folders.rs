//! Where a node keeps its things.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The folders below the data folder.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    data: PathBuf,
}

impl Layout {
    /// Makes the data folder, for nobody else to read: it holds keys.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub(crate) fn new(data: &Path) -> Result<Self> {
        let context = || format!("cannot use the data folder {}", data.display());
        fs::create_dir_all(data).with_context(context)?;
        fs::set_permissions(data, fs::Permissions::from_mode(0o700)).with_context(context)?;
        Self::existing(data)
    }

    /// The layout of a folder that is there.
    ///
    /// # Errors
    /// Where it is not.
    pub(crate) fn existing(data: &Path) -> Result<Self> {
        let data = fs::canonicalize(data)
            .with_context(|| format!("cannot use the data folder {}", data.display()))?;
        Ok(Self { data })
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    pub(crate) fn plugin_cache(&self) -> PathBuf {
        self.data.join("plugin-cache")
    }

    pub(crate) fn programs(&self) -> PathBuf {
        self.data.join("bin")
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.data.join("manifests")
    }

    pub(crate) fn node(&self) -> PathBuf {
        self.data.join("node")
    }

    /// Images, layers and what containers write.
    pub(crate) fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// What need not survive the machine: sockets and pinned namespaces. One per data folder.
    pub(crate) fn run(&self) -> PathBuf {
        let digest = Sha256::digest(self.data.as_os_str().as_encoded_bytes());
        Path::new("/run/orlop").join(hex::encode(digest.get(..6).unwrap_or_default()))
    }

    /// Where a running server takes requests about images.
    pub(crate) fn image_socket(&self) -> PathBuf {
        self.run().join("images.sock")
    }

    pub(crate) fn network_state(&self) -> PathBuf {
        self.data.join("network")
    }

    /// The pod network of this node.
    pub(crate) fn network(&self, pods: orlop_network::Cidr) -> orlop_network::Config {
        orlop_network::Config::new(pods, self.network_state())
    }
}

/// Unmounts whatever is mounted below `dir` (volumes in memory), deepest first, and removes it.
///
/// # Errors
/// Where something is in use.
pub(crate) fn remove_mounts_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot list the mounts")?;
    let mut points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(dir))
        .collect();
    points.sort();
    for point in points.iter().rev() {
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
