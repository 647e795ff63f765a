//! One pod at a time: choose a node, account, bind.

use super::{Engine, State, draw};
use crate::action::{Action, BindResult};
use crate::framework::EventSet;
use crate::pod::{PodFacts, ScheduledCondition, Uid};
use crate::table::Slot;
use std::sync::Arc;
use std::time::Instant;

impl Engine {
    /// Schedules the next pod. `false` where there is none now.
    pub fn cycle(&mut self, now: Instant) -> bool {
        let Some(uid) = self.queue.pop(now) else { return false };
        let Some(pod) = self.pods.get(&uid) else {
            self.queue.remove(&uid);
            return true;
        };
        let Some((at, def)) = pod.class.clone() else {
            let (object, facts) = (pod.object.clone(), PodFacts::from_object(&pod.object));
            self.unplaced(&uid, &object, facts, now);
            self.queue.retry_later(&uid, now);
            return true;
        };
        let never_preempts = pod.never_preempts;
        let Some(profile) = self.profiles.get_mut(at) else { return true };
        let id = profile.open(&def);
        let decided = profile.evaluate(id, &self.table, now).and_then(|()| {
            let slot = profile.class(id).and_then(|class| class.choose(draw(self.seed, &uid)));
            match slot {
                Some(slot) => Ok(Ok(slot)),
                None => profile.explain(id, &self.table, now).map(Err),
            }
        });
        match decided {
            Ok(Ok(slot)) => self.assume(&uid, slot),
            Ok(Err(unfit)) => {
                self.queue.unschedulable(&uid, unfit.events, now);
                self.failed(&uid, "Unschedulable", unfit.message(never_preempts).into());
            }
            Err(failed) => {
                self.queue.retry_later(&uid, now);
                self.failed(&uid, "SchedulerError", failed.message.into());
            }
        }
        true
    }

    fn assume(&mut self, uid: &Uid, slot: Slot) {
        let (Some(pod), Some(node)) = (self.pods.get_mut(uid), self.table.name(slot).cloned()) else {
            return;
        };
        self.table.add_pod_at(slot, &pod.footprint);
        pod.state = State::Assumed(slot);
        self.in_flight += 1;
        self.actions.push(Action::Bind { pod: pod.reference(uid), node });
    }

    /// A binding ended.
    pub fn bound(&mut self, uid: &Uid, node: &str, result: BindResult, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(pod) = self.pods.get_mut(uid) else { return };
        match result {
            BindResult::Bound => {
                self.queue.remove(uid);
                let message = format!("Successfully assigned {}/{} to {node}", pod.key.0, pod.key.1);
                let pod = pod.reference(uid);
                let (reason, action) = ("Scheduled", "Binding");
                self.actions.push(Action::Event {
                    pod,
                    normal: true,
                    reason,
                    action,
                    message: message.into(),
                });
            }
            BindResult::Failed(error) => {
                let State::Assumed(slot) = pod.state else { return };
                pod.state = State::Waiting;
                self.table.remove_pod(slot, &pod.footprint);
                let (object, facts) = (pod.object.clone(), PodFacts::from_object(&pod.object));
                self.unplaced(uid, &object, facts, now);
                self.queue.retry_later(uid, now);
                self.queue.event(EventSet::POD_DELETE, now);
                let message = format!("binding rejected: running Bind plugin \"DefaultBinder\": {error}");
                self.failed(uid, "SchedulerError", message.into());
            }
            BindResult::Gone => {
                let State::Assumed(_) = pod.state else { return };
                self.forget(uid, now);
            }
        }
    }

    fn failed(&mut self, uid: &Uid, reason: &'static str, message: Arc<str>) {
        let Some(pod) = self.pods.get(uid) else { return };
        let (name, action) = ("FailedScheduling", "Scheduling");
        let pod = pod.reference(uid);
        self.actions.push(Action::Event {
            pod,
            normal: false,
            reason: name,
            action,
            message: message.clone(),
        });
        self.condition(uid, reason, message);
    }

    /// Asks for the condition PodScheduled=False where the API server does not have it.
    pub(super) fn condition(&mut self, uid: &Uid, reason: &'static str, message: Arc<str>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let wanted = ScheduledCondition {
            status: "False".to_owned(),
            reason: reason.to_owned(),
            message: message.to_string(),
        };
        if pod.condition.as_ref() != Some(&wanted) {
            pod.condition = Some(wanted);
            let pod = pod.reference(uid);
            self.actions.push(Action::Condition { pod, reason, message });
        }
    }
}
