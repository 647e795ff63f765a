//! The pod worker: owns one pod's model, applies what [`decide`] says, and publishes the status.
//!
//! One task per pod. Operations are futures that the task itself polls, so nothing outlives it
//! but what the runtime does on its own; at shutdown it just ends, and containers run on.

use super::actions::{self, KillInputs, Outcome, Shared, StartError, StartInputs, chain};
use super::backoff::BackOff;
use super::decide::{Action, Why, decide};
use super::model::{
    Farewell, Image, Instance, Op, PodModel, Sandbox, SandboxOp, StartFailure, State, Stop, StopKind, Volumes,
};
use super::probe::{self, Answer, ProbeKind, ProbeState};
use super::publish::status_patch;
use super::status::{HostFacts, crash_loop_message, phase, pod_status};
use crate::events::Severity;
use crate::volumes::{Mounted, follows_api};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

mod outcome;
mod seed;

pub(crate) use seed::Seed;

/// How long an unremarkable status (still starting) is held back, so that a pod that starts
/// quickly is written once.
const HOLD: SignedDuration = SignedDuration::from_millis(300);
/// Between tries of what failed for no reason of the pod's own.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// A pod as its source says.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    /// Without status.
    pub(crate) pod: Arc<Pod>,
    /// The API object that carries the status: the pod itself, or a static pod's mirror.
    pub(crate) api: Option<ApiSide>,
}

/// The API object of a pod, as last seen.
#[derive(Clone, Debug)]
pub(crate) struct ApiSide {
    pub(crate) uid: String,
    pub(crate) resource_version: u64,
    pub(crate) status: PodStatus,
}

#[derive(Default)]
struct Inbox {
    update: Option<Update>,
    gone: bool,
    containers: BTreeSet<Box<str>>,
    sandboxes: BTreeSet<Box<str>>,
    sources: bool,
    failure: Option<(&'static str, Box<str>)>,
}

/// What the worker tells others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    pub(crate) pod: Arc<Pod>,
    pub(crate) status: Option<Arc<PodStatus>>,
    pub(crate) sandbox_id: Option<Box<str>>,
    pub(crate) containers: Vec<PublishedContainer>,
    /// The pod is over: all its containers are done for good.
    pub(crate) over: bool,
}

/// One container of a [`Published`] pod.
#[derive(Clone, Debug)]
pub(crate) struct PublishedContainer {
    pub(crate) name: String,
    pub(crate) tty: bool,
    /// Newest instance: id, attempt, whether it runs.
    pub(crate) current: Option<(Box<str>, u32, bool)>,
    /// The one before.
    pub(crate) previous: Option<u32>,
}

/// The outside of a worker.
pub(crate) struct Handle {
    pub(crate) uid: Box<str>,
    pub(crate) is_static: bool,
    inbox: Mutex<Inbox>,
    wake: Notify,
    published: watch::Sender<Published>,
}

impl Handle {
    pub(crate) fn new(uid: &str, is_static: bool, pod: Arc<Pod>) -> Arc<Self> {
        let published = watch::Sender::new(Published { pod, ..Published::default() });
        Arc::new(Self { uid: uid.into(), is_static, inbox: Mutex::default(), wake: Notify::new(), published })
    }

    fn post(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut self.inbox.lock());
        self.wake.notify_one();
    }

    /// The source has a new version of the pod.
    pub(crate) fn update(&self, update: Update) {
        self.post(|inbox| inbox.update = Some(update));
    }

    /// The source no longer has the pod.
    pub(crate) fn gone(&self) {
        self.post(|inbox| inbox.gone = true);
    }

    /// The runtime has something to say about a container.
    pub(crate) fn container_changed(&self, id: &str) {
        self.post(|inbox| {
            inbox.containers.insert(id.into());
        });
    }

    /// The runtime has something to say about a sandbox.
    pub(crate) fn sandbox_changed(&self, id: &str) {
        self.post(|inbox| {
            inbox.sandboxes.insert(id.into());
        });
    }

    /// A ConfigMap or Secret of the pod changed.
    pub(crate) fn sources_changed(&self) {
        self.post(|inbox| inbox.sources = true);
    }

    /// The node refuses or evicts the pod.
    pub(crate) fn fail(&self, reason: &'static str, message: &str) {
        self.post(|inbox| inbox.failure = Some((reason, message.into())));
    }

    /// What the worker last told.
    pub(crate) fn published(&self) -> Published {
        self.published.borrow().clone()
    }

    #[cfg(test)]
    pub(crate) fn publish_for_tests(&self, container: &str, id: &str) {
        self.published.send_modify(|p| {
            p.sandbox_id = Some("sandbox".into());
            p.containers = vec![PublishedContainer {
                name: container.to_owned(),
                tty: false,
                current: Some((id.into(), 0, true)),
                previous: None,
            }];
        });
    }

    /// Follows what the worker tells.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }
}

/// See the module.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    model: PodModel,
    probes: Vec<ProbeState>,
    ops: FuturesUnordered<BoxFuture<'static, Outcome>>,
    mounted: Arc<Mounted>,
    api: Option<ApiSide>,
    /// The pod had ended before this agent saw it: its status is history.
    frozen: bool,
    last_status: Option<Arc<PodStatus>>,
    status_busy: bool,
    status_at: Option<Timestamp>,
    refresh_at: Timestamp,
    refreshing: bool,
    deletion_grace: Option<i64>,
    volume_tries: u32,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, handle: Arc<Handle>, update: Update, seed: Seed) -> Self {
        let model = PodModel::new(&handle.uid, update.pod.clone());
        let mut worker = Self {
            shared,
            handle,
            model,
            probes: Vec::new(),
            ops: FuturesUnordered::new(),
            mounted: Arc::default(),
            api: update.api.clone(),
            frozen: false,
            last_status: None,
            status_busy: false,
            status_at: None,
            refresh_at: Timestamp::MAX,
            refreshing: false,
            deletion_grace: None,
            volume_tries: 0,
        };
        worker.adopt(seed);
        worker.take_update(update, Timestamp::now());
        worker
    }

    /// Runs until the pod is gone for good, or until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let now = Timestamp::now();
            self.take_inbox(now);
            let wake = self.step(now);
            if self.model.farewell == Farewell::Done {
                return;
            }
            let wait = async {
                match wake {
                    Some(at) => {
                        let left = at.duration_since(Timestamp::now());
                        tokio::time::sleep(std::time::Duration::try_from(left).unwrap_or_default()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                () = cancel.cancelled() => return,
                () = self.handle.wake.notified() => None,
                outcome = self.ops.next(), if !self.ops.is_empty() => outcome,
                () = wait => None,
            };
            if let Some(outcome) = outcome {
                self.take_outcome(outcome, Timestamp::now());
            }
        }
    }

    /// Decides and applies until nothing more follows at once. Returns when to look again.
    fn step(&mut self, now: Timestamp) -> Option<Timestamp> {
        let mut wake;
        let mut rounds = 0;
        loop {
            self.run_probes(now);
            let plan = decide(&self.model, now);
            wake = plan.wake;
            let applied = plan.actions.into_iter().filter(|a| self.apply(a, now)).count();
            rounds += 1;
            // Every applied action changes the model; a handful of rounds reaches any fixed point.
            if applied == 0 || rounds > 16 {
                break;
            }
        }
        self.refresh_volumes(now);
        let mut earliest = |at: Option<Timestamp>| wake = wake.into_iter().chain(at).min();
        earliest(self.publish(now));
        earliest(self.probes.iter().filter(|p| !p.in_flight).map(|p| p.next).min());
        if self.model.volumes == Volumes::Ready && !self.refreshing && self.refresh_at < Timestamp::MAX {
            earliest(Some(self.refresh_at));
        }
        wake
    }

    fn take_inbox(&mut self, now: Timestamp) {
        let inbox = std::mem::take(&mut *self.handle.inbox.lock());
        if let Some(update) = inbox.update {
            self.take_update(update, now);
        }
        if inbox.gone && self.model.stop.is_none_or(|s| !s.removes()) {
            let grace = self.deletion_grace.unwrap_or_else(|| self.model.grace());
            self.stop(StopKind::Gone, after(now, grace));
        }
        if let Some((reason, message)) = inbox.failure
            && self.model.stop.is_none()
        {
            let (pod, uid) = (&self.model.pod, &self.model.uid);
            self.shared.event(pod, uid, None, Severity::Warning, reason, message.as_ref());
            self.model.failure = Some((reason.into(), message));
            self.stop(StopKind::Failed, after(now, self.model.grace()));
        }
        for id in inbox.containers {
            self.ops.push(Box::pin(actions::see_container(self.shared.clone(), self.model.uid.clone(), id)));
        }
        for id in inbox.sandboxes {
            let shared = self.shared.clone();
            self.ops.push(Box::pin(async move {
                let result = shared.runtime.pod_sandbox_status(&id).await;
                Outcome::SandboxSeen { id, result }
            }));
        }
        if inbox.sources {
            self.sources_changed(now);
        }
    }

    fn sources_changed(&mut self, now: Timestamp) {
        if self.model.volumes == Volumes::Ready {
            self.refresh_at = now;
        } else if let Volumes::Failed { retry_at } = &mut self.model.volumes {
            *retry_at = now;
        }
        for c in &mut self.model.containers {
            if let Some(failure) = &mut c.start_failure {
                failure.retry_at = failure.retry_at.min(now);
            }
        }
    }

    fn take_update(&mut self, update: Update, now: Timestamp) {
        let meta = &update.pod.metadata;
        if let Some(api) = update.api {
            let newer = self
                .api
                .as_ref()
                .is_none_or(|known| known.uid != api.uid || known.resource_version <= api.resource_version);
            if newer {
                self.api = Some(api);
            }
        } else {
            self.api = None;
        }
        let image_changed = |m: &PodModel, at: usize, old: &Pod| {
            let new = m.container_spec(at).and_then(|c| c.image.clone());
            let c = m.containers.get(at);
            let old = c.and_then(|c| super::model::spec_at(super::model::spec_of(old), c.role, c.index));
            old.and_then(|c| c.image.clone()) != new
        };
        let old = std::mem::replace(&mut self.model.pod, update.pod.clone());
        for at in 0..self.model.containers.len() {
            if image_changed(&self.model, at, &old)
                && let Some(c) = self.model.containers.get_mut(at)
                && !matches!(c.image, Image::Busy(_))
            {
                c.image = Image::Unknown;
                c.pull_failure = None;
            }
        }
        let labels_changed =
            old.metadata.labels != meta.labels || old.metadata.annotations != meta.annotations;
        if labels_changed && self.model.volumes == Volumes::Ready && follows_api(&self.model.pod) {
            self.refresh_at = now;
        }
        if meta.deletion_timestamp.is_some() && !self.handle.is_static {
            let grace = meta.deletion_grace_period_seconds.unwrap_or_else(|| self.model.grace());
            if self.deletion_grace.is_none_or(|g| grace < g) {
                self.deletion_grace = Some(grace);
                self.stop(StopKind::Deleted, after(now, grace));
            }
        }
    }

    /// The pod is to end; a stop under way is only ever brought forward.
    fn stop(&mut self, kind: StopKind, deadline: Timestamp) {
        let deadline = self.model.stop.map_or(deadline, |s| s.deadline.min(deadline));
        self.model.stop = Some(Stop { kind, deadline });
        for c in &mut self.model.containers {
            // A pull is not waited for: its operation ends unheard.
            if matches!(c.image, Image::Busy(_)) {
                c.image = Image::Unknown;
            }
            if self.model.failure.is_none() && c.current.is_none() {
                c.start_failure = None;
            }
        }
    }

    // === actions ===

    /// Starts an action and marks it in the model. Returns whether it did anything.
    fn apply(&mut self, action: &Action, now: Timestamp) -> bool {
        let (shared, pod, uid) = (self.shared.clone(), self.model.pod.clone(), self.model.uid.clone());
        match action {
            Action::MountVolumes => {
                self.model.volumes = Volumes::Busy;
                let facts = shared.facts(Vec::new());
                self.ops.push(Box::pin(async move {
                    Outcome::Volumes(shared.volumes.mount(&pod, &uid, &facts).await)
                }));
            }
            Action::CreateSandbox { attempt } => {
                self.model.sandbox_op = Some(SandboxOp::Creating);
                self.ops.push(Box::pin(actions::create_sandbox(shared, pod, uid, *attempt)));
            }
            Action::EnsureImage { at } => return self.ensure_image(*at, now),
            Action::Start { at, attempt } => return self.start(*at, *attempt, now),
            Action::Kill { at, deadline, why } => return self.kill(*at, *deadline, *why),
            Action::StopSandbox => {
                let Some(sandbox) = &self.model.sandbox else { return false };
                let id = sandbox.id.clone();
                if self.model.stop.is_none() {
                    let message = "Pod sandbox changed, it will be killed and re-created.";
                    shared.event(&pod, &uid, None, Severity::Normal, "SandboxChanged", message);
                }
                self.model.sandbox_op = Some(SandboxOp::Stopping);
                self.ops.push(Box::pin(async move {
                    Outcome::SandboxStopped(shared.runtime.stop_pod_sandbox(&id).await)
                }));
            }
            Action::RemoveSandbox { id } => {
                for (dead, busy) in &mut self.model.dead_sandboxes {
                    *busy |= dead == id;
                }
                let id = id.clone();
                self.ops.push(Box::pin(async move {
                    let result = shared.runtime.remove_pod_sandbox(&id).await;
                    if result.is_err() {
                        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
                    }
                    Outcome::SandboxRemoved { id, result }
                }));
            }
            Action::RemoveContainer { at, id } => {
                let Some(c) = self.model.containers.get_mut(*at) else { return false };
                for (dead, busy) in &mut c.dead {
                    *busy |= dead == id;
                }
                self.ops.push(Box::pin(actions::remove_container(shared, uid, *at, id.clone())));
            }
            Action::UnmountVolumes => {
                self.model.volumes = Volumes::Leaving;
                self.ops
                    .push(Box::pin(async move { Outcome::Unmounted(shared.volumes.unmount(&uid).await) }));
            }
            Action::Finish => self.stop(StopKind::Finished, after(now, self.model.grace())),
            Action::FailDeadline => {
                let message = "Pod was active on the node longer than the specified deadline";
                self.model.failure = Some(("DeadlineExceeded".into(), message.into()));
                shared.event(&pod, &uid, None, Severity::Normal, "DeadlineExceeded", message);
                self.stop(StopKind::Failed, after(now, self.model.grace()));
            }
            Action::Forget => return self.forget(now),
        }
        true
    }

    fn ensure_image(&mut self, at: usize, now: Timestamp) -> bool {
        let Some(spec) = self.model.container_spec(at).cloned() else { return false };
        let (shared, pod, uid) = (self.shared.clone(), self.model.pod.clone(), self.model.uid.clone());
        let Some(c) = self.model.containers.get_mut(at) else { return false };
        let about = Some((c.role, spec.name.as_str()));
        if let Some((failed_at, why)) = &c.pull_failure
            && let Some(until) = c.pull_backoff.until(*failed_at, now)
        {
            let image = spec.image.as_deref().unwrap_or_default();
            let short = format!("Back-off pulling image {image:?}");
            let message = format!("{short}: {why}").into();
            c.image = Image::Failed { reason: "ImagePullBackOff", message, retry_at: Some(until) };
            shared.event(&pod, &uid, about, Severity::Normal, "BackOff", short);
            shared.event(&pod, &uid, about, Severity::Warning, "Failed", "Error: ImagePullBackOff");
            return true;
        }
        let last = match &c.image {
            Image::Failed { reason, message, .. } => Some((*reason, message.clone())),
            _ => None,
        };
        c.image = Image::Busy(last);
        self.ops.push(Box::pin(actions::ensure_image(shared, pod, uid, at, c.role, spec)));
        true
    }

    fn start(&mut self, at: usize, attempt: u32, now: Timestamp) -> bool {
        let (Some(sandbox), is_static) = (self.model.sandbox.clone(), self.handle.is_static) else {
            return false;
        };
        let Some(c) = self.model.containers.get_mut(at) else { return false };
        let Image::Present(image_ref) = &c.image else { return false };
        let inputs = StartInputs {
            at,
            role: c.role,
            index: c.index,
            attempt,
            image_ref: image_ref.clone(),
            sandbox_id: sandbox.id,
            ips: sandbox.ips,
            mounted: self.mounted.clone(),
            is_static,
        };
        if let Some(exited) = c.current.as_ref().filter(|i| i.state == State::Exited)
            && let Some(finished) = exited.finished_at
            && c.start_failure.is_none()
        {
            c.backoff.next(finished, now);
        }
        c.op = Some(Op::Starting);
        let (shared, pod, uid) = (self.shared.clone(), self.model.pod.clone(), self.model.uid.clone());
        self.ops.push(Box::pin(actions::start(shared, pod, uid, inputs)));
        true
    }

    fn kill(&mut self, at: usize, deadline: Timestamp, why: Why) -> bool {
        let ip = self.ip();
        let name = self.model.container_spec(at).map(|s| s.name.clone()).unwrap_or_default();
        let (shared, pod, uid) = (self.shared.clone(), self.model.pod.clone(), self.model.uid.clone());
        let Some(c) = self.model.containers.get_mut(at) else { return false };
        let Some(instance) = &c.current else { return false };
        let first = c.op.is_none();
        if first {
            let message = match why {
                Why::Liveness => format!("Container {name} failed liveness probe, will be restarted"),
                Why::Startup => format!("Container {name} failed startup probe, will be restarted"),
                Why::SpecChanged => format!("Container {name} definition changed, will be restarted"),
                Why::Unknown => {
                    format!("Container {name} is in unknown state, try killing it before restart")
                }
                Why::PodEnds | Why::SandboxChanged => format!("Stopping container {name}"),
            };
            shared.event(&pod, &uid, Some((c.role, &name)), Severity::Normal, "Killing", message);
        }
        let inputs = KillInputs {
            at,
            role: c.role,
            index: c.index,
            id: instance.id.clone(),
            deadline,
            ip,
            hook: first,
        };
        c.op = Some(Op::Killing { deadline });
        self.ops.push(Box::pin(actions::kill(shared, pod, uid, inputs)));
        true
    }

    fn forget(&mut self, now: Timestamp) -> bool {
        // The last word before the object goes: what watches the pod learns how it ended.
        let kind = self.model.stop.map(|s| s.kind);
        if self.status_busy || (kind == Some(StopKind::Deleted) && self.pending_patch(now).is_some()) {
            return false;
        }
        let api_uid = match (&self.api, kind) {
            (Some(api), Some(StopKind::Deleted)) if !self.handle.is_static => Some(api.uid.clone()),
            _ => None,
        };
        self.model.farewell = Farewell::Busy;
        self.ops.push(Box::pin(actions::forget(self.shared.clone(), self.model.clone(), api_uid)));
        true
    }

    fn ip(&self) -> Option<std::net::IpAddr> {
        let own = self.model.sandbox.as_ref().and_then(|s| s.ips.first().copied());
        own.or((self.model.spec().host_network == Some(true)).then_some(self.shared.config.node_ip))
    }

    // === probes and volumes ===

    fn run_probes(&mut self, now: Timestamp) {
        probe::reconcile(&self.model, &mut self.probes, now);
        let ip = self.ip();
        for state in self.probes.iter_mut().filter(|p| !p.in_flight && p.next <= now) {
            let Some(spec) = self.model.container_spec(state.at) else { continue };
            let (Some(probe), spec) = (state.kind.of(spec).cloned(), spec.clone()) else { continue };
            state.in_flight = true;
            let (shared, id) = (self.shared.clone(), state.container_id.clone());
            let (at, kind) = (state.at, state.kind);
            self.ops.push(Box::pin(async move {
                let answer = probe::ask(shared.runtime.as_ref(), &probe, &spec, &id, ip).await;
                Outcome::Probed { at, kind, id, answer }
            }));
        }
    }

    fn refresh_volumes(&mut self, now: Timestamp) {
        let due = self.model.volumes == Volumes::Ready && self.refresh_at <= now;
        if !due || self.refreshing || self.model.stop.is_some() {
            return;
        }
        self.refreshing = true;
        let (shared, pod, uid) = (self.shared.clone(), self.model.pod.clone(), self.model.uid.clone());
        let facts = shared.facts(self.model.sandbox.as_ref().map(|s| s.ips.clone()).unwrap_or_default());
        self.ops.push(Box::pin(
            async move { Outcome::Refreshed(shared.volumes.mount(&pod, &uid, &facts).await) },
        ));
    }

    fn plan_refresh(&mut self, now: Timestamp) {
        if follows_api(&self.model.pod) {
            let period = SignedDuration::try_from(self.shared.config.sync_period).unwrap_or(RETRY);
            let jitter = period.as_millis() / 2;
            let extra = i64::try_from(jitter).map(|j| rand::random_range(0..=j.max(0))).unwrap_or(0);
            self.refresh_at = now
                .saturating_add(period)
                .and_then(|t| t.saturating_add(SignedDuration::from_millis(extra)))
                .unwrap_or(now);
        }
    }

    // === status ===

    fn compute(&self, now: Timestamp) -> PodStatus {
        let host = HostFacts { ip: self.shared.config.node_ip };
        let known = self.api.as_ref().map(|a| &a.status).or(self.last_status.as_deref());
        let old = known.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        pod_status(&self.model, host, old, now)
    }

    fn pending_patch(&self, now: Timestamp) -> Option<serde_json::Value> {
        let api = self.api.as_ref()?;
        if self.frozen || self.model.stop.is_some_and(|s| s.kind == StopKind::Gone) {
            return None;
        }
        let current = serde_json::to_value(&api.status).ok()?;
        status_patch(&api.uid, &current, &self.compute(now))
    }

    /// Tells others, and writes the API's status where it differs. Returns when to try again.
    fn publish(&mut self, now: Timestamp) -> Option<Timestamp> {
        let status = Arc::new(self.compute(now));
        self.tell(status.clone());
        let remarkable = remarkable(&status) || self.model.stop.is_some();
        self.last_status = Some(status);
        if self.status_busy || self.model.farewell != Farewell::Open {
            return None;
        }
        let patch = match self.pending_patch(now) {
            Some(patch) => patch,
            None => {
                self.status_at = None;
                return None;
            }
        };
        match self.status_at {
            Some(at) if at > now && !(remarkable && at <= hold(now)) => return Some(at),
            None if !remarkable => {
                self.status_at = Some(hold(now));
                return self.status_at;
            }
            _ => {}
        }
        self.status_at = None;
        self.status_busy = true;
        let shared = self.shared.clone();
        let (namespace, name) = (self.model.namespace().to_owned(), self.model.name().to_owned());
        self.ops.push(Box::pin(async move {
            let body = Bytes::from(patch.to_string());
            Outcome::StatusSent(
                crate::api::patch_status(shared.client.as_ref(), &namespace, &name, body).await,
            )
        }));
        None
    }

    fn tell(&self, status: Arc<PodStatus>) {
        let m = &self.model;
        let containers = m
            .containers
            .iter()
            .enumerate()
            .filter_map(|(at, c)| {
                let spec = m.container_spec(at)?;
                Some(PublishedContainer {
                    name: spec.name.clone(),
                    tty: spec.tty == Some(true),
                    current: c.current.as_ref().map(|i| (i.id.clone(), i.attempt, i.state == State::Running)),
                    previous: c.previous.as_ref().map(|i| i.attempt),
                })
            })
            .collect();
        self.handle.published.send_replace(Published {
            pod: m.pod.clone(),
            status: Some(status),
            sandbox_id: m.sandbox.as_ref().filter(|s| s.ready).map(|s| s.id.clone()),
            containers,
            over: m.stop.is_some() && m.containers.iter().all(|c| !c.is_live() && c.op.is_none()),
        });
    }
}

fn after(now: Timestamp, seconds: i64) -> Timestamp {
    now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now)
}

fn hold(now: Timestamp) -> Timestamp {
    now.saturating_add(HOLD).unwrap_or(now)
}

/// Whether a status says more than "it is starting".
fn remarkable(status: &PodStatus) -> bool {
    let waits_quietly =
        |reason: Option<&str>| matches!(reason, None | Some("ContainerCreating" | "PodInitializing"));
    status.phase.as_deref() != Some("Pending")
        || status.container_statuses.iter().chain(&status.init_container_statuses).flatten().any(|c| {
            let waiting = c.state.as_ref().and_then(|s| s.waiting.as_ref());
            waiting.is_some_and(|w| !waits_quietly(w.reason.as_deref()))
        })
}
