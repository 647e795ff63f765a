//! cgroups v1 (hybrid too) and v2, driven through their file systems ("cgroupfs driver").
//!
//! What to write is computed by pure functions ([`settings`]); [`Cgroups`] applies it. Paths are
//! relative to the hierarchy's root (`/orlop/burstable/pod<uid>/<container id>`), never to the cgroup
//! that this process happens to live in. Applying twice changes nothing. All calls block.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cri::{CpuUsage, LinuxContainerResources, MemoryUsage};
use crate::error::RuntimeError;

/// Smallest `cpu.shares`.
pub const MIN_SHARES: u64 = 2;
/// Largest `cpu.shares`.
pub const MAX_SHARES: u64 = 262_144;
/// CFS period of a full CPU's quota, µs.
pub const QUOTA_PERIOD: u64 = 100_000;
/// Smallest CFS quota that the kernel takes, µs.
pub const MIN_QUOTA: i64 = 1000;
/// Longest wait for a cgroup's processes to be gone.
const REMOVAL: Duration = Duration::from_secs(10);
/// Controllers that pods are accounted and limited by.
const POD_CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

/// Which interface the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller (a v2 hierarchy without controllers may exist beside them).
    V1,
    /// One hierarchy.
    V2,
}

/// kubelet's `MilliCPUToShares`.
pub fn milli_cpu_to_shares(milli: u64) -> u64 {
    if milli == 0 { MIN_SHARES } else { (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// kubelet's `MilliCPUToQuota` for the default period; 0 means no quota.
pub fn milli_cpu_to_quota(milli: u64) -> i64 {
    if milli == 0 {
        return 0;
    }
    i64::try_from(milli * QUOTA_PERIOD / 1000).unwrap_or(i64::MAX).max(MIN_QUOTA)
}

/// v2's `cpu.weight` for v1's `cpu.shares`: the curve of runc 1.3 and the kubelet since 1.35, on which
/// 1024 shares are weight 100. 0 stays 0 (not set).
pub fn shares_to_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        s if s <= MIN_SHARES => 1,
        s if s >= MAX_SHARES => 10_000,
        s => {
            let l = (s as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 1..=10000")]
            let weight = 10f64.powf(exponent).ceil() as u64;
            weight.clamp(1, 10_000)
        }
    }
}

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// v1 controller; ignored on v2.
    pub controller: &'static str,
    /// File name.
    pub file: String,
    /// Content.
    pub value: String,
}

/// The files that these limits come to, in the order to write them. Fields not set give none.
pub fn settings(version: Version, r: &LinuxContainerResources) -> Vec<Setting> {
    let mut out = Vec::new();
    let mut put = |controller, file: &str, value: String| {
        out.push(Setting { controller, file: file.to_owned(), value });
    };
    let limit = |value: i64, none: &str| if value < 0 { none.to_owned() } else { value.to_string() };
    match version {
        Version::V1 => {
            if r.cpu_shares != 0 {
                put("cpu", "cpu.shares", r.cpu_shares.clamp(MIN_SHARES, MAX_SHARES).to_string());
            }
            if r.cpu_period != 0 {
                put("cpu", "cpu.cfs_period_us", r.cpu_period.to_string());
            }
            if r.cpu_quota != 0 {
                put("cpu", "cpu.cfs_quota_us", limit(r.cpu_quota, "-1"));
            }
            if r.memory_limit_in_bytes != 0 {
                put("memory", "memory.limit_in_bytes", limit(r.memory_limit_in_bytes, "-1"));
            }
            if r.memory_swap_limit_in_bytes != 0 {
                put("memory", "memory.memsw.limit_in_bytes", limit(r.memory_swap_limit_in_bytes, "-1"));
            }
            if r.pids_limit != 0 {
                put("pids", "pids.max", limit(r.pids_limit, "max"));
            }
        }
        Version::V2 => {
            if r.cpu_shares != 0 {
                put("cpu", "cpu.weight", shares_to_weight(r.cpu_shares).to_string());
            }
            if r.cpu_quota != 0 || r.cpu_period != 0 {
                let period = if r.cpu_period == 0 { QUOTA_PERIOD } else { r.cpu_period };
                let quota = if r.cpu_quota > 0 { r.cpu_quota.to_string() } else { "max".to_owned() };
                put("cpu", "cpu.max", format!("{quota} {period}"));
            }
            if r.memory_limit_in_bytes != 0 {
                put("memory", "memory.max", limit(r.memory_limit_in_bytes, "max"));
            }
            if r.memory_swap_limit_in_bytes != 0 {
                // v1 counts memory and swap together, v2 swap alone.
                let swap = r.memory_swap_limit_in_bytes - r.memory_limit_in_bytes.max(0);
                let swap = if r.memory_swap_limit_in_bytes < 0 { -1 } else { swap.max(0) };
                put("memory", "memory.swap.max", limit(swap, "max"));
            }
            if r.pids_limit != 0 {
                put("pids", "pids.max", limit(r.pids_limit, "max"));
            }
            for (file, value) in &r.unified {
                put("", file, value.clone());
            }
        }
    }
    out
}

/// Where the hierarchies are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts {
    /// v1 controller (or `name=…`) to mount point.
    pub v1: BTreeMap<String, PathBuf>,
    /// The v2 hierarchy.
    pub unified: Option<PathBuf>,
}

impl Mounts {
    /// Reads the text of `/proc/self/mountinfo`. The first mount of a hierarchy counts.
    pub fn parse(mountinfo: &str) -> Self {
        let mut found = Self { v1: BTreeMap::new(), unified: None };
        for line in mountinfo.lines() {
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let Some(point) = head.split(' ').nth(4) else { continue };
            let mut tail = tail.split(' ');
            match (tail.next(), tail.nth(1)) {
                (Some("cgroup2"), _) => {
                    found.unified.get_or_insert_with(|| PathBuf::from(point));
                }
                (Some("cgroup"), Some(options)) => {
                    for option in options.split(',') {
                        let known = [
                            "cpu",
                            "cpuacct",
                            "cpuset",
                            "memory",
                            "devices",
                            "freezer",
                            "blkio",
                            "pids",
                            "hugetlb",
                            "net_cls",
                            "net_prio",
                            "perf_event",
                            "rdma",
                            "misc",
                        ];
                        if known.contains(&option) || option.starts_with("name=") {
                            found.v1.entry(option.to_owned()).or_insert_with(|| PathBuf::from(point));
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// v1 as soon as the memory controller is there.
    pub fn version(&self) -> Version {
        if self.v1.contains_key("memory") || self.unified.is_none() { Version::V1 } else { Version::V2 }
    }
}

/// Usage of one cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupStats {
    /// CPU.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads.
    pub pids: u64,
}

/// The cgroups of this machine.
#[derive(Debug, Clone)]
pub struct Cgroups {
    mounts: Mounts,
}

fn relative(path: &str) -> Result<&str, RuntimeError> {
    let inner = path.trim_matches('/');
    let sound = !inner.is_empty() && inner.split('/').all(|p| !matches!(p, "" | "." | ".."));
    if sound {
        Ok(inner)
    } else {
        Err(RuntimeError::InvalidArgument(format!("\"{path}\" is not a cgroup path")))
    }
}

fn write(path: &Path, value: &str) -> Result<(), RuntimeError> {
    fs::write(path, value)
        .map_err(|e| RuntimeError::io(format!("write \"{value}\" to {}", path.display()), e))
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Cgroups {
    /// Finds the hierarchies.
    ///
    /// # Errors
    /// `Unavailable` when there are none.
    pub fn detect() -> Result<Self, RuntimeError> {
        let text = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| RuntimeError::io("read /proc/self/mountinfo", e))?;
        let mounts = Mounts::parse(&text);
        if mounts.v1.is_empty() && mounts.unified.is_none() {
            return Err(RuntimeError::Unavailable(
                "no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup".to_owned(),
            ));
        }
        Ok(Self { mounts })
    }

    /// Cgroups at other mount points, for tests.
    pub fn at(mounts: Mounts) -> Self {
        Self { mounts }
    }

    /// Which interface is used.
    pub fn version(&self) -> Version {
        self.mounts.version()
    }

    /// The folder of a cgroup for a v1 controller (on v2 the one folder).
    pub fn folder(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let mount = match self.version() {
            Version::V1 => self.mounts.v1.get(controller)?,
            Version::V2 => self.mounts.unified.as_ref()?,
        };
        Some(mount.join(path.trim_matches('/')))
    }

    fn everywhere(&self, path: &str) -> Result<Vec<PathBuf>, RuntimeError> {
        let inner = relative(path)?;
        let mut folders: Vec<PathBuf> =
            self.mounts.v1.values().chain(&self.mounts.unified).map(|m| m.join(inner)).collect();
        folders.sort();
        folders.dedup();
        Ok(folders)
    }

    /// Makes a cgroup, its parents included.
    ///
    /// # Errors
    /// `Io`, `InvalidArgument`.
    pub fn create(&self, path: &str) -> Result<(), RuntimeError> {
        let inner = relative(path)?;
        let make = |folder: &Path| {
            fs::create_dir_all(folder)
                .map_err(|e| RuntimeError::io(format!("create {}", folder.display()), e))
        };
        match (self.version(), &self.mounts.unified) {
            (Version::V2, Some(root)) => {
                let mut folder = root.clone();
                for part in inner.split('/') {
                    delegate(&folder)?;
                    folder.push(part);
                    make(&folder)?;
                }
                delegate(&folder)
            }
            _ => {
                for controller in POD_CONTROLLERS {
                    if let Some(folder) = self.folder(controller, inner) {
                        make(&folder)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Applies limits.
    ///
    /// # Errors
    /// `Io` when the kernel refuses one; `InvalidArgument` for raw v2 files on v1.
    pub fn apply(&self, path: &str, resources: &LinuxContainerResources) -> Result<(), RuntimeError> {
        relative(path)?;
        if self.version() == Version::V1 && !resources.unified.is_empty() {
            return Err(RuntimeError::InvalidArgument("unified resources need cgroup v2".to_owned()));
        }
        for setting in settings(self.version(), resources) {
            let Some(folder) = self.folder(setting.controller, path) else { continue };
            if setting.file.contains('/') {
                return Err(RuntimeError::InvalidArgument(format!(
                    "\"{}\" is not a cgroup file",
                    setting.file
                )));
            }
            let file = folder.join(&setting.file);
            // Not compiled into every kernel.
            if setting.file.contains("memsw") && !file.exists() {
                continue;
            }
            write(&file, &setting.value)?;
        }
        Ok(())
    }

    /// The file whose `oom_kill` line counts kills for lack of memory.
    pub fn oom_file(&self, path: &str) -> Option<PathBuf> {
        let file = if self.version() == Version::V1 { "memory.oom_control" } else { "memory.events" };
        Some(self.folder("memory", path)?.join(file))
    }

    /// Process ids in a cgroup and those below it.
    pub fn pids(&self, path: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        for folder in self.everywhere(path).unwrap_or_default() {
            collect_pids(&folder, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills everything in a cgroup and below. True when something was there.
    pub fn kill(&self, path: &str) -> bool {
        if self.version() == Version::V2
            && let Some(folder) = self.folder("", path)
            && relative(path).is_ok()
            && !self.pids(path).is_empty()
            && fs::write(folder.join("cgroup.kill"), "1").is_ok()
        {
            return true;
        }
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let pids = self.pids(path);
        for pid in pids.iter().filter(|pid| **pid != own) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        !pids.is_empty()
    }

    /// Kills what is in a cgroup and removes it with all below it. Idempotent.
    ///
    /// # Errors
    /// `DeadlineExceeded` when its processes do not die, `Io`.
    pub fn remove(&self, path: &str) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + REMOVAL;
        let mut pause = Duration::from_micros(500);
        loop {
            let mut busy = None;
            for folder in self.everywhere(path)? {
                match remove_tree(&folder) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) => busy = Some(folder),
                    Err(e) => return Err(RuntimeError::io(format!("remove {}", folder.display()), e)),
                }
            }
            let Some(folder) = busy else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(RuntimeError::DeadlineExceeded(format!(
                    "{} still has processes",
                    folder.display()
                )));
            }
            self.kill(path);
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Removes what is empty of a cgroup and those below it. Kills nothing.
    pub fn prune(&self, path: &str) {
        for folder in self.everywhere(path).unwrap_or_default() {
            prune_tree(&folder);
        }
    }

    /// Usage; zeros where the kernel gives no number. `None` when the cgroup does not exist.
    pub fn stats(&self, path: &str, now: i64) -> Option<CgroupStats> {
        let memory = self.folder("memory", path)?;
        if !memory.is_dir() {
            return None;
        }
        let stat = fs::read_to_string(memory.join("memory.stat")).unwrap_or_default();
        let field = |name: &str| flat_field(&stat, name);
        let v1 = self.version() == Version::V1;
        let (usage, limit) = if v1 {
            (memory.join("memory.usage_in_bytes"), memory.join("memory.limit_in_bytes"))
        } else {
            (memory.join("memory.current"), memory.join("memory.max"))
        };
        let usage = read_number(&usage).unwrap_or(0);
        // "No limit" is a huge number on v1 and the word "max" on v2.
        let limit = read_number(&limit).filter(|l| *l < 1 << 62);
        let prefix = if v1 { "total_" } else { "" };
        let working_set = usage.saturating_sub(field(&format!("{prefix}inactive_file")));
        let cpu = if v1 {
            self.folder("cpuacct", path).and_then(|f| read_number(&f.join("cpuacct.usage"))).unwrap_or(0)
        } else {
            flat_field(&fs::read_to_string(memory.join("cpu.stat")).unwrap_or_default(), "usage_usec") * 1000
        };
        let pids = self.folder("pids", path).and_then(|f| read_number(&f.join("pids.current"))).unwrap_or(0);
        Some(CgroupStats {
            cpu: CpuUsage { timestamp: now, usage_core_nano_seconds: cpu },
            memory: MemoryUsage {
                timestamp: now,
                working_set_bytes: working_set,
                available_bytes: limit.map_or(0, |l| l.saturating_sub(working_set)),
                usage_bytes: usage,
                rss_bytes: field(if v1 { "total_rss" } else { "anon" }),
                page_faults: field(&format!("{prefix}pgfault")),
                major_page_faults: field(&format!("{prefix}pgmajfault")),
            },
            pids,
        })
    }
}

fn flat_field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.split_once(' ').filter(|(key, _)| *key == name))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// Hands the controllers that pods need down to a v2 cgroup's children.
fn delegate(folder: &Path) -> Result<(), RuntimeError> {
    let available = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    let enabled = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
    let missing: Vec<String> = ["cpuset", "cpu", "io", "memory", "pids"]
        .iter()
        .filter(|c| {
            available.split_whitespace().any(|a| a == **c) && !enabled.split_whitespace().any(|e| e == **c)
        })
        .map(|c| format!("+{c}"))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        write(&folder.join("cgroup.subtree_control"), &missing.join(" "))
    }
}

fn collect_pids(folder: &Path, pids: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0));
    }
    for child in fs::read_dir(folder).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|t| t.is_dir()) {
            collect_pids(&child.path(), pids);
        }
    }
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        // A cgroup with children answers EBUSY too.
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            for child in fs::read_dir(folder)?.flatten() {
                if child.file_type()?.is_dir() {
                    remove_tree(&child.path())?;
                }
            }
            fs::remove_dir(folder)
        }
        other => other,
    }
}

fn prune_tree(folder: &Path) {
    for child in fs::read_dir(folder).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|t| t.is_dir()) {
            prune_tree(&child.path());
        }
    }
    // One that is in use refuses.
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_quota_as_the_kubelet() {
        assert_eq!(milli_cpu_to_shares(0), 2);
        assert_eq!(milli_cpu_to_shares(100), 102);
        assert_eq!(milli_cpu_to_shares(1000), 1024);
        assert_eq!(milli_cpu_to_quota(0), 0);
        assert_eq!(milli_cpu_to_quota(5), 1000);
        assert_eq!(milli_cpu_to_quota(1500), 150_000);
    }

    #[test]
    fn weights() {
        for (shares, weight) in [(0, 0), (1, 1), (2, 1), (1024, 100), (262_144, 10_000), (1 << 20, 10_000)] {
            assert_eq!(shares_to_weight(shares), weight, "{shares}");
        }
        assert!((2..MAX_SHARES).step_by(97).all(|s| shares_to_weight(s) <= shares_to_weight(s + 97)));
    }

    #[test]
    fn settings_of_both_versions() {
        let r = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 1024,
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 96 << 20,
            pids_limit: -1,
            ..Default::default()
        };
        let show = |v| -> Vec<String> {
            settings(v, &r).iter().map(|s| format!("{}={}", s.file, s.value)).collect()
        };
        assert_eq!(
            show(Version::V1),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=100663296",
                "pids.max=max"
            ]
        );
        assert_eq!(
            show(Version::V2),
            [
                "cpu.weight=100",
                "cpu.max=50000 100000",
                "memory.max=67108864",
                "memory.swap.max=33554432",
                "pids.max=max"
            ]
        );
        assert!(settings(Version::V2, &LinuxContainerResources::default()).is_empty());
    }

    #[test]
    fn mounts_of_every_kind() {
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let mounts = Mounts::parse(hybrid);
        assert_eq!(mounts.version(), Version::V1);
        assert_eq!(mounts.v1["memory"], Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(mounts.v1.len(), 3);
        let joint = Mounts::parse("32 31 0:29 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n");
        assert_eq!(joint.v1["cpuacct"], joint.v1["cpu"]);
        let v2 = Mounts::parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(v2.version(), Version::V2);
    }

    #[test]
    fn v2_files_are_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let mounts = Mounts { v1: BTreeMap::new(), unified: Some(folder.path().to_owned()) };
        fs::write(folder.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let cgroups = Cgroups::at(mounts);
        cgroups.create("/orlop/pod1").unwrap();
        assert_eq!(
            fs::read_to_string(folder.path().join("cgroup.subtree_control")).unwrap(),
            "+cpu +memory +pids"
        );
        let r =
            LinuxContainerResources { cpu_shares: 1024, memory_limit_in_bytes: 1000, ..Default::default() };
        cgroups.apply("/orlop/pod1", &r).unwrap();
        let pod = folder.path().join("orlop/pod1");
        assert_eq!(fs::read_to_string(pod.join("memory.max")).unwrap(), "1000");
        fs::write(pod.join("memory.current"), "800\n").unwrap();
        fs::write(pod.join("memory.stat"), "anon 500\ninactive_file 100\npgfault 3\n").unwrap();
        fs::write(pod.join("cpu.stat"), "usage_usec 7\n").unwrap();
        let stats = cgroups.stats("/orlop/pod1", 1).unwrap();
        assert_eq!((stats.memory.working_set_bytes, stats.memory.available_bytes), (700, 300));
        assert_eq!(stats.cpu.usage_core_nano_seconds, 7000);
        assert!(cgroups.stats("/orlop/none", 1).is_none());
        for bad in ["", "/", "/a/../b", "a//b"] {
            assert!(cgroups.create(bad).is_err(), "{bad}");
        }
    }
}
