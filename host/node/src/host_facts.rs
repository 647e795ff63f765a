//! What the machine says of itself: size, names, pressure.

use k8s_openapi::api::core::v1::NodeSystemInfo;
use nix::sys::statvfs::statvfs;
use std::fs;
use std::path::Path;

/// Size of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpu_millis: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral_storage: i64,
}

/// What is left, for the pressure conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Available {
    pub(crate) memory: i64,
    /// Share of the agent's filesystem that is free, in percent.
    pub(crate) disk_percent: i64,
    /// Share of the filesystem's inodes that is free, in percent; 100 where it has none to count.
    pub(crate) inodes_percent: i64,
    /// Share of process ids that is free, in percent.
    pub(crate) pids_percent: i64,
}

fn meminfo(text: &str, field: &str) -> Option<i64> {
    let line = text.lines().find(|l| l.starts_with(field))?;
    let kib: i64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

fn as_i64(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Reads the capacity; `root` is a path on the filesystem that holds pods.
pub(crate) fn capacity(root: &Path) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let storage = statvfs(root).map_or(0, |s| s.blocks().saturating_mul(s.fragment_size()));
    Capacity {
        cpu_millis: i64::try_from(cpus).unwrap_or(1) * 1000,
        memory: meminfo(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0),
        ephemeral_storage: as_i64(storage),
    }
}

/// Reads what is left.
pub(crate) fn available(root: &Path) -> Available {
    let percent = |free: u64, all: u64| free.saturating_mul(100).checked_div(all).map_or(100, as_i64);
    let (disk_percent, inodes_percent) = statvfs(root).map_or((100, 100), |s| {
        (percent(s.blocks_available(), s.blocks()), percent(s.files_available(), s.files()))
    });
    let max: u64 = read("/proc/sys/kernel/pid_max").parse().unwrap_or(0);
    let loadavg = read("/proc/loadavg");
    let used: u64 = loadavg
        .split_whitespace()
        .nth(3)
        .and_then(|f| f.split('/').nth(1))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    Available {
        memory: meminfo(&read("/proc/meminfo"), "MemAvailable:").unwrap_or(i64::MAX),
        disk_percent,
        inodes_percent,
        pids_percent: percent(max.saturating_sub(used), max),
    }
}

/// `nodeInfo`
pub(crate) fn system_info(kubelet: &str, runtime: &str) -> NodeSystemInfo {
    let os_release = read("/etc/os-release");
    let os_image = os_release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map(|v| v.trim_matches('"').to_owned())
        .unwrap_or_else(|| "Linux".to_owned());
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime.to_owned(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: kubelet.to_owned(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image,
        swap: None,
        system_uuid: read("/sys/class/dmi/id/product_uuid").to_lowercase(),
    }
}

/// As Go names it.
pub(crate) const fn architecture() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        b"x86" => "386",
        _ => std::env::consts::ARCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_size() {
        let c = capacity(Path::new("/"));
        assert!(c.cpu_millis >= 1000 && c.memory > 1 << 20 && c.ephemeral_storage > 0, "{c:?}");
        let a = available(Path::new("/"));
        assert!(a.memory > 0 && a.memory <= c.memory, "{a:?}");
        assert!((0..=100).contains(&a.disk_percent) && (0..=100).contains(&a.pids_percent), "{a:?}");
        assert!(!system_info("v", "r").kernel_version.is_empty());
    }
}
