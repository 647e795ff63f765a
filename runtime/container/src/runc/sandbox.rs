//! Pod sandboxes: their making, watching, stopping and removal.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orlop_shim::protocol::{EXIT_FILE, Exit, NETNS, Reply, Request};

use super::records::{SandboxRecord, VERSION, save};
use super::shim::{self, Connection, Launch, ShimIds};
use super::{Container, Inner, Phase, Sandbox, blocking, container, mounts, new_id, now};
use crate::cri::{
    ContainerEventType, NamespaceMode, PodKey, PodSandboxConfig, PodSandboxState, PodSandboxStatus,
};
use crate::error::RuntimeError;

/// Longest wait for killed processes to be gone.
pub(crate) const KILLED: Duration = Duration::from_secs(30);
/// containerd's defaults for pods with a network of their own.
const SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

fn namespaces(config: &PodSandboxConfig) -> Vec<&'static str> {
    let options = &config.security_context.namespace_options;
    let mut list = Vec::new();
    if options.network == NamespaceMode::Pod {
        // With the host's network goes the host's name.
        list.extend(["net", "uts"]);
    }
    if options.ipc == NamespaceMode::Pod {
        list.push("ipc");
    }
    if options.pid == NamespaceMode::Pod {
        list.push("pid");
    }
    list
}

fn sysctls(config: &PodSandboxConfig) -> Vec<String> {
    let mut all = config.sysctls.clone();
    if config.security_context.namespace_options.network == NamespaceMode::Pod {
        for (name, value) in SYSCTLS {
            all.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The text of a pod's `/etc/resolv.conf`, as containerd writes it.
fn resolv_conf(config: &PodSandboxConfig) -> Option<String> {
    let dns = config.dns_config.as_ref()?;
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Some(text)
}

fn key(record: &SandboxRecord) -> PodKey {
    let metadata = &record.config.metadata;
    PodKey {
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        sandbox_id: record.id.clone(),
    }
}

fn own_network(config: &PodSandboxConfig) -> bool {
    config.security_context.namespace_options.network == NamespaceMode::Pod
}

/// CRI's RunPodSandbox.
pub(crate) async fn run(inner: &Arc<Inner>, config: PodSandboxConfig) -> Result<String, RuntimeError> {
    let id = new_id()?;
    let metadata = &config.metadata;
    if metadata.name.is_empty() || metadata.uid.is_empty() || metadata.namespace.is_empty() {
        return Err(RuntimeError::InvalidArgument(
            "a sandbox needs a name, a namespace and a uid".to_owned(),
        ));
    }
    let cgroup = if config.cgroup_parent.is_empty() {
        format!("{}/pod{}", inner.config.cgroup_root.trim_end_matches('/'), metadata.uid)
    } else {
        config.cgroup_parent.clone()
    };
    let mut record = SandboxRecord {
        version: VERSION,
        id: id.clone(),
        config,
        cgroup,
        created_at: now(),
        ips: Vec::new(),
        pause: 0,
        shim: 0,
        stopped: false,
    };
    match make(inner, &mut record).await {
        Ok(connection) => {
            let sandbox = Sandbox::new(record, true);
            inner.sandboxes.lock().insert(id.clone(), sandbox.clone());
            watch(inner, sandbox, connection);
            inner.tell(&id, &id, ContainerEventType::Created);
            inner.tell(&id, &id, ContainerEventType::Started);
            Ok(id)
        }
        Err(error) => {
            detach(inner, &record).await.unwrap_or_else(|e| {
                tracing::warn!(sandbox = %id, error = %e, "cannot detach the network of a failed sandbox");
            });
            let (inner, shim) = (inner.clone(), record.clone());
            if let Err(e) = blocking(move || dismantle(&inner, &shim)).await {
                tracing::warn!(sandbox = %id, error = %e, "cannot clear away a failed sandbox");
            }
            Err(error)
        }
    }
}

async fn make(inner: &Arc<Inner>, record: &mut SandboxRecord) -> Result<Connection, RuntimeError> {
    let prepared = record.clone();
    let on_thread = inner.clone();
    let ids = blocking(move || prepare(&on_thread, &prepared)).await?;
    record.shim = ids.pid;
    record.pause = ids.pause;
    let connection = subscribe(&inner.folders.sandbox_run(&record.id)).await?;
    if own_network(&record.config)
        && let Some(network) = &inner.config.network
    {
        let netns = inner.folders.sandbox_run(&record.id).join(NETNS);
        record.ips = network
            .attach(&key(record), &netns, &record.config.port_mappings)
            .await
            .map_err(|source| RuntimeError::Network { id: record.id.clone(), source })?;
    }
    save(&inner.folders.sandbox_record(&record.id), record)?;
    Ok(connection)
}

fn prepare(inner: &Inner, record: &SandboxRecord) -> Result<ShimIds, RuntimeError> {
    let (runc, _) = inner.runc()?;
    let config = &record.config;
    let create = |folder: &Path| {
        fs::create_dir_all(folder).map_err(|e| RuntimeError::io(format!("create {}", folder.display()), e))
    };
    let folder = inner.folders.sandbox_run(&record.id);
    create(&folder)?;
    create(&inner.folders.sandbox(&record.id))?;
    if !config.log_directory.as_os_str().is_empty() {
        create(&config.log_directory)?;
    }
    inner.cgroups.create(&record.cgroup)?;
    inner.cgroups.apply(&record.cgroup, &config.resources)?;
    let write = |name: &str, text: &[u8]| {
        fs::write(folder.join(name), text)
            .map_err(|e| RuntimeError::io(format!("write {name} of a sandbox"), e))
    };
    if own_network(config) {
        write("hostname", format!("{}\n", config.hostname).as_bytes())?;
    }
    match resolv_conf(config) {
        Some(text) => write("resolv.conf", text.as_bytes())?,
        None => write("resolv.conf", &fs::read("/etc/resolv.conf").unwrap_or_default())?,
    }
    if config.security_context.namespace_options.ipc == NamespaceMode::Pod {
        mounts::shm(&folder.join("shm"))?;
    }
    shim::launch(&Launch {
        shim: &inner.config.shim,
        folder: &folder,
        runc: &runc,
        runc_root: &inner.folders.runc_root(),
        namespaces: &namespaces(config),
        hostname: &config.hostname,
        sysctls: sysctls(config),
    })
}

/// Asks a shim to tell of every end.
pub(crate) async fn subscribe(folder: &Path) -> Result<Connection, RuntimeError> {
    let talk = async {
        let connection = Connection::open(folder)?;
        connection.send(&Request::Subscribe, &[]).await?;
        match connection.receive().await? {
            (Reply::Ok, _) => Ok(connection),
            _ => Err(std::io::Error::from(std::io::ErrorKind::InvalidData)),
        }
    };
    talk.await.map_err(|e| RuntimeError::io("talk to the pod's supervisor", e))
}

/// Follows a shim until it or this process ends.
pub(crate) fn watch(inner: &Arc<Inner>, sandbox: Arc<Sandbox>, connection: Connection) {
    let cancel = inner.config.cancel.clone();
    let inner = inner.clone();
    inner.config.tracker.clone().spawn(async move {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                got = connection.receive() => match got {
                    Ok((Reply::Exit { id, exit }, _)) => exited(&inner, &id, &exit),
                    Ok(_) => {}
                    Err(_) => break,
                },
            }
        }
        died(&inner, &sandbox).await;
    });
}

fn reason(exit: &Exit) -> &'static str {
    match (exit.code, exit.oom) {
        (0, _) => "Completed",
        (_, true) => "OOMKilled",
        _ => "Error",
    }
}

/// The phase of a container that has ended.
pub(crate) fn exited_phase(started_at: i64, exit: &Exit) -> Phase {
    Phase::Exited {
        started_at,
        finished_at: exit.at,
        exit_code: exit.code,
        reason: reason(exit).to_owned(),
        message: String::new(),
    }
}

/// A container has ended, as its shim says.
pub(crate) fn exited(inner: &Arc<Inner>, id: &str, exit: &Exit) {
    let Ok(container) = inner.container(id) else { return };
    let changed = container.phase.send_if_modified(|phase| {
        let started_at = match phase {
            Phase::Running { started_at, .. } => *started_at,
            // The news of its end came before the answer to its start.
            Phase::Created => container::started(&inner.folders.container(id)).map_or(exit.at, |(_, at)| at),
            Phase::Exited { .. } => return false,
        };
        *phase = exited_phase(started_at, exit);
        true
    });
    if changed {
        after_end(inner, &container);
    }
}

/// Tells of an end and frees what the container does not need any more.
fn after_end(inner: &Arc<Inner>, container: &Arc<Container>) {
    let record = container.record.lock().clone();
    let on_thread = inner.clone();
    let (id, cgroup) = (record.id.clone(), record.cgroup);
    inner.config.tracker.spawn_blocking(move || {
        // Whoever shares a pid namespace does not die with the first process.
        if let Err(error) = on_thread.cgroups.remove(&cgroup) {
            tracing::warn!(container = %id, %error, "cannot remove the cgroup of an ended container");
        }
        if let Err(error) = mounts::remove_folder(&on_thread.folders.runc_root().join(&id)) {
            tracing::warn!(container = %id, %error, "cannot remove the runc state of an ended container");
        }
    });
    inner.tell(&record.sandbox_id, &record.id, ContainerEventType::Stopped);
}

/// The shim is gone: whatever it watched over is killed, for nobody reaps or logs it any more.
pub(crate) async fn died(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) {
    let id = sandbox.record.lock().id.clone();
    for container in inner.containers_of(&id) {
        if matches!(*container.phase.borrow(), Phase::Running { .. }) {
            lost(inner, &container).await;
        }
    }
    let was_alive = sandbox.alive.send_replace(false);
    if was_alive {
        if !sandbox.record.lock().stopped {
            tracing::warn!(sandbox = %id, "the pod's supervisor is gone, its containers were killed");
        }
        inner.tell(&id, &id, ContainerEventType::Stopped);
    }
}

/// A container that ran under a shim that is gone.
pub(crate) async fn lost(inner: &Arc<Inner>, container: &Arc<Container>) {
    let record = container.record.lock().clone();
    let folder = inner.folders.container(&record.id);
    let on_thread = inner.clone();
    let cgroup = record.cgroup.clone();
    let known = blocking(move || {
        let file = folder.join(EXIT_FILE);
        let known = fs::read_to_string(&file).ok().and_then(|text| Exit::decode(&text));
        if known.is_none() {
            on_thread.cgroups.kill(&cgroup);
            let exit = Exit { code: 137, at: now(), oom: false };
            fs::write(&file, exit.encode())
                .map_err(|e| RuntimeError::io(format!("write {}", file.display()), e))?;
        }
        Ok(known)
    })
    .await;
    let phase = match known {
        Ok(Some(exit)) => exited_phase(0, &exit),
        _ => Phase::Exited {
            started_at: 0,
            finished_at: now(),
            exit_code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "The pod's supervisor ended, and the container was killed".to_owned(),
        },
    };
    let changed = container.phase.send_if_modified(|current| {
        let Phase::Running { started_at: since, .. } = *current else { return false };
        *current = phase;
        if let Phase::Exited { started_at, .. } = current {
            *started_at = since;
        }
        true
    });
    if changed {
        after_end(inner, container);
    }
}

async fn detach(inner: &Arc<Inner>, record: &SandboxRecord) -> Result<(), RuntimeError> {
    if own_network(&record.config)
        && let Some(network) = &inner.config.network
    {
        let netns = inner.folders.sandbox_run(&record.id).join(NETNS);
        network
            .detach(&key(record), &netns)
            .await
            .map_err(|source| RuntimeError::Network { id: record.id.clone(), source })?;
    }
    Ok(())
}

/// CRI's StopPodSandbox.
pub(crate) async fn stop(inner: &Arc<Inner>, id: &str) -> Result<(), RuntimeError> {
    let sandbox = match inner.sandbox(id) {
        Ok(sandbox) => sandbox,
        Err(_) => return Ok(()),
    };
    let _turn = sandbox.turn.lock().await;
    let record = sandbox.record.lock().clone();
    if record.stopped && !*sandbox.alive.borrow() {
        return Ok(());
    }
    let containers = inner.containers_of(id);
    futures::future::try_join_all(containers.iter().map(|c| container::kill(inner, c))).await?;
    detach(inner, &record).await?;
    {
        let mut record = sandbox.record.lock();
        record.stopped = true;
        save(&inner.folders.sandbox_record(id), &*record)?;
    }
    let folder = inner.folders.sandbox_run(id);
    if *sandbox.alive.borrow() {
        // Its answer is its end, which our watch on it sees.
        if let Ok(connection) = Connection::open(&folder) {
            let _ = connection.send(&Request::Shutdown, &[]).await;
        }
        let mut alive = sandbox.alive.subscribe();
        if tokio::time::timeout(KILLED, alive.wait_for(|alive| !alive)).await.is_err() {
            kill_shim(&folder);
            let _ = tokio::time::timeout(KILLED, alive.wait_for(|alive| !alive)).await;
        }
    }
    blocking(move || release(&folder)).await
}

/// Lets go of a sandbox's mounts.
pub(crate) fn release(folder: &Path) -> Result<(), RuntimeError> {
    mounts::unmount(&folder.join(NETNS))?;
    mounts::unmount(&folder.join("shm"))
}

/// Kills a shim that does not answer.
pub(crate) fn kill_shim(folder: &Path) {
    if let Some(ids) = shim::ids(folder).filter(shim::is_alive) {
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(ids.pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// CRI's RemovePodSandbox.
pub(crate) async fn remove(inner: &Arc<Inner>, id: &str) -> Result<(), RuntimeError> {
    let sandbox = match inner.sandbox(id) {
        Ok(sandbox) => sandbox,
        Err(_) => return Ok(()),
    };
    stop(inner, id).await?;
    for container in inner.containers_of(id) {
        let id = container.record.lock().id.clone();
        container::remove(inner, &id).await?;
    }
    let _turn = sandbox.turn.lock().await;
    let record = sandbox.record.lock().clone();
    let on_thread = inner.clone();
    blocking(move || dismantle(&on_thread, &record)).await?;
    inner.tell(id, id, ContainerEventType::Deleted);
    inner.sandboxes.lock().remove(id);
    Ok(())
}

/// Removes everything of a sandbox but its containers' folders. Idempotent.
pub(crate) fn dismantle(inner: &Inner, record: &SandboxRecord) -> Result<(), RuntimeError> {
    let folder = inner.folders.sandbox_run(&record.id);
    kill_shim(&folder);
    release(&folder)?;
    mounts::remove_folder(&folder)?;
    // The pod's next sandbox uses the same cgroup.
    let shared =
        inner.sandboxes.lock().values().any(|other| {
            other.record.try_lock().is_none_or(|o| o.id != record.id && o.cgroup == record.cgroup)
        });
    if !shared && !record.cgroup.is_empty() {
        inner.cgroups.remove(&record.cgroup)?;
    }
    mounts::remove_folder(&inner.folders.sandbox(&record.id))
}

/// CRI's PodSandboxStatus.
pub(crate) fn status(inner: &Inner, sandbox: &Sandbox) -> PodSandboxStatus {
    let ready = sandbox.is_ready();
    let record = sandbox.record.lock().clone();
    let netns: Option<PathBuf> =
        (ready && own_network(&record.config)).then(|| inner.folders.sandbox_run(&record.id).join(NETNS));
    PodSandboxStatus {
        id: record.id,
        metadata: record.config.metadata,
        state: if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
        created_at: record.created_at,
        ips: record.ips,
        namespace_options: record.config.security_context.namespace_options,
        labels: record.config.labels,
        annotations: record.config.annotations,
        netns_path: netns,
    }
}
