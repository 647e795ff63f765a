//! What the worker's actions do: futures that own what they need and end in an [`Outcome`].

use super::lifecycle;
use super::model::{Instance, PodModel, Role, State, spec_at, spec_of};
use super::probe::{Answer, ProbeKind};
use crate::config::NodeConfig;
use crate::container::config::{Inputs, container_config, message_file, message_path, verify_non_root};
use crate::container::env::{environment, expand, references};
use crate::container::fields::PodFacts;
use crate::container::{files, sandbox, services};
use crate::events::{Recorder, Severity, Subject};
use crate::images::{self, ImageFailure};
use crate::logs;
use crate::objects::Objects;
use crate::quantity::Resources;
use crate::volumes::{Mounted, VolumeError, VolumeSet};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use orlop_apimachinery::Object;
use orlop_client::{ApiClient, ApiError, Cache};
use orlop_container::cri::{
    ContainerState, ContainerStatus, DnsConfig, Mount, PodSandboxState, PodSandboxStatus,
};
use orlop_container::{Runtime, RuntimeError};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Least time between SIGTERM and SIGKILL, as the kubelet has it.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// How long a failed operation on the runtime waits before it is reported, so that a runtime
/// that refuses everything is not asked in a tight loop.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// Most of a termination message that is kept.
const MESSAGE_LIMIT: usize = 4096;

/// What all pods of a node share.
pub(crate) struct Shared {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) client: Arc<dyn ApiClient>,
    pub(crate) volumes: VolumeSet,
    pub(crate) objects: Arc<Objects>,
    pub(crate) recorder: Recorder,
    /// All Services, indexed by `namespace`.
    pub(crate) services: Cache,
    pub(crate) allocatable: Resources,
    pub(crate) memory_capacity: i64,
    pub(crate) host_dns: DnsConfig,
    /// Bounds how many sandboxes and containers are made at a time.
    pub(crate) starts: Semaphore,
}

/// How an operation ended.
pub(crate) enum Outcome {
    Volumes(Result<Mounted, VolumeError>),
    Refreshed(Result<Mounted, VolumeError>),
    Unmounted(std::io::Result<()>),
    Sandbox { attempt: u32, result: Result<PodSandboxStatus, RuntimeError> },
    SandboxStopped(Result<(), RuntimeError>),
    SandboxRemoved { id: Box<str>, result: Result<(), RuntimeError> },
    SandboxSeen { id: Box<str>, result: Result<PodSandboxStatus, RuntimeError> },
    Image { at: usize, result: Result<Box<str>, ImageFailure> },
    Started { at: usize, result: Result<Instance, StartError> },
    Hook { at: usize, id: Box<str>, result: Result<(), String> },
    Killed { at: usize, id: Box<str>, result: Result<Option<Instance>, RuntimeError> },
    Seen { id: Box<str>, result: Result<(String, Instance), RuntimeError> },
    Removed { at: usize, id: Box<str>, result: Result<(), RuntimeError> },
    Probed { at: usize, kind: ProbeKind, id: Box<str>, answer: Answer },
    StatusSent(Result<Arc<Object>, ApiError>),
    Forgotten(Result<(), String>),
}

/// Why a container did not start.
pub(crate) struct StartError {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// What is left of it in the runtime.
    pub(crate) instance: Option<Instance>,
}

impl StartError {
    fn config(message: String) -> Self {
        Self { reason: "CreateContainerConfigError", message, instance: None }
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Shared {
    pub(crate) fn facts(&self, pod_ips: Vec<IpAddr>) -> PodFacts {
        PodFacts { host_ip: self.config.node_ip, pod_ips, allocatable: self.allocatable.clone() }
    }

    /// Records an event about a pod, or about one of its containers.
    pub(crate) fn event(
        &self,
        pod: &Pod,
        uid: &str,
        container: Option<(Role, &str)>,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let path = container.map(|(role, name)| match role {
            Role::Main => format!("spec.containers{{{name}}}"),
            Role::Init | Role::Sidecar => format!("spec.initContainers{{{name}}}"),
        });
        self.recorder.record(Subject::pod(pod, uid, path), severity, reason, message);
    }

    async fn service_variables(&self, pod: &Pod, is_static: bool) -> Result<Vec<(String, String)>, String> {
        // A static pod may run before there is an API; others came from it.
        if !is_static
            && tokio::time::timeout(Duration::from_secs(10), self.services.synced()).await != Ok(true)
        {
            return Err("services have not yet been read at least once, cannot construct envvars".to_owned());
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut found: Vec<Service> = Vec::new();
        if let Some(master) = self.services.get("default", "kubernetes") {
            found.extend(master.parse::<Service>());
        }
        if spec_of(pod).enable_service_links != Some(false) {
            for object in self.services.by_index("namespace", namespace) {
                if !(object.namespace() == "default" && object.name() == "kubernetes") {
                    found.extend(object.parse::<Service>());
                }
            }
        }
        found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(services::variables(&found))
    }
}

fn timestamp(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

/// An instance as the runtime tells of it; the last words of one that exited are read.
pub(crate) async fn instance_of(shared: &Shared, uid: &str, status: ContainerStatus) -> Instance {
    let state = match status.state {
        ContainerState::Created => State::Created,
        ContainerState::Running => State::Running,
        ContainerState::Exited => State::Exited,
        ContainerState::Unknown => State::Unknown,
    };
    let mut message = status.message.clone();
    if state == State::Exited {
        let last_words = last_words(shared, uid, &status).await;
        if !last_words.is_empty() {
            message = last_words;
        }
    }
    let user_image = &status.image.user_specified_image;
    let hash = status.annotations.get(crate::container::config::HASH);
    Instance {
        id: status.id.into(),
        sandbox_id: status.pod_sandbox_id.into(),
        attempt: status.metadata.attempt,
        state,
        started_at: timestamp(status.started_at),
        finished_at: timestamp(status.finished_at).or((state == State::Exited).then(Timestamp::now)),
        exit_code: status.exit_code,
        reason: status.reason.into(),
        message: message.into(),
        image: if user_image.is_empty() { status.image.image.into() } else { user_image.as_str().into() },
        image_ref: status.image_ref.into(),
        spec_hash: hash.and_then(|h| u64::from_str_radix(h, 16).ok()).unwrap_or(0),
        user: status.user,
        hook_done: false,
    }
}

async fn last_words(shared: &Shared, uid: &str, status: &ContainerStatus) -> String {
    let name = &status.metadata.name;
    let file = message_file(&shared.config, uid, name, status.metadata.attempt);
    let policy = status.annotations.get(crate::container::config::MESSAGE_POLICY);
    let fallback = policy.is_some_and(|p| p == "FallbackToLogsOnError") && status.exit_code != 0;
    let log = status.log_path.clone();
    let read = tokio::task::spawn_blocking(move || {
        let text = logs::tail_of_file(&file, MESSAGE_LIMIT).unwrap_or_default();
        if text.is_empty() && fallback { logs::tail_of_log(&log, 80, 2048).unwrap_or_default() } else { text }
    });
    read.await.unwrap_or_default()
}

pub(crate) async fn create_sandbox(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    uid: Box<str>,
    attempt: u32,
) -> Outcome {
    let Ok(_permit) = shared.starts.acquire().await else {
        return Outcome::Sandbox {
            attempt,
            result: Err(RuntimeError::Internal("the node is stopping".into())),
        };
    };
    let config = sandbox::config(&pod, &uid, attempt, &shared.config, &shared.host_dns);
    let result = async {
        let id = shared.runtime.run_pod_sandbox(config).await?;
        shared.runtime.pod_sandbox_status(&id).await
    }
    .await;
    Outcome::Sandbox { attempt, result }
}

pub(crate) async fn ensure_image(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    uid: Box<str>,
    at: usize,
    role: Role,
    spec: Container,
) -> Outcome {
    let result = images::ensure(&shared, &pod, &uid, role, &spec).await;
    Outcome::Image { at, result }
}

/// What a start needs of the model.
pub(crate) struct StartInputs {
    pub(crate) at: usize,
    pub(crate) role: Role,
    pub(crate) index: usize,
    pub(crate) attempt: u32,
    pub(crate) image_ref: Box<str>,
    pub(crate) sandbox_id: Box<str>,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) mounted: Arc<Mounted>,
    pub(crate) is_static: bool,
}

pub(crate) async fn start(shared: Arc<Shared>, pod: Arc<Pod>, uid: Box<str>, inputs: StartInputs) -> Outcome {
    let at = inputs.at;
    Outcome::Started { at, result: try_start(&shared, &pod, &uid, inputs).await }
}

async fn try_start(
    shared: &Shared,
    pod: &Pod,
    uid: &str,
    inputs: StartInputs,
) -> Result<Instance, StartError> {
    let Some(spec) = spec_at(spec_of(pod), inputs.role, inputs.index) else {
        return Err(StartError::config("the container is not in the pod's spec".to_owned()));
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let names = references(spec);
    let ips = if inputs.ips.is_empty() { vec![shared.config.node_ip] } else { inputs.ips.clone() };
    let variables = shared.service_variables(pod, inputs.is_static).await.map_err(StartError::config)?;
    let sources = shared.objects.fetch(namespace, uid, &names).await.map_err(StartError::config)?;
    let facts = shared.facts(ips.clone());
    let env = environment(pod, spec, variables, &sources, &facts).map_err(StartError::config)?;
    if spec_of(pod).security_context.as_ref().is_some_and(|s| s.run_as_non_root == Some(true))
        || spec.security_context.as_ref().is_some_and(|s| s.run_as_non_root == Some(true))
    {
        let image = images::spec_of_image(&inputs.image_ref, spec);
        let image = shared.runtime.image_status(&image).await.ok().flatten();
        if let Some(image) = image {
            verify_non_root(pod, uid, spec, &image).map_err(StartError::config)?;
        }
    }
    let lookup = |name: &str| env.iter().find(|kv| kv.key == name).map(|kv| kv.value.clone());
    let mut mounts = shared
        .volumes
        .container_mounts(uid, spec, &inputs.mounted, |text| expand(text, lookup))
        .await
        .map_err(StartError::config)?;
    mounts.extend(
        managed_files(shared, pod, uid, spec, &inputs, &ips)
            .await
            .map_err(|e| StartError::config(format!("failed to prepare the container's files: {e}")))?,
    );
    let config = container_config(
        pod,
        uid,
        spec,
        Inputs {
            attempt: inputs.attempt,
            image_ref: &inputs.image_ref,
            env,
            mounts,
            memory_capacity: shared.memory_capacity,
        },
    );
    let Ok(_permit) = shared.starts.acquire().await else {
        return Err(StartError::config("the node is stopping".to_owned()));
    };
    let about = Some((inputs.role, spec.name.as_str()));
    let id = shared.runtime.create_container(&inputs.sandbox_id, config).await.map_err(|e| StartError {
        reason: "CreateContainerError",
        message: chain(&e),
        instance: None,
    })?;
    shared.event(pod, uid, about, Severity::Normal, "Created", "Container created");
    let started = shared.runtime.start_container(&id).await;
    let status = shared.runtime.container_status(&id).await;
    let instance = match status {
        Ok(status) => Some(instance_of(shared, uid, status).await),
        Err(_) => None,
    };
    match (started, instance) {
        (Ok(()), Some(mut instance)) => {
            shared.event(pod, uid, about, Severity::Normal, "Started", "Container started");
            instance.hook_done = spec.lifecycle.as_ref().is_none_or(|l| l.post_start.is_none());
            Ok(instance)
        }
        (Ok(()), None) => Err(StartError {
            reason: "RunContainerError",
            message: "the container disappeared after its start".to_owned(),
            instance: None,
        }),
        (Err(e), instance) => Err(StartError { reason: "RunContainerError", message: chain(&e), instance }),
    }
}

/// `/etc/hosts` and the termination message file.
async fn managed_files(
    shared: &Shared,
    pod: &Pod,
    uid: &str,
    spec: &Container,
    inputs: &StartInputs,
    ips: &[IpAddr],
) -> std::io::Result<Vec<Mount>> {
    let dir = shared.config.pod_dir(uid);
    let taken =
        |path: &str| spec.volume_mounts.iter().flatten().any(|v| v.mount_path.trim_end_matches('/') == path);
    let hosts_path = (!taken("/etc/hosts")).then(|| dir.join("etc-hosts"));
    let message = message_file(&shared.config, uid, &spec.name, inputs.attempt);
    let message_at = message_path(spec).to_owned();
    let with_message = !taken(&message_at);
    let host_network = spec_of(pod).host_network == Some(true);
    let pod_spec = spec_of(pod).clone();
    let own_hosts = files::hosts(pod, ips, &shared.config.cluster_domain);
    tokio::task::spawn_blocking(move || {
        let mut mounts = Vec::new();
        if let Some(path) = hosts_path {
            let text = if host_network {
                files::host_network_hosts(
                    &std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
                    &pod_spec,
                )
            } else {
                own_hosts
            };
            std::fs::create_dir_all(&dir)?;
            if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
                // In place: other containers have this very file mounted.
                std::fs::write(&path, text)?;
            }
            mounts.push(Mount { container_path: "/etc/hosts".into(), host_path: path, ..Mount::default() });
        }
        if with_message {
            use std::os::unix::fs::PermissionsExt;
            if let Some(parent) = message.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&message, b"")?;
            std::fs::set_permissions(&message, std::fs::Permissions::from_mode(0o666))?;
            mounts.push(Mount { container_path: message_at, host_path: message, ..Mount::default() });
        }
        Ok(mounts)
    })
    .await
    .map_err(std::io::Error::other)?
}

pub(crate) async fn post_start(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    at: usize,
    role: Role,
    index: usize,
    id: Box<str>,
    ip: Option<IpAddr>,
) -> Outcome {
    let result = match spec_at(spec_of(&pod), role, index) {
        Some(spec) => match spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
            Some(hook) => lifecycle::run(shared.runtime.as_ref(), hook, spec, &id, ip, None).await,
            None => Ok(()),
        },
        None => Ok(()),
    };
    Outcome::Hook { at, id, result }
}

/// What a kill needs of the model.
pub(crate) struct KillInputs {
    pub(crate) at: usize,
    pub(crate) role: Role,
    pub(crate) index: usize,
    pub(crate) id: Box<str>,
    pub(crate) deadline: Timestamp,
    pub(crate) ip: Option<IpAddr>,
    /// Whether the preStop hook is still to run.
    pub(crate) hook: bool,
}

pub(crate) async fn kill(shared: Arc<Shared>, pod: Arc<Pod>, uid: Box<str>, inputs: KillInputs) -> Outcome {
    let left =
        || Duration::try_from(inputs.deadline.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
    let forced = left().is_zero();
    if let Some(spec) = spec_at(spec_of(&pod), inputs.role, inputs.index)
        && let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && inputs.hook
        && !forced
    {
        let limit = left();
        let run = lifecycle::run(shared.runtime.as_ref(), hook, spec, &inputs.id, inputs.ip, Some(limit));
        let result = tokio::time::timeout(limit, run).await;
        if let Ok(Err(why)) = result {
            let about = Some((inputs.role, spec.name.as_str()));
            tracing::debug!(
                namespace = pod.metadata.namespace,
                name = pod.metadata.name,
                error = why,
                "preStop hook failed"
            );
            shared.event(&pod, &uid, about, Severity::Warning, "FailedPreStopHook", "PreStopHook failed");
        }
    }
    let grace = if forced { Duration::from_secs(1) } else { left().max(MIN_GRACE) };
    let result = async {
        shared.runtime.stop_container(&inputs.id, grace).await?;
        match shared.runtime.container_status(&inputs.id).await {
            Ok(status) => Ok(Some(instance_of(&shared, &uid, status).await)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }
    .await;
    if result.is_err() {
        tokio::time::sleep(FAILED_PAUSE).await;
    }
    Outcome::Killed { at: inputs.at, id: inputs.id, result }
}

pub(crate) async fn see_container(shared: Arc<Shared>, uid: Box<str>, id: Box<str>) -> Outcome {
    let result = match shared.runtime.container_status(&id).await {
        Ok(status) => {
            let name = status.metadata.name.clone();
            Ok((name, instance_of(&shared, &uid, status).await))
        }
        Err(e) => Err(e),
    };
    Outcome::Seen { id, result }
}

pub(crate) async fn remove_container(shared: Arc<Shared>, uid: Box<str>, at: usize, id: Box<str>) -> Outcome {
    let status = shared.runtime.container_status(&id).await.ok();
    let result = shared.runtime.remove_container(&id).await;
    if let (Ok(()), Some(status)) = (&result, status) {
        let log = status.log_path;
        let message = message_file(&shared.config, &uid, &status.metadata.name, status.metadata.attempt);
        for path in [log, message] {
            if !path.as_os_str().is_empty()
                && let Err(error) = tokio::fs::remove_file(&path).await
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::debug!(%error, path = %path.display(), "a file of a removed container stayed");
            }
        }
    }
    if result.is_err() {
        tokio::time::sleep(FAILED_PAUSE).await;
    }
    Outcome::Removed { at, id, result }
}

/// Deletes the API object (`api_uid`), then what the runtime and the disk still have.
pub(crate) async fn forget(shared: Arc<Shared>, m: PodModel, api_uid: Option<String>) -> Outcome {
    if let Some(uid) = api_uid
        && let Err(e) = crate::api::delete_pod(shared.client.as_ref(), m.namespace(), m.name(), &uid).await
    {
        return Outcome::Forgotten(Err(chain(&e)));
    }
    let runtime = &shared.runtime;
    for c in &m.containers {
        let ids = c.current.iter().chain(&c.previous).map(|i| i.id.clone());
        for id in ids.chain(c.dead.iter().map(|(id, _)| id.clone())) {
            if let Err(e) = runtime.remove_container(&id).await {
                tracing::warn!(
                    namespace = m.namespace(),
                    name = m.name(),
                    error = chain(&e),
                    "a container stayed"
                );
            }
        }
    }
    let sandboxes = m.sandbox.iter().map(|s| &s.id).chain(m.dead_sandboxes.iter().map(|(id, _)| id));
    for id in sandboxes {
        if let Err(e) = runtime.remove_pod_sandbox(id).await {
            tracing::warn!(namespace = m.namespace(), name = m.name(), error = chain(&e), "a sandbox stayed");
        }
    }
    let logs = shared.config.pod_log_dir(m.namespace(), m.name(), &m.uid);
    if let Err(error) = tokio::fs::remove_dir_all(&logs).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::debug!(%error, "a log folder stayed");
    }
    Outcome::Forgotten(Ok(()))
}

/// Whether a sandbox is ready, from its status.
pub(crate) fn sandbox_ready(status: &PodSandboxStatus) -> bool {
    status.state == PodSandboxState::Ready
}
