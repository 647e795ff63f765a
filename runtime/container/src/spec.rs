//! The OCI runtime specification of a container: a pure function of what CRI, the image and the sandbox
//! say. Defaults (capabilities, masked paths, mounts) are containerd's.
//!
//! The network, IPC and UTS namespaces are not named: runc is launched by the sandbox's shim, which
//! lives in them, and a container inherits them from there.

pub mod seccomp;
pub mod user;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::cgroups::Version;
use crate::cri::{ContainerConfig, ContainerUser, MountPropagation, NamespaceMode, SecurityProfile};
use crate::error::RuntimeError;
use crate::image::manifest::RunConfig;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// containerd's default capabilities.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All capabilities, by number.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Some of `rwm`.
    pub access: String,
}

/// What this machine allows.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// cgroup interface.
    pub cgroups: Version,
    /// Our effective capabilities, a bit for each.
    pub capabilities: u64,
    /// Our own oom_score_adj.
    pub oom_score_adj: i32,
}

impl HostFacts {
    fn may(&self, capability: &str) -> bool {
        CAPABILITIES
            .iter()
            .position(|c| *c == capability)
            .is_some_and(|bit| self.capabilities & (1 << bit) != 0)
    }

    /// Lowering one's score takes CAP_SYS_RESOURCE; without it the request is degraded to our own.
    pub fn possible_oom_score_adj(&self, wanted: i32) -> i32 {
        let wanted = wanted.clamp(-1000, 1000);
        if self.may("CAP_SYS_RESOURCE") { wanted } else { wanted.max(self.oom_score_adj) }
    }
}

/// Everything that a container's specification depends on.
#[derive(Debug)]
pub struct SpecInput<'a> {
    /// What the node asked for.
    pub config: &'a ContainerConfig,
    /// What the image says.
    pub image: &'a RunConfig,
    /// The user, already looked up in the image.
    pub user: &'a ContainerUser,
    /// Mounted root filesystem.
    pub rootfs: &'a Path,
    /// `/…/pod<uid>/<container id>`.
    pub cgroup_path: &'a str,
    /// `HOSTNAME`; empty: not set.
    pub hostname: &'a str,
    /// Folder that becomes `/dev/shm`; `None`: the node's own.
    pub shm: Option<&'a Path>,
    /// `/etc/resolv.conf` and the like: (file on the node, path in the container), used unless the
    /// config mounts something there.
    pub files: &'a [(std::path::PathBuf, &'static str)],
    /// Pid of the process whose pid namespace is joined (`Pod`, `Target`).
    pub pid_of: i32,
    /// All device nodes of the machine, for privileged containers.
    pub host_devices: &'a [DeviceNode],
    /// Devices asked for, looked up on the node.
    pub devices: &'a [DeviceNode],
    /// Content of a localhost seccomp profile.
    pub seccomp_profile: Option<Value>,
    /// This machine.
    pub host: &'a HostFacts,
}

/// Command and arguments, as Kubernetes combines them with the image's.
///
/// # Errors
/// `InvalidArgument` when there is no command at all.
pub fn arguments(config: &ContainerConfig, image: &RunConfig) -> Result<Vec<String>, RuntimeError> {
    let mut all = Vec::new();
    if config.command.is_empty() {
        all.extend_from_slice(&image.entrypoint);
        all.extend_from_slice(if config.args.is_empty() { &image.cmd } else { &config.args });
    } else {
        all.extend_from_slice(&config.command);
        all.extend_from_slice(&config.args);
    }
    if all.is_empty() {
        return Err(RuntimeError::InvalidArgument("no command specified".to_owned()));
    }
    Ok(all)
}

/// The image's environment with the container's over it.
fn environment(input: &SpecInput<'_>) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default().to_owned();
        match env.iter_mut().find(|e| e.split('=').next() == Some(&name)) {
            Some(slot) => *slot = entry,
            None => env.push(entry),
        }
    };
    set(DEFAULT_PATH.to_owned());
    if !input.hostname.is_empty() {
        set(format!("HOSTNAME={}", input.hostname));
    }
    if input.config.tty {
        set("TERM=xterm".to_owned());
    }
    for entry in &input.image.env {
        set(entry.clone());
    }
    for pair in &input.config.envs {
        set(format!("{}={}", pair.key, pair.value));
    }
    env
}

/// The capabilities of a container.
///
/// # Errors
/// `InvalidArgument` for a name that does not exist.
pub fn capabilities(config: &ContainerConfig, host: &HostFacts) -> Result<Vec<&'static str>, RuntimeError> {
    let context = &config.security_context;
    let all = || CAPABILITIES.iter().copied().filter(|c| host.may(c));
    if context.privileged {
        return Ok(all().collect());
    }
    let known = |name: &str| {
        let upper = name.to_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        CAPABILITIES
            .iter()
            .copied()
            .find(|c| *c == full)
            .ok_or_else(|| RuntimeError::InvalidArgument(format!("unknown capability \"{name}\"")))
    };
    let is_all = |names: &[String]| names.iter().any(|n| n.eq_ignore_ascii_case("all"));
    let (add, drop) = (&context.capabilities.add_capabilities, &context.capabilities.drop_capabilities);
    let mut set: BTreeSet<&'static str> = DEFAULT_CAPABILITIES.into_iter().collect();
    if is_all(add) {
        set = all().collect();
    }
    if is_all(drop) {
        set.clear();
    }
    for name in add.iter().filter(|n| !n.eq_ignore_ascii_case("all")) {
        set.insert(known(name)?);
    }
    for name in drop.iter().filter(|n| !n.eq_ignore_ascii_case("all")) {
        set.remove(known(name)?);
    }
    Ok(CAPABILITIES.iter().copied().filter(|c| set.contains(c) && host.may(c)).collect())
}

fn namespaces(input: &SpecInput<'_>) -> Vec<Value> {
    let mut list = vec![json!({"type": "mount"})];
    match input.config.security_context.namespace_options.pid {
        NamespaceMode::Node => {}
        NamespaceMode::Container => list.push(json!({"type": "pid"})),
        NamespaceMode::Pod | NamespaceMode::Target => {
            list.push(json!({"type": "pid", "path": format!("/proc/{}/ns/pid", input.pid_of)}));
        }
    }
    if input.host.cgroups == Version::V2 && !input.config.security_context.privileged {
        list.push(json!({"type": "cgroup"}));
    }
    list
}

fn mounts(input: &SpecInput<'_>) -> Vec<Value> {
    let privileged = input.config.security_context.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let asked =
        |path: &str| input.config.mounts.iter().any(|m| m.container_path.trim_end_matches('/') == path);
    let mut list = Vec::new();
    let mut add = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        // The pod's own mount wins over a default one.
        if !asked(destination) {
            list.push(
                json!({"destination": destination, "type": kind, "source": source, "options": options}),
            );
        }
    };
    add("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]);
    add("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]);
    add(
        "/dev/pts",
        "devpts",
        "devpts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    );
    add("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
    add("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]);
    add("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]);
    let shm = input.shm.unwrap_or(Path::new("/dev/shm")).to_string_lossy().into_owned();
    add("/dev/shm", "bind", &shm, &["rbind", "rprivate", "rw"]);
    for (source, destination) in input.files {
        add(destination, "bind", &source.to_string_lossy(), &["rbind", "rprivate", "rw"]);
    }
    let mut own: Vec<_> = input.config.mounts.iter().collect();
    // Outer before inner, whatever order they were written in.
    own.sort_by_key(|m| m.container_path.split('/').filter(|p| !p.is_empty()).count());
    for mount in own {
        let propagation = match mount.propagation {
            MountPropagation::Private => "rprivate",
            MountPropagation::HostToContainer => "rslave",
            MountPropagation::Bidirectional => "rshared",
        };
        let mode = match (mount.readonly, mount.recursive_read_only) {
            (true, true) => "rro",
            (true, false) => "ro",
            _ => "rw",
        };
        list.push(json!({
            "destination": mount.container_path,
            "type": "bind",
            "source": mount.host_path.to_string_lossy(),
            "options": ["rbind", propagation, mode],
        }));
    }
    list
}

fn resources(input: &SpecInput<'_>) -> Value {
    let r = &input.config.resources;
    let mut out = json!({});
    let (mut cpu, mut memory) = (json!({}), json!({}));
    if r.cpu_shares != 0 {
        cpu["shares"] = json!(r.cpu_shares);
    }
    if r.cpu_quota != 0 {
        cpu["quota"] = json!(r.cpu_quota);
    }
    if r.cpu_period != 0 {
        cpu["period"] = json!(r.cpu_period);
    }
    if !r.cpuset_cpus.is_empty() {
        cpu["cpus"] = json!(r.cpuset_cpus);
    }
    if !r.cpuset_mems.is_empty() {
        cpu["mems"] = json!(r.cpuset_mems);
    }
    if r.memory_limit_in_bytes != 0 {
        memory["limit"] = json!(r.memory_limit_in_bytes);
    }
    if r.memory_swap_limit_in_bytes != 0 {
        memory["swap"] = json!(r.memory_swap_limit_in_bytes);
    }
    if cpu != json!({}) {
        out["cpu"] = cpu;
    }
    if memory != json!({}) {
        out["memory"] = memory;
    }
    if r.pids_limit != 0 {
        out["pids"] = json!({"limit": r.pids_limit});
    }
    if !r.unified.is_empty() {
        out["unified"] = json!(r.unified);
    }
    let privileged = input.config.security_context.privileged;
    let mut rules = vec![json!({"allow": privileged, "access": "rwm"})];
    if !privileged {
        for d in input.devices {
            rules.push(json!({
                "allow": true, "type": d.kind.to_string(), "major": d.major, "minor": d.minor, "access": d.access,
            }));
        }
    }
    out["devices"] = json!(rules);
    out
}

fn devices(input: &SpecInput<'_>) -> Vec<Value> {
    let hosts = if input.config.security_context.privileged { input.host_devices } else { &[] };
    let show = |d: &DeviceNode| {
        json!({
            "path": d.path, "type": d.kind.to_string(), "major": d.major, "minor": d.minor,
            "fileMode": d.mode, "uid": d.uid, "gid": d.gid,
        })
    };
    let extra = input.devices.iter().filter(|d| !hosts.iter().any(|h| h.path == d.path));
    hosts.iter().chain(extra).map(show).collect()
}

/// The content of `config.json`.
///
/// # Errors
/// `InvalidArgument` for what no container can be made of.
pub fn build(input: &SpecInput<'_>) -> Result<Value, RuntimeError> {
    let (config, context) = (input.config, &input.config.security_context);
    let caps = capabilities(config, input.host)?;
    let directory = [&config.working_dir, &input.image.working_dir].into_iter().find(|d| !d.is_empty());
    let directory = directory.map_or("/", String::as_str);
    if !directory.starts_with('/') {
        return Err(RuntimeError::InvalidArgument(format!(
            "working directory \"{directory}\" is not absolute"
        )));
    }
    let groups: Vec<i64> = input.user.supplemental_groups.clone();
    let process = json!({
        "terminal": config.tty,
        "user": {"uid": input.user.uid, "gid": input.user.gid, "additionalGids": groups, "umask": 0o022},
        "args": arguments(config, input.image)?,
        "env": environment(input),
        "cwd": directory,
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        "noNewPrivileges": context.no_new_privs,
        "oomScoreAdj": input.host.possible_oom_score_adj(config.resources.oom_score_adj),
    });
    let mut linux = json!({
        "cgroupsPath": input.cgroup_path,
        "namespaces": namespaces(input),
        "resources": resources(input),
        "devices": devices(input),
    });
    if !context.privileged {
        let list = |given: &Option<Vec<String>>, default: &[&str]| match given {
            Some(paths) => json!(paths),
            None => json!(default),
        };
        linux["maskedPaths"] = list(&context.masked_paths, &MASKED_PATHS);
        linux["readonlyPaths"] = list(&context.readonly_paths, &READONLY_PATHS);
        match &context.seccomp {
            SecurityProfile::Unconfined => {}
            SecurityProfile::RuntimeDefault => linux["seccomp"] = seccomp::runtime_default(&caps),
            SecurityProfile::Localhost(path) => {
                linux["seccomp"] = input.seccomp_profile.clone().ok_or_else(|| {
                    RuntimeError::InvalidArgument(format!("seccomp profile {} is not there", path.display()))
                })?;
            }
        }
    }
    // Mounts that travel need a root that lets them.
    let shared = config.mounts.iter().any(|m| m.propagation == MountPropagation::Bidirectional);
    let slave = config.mounts.iter().any(|m| m.propagation == MountPropagation::HostToContainer);
    if shared {
        linux["rootfsPropagation"] = json!("rshared");
    } else if slave {
        linux["rootfsPropagation"] = json!("rslave");
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": input.rootfs.to_string_lossy(), "readonly": context.readonly_rootfs},
        "mounts": mounts(input),
        "linux": linux,
    }))
}

#[cfg(test)]
mod tests;
