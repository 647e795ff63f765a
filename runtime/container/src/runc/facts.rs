//! What this machine has and allows: runc, overlayfs, capabilities, devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use crate::cgroups::Version;
use crate::cri::Device;
use crate::error::RuntimeError;
use crate::spec::{DeviceNode, HostFacts};

/// Oldest runc that has what we use.
const OLDEST: (u32, u32) = (1, 1);

/// Finds runc and asks its version.
///
/// # Errors
/// `Unavailable`, with what to install.
pub(crate) fn find_runc(wanted: Option<&Path>) -> Result<(PathBuf, String), RuntimeError> {
    let path = match wanted {
        Some(path) => path.to_owned(),
        None => in_path("runc").ok_or_else(|| {
            RuntimeError::Unavailable(
                "runc is not installed: install it (Debian: apt-get install runc)".to_owned(),
            )
        })?,
    };
    let output = Command::new(&path).arg("--version").output().map_err(|e| {
        RuntimeError::Unavailable(format!(
            "{} does not run ({e}): install runc (Debian: apt-get install runc)",
            path.display()
        ))
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("runc version "))
        .ok_or_else(|| RuntimeError::Unavailable(format!("{} is not runc", path.display())))?
        .trim()
        .to_owned();
    if !is_new_enough(&version) {
        return Err(RuntimeError::Unavailable(format!(
            "runc {version} is too old: install {}.{} or newer",
            OLDEST.0, OLDEST.1
        )));
    }
    Ok((path, version))
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '+', '-', '~']).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= OLDEST
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A service's PATH often lacks the administrator's folders.
    let extra = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Whether overlayfs is there (it may still be loadable as a module).
///
/// # Errors
/// `Unavailable`, with what to do.
pub(crate) fn check_overlay() -> Result<(), RuntimeError> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.trim() == "nodev\toverlay" || line.trim().ends_with("overlay")) {
        return Ok(());
    }
    // Mounting loads the module; one that is there as a file is good enough here.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let folder = Path::new("/lib/modules").join(release.trim()).join("kernel/fs/overlayfs");
    if folder.is_dir() {
        return Ok(());
    }
    Err(RuntimeError::Unavailable(
        "the kernel has no overlayfs: load it (modprobe overlay) or use a kernel that has it".to_owned(),
    ))
}

/// Reads what this process may do.
pub(crate) fn host_facts(cgroups: Version) -> HostFacts {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default().trim();
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    HostFacts {
        cgroups,
        capabilities: u64::from_str_radix(hex, 16).unwrap_or(0),
        oom_score_adj: score.trim().parse().unwrap_or(0),
    }
}

/// Says once that a wanted oom_score_adj is out of reach.
pub(crate) fn warn_oom_score(wanted: i32, got: i32) {
    static ONCE: Once = Once::new();
    if wanted < got {
        ONCE.call_once(|| {
            tracing::warn!(wanted, got, "cannot lower oom_score_adj without CAP_SYS_RESOURCE");
        });
    }
}

fn node(path: &Path, as_path: &str, access: &str) -> Option<DeviceNode> {
    let meta = fs::metadata(path).ok()?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => 'c',
        t if t.is_block_device() => 'b',
        _ => return None,
    };
    Some(DeviceNode {
        path: as_path.to_owned(),
        kind,
        major: nix::sys::stat::major(meta.rdev()),
        minor: nix::sys::stat::minor(meta.rdev()),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    })
}

/// Looks up the devices that a container asks for; a folder stands for all devices in it.
///
/// # Errors
/// `InvalidArgument` when one does not exist.
pub(crate) fn devices(wanted: &[Device]) -> Result<Vec<DeviceNode>, RuntimeError> {
    let mut found = Vec::new();
    for device in wanted {
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        if device.host_path.is_dir() {
            walk(&device.host_path, &device.host_path, &device.container_path, access, &mut found);
            continue;
        }
        found.push(node(&device.host_path, &device.container_path, access).ok_or_else(|| {
            RuntimeError::InvalidArgument(format!("{} is not a device", device.host_path.display()))
        })?);
    }
    Ok(found)
}

/// All devices of the machine, for privileged containers.
pub(crate) fn all_devices() -> Vec<DeviceNode> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), Path::new("/dev"), "/dev", "rwm", &mut found);
    // runc makes these itself.
    found.retain(|d| d.path != "/dev/console" && d.path != "/dev/ptmx");
    found
}

fn walk(folder: &Path, root: &Path, as_root: &str, access: &str, found: &mut Vec<DeviceNode>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            if !["pts", "shm", "fd", "mqueue", ".udev"].iter().any(|skip| name == *skip) {
                walk(&path, root, as_root, access, found);
            }
            continue;
        }
        let Ok(inner) = path.strip_prefix(root) else { continue };
        let shown = format!("{}/{}", as_root.trim_end_matches('/'), inner.display());
        found.extend(node(&path, &shown, access));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (version, good) in
            [("1.1.5+ds1", true), ("1.3.0-rc.1", true), ("2.0.0", true), ("1.0.3", false), ("x", false)]
        {
            assert_eq!(is_new_enough(version), good, "{version}");
        }
    }

    #[test]
    fn a_missing_runc_says_what_to_install() {
        let error = find_runc(Some(Path::new("/nonexistent/runc"))).unwrap_err();
        assert!(
            matches!(error, RuntimeError::Unavailable(_))
                && error.to_string().contains("apt-get install runc")
        );
    }

    #[test]
    fn devices_are_looked_up() {
        let null = Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/null".into(),
            permissions: String::new(),
        };
        let found = devices(&[null]).unwrap();
        assert_eq!((found[0].kind, found[0].major, found[0].minor), ('c', 1, 3));
        let file = Device { host_path: "/proc/self/status".into(), ..Default::default() };
        assert!(devices(&[file]).is_err());
    }
}
