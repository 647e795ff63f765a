//! `status` of a pod, as the kubelet writes it: a pure function of the model.
//!
//! Source of phases, conditions and reasons: `pkg/kubelet/kubelet_pods.go` and
//! `pkg/kubelet/status/generate.go`.

use super::backoff::go_duration;
use super::decide::{backoff_until, finished, next_to_start, restarts};
use super::model::{ContainerModel, Image, Instance, PodModel, Role, State};
use crate::qos;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::net::IpAddr;

#[cfg(test)]
mod tests;

/// What of the node a pod's status tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostFacts {
    pub(crate) ip: IpAddr,
}

/// Seconds only: the API keeps no fractions.
fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Waiting reason and message; upstream's `ContainerStateWaiting`.
fn waiting(reason: &str, message: Option<String>) -> core::ContainerState {
    let waiting = core::ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    core::ContainerState { waiting: Some(waiting), ..Default::default() }
}

fn container_id(id: &str) -> String {
    if id.contains("://") { id.to_owned() } else { format!("runc://{id}") }
}

fn terminated(i: &Instance) -> core::ContainerState {
    let none_if_empty = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let reason =
        if i.reason.is_empty() { if i.exit_code == 0 { "Completed" } else { "Error" } } else { &i.reason };
    let terminated = core::ContainerStateTerminated {
        container_id: Some(container_id(&i.id)),
        exit_code: i.exit_code,
        finished_at: i.finished_at.map(time),
        message: none_if_empty(&i.message),
        reason: Some(reason.to_owned()),
        signal: None,
        started_at: i.started_at.map(time),
    };
    core::ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn running(i: &Instance) -> core::ContainerState {
    let running = core::ContainerStateRunning { started_at: i.started_at.map(time) };
    core::ContainerState { running: Some(running), ..Default::default() }
}

/// `message` of `CrashLoopBackOff`.
pub(crate) fn crash_loop_message(m: &PodModel, c: &ContainerModel, name: &str) -> String {
    format!(
        "back-off {} restarting failed container={name} pod={}_{}({})",
        go_duration(c.backoff.delay()),
        m.name(),
        m.namespace(),
        m.uid
    )
}

fn container_status(m: &PodModel, at: usize, now: Timestamp) -> Option<core::ContainerStatus> {
    let c = m.containers.get(at)?;
    let spec = m.container_spec(at)?;
    let has_init = m.spec().init_containers.as_ref().is_some_and(|i| !i.is_empty());
    let default_reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let mut last_state = c.previous.as_ref().filter(|p| p.state == State::Exited).map(terminated);
    let blocked = blocked_on(m, c, spec, now);
    let mut state = match &c.current {
        Some(i) if i.state == State::Running => running(i),
        Some(i) if i.state == State::Exited => terminated(i),
        _ => waiting(default_reason, None),
    };
    if !c.is_live()
        && m.stop.is_none()
        && let Some((reason, message)) = blocked
        && c.current.as_ref().is_none_or(|_| restarts(m, spec, c))
    {
        if state.terminated.is_some() {
            last_state = Some(state);
        }
        state = waiting(reason, message);
    }
    // A pod that has ended without ever starting this container.
    if m.stop.is_some() && c.current.is_none() && phase_is_final(m) {
        let unknown = core::ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            ..Default::default()
        };
        state = core::ContainerState { terminated: Some(unknown), ..Default::default() };
    }
    let ready = match c.role {
        Role::Init => c.current.as_ref().is_some_and(|i| i.state == State::Exited && i.exit_code == 0),
        Role::Sidecar | Role::Main => c.is_started() && c.health.ready,
    };
    let started = match c.role {
        Role::Init => c.is_running(),
        _ => c.is_started(),
    };
    let requests = spec.resources.as_ref().and_then(|r| r.requests.clone());
    let live = c.is_live();
    Some(core::ContainerStatus {
        name: spec.name.clone(),
        image: match &c.current {
            Some(i) if !i.image.is_empty() => i.image.to_string(),
            _ => spec.image.clone().unwrap_or_default(),
        },
        image_id: c.current.as_ref().map(|i| i.image_ref.to_string()).unwrap_or_default(),
        container_id: c.current.as_ref().map(|i| container_id(&i.id)),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        ready,
        started: Some(started),
        restart_count: i32::try_from(c.restart_count()).unwrap_or(i32::MAX),
        allocated_resources: if live { requests.filter(|r| !r.is_empty()) } else { None },
        resources: live.then(|| core::ResourceRequirements {
            claims: None,
            ..spec.resources.clone().unwrap_or_default()
        }),
        user: c.current.as_ref().filter(|_| live).and_then(|i| i.user.as_ref()).map(|u| {
            core::ContainerUser {
                linux: Some(core::LinuxContainerUser {
                    uid: u.uid,
                    gid: u.gid,
                    supplemental_groups: Some(u.supplemental_groups.clone()),
                }),
            }
        }),
        volume_mounts: spec.volume_mounts.as_ref().filter(|v| !v.is_empty()).map(|mounts| {
            mounts
                .iter()
                .map(|v| core::VolumeMountStatus {
                    name: v.name.clone(),
                    mount_path: v.mount_path.clone(),
                    read_only: v.read_only.filter(|r| *r),
                    recursive_read_only: v.read_only.filter(|r| *r).map(|_| "Disabled".to_owned()),
                    ..Default::default()
                })
                .collect()
        }),
        ..Default::default()
    })
}

/// What keeps a container that is not running from being started, in the words of its `waiting`.
fn blocked_on(
    m: &PodModel,
    c: &ContainerModel,
    spec: &core::Container,
    now: Timestamp,
) -> Option<(&'static str, Option<String>)> {
    match &c.image {
        Image::Failed { reason, message, .. } | Image::Busy(Some((reason, message))) => {
            return Some((reason, Some(message.to_string())));
        }
        _ => {}
    }
    let waits = backoff_until(c, now).is_some() && c.op.is_none();
    if let Some(failure) = &c.start_failure
        && !waits
    {
        return Some((failure.reason, Some(failure.message.to_string())));
    }
    waits.then(|| ("CrashLoopBackOff", Some(crash_loop_message(m, c, &spec.name))))
}

fn phase_is_final(m: &PodModel) -> bool {
    matches!(phase(m), Phase::Succeeded | Phase::Failed)
}

/// `status.phase`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// The phase. Once final it stays, because the model of a pod that has ended does not move back.
pub(crate) fn phase(m: &PodModel) -> Phase {
    let exited = |c: &ContainerModel| c.current.as_ref().is_some_and(|i| i.state == State::Exited);
    let succeeded = |c: &ContainerModel| exited(c) && c.current.as_ref().is_some_and(|i| i.exit_code == 0);
    let settled = |c: &ContainerModel| !c.is_live() && c.op.is_none();
    if m.failure.is_some() {
        return Phase::Failed;
    }
    let mains = || m.containers.iter().filter(|c| c.role == Role::Main);
    if (m.stop.is_some() || finished(m))
        && m.containers.iter().filter(|c| c.role != Role::Sidecar).all(settled)
    {
        return if mains().all(succeeded) { Phase::Succeeded } else { Phase::Failed };
    }
    let init_pending = m.containers.iter().any(|c| match c.role {
        Role::Init => !succeeded(c),
        Role::Sidecar => c.current.is_none() || (!c.is_started() && !exited(c)),
        Role::Main => false,
    });
    // Init containers that ran in an earlier sandbox and run again do not take the phase back
    // where the mains have run already.
    if init_pending && !mains().any(|c| c.current.is_some()) {
        return Phase::Pending;
    }
    let never_started = |c: &&ContainerModel| {
        c.current.as_ref().is_none_or(|i| i.state == State::Created && c.previous.is_none())
    };
    if mains().any(|c| never_started(&c)) {
        return Phase::Pending;
    }
    Phase::Running
}

struct Conditions<'a> {
    m: &'a PodModel,
    old: &'a [core::PodCondition],
    now: Timestamp,
    out: Vec<core::PodCondition>,
}

impl Conditions<'_> {
    fn set(&mut self, kind: &str, verdict: Result<(), (&str, Option<String>)>, reason: Option<&str>) {
        let (status, reason, message) = match verdict {
            Ok(()) => ("True", reason.map(str::to_owned), None),
            Err((why, message)) => ("False", (!why.is_empty()).then(|| why.to_owned()), message),
        };
        let before = self.old.iter().find(|c| c.type_ == kind);
        let since = match before {
            Some(c) if c.status == status => c.last_transition_time.clone(),
            _ => Some(time(self.now)),
        };
        self.out.push(core::PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_probe_time: None,
            last_transition_time: since,
            observed_generation: self.m.pod.metadata.generation,
        });
    }
}

fn names(list: &[&str]) -> String {
    format!("[{}]", list.join(" "))
}

/// The conditions that the node owns, with their transition times taken over from `old`.
fn conditions(
    m: &PodModel,
    phase: Phase,
    old: &[core::PodCondition],
    now: Timestamp,
) -> Vec<core::PodCondition> {
    let mut all = Conditions { m, old, now, out: Vec::with_capacity(5) };
    let sandbox_ready = m.sandbox.as_ref().is_some_and(|s| s.ready && !s.stopped);
    let no = |reason| Err((reason, None));
    all.set("PodReadyToStartContainers", if sandbox_ready { Ok(()) } else { no("") }, None);

    let (_, init_done) = next_to_start(m);
    let mains_began = m.containers.iter().any(|c| c.role == Role::Main && c.current.is_some());
    let incomplete: Vec<&str> = m
        .containers
        .iter()
        .enumerate()
        .filter(|(_, c)| match c.role {
            Role::Init => !c.current.as_ref().is_some_and(|i| i.state == State::Exited && i.exit_code == 0),
            Role::Sidecar => !c.is_started() && !mains_began,
            Role::Main => false,
        })
        .filter_map(|(at, _)| m.container_spec(at).map(|s| s.name.as_str()))
        .collect();
    let has_init = m.containers.iter().any(|c| c.role != Role::Main);
    if phase == Phase::Succeeded {
        all.set("Initialized", Ok(()), Some("PodCompleted"));
    } else if !has_init || incomplete.is_empty() || (mains_began && init_done) {
        all.set("Initialized", Ok(()), None);
    } else {
        let message = format!("containers with incomplete status: {}", names(&incomplete));
        all.set("Initialized", Err(("ContainersNotInitialized", Some(message))), None);
    }

    let unready: Vec<&str> = m
        .containers
        .iter()
        .enumerate()
        .filter(|(_, c)| c.role != Role::Init && !(c.is_started() && c.health.ready))
        .filter_map(|(at, _)| m.container_spec(at).map(|s| s.name.as_str()))
        .collect();
    let containers_ready = match phase {
        Phase::Succeeded => no("PodCompleted"),
        Phase::Failed => no("PodFailed"),
        _ if unready.is_empty() => Ok(()),
        _ => {
            let message = format!("containers with unready status: {}", names(&unready));
            Err(("ContainersNotReady", Some(message)))
        }
    };
    let ready = match &containers_ready {
        Err((reason, message)) => Err((*reason, message.clone())),
        Ok(()) => readiness_gates(m, old),
    };
    all.set("Ready", ready, None);
    all.set("ContainersReady", containers_ready, None);

    match old.iter().find(|c| c.type_ == "PodScheduled") {
        Some(scheduled) => all.out.push(core::PodCondition {
            observed_generation: scheduled.observed_generation.or(m.pod.metadata.generation),
            ..scheduled.clone()
        }),
        None => all.set("PodScheduled", Ok(()), None),
    }
    all.out
}

fn readiness_gates(m: &PodModel, old: &[core::PodCondition]) -> Result<(), (&'static str, Option<String>)> {
    let mut faults = Vec::new();
    for gate in m.spec().readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match old.iter().find(|c| c.type_ == *kind) {
            None => faults
                .push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            Some(c) if c.status != "True" => faults.push(format!(
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                c.status
            )),
            Some(_) => {}
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(("ReadinessGatesNotReady", Some(faults.join(", ")))) }
}

/// The whole status. `old_conditions` are those of the API object as last seen; conditions of
/// others are not repeated here.
pub(crate) fn pod_status(
    m: &PodModel,
    host: HostFacts,
    old_conditions: &[core::PodCondition],
    now: Timestamp,
) -> core::PodStatus {
    let phase = phase(m);
    let group = |init: bool| -> Option<Vec<core::ContainerStatus>> {
        let list: Vec<_> = m
            .containers
            .iter()
            .enumerate()
            .filter(|(_, c)| (c.role != Role::Main) == init)
            .filter_map(|(at, _)| container_status(m, at, now))
            .collect();
        (!list.is_empty()).then_some(list)
    };
    let host_network = m.spec().host_network == Some(true);
    let ips: Vec<IpAddr> = match &m.sandbox {
        Some(_) if host_network => vec![host.ip],
        Some(s) => s.ips.clone(),
        None => Vec::new(),
    };
    core::PodStatus {
        phase: Some(phase.as_str().to_owned()),
        conditions: Some(conditions(m, phase, old_conditions, now)),
        container_statuses: group(false),
        init_container_statuses: group(true),
        host_ip: Some(host.ip.to_string()),
        host_ips: Some(vec![core::HostIP { ip: host.ip.to_string() }]),
        pod_ip: ips.first().map(ToString::to_string),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| core::PodIP { ip: ip.to_string() }).collect()),
        qos_class: Some(qos::class_of(m.spec()).as_str().to_owned()),
        start_time: m.start_time.map(time),
        observed_generation: m.pod.metadata.generation,
        reason: m.failure.as_ref().map(|(reason, _)| reason.to_string()),
        message: m.failure.as_ref().map(|(_, message)| message.to_string()),
        ..Default::default()
    }
}
