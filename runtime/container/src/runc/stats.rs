//! Usage of containers and pods, read when asked for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Container, Inner, Phase, Sandbox, now};
use crate::cri::{
    ContainerStats, FilesystemUsage, ImageFsInfo, NamespaceMode, NetworkInterfaceUsage, PodSandboxStats,
};

/// A writable layer is measured again after this many nanoseconds.
const MEASURED: i64 = 60_000_000_000;

/// Bytes and inodes below a folder, on its own file system. Hard links count once.
pub(crate) fn measure(folder: &Path) -> FilesystemUsage {
    let mut usage = FilesystemUsage { timestamp: now(), mountpoint: folder.to_owned(), ..Default::default() };
    let mut seen = std::collections::HashSet::new();
    let Ok(top) = fs::symlink_metadata(folder) else { return usage };
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() || (meta.nlink() > 1 && meta.is_file() && !seen.insert(meta.ino())) {
                continue;
            }
            usage.used_bytes += meta.blocks() * 512;
            usage.inodes_used += 1;
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    usage
}

/// Usage of a container; `None` when it does not run. Blocks.
pub(crate) fn container(inner: &Inner, container: &Container) -> Option<ContainerStats> {
    if !matches!(*container.phase.borrow(), Phase::Running { .. }) {
        return None;
    }
    let record = container.record.lock().clone();
    let stats = inner.cgroups.stats(&record.cgroup, now())?;
    let known = inner.writable.lock().get(&record.id).cloned().filter(|u| now() - u.timestamp < MEASURED);
    let writable = known.unwrap_or_else(|| {
        let usage = measure(&inner.folders.container(&record.id).join("upper"));
        inner.writable.lock().insert(record.id.clone(), usage.clone());
        usage
    });
    Some(ContainerStats {
        id: record.id,
        pod_sandbox_id: record.sandbox_id,
        metadata: record.config.metadata,
        labels: record.config.labels,
        cpu: stats.cpu,
        memory: stats.memory,
        writable_layer: Some(writable),
        pids: stats.pids,
    })
}

/// Usage of a pod. Blocks.
pub(crate) fn sandbox(inner: &Inner, sandbox: &Sandbox) -> PodSandboxStats {
    let record = sandbox.record.lock().clone();
    let stats = inner.cgroups.stats(&record.cgroup, now()).unwrap_or_default();
    let own = record.config.security_context.namespace_options.network == NamespaceMode::Pod;
    // The shim lives in the pod's network: its view of the interfaces is the pod's.
    let table = if own && *sandbox.alive.borrow() {
        fs::read_to_string(format!("/proc/{}/net/dev", record.shim)).unwrap_or_default()
    } else {
        String::new()
    };
    let containers = inner.containers_of(&record.id).iter().filter_map(|c| container(inner, c)).collect();
    PodSandboxStats {
        id: record.id,
        metadata: record.config.metadata,
        labels: record.config.labels,
        cpu: stats.cpu,
        memory: stats.memory,
        pids: stats.pids,
        network: interfaces(&table),
        containers,
    }
}

/// Reads `/proc/net/dev`, without loopback.
fn interfaces(table: &str) -> Vec<NetworkInterfaceUsage> {
    table
        .lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> = counters.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            let name = name.trim();
            (name != "lo" && counters.len() >= 11).then(|| NetworkInterfaceUsage {
                name: name.to_owned(),
                rx_bytes: counters[0],
                rx_errors: counters[2],
                tx_bytes: counters[8],
                tx_errors: counters[10],
            })
        })
        .collect()
}

/// Disk usage of images and writable layers. Blocks, for as long as it takes to walk them.
pub(crate) fn image_fs(inner: &Inner) -> ImageFsInfo {
    let image_filesystem = measure(inner.store.root());
    let folder = inner.folders.root.join("containers");
    let mut container_filesystem =
        FilesystemUsage { timestamp: now(), mountpoint: folder.clone(), ..Default::default() };
    let ids: Vec<String> = inner.containers.lock().keys().cloned().collect();
    for id in ids {
        let usage = measure(&folder.join(id).join("upper"));
        container_filesystem.used_bytes += usage.used_bytes;
        container_filesystem.inodes_used += usage.inodes_used;
    }
    ImageFsInfo { image_filesystem, container_filesystem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_a_pod() {
        let table = "Inter-|   Receive\n face |bytes    packets errs\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  \
                     eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0\n";
        let found = interfaces(table);
        assert_eq!(found.len(), 1);
        let eth0 = &found[0];
        assert_eq!((eth0.rx_bytes, eth0.rx_errors, eth0.tx_bytes, eth0.tx_errors), (100, 3, 200, 5));
    }
}
