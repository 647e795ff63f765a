//! Containers: their making, starting, stopping and removal.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orlop_shim::protocol::{EXIT_FILE, Exit, Reply, Request, STARTED_FILE};

use super::records::{ContainerRecord, SandboxRecord, VERSION, save};
use super::sandbox::KILLED;
use super::{Container, Inner, Phase, blocking, facts, mounts, new_id, now, shim};
use crate::cri::{
    ContainerConfig, ContainerEventType, ContainerState, ContainerStatus, LinuxContainerResources,
    NamespaceMode, SecurityProfile,
};
use crate::error::RuntimeError;
use crate::image::manifest::RunConfig;
use crate::image::store::ImageStore;
use crate::spec::user::{Accounts, resolve};
use crate::spec::{SpecInput, build};

/// What containerd answers for a container that could not be started.
const START_ERROR: i32 = 128;

/// CRI's CreateContainer.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    sandbox_id: &str,
    config: ContainerConfig,
) -> Result<String, RuntimeError> {
    let sandbox = inner.sandbox(sandbox_id)?;
    if !sandbox.is_ready() {
        return Err(RuntimeError::FailedPrecondition(format!(
            "sandbox container \"{sandbox_id}\" is not running"
        )));
    }
    let pod = sandbox.record.lock().clone();
    let on_thread = inner.clone();
    let container = blocking(move || {
        let id = new_id()?;
        let made = prepare(&on_thread, &pod, &id, config);
        if made.is_err() {
            let folder = on_thread.folders.container(&id);
            let _ = mounts::unmount(&folder.join("rootfs"));
            let _ = mounts::remove_folder(&folder);
        }
        made
    })
    .await?;
    let id = container.record.lock().id.clone();
    inner.containers.lock().insert(id.clone(), container);
    inner.tell(sandbox_id, &id, ContainerEventType::Created);
    Ok(id)
}

fn prepare(
    inner: &Inner,
    pod: &SandboxRecord,
    id: &str,
    config: ContainerConfig,
) -> Result<Arc<Container>, RuntimeError> {
    let (image, lease) = inner.store.acquire(&config.image.image)?;
    let folder = inner.folders.container(id);
    let rootfs = folder.join("rootfs");
    for part in ["upper", "work", "rootfs"] {
        let part = folder.join(part);
        fs::create_dir_all(&part).map_err(|e| RuntimeError::io(format!("create {}", part.display()), e))?;
    }
    // The root's own mode shows through to the container.
    set_mode(&folder.join("upper"), 0o755)?;
    set_mode(&folder, 0o711)?;
    let lowers = ImageStore::lower_dirs(&image.layers);
    mounts::overlay(&inner.store.layers_dir(), &lowers, &folder, &rootfs)?;
    let user = resolve(&config, &image.config.user, &Accounts::read(&rootfs))?;
    for mount in &config.mounts {
        if !mount.host_path.exists() {
            return Err(RuntimeError::InvalidArgument(format!(
                "failed to mount \"{}\": {} does not exist",
                mount.container_path,
                mount.host_path.display()
            )));
        }
    }
    let cgroup = format!("{}/{id}", pod.cgroup.trim_end_matches('/'));
    let log_path = if config.log_path.is_empty() {
        PathBuf::new()
    } else {
        pod.config.log_directory.join(&config.log_path)
    };
    if let Some(parent) = log_path.parent().filter(|_| !config.log_path.is_empty()) {
        fs::create_dir_all(parent)
            .map_err(|e| RuntimeError::io(format!("create {}", parent.display()), e))?;
    }
    let spec = spec(inner, pod, &config, &image.config, &user, &rootfs, &cgroup)?;
    let bytes = serde_json::to_vec(&spec).map_err(|e| RuntimeError::Internal(e.to_string()))?;
    fs::write(folder.join("config.json"), bytes).map_err(|e| RuntimeError::io("write config.json", e))?;
    let signal = if config.stop_signal.is_empty() { &image.config.stop_signal } else { &config.stop_signal };
    let stop_signal = signal_name(signal)?;
    let resources = config.resources.clone();
    let record = ContainerRecord {
        version: VERSION,
        id: id.to_owned(),
        sandbox_id: pod.id.clone(),
        config,
        image_id: image.id.clone(),
        image_ref: image.image_ref(),
        layers: image.layers.clone(),
        created_at: now(),
        user,
        stop_signal,
        log_path,
        cgroup,
        resources,
        start_error: None,
    };
    save(&inner.folders.container_record(id), &record)?;
    Ok(Container::new(record, Phase::Created, lease))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), RuntimeError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| RuntimeError::io(format!("set the mode of {}", path.display()), e))
}

fn spec(
    inner: &Inner,
    pod: &SandboxRecord,
    config: &ContainerConfig,
    image: &RunConfig,
    user: &crate::cri::ContainerUser,
    rootfs: &Path,
    cgroup: &str,
) -> Result<serde_json::Value, RuntimeError> {
    let run = inner.folders.sandbox_run(&pod.id);
    let host = facts::host_facts(inner.cgroups.version());
    let wanted = config.resources.oom_score_adj;
    facts::warn_oom_score(wanted, host.possible_oom_score_adj(wanted));
    let pod_options = &pod.config.security_context.namespace_options;
    let options = &config.security_context.namespace_options;
    let pid_of = match options.pid {
        NamespaceMode::Pod if pod.pause == 0 => {
            return Err(RuntimeError::InvalidArgument(
                "the sandbox has no pid namespace to share".to_owned(),
            ));
        }
        NamespaceMode::Pod => pod.pause,
        NamespaceMode::Target => match *inner.container(&options.target_id)?.phase.borrow() {
            Phase::Running { pid, .. } => pid,
            _ => {
                return Err(RuntimeError::FailedPrecondition(format!(
                    "target container {} is not running",
                    options.target_id
                )));
            }
        },
        _ => 0,
    };
    let own_network = pod_options.network == NamespaceMode::Pod;
    let mut files = vec![(run.join("resolv.conf"), "/etc/resolv.conf")];
    if own_network {
        files.push((run.join("hostname"), "/etc/hostname"));
    }
    let shm = (pod_options.ipc == NamespaceMode::Pod).then(|| run.join("shm"));
    let seccomp_profile = match &config.security_context.seccomp {
        SecurityProfile::Localhost(path) => {
            let bytes =
                fs::read(path).map_err(|e| RuntimeError::io(format!("read {}", path.display()), e))?;
            let parsed = serde_json::from_slice(&bytes).map_err(|e| {
                RuntimeError::InvalidArgument(format!("seccomp profile {} is damaged: {e}", path.display()))
            })?;
            Some(parsed)
        }
        _ => None,
    };
    let host_devices = if config.security_context.privileged { facts::all_devices() } else { Vec::new() };
    build(&SpecInput {
        config,
        image,
        user,
        rootfs,
        cgroup_path: cgroup,
        hostname: if own_network { &pod.config.hostname } else { "" },
        shm: shm.as_deref(),
        files: &files,
        pid_of,
        host_devices: &host_devices,
        devices: &facts::devices(&config.devices)?,
        seccomp_profile,
        host: &host,
    })
}

/// `SIGTERM` for "", "TERM", "SIGTERM" and "15".
fn signal_name(text: &str) -> Result<String, RuntimeError> {
    Ok(signal(text)?.as_str().to_owned())
}

fn signal(text: &str) -> Result<nix::sys::signal::Signal, RuntimeError> {
    use nix::sys::signal::Signal;
    let unknown = || RuntimeError::InvalidArgument(format!("unknown signal \"{text}\""));
    if text.is_empty() {
        return Ok(Signal::SIGTERM);
    }
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).map_err(|_| unknown());
    }
    let upper = text.to_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse().map_err(|_| unknown())
}

/// What the shim has noted of a start: pid and time.
pub(crate) fn started(folder: &Path) -> Option<(i32, i64)> {
    let text = fs::read_to_string(folder.join(STARTED_FILE)).ok()?;
    let (pid, at) = text.trim().split_once(' ')?;
    Some((pid.parse().ok()?, at.parse().ok()?))
}

/// runc's last error in its log.
pub(crate) fn runc_error(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("runc.log")).ok()?;
    text.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        (entry["level"] == "error").then(|| entry["msg"].as_str().map(str::to_owned))?
    })
}

/// CRI's StartContainer.
pub(crate) async fn start(inner: &Arc<Inner>, id: &str) -> Result<(), RuntimeError> {
    let container = inner.container(id)?;
    let _turn = container.turn.lock().await;
    let state = container.phase.borrow().clone();
    if state != Phase::Created {
        return Err(RuntimeError::FailedPrecondition(format!(
            "container \"{id}\" is in state {}",
            if matches!(state, Phase::Running { .. }) { "CONTAINER_RUNNING" } else { "CONTAINER_EXITED" }
        )));
    }
    let record = container.record.lock().clone();
    let folder = inner.folders.container(id);
    let request = Request::Start {
        id: id.to_owned(),
        dir: folder.to_string_lossy().into_owned(),
        log: record.log_path.to_string_lossy().into_owned(),
        oom: inner
            .cgroups
            .oom_file(&record.cgroup)
            .map(|p| p.to_string_lossy().into_owned())
            .unwrap_or_default(),
        tty: record.config.tty,
        stdin: record.config.stdin,
        stdin_once: record.config.stdin_once,
    };
    let run = inner.folders.sandbox_run(&record.sandbox_id);
    match shim::call(&run, &request, &[]).await {
        Ok(Reply::Started { pid, at }) => {
            container.phase.send_if_modified(|phase| match phase {
                Phase::Created => {
                    *phase = Phase::Running { pid, started_at: at };
                    true
                }
                // It has ended already.
                _ => false,
            });
            inner.tell(&record.sandbox_id, id, ContainerEventType::Started);
            // The shim may have died between its answer and our note of it.
            if inner.sandbox(&record.sandbox_id).is_ok_and(|sandbox| !*sandbox.alive.borrow()) {
                super::sandbox::lost(inner, &container).await;
            }
            Ok(())
        }
        Ok(_) => Err(RuntimeError::Internal("the pod's supervisor gave a strange answer".to_owned())),
        Err(RuntimeError::FailedPrecondition(said)) => {
            let message = blocking({
                let folder = folder.clone();
                move || Ok(runc_error(&folder))
            })
            .await?
            .unwrap_or(said);
            fail_start(inner, &container, message.clone()).await?;
            Err(RuntimeError::Runc { context: "failed to start container", message })
        }
        Err(other) => Err(other),
    }
}

async fn fail_start(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    message: String,
) -> Result<(), RuntimeError> {
    let finished_at = now();
    let record = {
        let mut record = container.record.lock();
        record.start_error = Some(message.clone());
        record.clone()
    };
    let on_thread = inner.clone();
    let saved = record.clone();
    blocking(move || {
        let folder = on_thread.folders.container(&saved.id);
        save(&on_thread.folders.container_record(&saved.id), &saved)?;
        let exit = Exit { code: START_ERROR, at: finished_at, oom: false };
        fs::write(folder.join(EXIT_FILE), exit.encode())
            .map_err(|e| RuntimeError::io("record a failed start", e))?;
        mounts::remove_folder(&on_thread.folders.runc_root().join(&saved.id))?;
        on_thread.cgroups.remove(&saved.cgroup)
    })
    .await?;
    container.phase.send_replace(start_error_phase(finished_at, message));
    inner.tell(&record.sandbox_id, &record.id, ContainerEventType::Stopped);
    Ok(())
}

/// The phase of a container that could not be started.
pub(crate) fn start_error_phase(finished_at: i64, message: String) -> Phase {
    Phase::Exited {
        started_at: 0,
        finished_at,
        exit_code: START_ERROR,
        reason: "StartError".to_owned(),
        message,
    }
}

async fn send_signal(inner: &Inner, record: &ContainerRecord, signal: i32) -> Result<(), RuntimeError> {
    let run = inner.folders.sandbox_run(&record.sandbox_id);
    let request = Request::Signal { id: record.id.clone(), signal };
    match shim::call(&run, &request, &[]).await {
        // Not running any more, or the shim is gone and takes it along: the end is on its way.
        Ok(_) | Err(RuntimeError::FailedPrecondition(_) | RuntimeError::Io { .. }) => Ok(()),
        Err(other) => Err(other),
    }
}

async fn wait_end(container: &Container, timeout: Duration) -> bool {
    let mut phase = container.phase.subscribe();
    tokio::time::timeout(timeout, phase.wait_for(|phase| !matches!(phase, Phase::Running { .. })))
        .await
        .is_ok()
}

/// Kills a container and waits until it has ended.
pub(crate) async fn kill(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<(), RuntimeError> {
    let _turn = container.turn.lock().await;
    kill_now(inner, container).await
}

async fn kill_now(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<(), RuntimeError> {
    if !matches!(*container.phase.borrow(), Phase::Running { .. }) {
        return Ok(());
    }
    let record = container.record.lock().clone();
    send_signal(inner, &record, libc::SIGKILL).await?;
    if wait_end(container, KILLED).await {
        return Ok(());
    }
    Err(RuntimeError::DeadlineExceeded(format!("container \"{}\" does not die", record.id)))
}

/// CRI's StopContainer.
pub(crate) async fn stop(inner: &Arc<Inner>, id: &str, timeout: Duration) -> Result<(), RuntimeError> {
    let Ok(container) = inner.container(id) else { return Ok(()) };
    if !matches!(*container.phase.borrow(), Phase::Running { .. }) {
        return Ok(());
    }
    // Without the turn: a second call with a shorter grace must be able to overtake the first.
    if !timeout.is_zero() {
        let record = container.record.lock().clone();
        send_signal(inner, &record, signal(&record.stop_signal)? as i32).await?;
        if wait_end(&container, timeout).await {
            return Ok(());
        }
    }
    kill_now(inner, &container).await
}

/// CRI's RemoveContainer.
pub(crate) async fn remove(inner: &Arc<Inner>, id: &str) -> Result<(), RuntimeError> {
    let Ok(container) = inner.container(id) else { return Ok(()) };
    let _turn = container.turn.lock().await;
    kill_now(inner, &container).await?;
    let record = container.record.lock().clone();
    let run = inner.folders.sandbox_run(&record.sandbox_id);
    // A shim that is gone remembers nothing either.
    let _ = shim::call(&run, &Request::Forget { id: id.to_owned() }, &[]).await;
    let on_thread = inner.clone();
    let doomed = record.clone();
    blocking(move || clear(&on_thread, &doomed.id, &doomed.cgroup)).await?;
    inner.writable.lock().remove(id);
    inner.tell(&record.sandbox_id, id, ContainerEventType::Deleted);
    inner.containers.lock().remove(id);
    drop(_turn);
    drop(container);
    if inner.store.find(&record.image_id).ok().flatten().is_none() {
        // Its image was removed while it ran: now its layers can go.
        let store = inner.store.clone();
        blocking(move || store.collect()).await?;
    }
    Ok(())
}

/// Removes everything of a container that does not run. Idempotent.
pub(crate) fn clear(inner: &Inner, id: &str, cgroup: &str) -> Result<(), RuntimeError> {
    let folder = inner.folders.container(id);
    if !cgroup.is_empty() {
        inner.cgroups.remove(cgroup)?;
    }
    mounts::unmount(&folder.join("rootfs"))?;
    mounts::remove_folder(&inner.folders.runc_root().join(id))?;
    mounts::remove_folder(&folder)
}

/// CRI's UpdateContainerResources.
pub(crate) async fn update(
    inner: &Arc<Inner>,
    id: &str,
    resources: LinuxContainerResources,
) -> Result<(), RuntimeError> {
    let container = inner.container(id)?;
    let _turn = container.turn.lock().await;
    if !matches!(*container.phase.borrow(), Phase::Running { .. }) {
        return Err(RuntimeError::FailedPrecondition(format!("container \"{id}\" is not running")));
    }
    let mut record = container.record.lock().clone();
    merge(&mut record.resources, &resources);
    let on_thread = inner.clone();
    let saved = record.clone();
    blocking(move || {
        on_thread.cgroups.apply(&saved.cgroup, &resources)?;
        save(&on_thread.folders.container_record(&saved.id), &saved)
    })
    .await?;
    *container.record.lock() = record;
    Ok(())
}

/// Fields that are set replace what was.
pub(crate) fn merge(into: &mut LinuxContainerResources, new: &LinuxContainerResources) {
    macro_rules! number {
        ($($field:ident),*) => { $(if new.$field != 0 { into.$field = new.$field; })* };
    }
    number!(
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit_in_bytes,
        memory_swap_limit_in_bytes,
        oom_score_adj,
        pids_limit
    );
    for (into, new) in [(&mut into.cpuset_cpus, &new.cpuset_cpus), (&mut into.cpuset_mems, &new.cpuset_mems)]
    {
        if !new.is_empty() {
            into.clone_from(new);
        }
    }
    into.unified.extend(new.unified.clone());
}

/// CRI's ContainerState.
pub(crate) fn state(container: &Container) -> ContainerState {
    match *container.phase.borrow() {
        Phase::Created => ContainerState::Created,
        Phase::Running { .. } => ContainerState::Running,
        Phase::Exited { .. } => ContainerState::Exited,
    }
}

/// CRI's ContainerStatus.
pub(crate) fn status(container: &Container) -> ContainerStatus {
    let phase = container.phase.borrow().clone();
    let record = container.record.lock().clone();
    let (state, pid, started_at, finished_at, exit_code, reason, message) = match phase {
        Phase::Created => (ContainerState::Created, 0, 0, 0, 0, String::new(), String::new()),
        Phase::Running { pid, started_at } => {
            (ContainerState::Running, pid, started_at, 0, 0, String::new(), String::new())
        }
        Phase::Exited { started_at, finished_at, exit_code, reason, message } => {
            (ContainerState::Exited, 0, started_at, finished_at, exit_code, reason, message)
        }
    };
    ContainerStatus {
        id: record.id,
        pod_sandbox_id: record.sandbox_id,
        metadata: record.config.metadata,
        state,
        created_at: record.created_at,
        started_at,
        finished_at,
        exit_code,
        image: record.config.image,
        image_ref: record.image_ref,
        image_id: record.image_id,
        reason,
        message,
        labels: record.config.labels,
        annotations: record.config.annotations,
        mounts: record.config.mounts,
        log_path: record.log_path,
        resources: record.resources,
        user: Some(record.user),
        pid,
        stop_signal: record.stop_signal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_in_every_spelling() {
        for text in ["", "TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(signal_name(text).unwrap(), "SIGTERM", "{text}");
        }
        assert_eq!(signal_name("3").unwrap(), "SIGQUIT");
        assert!(signal_name("NOPE").is_err());
    }

    #[test]
    fn updates_leave_what_is_not_set() {
        let mut now =
            LinuxContainerResources { cpu_shares: 5, memory_limit_in_bytes: 7, ..Default::default() };
        merge(&mut now, &LinuxContainerResources { cpu_shares: 9, ..Default::default() });
        assert_eq!((now.cpu_shares, now.memory_limit_in_bytes), (9, 7));
    }
}
