//! Adopts, releases, creates and deletes pods, and reports.
//!
//! Pure: the same item at the same time gives the same plan. Repeating any part of a plan changes
//! nothing, because every write names the uid it was decided on, and creations are counted against the pods
//! that exist.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/replicaset`.

use super::ranking;
use orlop_sdk::apimachinery::Selector;
use orlop_sdk::controller::{
    Condition, Event, Failure, Item, Meta, Object, OwnerReference, Plan, Write, now_text, parse_time,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Most creations or deletions of one plan; upstream's `BurstReplicas`.
const BURST: usize = 500;

/// What differs between ReplicaSets and ReplicationControllers.
pub(crate) struct Flavor {
    pub(crate) api_version: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) selector: fn(&Value) -> Result<Selector, String>,
    pub(crate) terminating_replicas: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    replicas: Option<i64>,
    min_ready_seconds: i64,
    selector: Value,
    template: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    replicas: i64,
    fully_labeled_replicas: i64,
    ready_replicas: i64,
    available_replicas: i64,
    terminating_replicas: Option<i64>,
    observed_generation: i64,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Meta,
    pub(crate) spec: PodSpec,
    pub(crate) status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub(crate) node_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub(crate) phase: String,
    pub(crate) conditions: Vec<PodCondition>,
    pub(crate) container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodCondition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) last_transition_time: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerStatus {
    pub(crate) restart_count: i64,
}

impl Pod {
    fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    pub(crate) fn is_active(&self) -> bool {
        !self.is_over() && !self.metadata.is_being_deleted()
    }

    pub(crate) fn ready_condition(&self) -> Option<&PodCondition> {
        self.status.conditions.iter().find(|c| c.kind == "Ready")
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready_condition().is_some_and(|c| c.status == "True")
    }

    /// When it becomes available, in milliseconds since 1970; `None` while it is not ready.
    fn available_at(&self, min_ready_seconds: i64) -> Option<i64> {
        let ready = self.ready_condition().filter(|c| c.status == "True")?;
        if min_ready_seconds == 0 {
            return Some(0);
        }
        Some(parse_time(ready.last_transition_time.as_deref()?)? + min_ready_seconds * 1000)
    }
}

type Owner = Object<Spec, Status>;

/// The plan for one ReplicaSet or ReplicationController.
pub(crate) fn reconcile(flavor: &Flavor, item: &Item<'_>, now: i64) -> Result<Plan, String> {
    let Some(owner) = item.object::<Owner>()? else { return Ok(Plan::default()) };
    let Ok(selector) = (flavor.selector)(&owner.spec.selector) else { return Ok(Plan::default()) };
    let owned: Vec<Pod> = item.input("pods")?;
    let orphans: Vec<Pod> = item.input("orphans")?;
    let matches = |pod: &Pod| selector.matches(&pod.metadata.label_pairs());
    let deleting = owner.metadata.is_being_deleted();
    let mut plan = Plan::default();

    let mut active: Vec<&Pod> = Vec::new();
    let mut terminating = 0;
    for pod in owned.iter().filter(|p| !p.is_over()) {
        if !matches(pod) {
            if !deleting && !pod.metadata.is_being_deleted() {
                plan.writes.push(release(flavor, &owner.metadata, &pod.metadata));
            }
        } else if pod.metadata.is_being_deleted() {
            terminating += 1;
        } else {
            active.push(pod);
        }
    }
    if !deleting {
        for pod in orphans.iter().filter(|p| p.is_active() && matches(p)) {
            plan.writes.push(adopt(flavor, &owner.metadata, &pod.metadata));
            active.push(pod);
        }
    }
    active.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));

    let wanted = usize::try_from(owner.spec.replicas.unwrap_or(1)).unwrap_or(0);
    let changes = if deleting { Vec::new() } else { manage(flavor, &owner, &active, wanted, item, now)? };
    let failure = item.failure.as_ref().filter(|f| f.resource == "pods" && !changes.is_empty());
    let status = status(flavor, &owner, &active, terminating, wanted, failure, now);
    let report = (status != owner.status).then(|| report(flavor, &owner, &status));
    // After changes that succeed this key comes again and reports what they led to; after one that failed, it
    // reports the failure before it tries again.
    if changes.is_empty() || failure.is_some() {
        plan.writes.extend(report);
    }
    plan.writes.extend(changes);

    let min_ready = owner.spec.min_ready_seconds;
    let wanted = owner.spec.replicas.unwrap_or(1);
    if min_ready > 0 && status.ready_replicas == wanted && status.available_replicas != wanted {
        let soonest = active.iter().filter_map(|p| p.available_at(min_ready)).filter(|at| *at > now).min();
        plan.look_again(soonest.map_or(min_ready * 1000, |at| at - now));
    }
    Ok(plan)
}

fn adopt(flavor: &Flavor, owner: &Meta, pod: &Meta) -> Write {
    let mut references = pod.owner_references.clone();
    references.push(OwnerReference::controller_of(flavor.api_version, flavor.kind, owner));
    Write::patch("v1", "pods", pod, json!({"metadata": {"ownerReferences": references}})).at_revision(pod)
}

fn release(_flavor: &Flavor, owner: &Meta, pod: &Meta) -> Write {
    let rest: Vec<&OwnerReference> = pod.owner_references.iter().filter(|r| r.uid != owner.uid).collect();
    let references = if rest.is_empty() { Value::Null } else { json!(rest) };
    Write::patch("v1", "pods", pod, json!({"metadata": {"ownerReferences": references}}))
        .at_revision(pod)
        .ignoring("NotFound")
}

/// Creations or deletions that bring the number of active pods nearer to what is wanted.
fn manage(
    flavor: &Flavor,
    owner: &Owner,
    active: &[&Pod],
    wanted: usize,
    item: &Item<'_>,
    now: i64,
) -> Result<Vec<Write>, String> {
    if active.len() < wanted {
        let mut create = Write::create("v1", "pods", &owner.metadata.namespace, pod(flavor, owner))
            .ignoring("NamespaceTerminating")
            .then(Event::normal("SuccessfulCreate", "Created pod: {name}"))
            .or_else(Event::warning("FailedCreate", "Error creating: {error}"));
        create.count = Some((wanted - active.len()).min(BURST));
        return Ok(vec![create]);
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return Ok(Vec::new());
    }
    let related: Vec<Pod> = item.input("related")?;
    let going = ranking::to_delete(active, &related, surplus, now);
    let delete = |pod: &&Pod| {
        Write::delete("v1", "pods", &pod.metadata)
            .in_parallel()
            .then(Event::normal("SuccessfulDelete", format!("Deleted pod: {}", pod.metadata.name)))
            .or_else(Event::warning("FailedDelete", "Error deleting: {error}"))
    };
    Ok(going.iter().map(delete).collect())
}

/// A pod as the template describes it.
fn pod(flavor: &Flavor, owner: &Owner) -> Value {
    let template = &owner.spec.template;
    let mut metadata = json!({
        "generateName": format!("{}-", owner.metadata.name),
        "ownerReferences": [OwnerReference::controller_of(flavor.api_version, flavor.kind, &owner.metadata)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")) {
            metadata[field] = value.clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

fn status(
    flavor: &Flavor,
    owner: &Owner,
    active: &[&Pod],
    terminating: i64,
    wanted: usize,
    failure: Option<&Failure>,
    now: i64,
) -> Status {
    let template_labels =
        owner.spec.template.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    let template = Selector::from_map(&template_labels);
    let min_ready = owner.spec.min_ready_seconds;
    let count =
        |f: &dyn Fn(&Pod) -> bool| i64::try_from(active.iter().filter(|p| f(p)).count()).unwrap_or(i64::MAX);
    let mut conditions = owner.status.conditions.clone();
    let known = conditions.iter().position(|c| c.kind == "ReplicaFailure");
    match (failure, known) {
        (Some(failure), None) => conditions.push(Condition {
            kind: "ReplicaFailure".into(),
            status: "True".into(),
            last_transition_time: Some(now_text(now)),
            reason: if active.len() < wanted { "FailedCreate" } else { "FailedDelete" }.into(),
            message: failure.message.clone(),
            ..Condition::default()
        }),
        (None, Some(at)) => {
            conditions.remove(at);
        }
        _ => {}
    }
    Status {
        replicas: count(&|_| true),
        fully_labeled_replicas: count(&|p| template.matches(&p.metadata.label_pairs())),
        ready_replicas: count(&Pod::is_ready),
        available_replicas: count(&|p| p.available_at(min_ready).is_some_and(|at| at <= now)),
        terminating_replicas: flavor.terminating_replicas.then_some(terminating),
        observed_generation: owner.metadata.generation,
        conditions,
    }
}

fn report(flavor: &Flavor, owner: &Owner, status: &Status) -> Write {
    let unless_zero = |n: i64| if n == 0 { Value::Null } else { json!(n) };
    let mut body = json!({"status": {
        "replicas": status.replicas,
        "fullyLabeledReplicas": unless_zero(status.fully_labeled_replicas),
        "readyReplicas": unless_zero(status.ready_replicas),
        "availableReplicas": unless_zero(status.available_replicas),
        "observedGeneration": status.observed_generation,
        "conditions": if status.conditions.is_empty() { Value::Null } else { json!(status.conditions) },
    }});
    if let Some(terminating) = status.terminating_replicas {
        body["status"]["terminatingReplicas"] = json!(terminating);
    }
    Write::patch(flavor.api_version, flavor.resource, &owner.metadata, body)
        .subresource("status")
        .at_revision(&owner.metadata)
}
