//! The pod worker: owns one pod's model, applies what [`decide`] says, and publishes the status.
//!
//! One task per pod. Operations are futures that the task itself polls, so nothing outlives it
//! but what the runtime does on its own; at shutdown it just ends, and containers run on.

use super::actions::{self, Outcome, Shared, StartError, chain};
use super::backoff::BackOff;
use super::decide::{Why, decide};
use super::model::{
    Farewell, Image, Instance, Op, PodModel, Sandbox, StartFailure, State, Stop, StopKind, Volumes,
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
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

mod begin;
mod handle;
mod outcome;
mod seed;

pub(crate) use handle::{ApiSide, Handle, Published, PublishedContainer, Update};
pub(crate) use seed::Seed;

/// How long an unremarkable status (still starting) is held back, so that a pod that starts
/// quickly is written once.
const HOLD: SignedDuration = SignedDuration::from_millis(300);
/// Between tries of what failed for no reason of the pod's own.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

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
