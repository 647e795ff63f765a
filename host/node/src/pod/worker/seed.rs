//! What a worker begins with: what the runtime already has of the pod.

use super::{BackOff, Instance, Sandbox, State, Stop, StopKind, Timestamp, Worker};
use crate::pod::model::{Health, Image, spec_hash};
use k8s_openapi::api::core::v1::ContainerStatus;

/// Sandboxes and containers of one pod, as found when the agent started.
#[derive(Debug, Default)]
pub(crate) struct Seed {
    /// Newest last.
    pub(crate) sandboxes: Vec<Sandbox>,
    /// Name and instance.
    pub(crate) containers: Vec<(String, Instance)>,
}

impl Worker {
    /// Takes over what runs, so that nothing restarts and readiness does not flap.
    pub(super) fn adopt(&mut self, seed: Seed) {
        let now = Timestamp::now();
        let known = self.api.as_ref().map(|a| a.status.clone()).unwrap_or_default();
        self.model.start_time = Some(known.start_time.as_ref().map_or(now, |t| t.0));
        let fresh = seed.containers.is_empty();
        let mut sandboxes = seed.sandboxes;
        sandboxes.sort_by_key(|s| s.attempt);
        self.model.sandbox = sandboxes.pop();
        self.model.dead_sandboxes.extend(sandboxes.into_iter().map(|s| (s.id, false)));
        let mut containers = seed.containers;
        containers.sort_by_key(|(_, i)| (i.attempt, i.started_at));
        for (name, instance) in containers {
            let Some(at) = self.model.position(&name) else { continue };
            let Some(spec) = self.model.container_spec(at).cloned() else { continue };
            if let Some(c) = self.model.containers.get_mut(at) {
                c.observe(instance, &spec);
            }
        }
        let reported = || known.container_statuses.iter().chain(&known.init_container_statuses).flatten();
        for at in 0..self.model.containers.len() {
            let Some(spec) = self.model.container_spec(at).cloned() else { continue };
            let Some(status) = reported().find(|s| s.name == spec.name) else {
                self.settle(at, &spec, None);
                continue;
            };
            if fresh {
                self.recall(at, &spec, status, now);
            }
            self.settle(at, &spec, Some(status));
        }
        if matches!(known.phase.as_deref(), Some("Succeeded" | "Failed")) {
            self.frozen = true;
            self.model.stop = Some(Stop { kind: StopKind::Finished, deadline: now });
        }
    }

    /// Readiness and back-off of an instance that was there before us.
    fn settle(
        &mut self,
        at: usize,
        spec: &k8s_openapi::api::core::v1::Container,
        status: Option<&ContainerStatus>,
    ) {
        let Some(c) = self.model.containers.get_mut(at) else { return };
        let Some(instance) = &mut c.current else { return };
        // A hook that was under way when the agent went is not run again.
        instance.hook_done = true;
        let same = status
            .is_some_and(|s| s.container_id.as_deref().is_some_and(|id| id.ends_with(instance.id.as_ref())));
        c.health = match status {
            Some(s) if same && instance.state == State::Running => Health {
                started: s.started == Some(true) || spec.startup_probe.is_none(),
                ready: s.ready || spec.readiness_probe.is_none(),
                failed: None,
            },
            _ => Health::fresh(spec),
        };
        let last = c.previous.as_ref().and_then(|p| p.finished_at).or(instance.started_at);
        if let Some(last) = last {
            c.backoff = BackOff::recovered(instance.attempt, last);
        }
    }

    /// The runtime has nothing of a container that the API says has run: it is over, and how it
    /// ended is not known.
    fn recall(
        &mut self,
        at: usize,
        spec: &k8s_openapi::api::core::v1::Container,
        status: &ContainerStatus,
        now: Timestamp,
    ) {
        let Some(id) = status.container_id.as_deref().filter(|id| !id.is_empty()) else { return };
        let Some(c) = self.model.containers.get_mut(at) else { return };
        let ended = status.state.as_ref().and_then(|s| s.terminated.as_ref());
        let began =
            status.state.as_ref().and_then(|s| s.running.as_ref()).and_then(|r| r.started_at.as_ref());
        let text = |s: Option<&String>, default: &str| -> Box<str> {
            s.map_or_else(|| default.into(), |s| s.as_str().into())
        };
        c.current = Some(Instance {
            id: id.rsplit("://").next().unwrap_or(id).into(),
            sandbox_id: "".into(),
            attempt: u32::try_from(status.restart_count).unwrap_or(0),
            state: State::Exited,
            started_at: ended.and_then(|t| t.started_at.as_ref()).or(began).map(|t| t.0),
            finished_at: Some(ended.and_then(|t| t.finished_at.as_ref()).map_or(now, |t| t.0)),
            exit_code: ended.map_or(137, |t| t.exit_code),
            reason: text(ended.and_then(|t| t.reason.as_ref()), "ContainerStatusUnknown"),
            message: text(
                ended.and_then(|t| t.message.as_ref()),
                if ended.is_some() {
                    ""
                } else {
                    "The container could not be located when the pod was terminated"
                },
            ),
            image: status.image.as_str().into(),
            image_ref: status.image_id.as_str().into(),
            spec_hash: spec_hash(spec),
            user: None,
            hook_done: true,
        });
        c.image = Image::Unknown;
    }
}
