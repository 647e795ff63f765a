//! What the node knows about one pod: desired state, sandbox, containers, and what is under way.
//!
//! The worker owns it and changes it only by the outcome of operations and by what the runtime
//! reports; [`super::decide`] and [`super::status`] read it.

use super::backoff::BackOff;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use orlop_container::cri::ContainerUser;
use std::sync::Arc;

/// Which part a container plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container that keeps running (`restartPolicy: Always`).
    Sidecar,
    /// One of `spec.containers`.
    Main,
}

/// State of one container instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

/// One container of the runtime.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instance {
    pub(crate) id: Box<str>,
    pub(crate) sandbox_id: Box<str>,
    pub(crate) attempt: u32,
    pub(crate) state: State,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) exit_code: i32,
    pub(crate) reason: Box<str>,
    pub(crate) message: Box<str>,
    pub(crate) image: Box<str>,
    pub(crate) image_ref: Box<str>,
    /// Hash of the part of the spec it was made from.
    pub(crate) spec_hash: u64,
    pub(crate) user: Option<ContainerUser>,
    /// The postStart hook is done (or there is none).
    pub(crate) hook_done: bool,
}

impl Instance {
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, State::Running | State::Unknown)
    }
}

/// What is known of a container's image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Image {
    /// To be checked before the next start.
    #[default]
    Unknown,
    /// Being checked or pulled; what the last try said, so that the status does not flap.
    Busy(Option<(&'static str, Box<str>)>),
    /// Present under this reference.
    Present(Box<str>),
    /// Not to be had before `retry_at`; `None` waits for a change of the pod.
    Failed { reason: &'static str, message: Box<str>, retry_at: Option<Timestamp> },
}

/// An operation under way on a container. At most one kind at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Creating and starting.
    Starting,
    /// Stopping, by `deadline` at the latest.
    Killing { deadline: Timestamp },
}

/// Why a start failed before there was an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartFailure {
    /// `CreateContainerConfigError`, `CreateContainerError`, …
    pub(crate) reason: &'static str,
    pub(crate) message: Box<str>,
    pub(crate) retry_at: Timestamp,
}

/// What probes have found about the current instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    /// The startup probe has succeeded, or there is none.
    pub(crate) started: bool,
    /// The readiness probe succeeds, or there is none.
    pub(crate) ready: bool,
    /// Which probe asks for a restart.
    pub(crate) failed: Option<FailedProbe>,
}

/// A probe whose failure kills the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailedProbe {
    Liveness,
    Startup,
}

/// One container of the pod's spec.
#[derive(Clone, Debug)]
pub(crate) struct ContainerModel {
    pub(crate) role: Role,
    /// Position in `spec.initContainers` or `spec.containers`.
    pub(crate) index: usize,
    /// Newest instance.
    pub(crate) current: Option<Instance>,
    /// The one before.
    pub(crate) previous: Option<Instance>,
    /// Older ones, and whether their removal is under way.
    pub(crate) dead: Vec<(Box<str>, bool)>,
    pub(crate) op: Option<Op>,
    pub(crate) image: Image,
    pub(crate) pull_backoff: BackOff,
    /// When the last pull failed, and what it said.
    pub(crate) pull_failure: Option<(Timestamp, Box<str>)>,
    pub(crate) backoff: BackOff,
    pub(crate) start_failure: Option<StartFailure>,
    pub(crate) health: Health,
}

impl ContainerModel {
    pub(crate) fn new(role: Role, index: usize, spec: &Container) -> Self {
        Self {
            role,
            index,
            current: None,
            previous: None,
            dead: Vec::new(),
            op: None,
            image: Image::Unknown,
            pull_backoff: BackOff::default(),
            pull_failure: None,
            backoff: BackOff::default(),
            start_failure: None,
            health: Health::fresh(spec),
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.current.as_ref().is_some_and(Instance::is_live)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(|i| i.state == State::Running)
    }

    /// Running, its postStart hook done, its startup probe passed.
    pub(crate) fn is_started(&self) -> bool {
        self.health.started && self.current.as_ref().is_some_and(|i| i.state == State::Running && i.hook_done)
    }

    /// `restartCount`
    pub(crate) fn restart_count(&self) -> u32 {
        self.current.as_ref().map_or(0, |i| i.attempt)
    }

    /// Takes in what the runtime says of an instance of this container; the newest attempt is
    /// current, the one before it previous, and all others are to be removed.
    pub(crate) fn observe(&mut self, instance: Instance, spec: &Container) {
        match &mut self.current {
            Some(current) if current.id == instance.id => {
                // An exit is final: a late answer of an earlier question does not undo it.
                if current.state == State::Exited && instance.state != State::Exited {
                    return;
                }
                let hook_done = current.hook_done || instance.hook_done;
                let was_live = current.is_live();
                *current = Instance { hook_done, ..instance };
                if was_live && current.state == State::Exited {
                    self.image = Image::Unknown;
                    self.health = Health::fresh(spec);
                }
            }
            Some(current)
                if (current.attempt, current.started_at) > (instance.attempt, instance.started_at) =>
            {
                if let Some(previous) = self.previous.as_ref().filter(|p| p.id != instance.id) {
                    if previous.attempt >= instance.attempt {
                        self.bury(instance.id);
                        return;
                    }
                    let id = previous.id.clone();
                    self.bury(id);
                }
                self.previous = Some(instance);
            }
            _ => {
                if let Some(previous) = self.previous.take() {
                    self.bury(previous.id);
                }
                self.previous = self.current.replace(instance);
                self.health = Health::fresh(spec);
            }
        }
    }

    fn bury(&mut self, id: Box<str>) {
        if !self.dead.iter().any(|(d, _)| *d == id) {
            self.dead.push((id, false));
        }
    }

    /// Forgets an instance that the runtime no longer has.
    pub(crate) fn forget(&mut self, id: &str) {
        self.dead.retain(|(d, _)| d.as_ref() != id);
        if self.previous.as_ref().is_some_and(|p| p.id.as_ref() == id) {
            self.previous = None;
        }
        if let Some(current) = &mut self.current
            && current.id.as_ref() == id
            && current.state != State::Exited
        {
            // Removed behind our back: it has ended, and how is not known.
            current.state = State::Exited;
            current.exit_code = 137;
            current.reason = "ContainerStatusUnknown".into();
            current.message = "The container could not be located when the pod was terminated".into();
            current.finished_at.get_or_insert_with(Timestamp::now);
            self.image = Image::Unknown;
        }
    }
}

impl Health {
    /// Before any probe ran.
    pub(crate) fn fresh(spec: &Container) -> Self {
        Self { started: spec.startup_probe.is_none(), ready: spec.readiness_probe.is_none(), failed: None }
    }
}

/// State of the pod's volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Volumes {
    #[default]
    Unset,
    Busy,
    Ready,
    Failed {
        retry_at: Timestamp,
    },
    /// Being removed.
    Leaving,
    /// Could not be removed.
    Stuck {
        retry_at: Timestamp,
    },
    /// Removed.
    Gone,
}

/// The pod's newest sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: Box<str>,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    /// Stopped by us, network taken back.
    pub(crate) stopped: bool,
    pub(crate) ips: Vec<std::net::IpAddr>,
}

/// An operation under way on the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SandboxOp {
    Creating,
    Stopping,
}

/// Why a pod is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopKind {
    /// All containers are done: it stays in the API, its containers stay for their logs.
    Finished,
    /// It was failed by the node (deadline, eviction, admission); it stays in the API.
    Failed,
    /// It is being deleted.
    Deleted,
    /// The API no longer knows it.
    Gone,
}

/// The pod is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) kind: StopKind,
    /// Containers that still run then are killed.
    pub(crate) deadline: Timestamp,
}

impl Stop {
    /// Nothing of the pod is to remain.
    pub(crate) fn removes(self) -> bool {
        matches!(self.kind, StopKind::Deleted | StopKind::Gone)
    }
}

/// How far the end of a removed pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Farewell {
    #[default]
    Open,
    /// The API object is being deleted, the runtime's objects removed.
    Busy,
    Done,
}

/// Everything about one pod.
#[derive(Clone, Debug)]
pub(crate) struct PodModel {
    pub(crate) uid: Box<str>,
    pub(crate) pod: Arc<Pod>,
    /// Init containers first, each group in the order of the spec.
    pub(crate) containers: Vec<ContainerModel>,
    pub(crate) volumes: Volumes,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) sandbox_op: Option<SandboxOp>,
    pub(crate) sandbox_retry_at: Option<Timestamp>,
    /// Older sandboxes, and whether their removal is under way.
    pub(crate) dead_sandboxes: Vec<(Box<str>, bool)>,
    pub(crate) stop: Option<Stop>,
    pub(crate) farewell: Farewell,
    /// Why the node failed the pod: `status.reason` and `status.message`.
    pub(crate) failure: Option<(Box<str>, Box<str>)>,
    /// `status.startTime`
    pub(crate) start_time: Option<Timestamp>,
}

impl PodModel {
    pub(crate) fn new(uid: &str, pod: Arc<Pod>) -> Self {
        let mut containers = Vec::new();
        if let Some(spec) = &pod.spec {
            for (index, c) in spec.init_containers.iter().flatten().enumerate() {
                let sidecar = c.restart_policy.as_deref() == Some("Always");
                containers.push(ContainerModel::new(
                    if sidecar { Role::Sidecar } else { Role::Init },
                    index,
                    c,
                ));
            }
            for (index, c) in spec.containers.iter().enumerate() {
                containers.push(ContainerModel::new(Role::Main, index, c));
            }
        }
        Self {
            uid: uid.into(),
            pod,
            containers,
            volumes: Volumes::Unset,
            sandbox: None,
            sandbox_op: None,
            sandbox_retry_at: None,
            dead_sandboxes: Vec::new(),
            stop: None,
            farewell: Farewell::Open,
            failure: None,
            start_time: None,
        }
    }

    pub(crate) fn spec(&self) -> &PodSpec {
        spec_of(&self.pod)
    }

    pub(crate) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The spec of the container at position `at` of [`Self::containers`].
    pub(crate) fn container_spec(&self, at: usize) -> Option<&Container> {
        let c = self.containers.get(at)?;
        spec_at(self.spec(), c.role, c.index)
    }

    /// Position of a container by name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        (0..self.containers.len()).find(|at| self.container_spec(*at).is_some_and(|c| c.name == name))
    }

    /// Position of the container with this instance.
    pub(crate) fn position_of_id(&self, id: &str) -> Option<usize> {
        self.containers.iter().position(|c| {
            c.current.as_ref().is_some_and(|i| i.id.as_ref() == id)
                || c.previous.as_ref().is_some_and(|i| i.id.as_ref() == id)
        })
    }

    /// `spec.terminationGracePeriodSeconds`, 30 by default.
    pub(crate) fn grace(&self) -> i64 {
        self.spec().termination_grace_period_seconds.unwrap_or(30).max(0)
    }

    /// `spec.restartPolicy`
    pub(crate) fn restart_policy(&self) -> &str {
        self.spec().restart_policy.as_deref().unwrap_or("Always")
    }
}

/// The spec, or an empty one.
pub(crate) fn spec_of(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// One container of a spec.
pub(crate) fn spec_at(spec: &PodSpec, role: Role, index: usize) -> Option<&Container> {
    match role {
        Role::Main => spec.containers.get(index),
        Role::Init | Role::Sidecar => spec.init_containers.as_ref()?.get(index),
    }
}

/// Hash of what a running container was made from and may change: name and image (FNV-1a).
pub(crate) fn spec_hash(container: &Container) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let image = container.image.as_deref().unwrap_or_default();
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}
