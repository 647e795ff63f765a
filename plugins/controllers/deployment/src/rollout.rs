//! One step of a rollout: which sets belong to the Deployment, what to resize, create and clean up.

use crate::model::{Deployment, ReplicaSet, Rollout};
use crate::revision;
use crate::status::is_complete;
use orlop_sdk::apimachinery::Selector;
use orlop_sdk::controller::{Event, Item, Meta, OwnerReference, Plan, Write};
use serde::Deserialize;
use serde_json::{Value, json};

/// A name that was taken is tried so often before the hash is changed, because the set that has it
/// may be our own and not be visible yet.
const COLLISION_ATTEMPTS: u32 = 3;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pod {
    metadata: Meta,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
}

/// The plan for one Deployment.
pub(crate) fn reconcile(item: &Item<'_>, now: i64) -> Result<Plan, String> {
    let Some(deployment) = item.object::<Deployment>()? else { return Ok(Plan::default()) };
    if selects_all(&deployment.spec.selector) {
        return Ok(refuse_to_select_all(&deployment));
    }
    let selector = Selector::from_label_selector(&deployment.spec.selector).map_err(|e| e.to_string())?;
    let mut plan = Plan::default();
    let deleting = deployment.metadata.is_being_deleted();
    let matches = |set: &ReplicaSet| selector.matches(&set.metadata.label_pairs());
    let mut sets = Vec::new();
    for set in item.input::<ReplicaSet>("replicaSets")? {
        if matches(&set) {
            sets.push(set);
        } else if !deleting && !set.metadata.is_being_deleted() {
            plan.writes.push(release(&deployment.metadata, &set.metadata));
        }
    }
    if !deleting {
        for mut set in item.input::<ReplicaSet>("orphans")? {
            if matches(&set) && !set.metadata.is_being_deleted() {
                set.adopt();
                sets.push(set);
            }
        }
    }
    sets.sort_by(|a, b| {
        (a.metadata.created(), &a.metadata.name).cmp(&(b.metadata.created(), &b.metadata.name))
    });
    let new = revision::find(&deployment, &sets);
    let before = deployment.status.clone();
    let mut rollout = Rollout { deployment, sets, new, now };

    let after = if deleting {
        rollout.counts()
    } else {
        let pods: Vec<Pod> = item.input("pods")?;
        rollout.step(item, &pods)
    };
    let failed = item.failure.as_ref().is_some_and(|f| f.resource == "replicasets");
    let report = rollout.report(&before, &after);
    rollout.look_again(&mut plan, &after);
    let owner = rollout.deployment.metadata.clone();
    let changes = rollout.sets.into_iter().flat_map(|set| set.into_writes(&owner));
    // A failure is reported before it may happen again; else what is done comes first.
    if failed {
        plan.writes.extend(report);
        plan.writes.extend(changes);
    } else {
        plan.writes.extend(changes);
        plan.writes.extend(report);
    }
    Ok(plan)
}

fn selects_all(selector: &Value) -> bool {
    let empty = |field: &str| match selector.get(field) {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => true,
    };
    empty("matchLabels") && empty("matchExpressions")
}

fn refuse_to_select_all(deployment: &Deployment) -> Plan {
    let message = "This deployment is selecting all pods. A non-empty selector is required.";
    let mut writes = vec![Write::event(Event::warning("SelectingAll", message))];
    let meta = &deployment.metadata;
    if deployment.status.observed_generation < meta.generation {
        let body = json!({"status": {"observedGeneration": meta.generation}});
        writes
            .push(Write::patch("apps/v1", "deployments", meta, body).subresource("status").at_revision(meta));
    }
    Plan::writes(writes)
}

fn release(owner: &Meta, set: &Meta) -> Write {
    let rest: Vec<&OwnerReference> = set.owner_references.iter().filter(|r| r.uid != owner.uid).collect();
    let references = if rest.is_empty() { Value::Null } else { json!(rest) };
    Write::patch("apps/v1", "replicasets", set, json!({"metadata": {"ownerReferences": references}}))
        .at_revision(set)
        .ignoring("NotFound")
}

impl Rollout {
    fn step(&mut self, item: &Item<'_>, pods: &[Pod]) -> crate::model::Status {
        self.note_paused();
        self.sync_new_set();
        self.note_new_set(false);
        let paused = self.deployment.spec.paused;
        if paused || self.is_scaling() {
            self.scale();
            if paused {
                self.clean_up();
            }
            return self.counts();
        }
        if self.is_rolling() {
            self.ensure_new_set(item);
            if !self.resize_new()
                && !self.resize_old()
                && is_complete(&self.deployment, &self.deployment.status)
            {
                self.clean_up();
            }
        } else {
            self.recreate(item, pods);
        }
        self.progress()
    }

    /// Stops all old pods, waits for their end, then starts the new ones.
    fn recreate(&mut self, item: &Item<'_>, pods: &[Pod]) {
        let mut stopped = false;
        for at in self.active(self.old()) {
            stopped |= self.resize(at, 0);
        }
        if stopped || self.old_pods_run(pods) {
            return;
        }
        self.ensure_new_set(item);
        if let Some(at) = self.new {
            let wanted = self.wanted();
            if self.replicas(at) != wanted {
                self.resize(at, wanted);
            }
        }
        if is_complete(&self.deployment, &self.deployment.status) {
            self.clean_up();
        }
    }

    fn old_pods_run(&self, pods: &[Pod]) -> bool {
        let old = self.old();
        if old.iter().filter_map(|at| self.sets.get(*at)).any(|s| s.status.replicas > 0) {
            return true;
        }
        let new = self.new_set().map(|s| s.metadata.uid.as_str());
        pods.iter()
            .filter(|p| !matches!(p.status.phase.as_str(), "Succeeded" | "Failed"))
            .filter_map(|p| p.metadata.controller())
            .any(|owner| Some(owner.uid.as_str()) != new)
    }

    fn ensure_new_set(&mut self, item: &Item<'_>) {
        if self.new.is_some() {
            return;
        }
        let failure = item.failure.as_ref().filter(|f| f.op == "create" && f.resource == "replicasets");
        let taken = failure.is_some_and(|f| f.reason == "AlreadyExists");
        if taken && item.attempt >= COLLISION_ATTEMPTS {
            let count = self.deployment.status.collision_count.unwrap_or(0) + 1;
            self.deployment.status.collision_count = Some(count);
        }
        self.create_new_set();
        match failure {
            Some(failure) if !taken => {
                let name = self.new_set().map(|s| s.metadata.name.clone()).unwrap_or_default();
                self.note_failure(&name, failure);
            }
            _ => self.note_new_set(true),
        }
    }

    /// Deletes the oldest sets without pods beyond the history limit.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.revision_history_limit.filter(|l| *l != i64::from(i32::MAX))
        else {
            return;
        };
        let mut old: Vec<usize> = self.old();
        old.retain(|at| self.sets.get(*at).is_some_and(|s| !s.metadata.is_being_deleted()));
        let surplus = i64::try_from(old.len()).unwrap_or(i64::MAX) - limit;
        // They are sorted by age already, and sorting is stable.
        old.sort_by_key(|at| self.sets.get(*at).map_or(0, ReplicaSet::revision));
        for at in old.into_iter().take(usize::try_from(surplus).unwrap_or(0)) {
            let Some(set) = self.sets.get_mut(at) else { continue };
            let settled = set.metadata.generation <= set.status.observed_generation;
            if set.status.replicas == 0 && set.replicas() == 0 && settled {
                set.delete();
            }
        }
    }
}
