//! A Deployment and its ReplicaSets, and the changes that a plan will make to them.

use orlop_sdk::controller::{Condition, Event, Meta, Object, OwnerReference, Write};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    pub(crate) replicas: Option<i64>,
    pub(crate) selector: Value,
    pub(crate) template: Value,
    pub(crate) strategy: Strategy,
    pub(crate) min_ready_seconds: i64,
    pub(crate) revision_history_limit: Option<i64>,
    pub(crate) paused: bool,
    pub(crate) progress_deadline_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Strategy {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) rolling_update: Option<RollingUpdate>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RollingUpdate {
    pub(crate) max_surge: Value,
    pub(crate) max_unavailable: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(crate) observed_generation: i64,
    pub(crate) replicas: i64,
    pub(crate) updated_replicas: i64,
    pub(crate) ready_replicas: i64,
    pub(crate) available_replicas: i64,
    pub(crate) unavailable_replicas: i64,
    pub(crate) terminating_replicas: Option<i64>,
    pub(crate) collision_count: Option<i64>,
    pub(crate) conditions: Vec<Condition>,
}

pub(crate) type Deployment = Object<Spec, Status>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SetSpec {
    pub(crate) replicas: Option<i64>,
    pub(crate) min_ready_seconds: i64,
    pub(crate) template: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SetStatus {
    pub(crate) replicas: i64,
    pub(crate) ready_replicas: i64,
    pub(crate) available_replicas: i64,
    pub(crate) terminating_replicas: Option<i64>,
    pub(crate) observed_generation: i64,
    pub(crate) conditions: Vec<Condition>,
}

/// A ReplicaSet as it will be after the plan.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReplicaSet {
    pub(crate) metadata: Meta,
    pub(crate) spec: SetSpec,
    pub(crate) status: SetStatus,
    #[serde(skip)]
    changes: Changes,
}

/// What the plan writes to a ReplicaSet.
#[derive(Clone, Debug, Default)]
struct Changes {
    annotations: Map<String, Value>,
    spec: Map<String, Value>,
    adopt: bool,
    create: Option<Value>,
    delete: bool,
    events: Vec<Event>,
}

impl ReplicaSet {
    /// One that does not exist yet.
    pub(crate) fn new(metadata: Meta, spec: SetSpec, body: Value) -> Self {
        let changes = Changes { create: Some(body), ..Changes::default() };
        Self { metadata, spec, status: SetStatus::default(), changes }
    }

    pub(crate) fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1)
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.get(key).map(String::as_str)
    }

    pub(crate) fn annotation_number(&self, key: &str) -> Option<i64> {
        self.annotation(key)?.parse().ok()
    }

    pub(crate) fn revision(&self) -> i64 {
        self.annotation_number(REVISION).unwrap_or(0)
    }

    pub(crate) fn adopt(&mut self) {
        self.changes.adopt = true;
    }

    pub(crate) const fn delete(&mut self) {
        self.changes.delete = true;
    }

    /// Whether the value changed.
    pub(crate) fn annotate(&mut self, key: &str, value: &str) -> bool {
        if self.annotation(key) == Some(value) {
            return false;
        }
        self.metadata.annotations.insert(key.into(), value.into());
        self.changes.annotations.insert(key.into(), json!(value));
        true
    }

    pub(crate) fn set_replicas(&mut self, replicas: i64) {
        self.spec.replicas = Some(replicas);
        self.changes.spec.insert("replicas".into(), json!(replicas));
    }

    pub(crate) fn set_min_ready_seconds(&mut self, seconds: i64) {
        if self.spec.min_ready_seconds != seconds {
            self.spec.min_ready_seconds = seconds;
            self.changes.spec.insert("minReadySeconds".into(), json!(seconds));
        }
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.changes.events.push(event);
    }

    /// The writes, in the order in which they must happen.
    pub(crate) fn into_writes(self, owner: &Meta) -> Vec<Write> {
        let Self { metadata, spec, changes, .. } = self;
        let mut events = changes.events.into_iter();
        if let Some(mut body) = changes.create {
            body["spec"]["replicas"] = json!(spec.replicas);
            body["metadata"]["annotations"] = json!(metadata.annotations);
            let name = &metadata.name;
            let failed = format!("Failed to create new replica set {name:?}: {{error}}");
            let create = Write::create("apps/v1", "replicasets", &metadata.namespace, body)
                .or_else(Event::warning("ReplicaSetCreateError", failed));
            let create = match events.next() {
                Some(event) => create.then(event),
                None => create,
            };
            return std::iter::once(create).chain(events.map(Write::event)).collect();
        }
        if changes.delete {
            return vec![Write::delete("apps/v1", "replicasets", &metadata).at_revision(&metadata)];
        }
        let mut patch = json!({});
        if changes.adopt {
            let mut references = metadata.owner_references.clone();
            references.push(OwnerReference::controller_of("apps/v1", "Deployment", owner));
            patch["metadata"]["ownerReferences"] = json!(references);
        }
        if !changes.annotations.is_empty() {
            patch["metadata"]["annotations"] = Value::Object(changes.annotations);
        }
        if !changes.spec.is_empty() {
            patch["spec"] = Value::Object(changes.spec);
        }
        if patch.as_object().is_none_or(Map::is_empty) {
            return events.map(Write::event).collect();
        }
        let write = Write::patch("apps/v1", "replicasets", &metadata, patch).at_revision(&metadata);
        let write = match events.next() {
            Some(event) => write.then(event),
            None => write,
        };
        std::iter::once(write).chain(events.map(Write::event)).collect()
    }
}

/// The state that a plan is made on.
pub(crate) struct Rollout {
    pub(crate) deployment: Deployment,
    /// By age, then name.
    pub(crate) sets: Vec<ReplicaSet>,
    /// Index of the set with the current template.
    pub(crate) new: Option<usize>,
    pub(crate) now: i64,
}

impl Rollout {
    pub(crate) fn wanted(&self) -> i64 {
        self.deployment.spec.replicas.unwrap_or(1)
    }

    pub(crate) fn is_rolling(&self) -> bool {
        self.deployment.spec.strategy.kind != "Recreate"
    }

    pub(crate) fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.and_then(|at| self.sets.get(at))
    }

    pub(crate) fn new_set_mut(&mut self) -> Option<&mut ReplicaSet> {
        self.new.and_then(|at| self.sets.get_mut(at))
    }

    /// Indexes of the sets with other templates.
    pub(crate) fn old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|at| Some(*at) != self.new).collect()
    }

    /// Those of `at` that shall have pods.
    pub(crate) fn active(&self, at: Vec<usize>) -> Vec<usize> {
        at.into_iter().filter(|i| self.replicas(*i) > 0).collect()
    }

    pub(crate) fn replicas(&self, at: usize) -> i64 {
        self.sets.get(at).map_or(0, ReplicaSet::replicas)
    }

    /// Pods that the sets shall have together.
    pub(crate) fn total(&self, at: &[usize]) -> i64 {
        at.iter().map(|i| self.replicas(*i)).sum()
    }

    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.sets.len()).collect()
    }

    pub(crate) fn max_surge(&self) -> i64 {
        if self.is_rolling() { self.fenceposts().0 } else { 0 }
    }

    pub(crate) fn max_unavailable(&self) -> i64 {
        if !self.is_rolling() || self.wanted() == 0 { 0 } else { self.fenceposts().1.min(self.wanted()) }
    }

    /// Surge is rounded up, unavailability down; where both are 0, one pod may be unavailable, or
    /// nothing could ever move.
    fn fenceposts(&self) -> (i64, i64) {
        let (surge, unavailable) = match &self.deployment.spec.strategy.rolling_update {
            Some(r) => (&r.max_surge, &r.max_unavailable),
            None => (&Value::Null, &Value::Null),
        };
        let wanted = self.wanted();
        let surge = resolve(surge, wanted, true);
        let unavailable = resolve(unavailable, wanted, false);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    pub(crate) fn has_progress_deadline(&self) -> bool {
        self.deployment.spec.progress_deadline_seconds.is_some_and(|s| s != i64::from(i32::MAX))
    }
}

/// A number, or a percentage of `total`; what is absent is upstream's default of 25 %.
fn resolve(value: &Value, total: i64, up: bool) -> i64 {
    let percent = match value {
        Value::Number(n) => return n.as_i64().unwrap_or(0).max(0),
        Value::String(text) => text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).unwrap_or(0),
        _ => 25,
    };
    let whole = total * percent;
    if up { whole.div_euclid(100) + i64::from(whole.rem_euclid(100) > 0) } else { whole.div_euclid(100) }
}
