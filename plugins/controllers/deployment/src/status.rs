//! `status` of a Deployment: counts, and the conditions Available, Progressing and ReplicaFailure.

use crate::model::{Deployment, REVISION, ReplicaSet, Rollout, Status};
use orlop_sdk::controller::{Condition, Failure, Plan, Write, now_text, parse_time};
use serde_json::{Value, json};

const PROGRESSING: &str = "Progressing";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

fn condition(now: i64, kind: &str, status: &str, reason: &str, message: String) -> Condition {
    let stamp = now_text(now);
    Condition {
        kind: kind.into(),
        status: status.into(),
        last_update_time: Some(stamp.clone()),
        last_transition_time: Some(stamp),
        reason: reason.into(),
        message,
        ..Condition::default()
    }
}

pub(crate) fn find<'s>(status: &'s Status, kind: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|c| c.kind == kind)
}

/// Keeps a condition of the same status and reason; keeps the time of transition with the same status.
fn set(status: &mut Status, mut new: Condition) {
    if let Some(known) = find(status, &new.kind) {
        if known.status == new.status && known.reason == new.reason {
            return;
        }
        if known.status == new.status {
            new.last_transition_time.clone_from(&known.last_transition_time);
        }
    }
    status.conditions.retain(|c| c.kind != new.kind);
    status.conditions.push(new);
}

/// Whether all pods are of the current template, and available.
pub(crate) fn is_complete(deployment: &Deployment, status: &Status) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

impl Rollout {
    /// Notes on the Deployment's own status, before the rollout goes on: paused, resumed, found, created, failed.
    pub(crate) fn note(&mut self, status: &str, reason: &str, message: String) {
        let new = condition(self.now, PROGRESSING, status, reason, message);
        set(&mut self.deployment.status, new);
    }

    /// Says on Progressing that the Deployment was paused or resumed.
    pub(crate) fn note_paused(&mut self) {
        if !self.has_progress_deadline() {
            return;
        }
        let known = find(&self.deployment.status, PROGRESSING).map(|c| c.reason.clone());
        if known.as_deref() == Some(TIMED_OUT) {
            return;
        }
        let was = known.as_deref() == Some("DeploymentPaused");
        let is = self.deployment.spec.paused;
        if is && !was {
            self.note("Unknown", "DeploymentPaused", "Deployment is paused".into());
        } else if !is && was {
            self.note("Unknown", "DeploymentResumed", "Deployment is resumed".into());
        }
    }

    /// Says on Progressing which set the rollout leads to.
    pub(crate) fn note_new_set(&mut self, created: bool) {
        if !self.has_progress_deadline() {
            return;
        }
        let Some(name) = self.new_set().map(|s| s.metadata.name.clone()) else { return };
        if created {
            self.note("True", "NewReplicaSetCreated", format!("Created new replica set {name:?}"));
        } else if find(&self.deployment.status, PROGRESSING).is_none() {
            self.note("True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"));
        }
    }

    pub(crate) fn note_failure(&mut self, name: &str, failure: &Failure) {
        if self.has_progress_deadline() {
            let message = format!("Failed to create new replica set {name:?}: {}", failure.message);
            self.note("False", "ReplicaSetCreateError", message);
        }
    }

    /// Counts and Available.
    pub(crate) fn counts(&self) -> Status {
        let existing = || self.sets.iter();
        let sum = |f: fn(&ReplicaSet) -> i64| existing().map(f).sum::<i64>();
        let available = sum(|s| s.status.available_replicas);
        let terminating: Vec<i64> = existing().filter_map(|s| s.status.terminating_replicas).collect();
        let mut status = Status {
            observed_generation: self.deployment.metadata.generation,
            replicas: sum(|s| s.status.replicas),
            updated_replicas: self.new_set().map_or(0, |s| s.status.replicas),
            ready_replicas: sum(|s| s.status.ready_replicas),
            available_replicas: available,
            unavailable_replicas: (sum(ReplicaSet::replicas) - available).max(0),
            terminating_replicas: (!terminating.is_empty()).then(|| terminating.iter().sum()),
            collision_count: self.deployment.status.collision_count,
            conditions: self.deployment.status.conditions.clone(),
        };
        let enough = available >= self.wanted() - self.max_unavailable();
        let (is, reason, message) = if enough {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        set(&mut status, condition(self.now, "Available", is, reason, message.into()));
        status
    }

    /// Counts, Available, Progressing and ReplicaFailure, of a Deployment that is rolled out.
    pub(crate) fn progress(&self) -> Status {
        let mut status = self.counts();
        let deployment = &self.deployment;
        let current = find(&deployment.status, PROGRESSING).cloned();
        if !self.has_progress_deadline() {
            status.conditions.retain(|c| c.kind != PROGRESSING);
        }
        let was_complete = status.replicas == status.updated_replicas
            && current.as_ref().is_some_and(|c| c.reason == COMPLETE);
        if self.has_progress_deadline() && !was_complete {
            let subject = match self.new_set() {
                Some(set) => format!("ReplicaSet {:?}", set.metadata.name),
                None => format!("Deployment {:?}", deployment.metadata.name),
            };
            if is_complete(deployment, &status) {
                let message = format!("{subject} has successfully progressed.");
                set(&mut status, condition(self.now, PROGRESSING, "True", COMPLETE, message));
            } else if self.has_progressed(&status) {
                let message = format!("{subject} is progressing.");
                let mut new = condition(self.now, PROGRESSING, "True", "ReplicaSetUpdated", message);
                if let Some(current) = current.filter(|c| c.status == "True") {
                    new.last_transition_time = current.last_transition_time;
                }
                // Written even where only its time of update differs: the deadline counts from there.
                status.conditions.retain(|c| c.kind != PROGRESSING);
                status.conditions.push(new);
            } else if self.has_timed_out(&status) {
                let message = format!("{subject} has timed out progressing.");
                set(&mut status, condition(self.now, PROGRESSING, "False", TIMED_OUT, message));
            }
        }
        match self.replica_failure() {
            Some(failure) => set(&mut status, failure),
            None => status.conditions.retain(|c| c.kind != "ReplicaFailure"),
        }
        status
    }

    fn has_progressed(&self, new: &Status) -> bool {
        let old = &self.deployment.status;
        new.updated_replicas > old.updated_replicas
            || new.replicas - new.updated_replicas < old.replicas - old.updated_replicas
            || new.ready_replicas > old.ready_replicas
            || new.available_replicas > old.available_replicas
    }

    /// Milliseconds until the deadline; negative after it. `None` where none counts.
    fn time_left(&self, progressing: Option<&Condition>) -> Option<i64> {
        let deadline =
            self.deployment.spec.progress_deadline_seconds.filter(|_| self.has_progress_deadline())?;
        let from = parse_time(progressing?.last_update_time.as_deref()?)?;
        Some(from + deadline * 1000 - self.now)
    }

    fn has_timed_out(&self, status: &Status) -> bool {
        let progressing = find(status, PROGRESSING);
        match progressing.map(|c| c.reason.as_str()) {
            None | Some(COMPLETE) => false,
            Some(TIMED_OUT) => true,
            Some(_) => self.time_left(progressing).is_some_and(|left| left < 0),
        }
    }

    /// The ReplicaFailure of the new set, or else of any.
    fn replica_failure(&self) -> Option<Condition> {
        let of =
            |set: &ReplicaSet| set.status.conditions.iter().find(|c| c.kind == "ReplicaFailure").cloned();
        let found = self.new_set().and_then(of).or_else(|| self.sets.iter().find_map(of))?;
        Some(Condition { last_update_time: found.last_transition_time.clone(), ..found })
    }

    /// Looks again when the deadline is over, while a rollout is on its way.
    pub(crate) fn look_again(&self, plan: &mut Plan, status: &Status) {
        let progressing = find(status, PROGRESSING);
        if is_complete(&self.deployment, status) || progressing.is_none_or(|c| c.reason == TIMED_OUT) {
            return;
        }
        if let Some(left) = self.time_left(progressing) {
            plan.look_again(left.max(0) + 1000);
        }
    }

    /// Writes of the Deployment itself: its status, then the number of its revision.
    pub(crate) fn report(&self, before: &Status, after: &Status) -> Vec<Write> {
        let meta = &self.deployment.metadata;
        let mut writes = Vec::new();
        if before != after {
            let unless_zero = |n: i64| if n == 0 { Value::Null } else { json!(n) };
            let body = json!({"status": {
                "observedGeneration": after.observed_generation,
                "replicas": unless_zero(after.replicas),
                "updatedReplicas": unless_zero(after.updated_replicas),
                "readyReplicas": unless_zero(after.ready_replicas),
                "availableReplicas": unless_zero(after.available_replicas),
                "unavailableReplicas": unless_zero(after.unavailable_replicas),
                "terminatingReplicas": after.terminating_replicas,
                "collisionCount": after.collision_count,
                "conditions": after.conditions,
            }});
            let write =
                Write::patch("apps/v1", "deployments", meta, body).subresource("status").at_revision(meta);
            writes.push(write);
        }
        let revision = self.new_set().and_then(|s| s.annotation(REVISION));
        if let Some(revision) = revision
            && meta.annotations.get(REVISION).map(String::as_str) != Some(revision)
        {
            let body = json!({"metadata": {"annotations": {REVISION: revision}}});
            writes.push(Write::patch("apps/v1", "deployments", meta, body));
        }
        writes
    }
}
