//! Which ReplicaSet has the current template, the hash in its name, and the numbers of revisions.

use crate::model::{DESIRED, Deployment, MAX, REVISION, REVISION_HISTORY, ReplicaSet, Rollout, SetSpec};
use orlop_sdk::controller::{Event, Meta, OwnerReference};
use serde_json::{Value, json};

const HASH_LABEL: &str = "pod-template-hash";
/// Longest revision history, in bytes.
const HISTORY: usize = 2000;
/// Annotations that belong to the Deployment alone.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// A template without what does not make it another one: the hash label and nulls.
fn essence(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    strip(&mut template);
    template
}

/// Removes nulls, and what they leave empty in `metadata`.
fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, v| !v.is_null());
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The oldest set whose template is the Deployment's.
pub(crate) fn find(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let wanted = essence(&deployment.spec.template);
    sets.iter().position(|set| essence(&set.spec.template) == wanted)
}

/// Short, stable, free of words: FNV-1a over the template and the number of collisions, in the
/// alphabet of Kubernetes' generated names.
pub(crate) fn hash(template: &Value, collisions: Option<i64>) -> String {
    const ALPHABET: [u8; 27] = *b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = essence(template).to_string();
    if let Some(collisions) = collisions {
        text.push_str(&format!("#{collisions}"));
    }
    let fnv = text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    fnv.to_string()
        .bytes()
        .filter_map(|digit| ALPHABET.get(usize::from(digit) % ALPHABET.len()))
        .map(|b| char::from(*b))
        .collect()
}

impl Rollout {
    /// The number that the current template has or gets.
    fn next_revision(&self) -> i64 {
        self.old().iter().filter_map(|at| self.sets.get(*at)).map(ReplicaSet::revision).max().unwrap_or(0) + 1
    }

    /// Brings annotations and `minReadySeconds` of the existing new set up to date.
    pub(crate) fn sync_new_set(&mut self) {
        let revision = self.next_revision();
        let annotations = self.deployment.metadata.annotations.clone();
        let min_ready = self.deployment.spec.min_ready_seconds;
        let Some(set) = self.new_set_mut() else { return };
        for (key, value) in annotations.iter().filter(|(k, _)| !OWN.contains(&k.as_str())) {
            set.annotate(key, value);
        }
        number(set, revision);
        set.set_min_ready_seconds(min_ready);
    }

    /// Adds a set with the current template, as large as the strategy allows at once.
    pub(crate) fn create_new_set(&mut self) {
        let revision = self.next_revision();
        let deployment = &self.deployment;
        let hash = hash(&deployment.spec.template, deployment.status.collision_count);
        let mut template = deployment.spec.template.clone();
        template["metadata"]["labels"][HASH_LABEL] = json!(hash);
        let mut selector = deployment.spec.selector.clone();
        selector["matchLabels"][HASH_LABEL] = json!(hash);
        let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
        let name = format!("{}-{hash}", deployment.metadata.name);
        let body = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": name, "namespace": deployment.metadata.namespace, "labels": labels,
                "ownerReferences": [OwnerReference::controller_of("apps/v1", "Deployment", &deployment.metadata)],
            },
            "spec": {
                "replicas": 0, "minReadySeconds": deployment.spec.min_ready_seconds,
                "selector": selector, "template": template,
            },
        });
        let annotations = deployment.metadata.annotations.clone();
        let metadata =
            Meta { name: name.clone(), namespace: deployment.metadata.namespace.clone(), ..Meta::default() };
        let spec =
            SetSpec { replicas: Some(0), min_ready_seconds: deployment.spec.min_ready_seconds, template };
        let mut set = ReplicaSet::new(metadata, spec, body);
        for (key, value) in annotations.iter().filter(|(k, _)| !OWN.contains(&k.as_str())) {
            set.annotate(key, value);
        }
        set.annotate(REVISION, &revision.to_string());
        set.annotate(DESIRED, &self.wanted().to_string());
        set.annotate(MAX, &(self.wanted() + self.max_surge()).to_string());
        self.sets.push(set);
        self.new = Some(self.sets.len() - 1);
        let replicas = self.new_set_size();
        if let Some(set) = self.new_set_mut() {
            set.set_replicas(replicas);
            if replicas > 0 {
                let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                set.tell(Event::normal("ScalingReplicaSet", message));
            }
        }
    }
}

/// Gives a set its number; an earlier one goes to the history.
fn number(set: &mut ReplicaSet, revision: i64) {
    let old = set.annotation(REVISION).map(str::to_owned);
    let known = match &old {
        Some(text) => match text.parse::<i64>() {
            Ok(known) => known,
            // Somebody else's number: leave it alone.
            Err(_) => return,
        },
        None => 0,
    };
    if known >= revision {
        return;
    }
    set.annotate(REVISION, &revision.to_string());
    if let Some(old) = old {
        let mut history: Vec<String> = set
            .annotation(REVISION_HISTORY)
            .filter(|h| !h.is_empty())
            .map(|h| h.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        history.push(old);
        while history.join(",").len() > HISTORY {
            history.remove(0);
        }
        set.annotate(REVISION_HISTORY, &history.join(","));
    }
}
