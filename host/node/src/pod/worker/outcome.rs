//! How operations that ended change the model.

use super::*;

impl Worker {
    pub(super) fn take_outcome(&mut self, outcome: Outcome, now: Timestamp) {
        match outcome {
            Outcome::Volumes(result) => self.volumes_done(result, now),
            Outcome::Refreshed(result) => {
                self.refreshing = false;
                self.plan_refresh(now);
                match result {
                    Ok(mounted) => self.mounted = Arc::new(mounted),
                    Err(e) => {
                        self.refresh_at = self.refresh_at.min(after(now, 30));
                        self.warn("FailedMount", &e.message);
                    }
                }
            }
            Outcome::Unmounted(result) => {
                self.model.volumes = match result {
                    Ok(()) => Volumes::Gone,
                    Err(error) => {
                        tracing::warn!(namespace = self.model.namespace(), name = self.model.name(), %error, "volumes could not be removed");
                        Volumes::Stuck { retry_at: now.saturating_add(RETRY).unwrap_or(now) }
                    }
                };
            }
            Outcome::Sandbox { attempt, result } => self.sandbox_done(attempt, result, now),
            Outcome::SandboxStopped(result) => {
                self.model.sandbox_op = None;
                self.model.sandbox_retry_at = None;
                match (result, &mut self.model.sandbox) {
                    (Ok(()), Some(sandbox)) => {
                        sandbox.ready = false;
                        sandbox.stopped = true;
                    }
                    (Err(e), _) => {
                        self.model.sandbox_retry_at = Some(now.saturating_add(RETRY).unwrap_or(now));
                        self.warn(
                            "FailedKillPod",
                            &format!("error killing pod: failed to stop sandbox: {}", chain(&e)),
                        );
                    }
                    (Ok(()), None) => {}
                }
            }
            Outcome::SandboxRemoved { id, result } => match result {
                Ok(()) => self.model.dead_sandboxes.retain(|(dead, _)| *dead != id),
                Err(_) => {
                    for (dead, busy) in &mut self.model.dead_sandboxes {
                        *busy &= *dead != id;
                    }
                }
            },
            Outcome::SandboxSeen { id, result } => {
                let ready = match result {
                    Ok(status) => actions::sandbox_ready(&status),
                    Err(e) if e.is_not_found() => false,
                    Err(_) => return,
                };
                if let Some(sandbox) = self.model.sandbox.as_mut().filter(|s| s.id == id)
                    && !ready
                {
                    sandbox.ready = false;
                }
            }
            Outcome::Image { at, result } => self.image_done(at, result, now),
            Outcome::Started { at, result } => self.started(at, result, now),
            Outcome::Hook { at, id, result } => self.hook_done(at, &id, result, now),
            Outcome::Killed { at, id, result } => {
                let gone = matches!(result, Ok(None));
                match result {
                    Ok(Some(instance)) => self.observe(at, instance, now),
                    Ok(None) => {}
                    Err(e) => {
                        let error = chain(&e);
                        tracing::warn!(
                            namespace = self.model.namespace(),
                            name = self.model.name(),
                            error,
                            "a container could not be stopped"
                        );
                    }
                }
                if let Some(c) = self.model.containers.get_mut(at) {
                    if gone {
                        c.forget(&id);
                    }
                    let exited = c.current.as_ref().is_none_or(|i| i.id != id || i.state == State::Exited);
                    if exited || matches!(c.op, Some(Op::Killing { .. })) {
                        c.op = None;
                    }
                }
            }
            Outcome::Seen { id, result } => match result {
                Ok((name, instance)) => {
                    if let Some(at) = self.model.position(&name) {
                        self.observe(at, instance, now);
                    }
                }
                Err(e) if e.is_not_found() => {
                    if let Some(at) = self.model.position_of_id(&id)
                        && let Some(c) = self.model.containers.get_mut(at)
                    {
                        c.forget(&id);
                    }
                }
                Err(e) => {
                    let error = chain(&e);
                    tracing::warn!(
                        namespace = self.model.namespace(),
                        name = self.model.name(),
                        error,
                        "a container's status could not be read"
                    );
                }
            },
            Outcome::Removed { at, id, result } => {
                if let Some(c) = self.model.containers.get_mut(at) {
                    match result {
                        Ok(()) => c.forget(&id),
                        Err(_) => c.dead.iter_mut().for_each(|(dead, busy)| *busy &= *dead != id),
                    }
                }
            }
            Outcome::Probed { at, kind, id, answer } => self.probed(at, kind, &id, &answer, now),
            Outcome::StatusSent(result) => self.status_sent(result, now),
            Outcome::Forgotten(result) => match result {
                Ok(()) => self.model.farewell = Farewell::Done,
                Err(error) => {
                    tracing::warn!(
                        namespace = self.model.namespace(),
                        name = self.model.name(),
                        error,
                        "a pod could not be deleted from the API"
                    );
                    self.model.farewell = Farewell::Open;
                    self.model.sandbox_retry_at = Some(now.saturating_add(RETRY).unwrap_or(now));
                }
            },
        }
    }

    fn warn(&self, reason: &'static str, message: &str) {
        self.shared.event(&self.model.pod, &self.model.uid, None, Severity::Warning, reason, message);
    }

    fn volumes_done(&mut self, result: Result<Mounted, crate::volumes::VolumeError>, now: Timestamp) {
        match result {
            Ok(mounted) => {
                self.mounted = Arc::new(mounted);
                self.model.volumes = Volumes::Ready;
                self.plan_refresh(now);
            }
            Err(e) => {
                self.warn("FailedMount", &e.message);
                // As upstream: half a second, doubling to two minutes; a change of what is missing
                // ends the wait at once.
                self.volume_tries = (self.volume_tries + 1).min(8);
                let wait = SignedDuration::from_millis((500_i64 << self.volume_tries).min(122_000));
                self.model.volumes = Volumes::Failed { retry_at: now.saturating_add(wait).unwrap_or(now) };
            }
        }
    }

    fn sandbox_done(
        &mut self,
        attempt: u32,
        result: Result<orlop_container::cri::PodSandboxStatus, orlop_container::RuntimeError>,
        now: Timestamp,
    ) {
        self.model.sandbox_op = None;
        match result {
            Ok(status) => {
                self.model.sandbox_retry_at = None;
                let fresh = Sandbox {
                    ready: actions::sandbox_ready(&status),
                    stopped: false,
                    attempt,
                    ips: status.ips,
                    id: status.id.into(),
                };
                if let Some(old) = self.model.sandbox.replace(fresh) {
                    self.model.dead_sandboxes.push((old.id, false));
                }
            }
            Err(e) => {
                let message = format!("Failed to create pod sandbox: {}", chain(&e));
                self.warn("FailedCreatePodSandBox", &message);
                self.model.sandbox_retry_at = Some(now.saturating_add(RETRY).unwrap_or(now));
            }
        }
    }

    fn image_done(
        &mut self,
        at: usize,
        result: Result<Box<str>, crate::images::ImageFailure>,
        now: Timestamp,
    ) {
        let Some(c) = self.model.containers.get_mut(at) else { return };
        if !matches!(c.image, Image::Busy(_)) {
            return;
        }
        c.image = match result {
            Ok(reference) => {
                c.pull_failure = None;
                Image::Present(reference)
            }
            Err(f) if f.retry && f.reason != "ErrImageNeverPull" => {
                c.pull_backoff.next(now, now);
                c.pull_failure = Some((now, format!("{}: {}", f.reason, f.message).into()));
                let soon = now.saturating_add(SignedDuration::from_secs(1)).unwrap_or(now);
                Image::Failed { reason: f.reason, message: f.message.into(), retry_at: Some(soon) }
            }
            Err(f) => Image::Failed {
                reason: f.reason,
                message: f.message.into(),
                retry_at: f.retry.then(|| now.saturating_add(RETRY).unwrap_or(now)),
            },
        };
    }

    fn started(&mut self, at: usize, result: Result<Instance, StartError>, now: Timestamp) {
        let Some(c) = self.model.containers.get_mut(at) else { return };
        if c.op == Some(Op::Starting) {
            c.op = None;
        }
        match result {
            Ok(instance) => {
                c.start_failure = None;
                let hook =
                    (!instance.hook_done && instance.state == State::Running).then(|| instance.id.clone());
                let (role, index) = (c.role, c.index);
                self.observe(at, instance, now);
                if let Some(id) = hook {
                    let (shared, pod, ip) = (self.shared.clone(), self.model.pod.clone(), self.ip());
                    self.ops.push(Box::pin(actions::post_start(shared, pod, at, role, index, id, ip)));
                }
            }
            Err(e) => {
                let about_role = c.role;
                // A container that was made and did not start counts as a crash; one that could
                // not be made is tried again by itself.
                let retry_at =
                    if e.instance.is_some() { now } else { now.saturating_add(RETRY).unwrap_or(now) };
                let repeated = c.start_failure.as_ref().is_some_and(|f| f.message.as_ref() == e.message);
                c.start_failure =
                    Some(StartFailure { reason: e.reason, message: e.message.as_str().into(), retry_at });
                let name = self.model.container_spec(at).map(|s| s.name.clone()).unwrap_or_default();
                if !repeated || e.reason != "CreateContainerConfigError" {
                    self.shared.event(
                        &self.model.pod,
                        &self.model.uid,
                        Some((about_role, &name)),
                        Severity::Warning,
                        "Failed",
                        format!("Error: {}", e.message),
                    );
                }
                if let Some(instance) = e.instance {
                    self.observe(at, instance, now);
                }
            }
        }
    }

    fn hook_done(&mut self, at: usize, id: &str, result: Result<(), String>, now: Timestamp) {
        let name = self.model.container_spec(at).map(|s| s.name.clone()).unwrap_or_default();
        let Some(c) = self.model.containers.get_mut(at) else { return };
        let Some(current) = c.current.as_mut().filter(|i| i.id.as_ref() == id) else { return };
        current.hook_done = true;
        if let Err(why) = result {
            tracing::debug!(
                namespace = self.model.pod.metadata.namespace,
                name = self.model.pod.metadata.name,
                error = why,
                "postStart hook failed"
            );
            let about = Some((c.role, name.as_str()));
            let (pod, uid) = (&self.model.pod, &self.model.uid);
            self.shared.event(
                pod,
                uid,
                about,
                Severity::Warning,
                "FailedPostStartHook",
                "PostStartHook failed",
            );
            if c.op.is_none() && c.is_live() {
                let deadline = after(now, self.model.grace());
                self.kill(at, deadline, Why::PodEnds);
            }
        }
    }

    /// Takes in a state of a container, and says so where it now waits to be restarted.
    fn observe(&mut self, at: usize, instance: Instance, now: Timestamp) {
        let Some(spec) = self.model.container_spec(at).cloned() else { return };
        let Some(c) = self.model.containers.get_mut(at) else { return };
        c.observe(instance, &spec);
        let waits = super::super::decide::backoff_until(c, now).is_some();
        let stopping = self.model.stop.is_some();
        if waits && !stopping {
            let Some(c) = self.model.containers.get(at) else { return };
            if super::super::decide::restarts(&self.model, &spec, c) {
                let pod_name =
                    format!("{}_{}({})", self.model.name(), self.model.namespace(), self.model.uid);
                let message = format!("Back-off restarting failed container {} in pod {pod_name}", spec.name);
                let about = Some((c.role, spec.name.as_str()));
                let (pod, uid) = (&self.model.pod, &self.model.uid);
                self.shared.event(pod, uid, about, Severity::Warning, "BackOff", message);
                tracing::debug!(
                    namespace = self.model.namespace(),
                    name = self.model.name(),
                    message = crash_loop_message(&self.model, c, &spec.name),
                    phase = phase(&self.model).as_str(),
                    "container waits to be restarted"
                );
            }
        }
    }

    fn probed(&mut self, at: usize, kind: ProbeKind, id: &str, answer: &Answer, now: Timestamp) {
        let Some(spec) = self.model.container_spec(at).cloned() else { return };
        let Some(state) =
            self.probes.iter_mut().find(|p| p.at == at && p.kind == kind && p.container_id.as_ref() == id)
        else {
            return;
        };
        let Some(probe) = kind.of(&spec) else { return };
        let Some(c) = self.model.containers.get_mut(at) else { return };
        let verdict = state.answer(probe, answer, c.health.ready, now);
        match (verdict.result, kind) {
            (Some(true), ProbeKind::Startup) => c.health.started = true,
            (Some(ok), ProbeKind::Readiness) => c.health.ready = ok,
            (Some(false), _) => c.health.failed = state.failed(),
            _ => {}
        }
        if let Some(message) = verdict.event {
            let about = Some((c.role, spec.name.as_str()));
            let (pod, uid) = (&self.model.pod, &self.model.uid);
            self.shared.event(pod, uid, about, Severity::Warning, "Unhealthy", message);
        }
    }

    fn status_sent(
        &mut self,
        result: Result<Arc<orlop_apimachinery::Object>, orlop_client::ApiError>,
        now: Timestamp,
    ) {
        self.status_busy = false;
        match result {
            Ok(object) => {
                let resource_version = object.meta().resource_version;
                match (object.parse::<Pod>(), &mut self.api) {
                    (Ok(pod), Some(api)) if api.resource_version < resource_version => {
                        api.resource_version = resource_version;
                        api.status = pod.status.unwrap_or_default();
                    }
                    (Err(error), _) => {
                        tracing::warn!(namespace = self.model.namespace(), name = self.model.name(), %error, "the API answered a status with something else");
                        self.status_at = Some(now.saturating_add(RETRY).unwrap_or(now));
                    }
                    _ => {}
                }
            }
            // Where the object is gone, or another has its name, the source will say so.
            Err(e) => {
                let error = chain(&e);
                tracing::debug!(
                    namespace = self.model.namespace(),
                    name = self.model.name(),
                    error,
                    "a pod status could not be written"
                );
                let wait = SignedDuration::from_secs(2);
                self.status_at = Some(now.saturating_add(wait).unwrap_or(now));
            }
        }
    }
}
