//! Begins what [`decide`](super::super::decide::decide) says: marks it in the model, and hands the work to the worker's operations.

use super::{Worker, after};
use crate::events::Severity;
use crate::pod::actions::{self, KillInputs, Outcome, StartInputs};
use crate::pod::decide::{Action, Why};
use crate::pod::model::{Farewell, Image, Op, SandboxOp, State, StopKind, Volumes};
use jiff::Timestamp;

impl Worker {
    /// Starts an action and marks it in the model. Returns whether it did anything.
    pub(super) fn apply(&mut self, action: &Action, now: Timestamp) -> bool {
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

    pub(super) fn kill(&mut self, at: usize, deadline: Timestamp, why: Why) -> bool {
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
}
