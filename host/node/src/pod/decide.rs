//! What to do next for a pod: a pure function of its model and the clock.
//!
//! Level-triggered: the answer depends only on the present state, and asking twice without a
//! change gives the same answer. What is under way is part of the state, so nothing is started
//! twice; the invariant is that a container never has two live instances.
//!
//! Source of the rules: `computePodActions` in `pkg/kubelet/kuberuntime`.

use super::model::{ContainerModel, FailedProbe, Farewell, Image, Op, PodModel, Role, SandboxOp, State};
use super::model::{Stop, Volumes, spec_hash};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;

#[cfg(test)]
mod tests;

/// One step for the worker. Positions are those of [`PodModel::containers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    MountVolumes,
    CreateSandbox {
        attempt: u32,
    },
    EnsureImage {
        at: usize,
    },
    Start {
        at: usize,
        attempt: u32,
    },
    /// Stop the instance, at `deadline` at the latest.
    Kill {
        at: usize,
        deadline: Timestamp,
        why: Why,
    },
    StopSandbox,
    RemoveSandbox {
        id: Box<str>,
    },
    RemoveContainer {
        at: usize,
        id: Box<str>,
    },
    UnmountVolumes,
    /// Every container is done: the pod ends.
    Finish,
    /// `activeDeadlineSeconds` passed: the pod fails.
    FailDeadline,
    /// Delete the API object and remove what the runtime still has.
    Forget,
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    PodEnds,
    SandboxChanged,
    Liveness,
    Startup,
    SpecChanged,
    Unknown,
}

/// Actions to take now, and when to ask again where nothing happens before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake: Option<Timestamp>,
}

impl Plan {
    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }

    /// Whether `retry_at` has come; else asks to be woken then.
    fn due(&mut self, retry_at: Timestamp, now: Timestamp) -> bool {
        let due = retry_at <= now;
        if !due {
            self.wake_at(retry_at);
        }
        due
    }
}

fn after(now: Timestamp, seconds: i64) -> Timestamp {
    now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now)
}

/// Decides.
pub(crate) fn decide(m: &PodModel, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    collect_garbage(m, &mut plan);
    match m.stop {
        Some(stop) => end(m, stop, now, &mut plan),
        None => run(m, now, &mut plan),
    }
    plan
}

fn collect_garbage(m: &PodModel, plan: &mut Plan) {
    if m.farewell != Farewell::Open {
        return;
    }
    for (at, c) in m.containers.iter().enumerate() {
        for (id, _) in c.dead.iter().filter(|(_, busy)| !busy) {
            plan.push(Action::RemoveContainer { at, id: id.clone() });
        }
    }
    for (id, _) in m.dead_sandboxes.iter().filter(|(_, busy)| !busy) {
        // Containers that still belong to it would be removed with it.
        let used = m.containers.iter().any(|c| {
            c.current.as_ref().is_some_and(|i| i.sandbox_id == *id)
                || c.previous.as_ref().is_some_and(|i| i.sandbox_id == *id)
        });
        if !used {
            plan.push(Action::RemoveSandbox { id: id.clone() });
        }
    }
}

// === a pod that ends ===

fn end(m: &PodModel, stop: Stop, now: Timestamp, plan: &mut Plan) {
    let mut busy = false;
    let mut mains_live = false;
    for (at, c) in m.containers.iter().enumerate() {
        busy |= c.op == Some(Op::Starting);
        if c.role != Role::Sidecar {
            mains_live |= c.is_live() || c.op.is_some();
            kill_by(c, at, stop.deadline, Why::PodEnds, plan);
        }
    }
    // Sidecars go after everything that may use them, the last started first.
    if !mains_live {
        let last = m
            .containers
            .iter()
            .enumerate()
            .rev()
            .find(|(_, c)| c.role == Role::Sidecar && (c.is_live() || c.op.is_some()));
        if let Some((at, c)) = last {
            kill_by(c, at, stop.deadline.max(after(now, 2)), Why::PodEnds, plan);
        }
    }
    let live = m.containers.iter().any(|c| c.is_live() || c.op.is_some());
    if live || busy || m.volumes == Volumes::Busy || m.sandbox_op == Some(SandboxOp::Creating) {
        return;
    }
    if m.sandbox_op.is_some() {
        return;
    }
    if m.sandbox.as_ref().is_some_and(|s| !s.stopped) {
        if m.sandbox_retry_at.is_none_or(|at| plan.due(at, now)) {
            plan.push(Action::StopSandbox);
        }
        return;
    }
    match m.volumes {
        Volumes::Gone => {}
        Volumes::Leaving => return,
        Volumes::Stuck { retry_at } => {
            if plan.due(retry_at, now) {
                plan.push(Action::UnmountVolumes);
            }
            return;
        }
        _ => {
            plan.push(Action::UnmountVolumes);
            return;
        }
    }
    if stop.removes() && m.farewell == Farewell::Open && m.sandbox_retry_at.is_none_or(|at| plan.due(at, now))
    {
        plan.push(Action::Forget);
    }
}

/// Stops a live container, or brings the deadline of a stop under way forward.
fn kill_by(c: &ContainerModel, at: usize, deadline: Timestamp, why: Why, plan: &mut Plan) {
    if !c.is_live() {
        return;
    }
    match c.op {
        None => plan.push(Action::Kill { at, deadline, why }),
        Some(Op::Killing { deadline: current }) if deadline < current => {
            plan.push(Action::Kill { at, deadline, why });
        }
        Some(Op::Killing { .. } | Op::Starting) => {}
    }
}

// === a pod that runs ===

fn run(m: &PodModel, now: Timestamp, plan: &mut Plan) {
    if let (Some(limit), Some(start)) = (m.spec().active_deadline_seconds, m.start_time)
        && plan.due(after(start, limit), now)
    {
        plan.push(Action::FailDeadline);
        return;
    }
    if finished(m) {
        plan.push(Action::Finish);
        return;
    }
    match m.volumes {
        Volumes::Unset | Volumes::Gone => plan.push(Action::MountVolumes),
        Volumes::Failed { retry_at } if plan.due(retry_at, now) => plan.push(Action::MountVolumes),
        _ => {}
    }
    let sandbox_ready = match &m.sandbox {
        Some(s) if s.ready => m.sandbox_op.is_none(),
        Some(s) => {
            rebuild_sandbox(m, s.stopped, now, plan);
            false
        }
        None => {
            create_sandbox(m, 0, now, plan);
            false
        }
    };
    let lost = m.sandbox.as_ref().is_some_and(|s| !s.ready);
    if lost {
        return;
    }
    let ready = sandbox_ready && m.volumes == Volumes::Ready;
    restart_unhealthy(m, now, plan);
    let (to_start, _) = next_to_start(m);
    // Containers of one role start in order where a postStart hook is to be waited for.
    let mut held = m.containers.iter().enumerate().any(|(at, c)| {
        let starting = c.op == Some(Op::Starting);
        has_hook(m, at) && (starting || c.current.as_ref().is_some_and(|i| i.is_live() && !i.hook_done))
    });
    for at in to_start {
        let Some(c) = m.containers.get(at) else { continue };
        if start(at, c, ready && !held, now, plan) {
            held |= has_hook(m, at);
        }
    }
}

fn has_hook(m: &PodModel, at: usize) -> bool {
    m.container_spec(at).and_then(|s| s.lifecycle.as_ref()).is_some_and(|l| l.post_start.is_some())
}

/// All containers of a lost sandbox stop, then it is stopped, then a new one is made.
fn rebuild_sandbox(m: &PodModel, stopped: bool, now: Timestamp, plan: &mut Plan) {
    let mut live = false;
    for (at, c) in m.containers.iter().enumerate() {
        live |= c.is_live() || c.op.is_some();
        kill_by(c, at, after(now, m.grace()), Why::SandboxChanged, plan);
    }
    // A deadline counted from now would creep forward with the clock: only the first kill counts.
    if live || m.sandbox_op.is_some() {
        return;
    }
    if !stopped {
        if m.sandbox_retry_at.is_none_or(|at| plan.due(at, now)) {
            plan.push(Action::StopSandbox);
        }
        return;
    }
    create_sandbox(m, m.sandbox.as_ref().map_or(0, |s| s.attempt + 1), now, plan);
}

fn create_sandbox(m: &PodModel, attempt: u32, now: Timestamp, plan: &mut Plan) {
    if m.sandbox_op.is_none() && wants_sandbox(m) && m.sandbox_retry_at.is_none_or(|at| plan.due(at, now)) {
        plan.push(Action::CreateSandbox { attempt });
    }
}

/// Whether anything would run in a new sandbox.
fn wants_sandbox(m: &PodModel) -> bool {
    let ran_before = m.containers.iter().any(|c| c.current.is_some());
    if !ran_before {
        return true;
    }
    if m.restart_policy() == "Never" {
        return false;
    }
    m.containers.iter().enumerate().filter(|(_, c)| c.role == Role::Main).any(|(at, c)| match &c.current {
        Some(i) if i.state == State::Exited => m.container_spec(at).is_some_and(|s| restarts(m, s, c)),
        _ => true,
    })
}

/// Whether the pod has nothing more to do.
pub(crate) fn finished(m: &PodModel) -> bool {
    if m.containers.iter().any(|c| c.op == Some(Op::Starting)) {
        return false;
    }
    if m.containers.iter().any(|c| c.role == Role::Main && (c.is_live() || c.op.is_some())) {
        return false;
    }
    let init_failed = m.containers.iter().enumerate().any(|(at, c)| {
        c.role == Role::Init
            && c.op.is_none()
            && c.current.as_ref().is_some_and(|i| i.state == State::Exited && i.exit_code != 0)
            && m.container_spec(at).is_some_and(|s| !restarts(m, s, c))
    });
    if init_failed {
        return true;
    }
    // The sandbox is gone and no new one is wanted: what did not start never will.
    if m.sandbox.as_ref().is_some_and(|s| !s.ready) && m.sandbox_op.is_none() && !wants_sandbox(m) {
        return m.containers.iter().all(|c| !c.is_live() && c.op.is_none());
    }
    m.containers.iter().enumerate().filter(|(_, c)| c.role == Role::Main).all(|(at, c)| {
        c.current.as_ref().is_some_and(|i| i.state == State::Exited)
            && m.container_spec(at).is_some_and(|s| !restarts(m, s, c))
    }) && m.containers.iter().any(|c| c.role == Role::Main)
}

/// Whether an exited container is started again: the container's own policy and rules, else the
/// pod's.
pub(crate) fn restarts(m: &PodModel, spec: &Container, c: &ContainerModel) -> bool {
    if c.role == Role::Sidecar {
        return true;
    }
    let code = c.current.as_ref().map_or(0, |i| i.exit_code);
    for rule in spec.restart_policy_rules.iter().flatten() {
        if let Some(on) = &rule.exit_codes {
            let listed = on.values.iter().flatten().any(|v| *v == code);
            let matches = if on.operator == "NotIn" { !listed } else { listed };
            if matches && rule.action == "Restart" {
                return true;
            }
        }
    }
    match (spec.restart_policy.as_deref().unwrap_or(m.restart_policy()), c.role) {
        ("Never", _) => false,
        ("OnFailure", _) | (_, Role::Init) => code != 0,
        _ => true,
    }
}

/// Whether the current instance belongs to the current sandbox.
fn in_sandbox(m: &PodModel, c: &ContainerModel) -> bool {
    match (&m.sandbox, &c.current) {
        (Some(s), Some(i)) => i.sandbox_id == s.id,
        _ => false,
    }
}

/// The containers whose turn it is and that do not run, in order; and whether the init containers
/// are done.
pub(crate) fn next_to_start(m: &PodModel) -> (Vec<usize>, bool) {
    let mut next = Vec::new();
    let idle = |c: &ContainerModel| !in_sandbox(m, c) || !c.is_live();
    let mains_began = m.containers.iter().any(|c| c.role == Role::Main && in_sandbox(m, c));
    for (at, c) in m.containers.iter().enumerate() {
        match c.role {
            Role::Sidecar => {
                if idle(c) {
                    next.push(at);
                }
                let started = in_sandbox(m, c) && c.is_started();
                if !mains_began && !started {
                    return (next, false);
                }
            }
            Role::Init if mains_began => {}
            Role::Init => {
                let done = in_sandbox(m, c)
                    && c.current.as_ref().is_some_and(|i| i.state == State::Exited && i.exit_code == 0);
                if !done {
                    if idle(c) {
                        next.push(at);
                    }
                    return (next, false);
                }
            }
            Role::Main => {
                let restart = match &c.current {
                    Some(i) if i.state == State::Exited => {
                        m.container_spec(at).is_some_and(|s| restarts(m, s, c))
                    }
                    _ => true,
                };
                if idle(c) && restart {
                    next.push(at);
                }
            }
        }
    }
    (next, true)
}

/// Kills what a probe has condemned, what was changed, and what cannot be told.
fn restart_unhealthy(m: &PodModel, now: Timestamp, plan: &mut Plan) {
    for (at, c) in m.containers.iter().enumerate() {
        let (Some(spec), Some(instance), None) = (m.container_spec(at), &c.current, c.op) else { continue };
        if !instance.is_live() {
            continue;
        }
        let probe_grace = |probe: Option<&k8s_openapi::api::core::v1::Probe>| {
            probe.and_then(|p| p.termination_grace_period_seconds).unwrap_or_else(|| m.grace())
        };
        let (grace, why) = match c.health.failed {
            _ if instance.state == State::Unknown => (m.grace(), Why::Unknown),
            _ if !in_sandbox(m, c) => (m.grace(), Why::SandboxChanged),
            Some(FailedProbe::Liveness) => (probe_grace(spec.liveness_probe.as_ref()), Why::Liveness),
            Some(FailedProbe::Startup) => (probe_grace(spec.startup_probe.as_ref()), Why::Startup),
            None if instance.spec_hash != spec_hash(spec) => (m.grace(), Why::SpecChanged),
            None => continue,
        };
        plan.push(Action::Kill { at, deadline: after(now, grace), why });
    }
}

/// Brings one container closer to its start. Returns whether it starts now.
fn start(at: usize, c: &ContainerModel, ready: bool, now: Timestamp, plan: &mut Plan) -> bool {
    if c.op.is_some() || c.is_live() {
        return false;
    }
    if let Some(failure) = &c.start_failure
        && !plan.due(failure.retry_at, now)
    {
        return false;
    }
    if let Some(until) = backoff_until(c, now) {
        plan.wake_at(until);
        return false;
    }
    match &c.image {
        Image::Unknown => plan.push(Action::EnsureImage { at }),
        Image::Busy(_) => {}
        Image::Failed { retry_at, .. } => {
            if retry_at.is_some_and(|r| plan.due(r, now)) {
                plan.push(Action::EnsureImage { at });
            }
        }
        Image::Present(_) if ready => {
            plan.push(Action::Start { at, attempt: c.current.as_ref().map_or(0, |i| i.attempt + 1) });
            return true;
        }
        Image::Present(_) => {}
    }
    false
}

/// Until when an exited container waits before it is started again.
pub(crate) fn backoff_until(c: &ContainerModel, now: Timestamp) -> Option<Timestamp> {
    let exited = c.current.as_ref().filter(|i| i.state == State::Exited)?;
    c.backoff.until(exited.finished_at?, now)
}
