//! The logic, natively testable.

use orlop_sdk::scheduler::volumes::{not_found, requested_claims, storage_class};
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, Node, ObjectChange, Prepared, Reason, Stale, Synced,
};
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;
use std::hash::Hash;

const CLAIMS: u32 = 0;
const VOLUMES: u32 = 1;
const CLASSES: u32 = 2;

/// Labels of zones and regions, and what they are called today.
const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// A label of a volume: its names, and the values that a node may have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Topology {
    key: &'static str,
    today: &'static str,
    values: Vec<String>,
}

/// The values of a label; `None` where it cannot be read.
fn values_of(label: &str) -> Option<Vec<String>> {
    label.split("__").map(|v| Some(v.trim().to_owned()).filter(|v| !v.is_empty())).collect()
}

fn topologies_of(volume: &Value) -> impl Iterator<Item = Topology> {
    let label = |key: &str| volume.pointer("/metadata/labels")?.get(key)?.as_str();
    LABELS
        .into_iter()
        .filter_map(move |(key, today)| Some(Topology { key, today, values: values_of(label(key)?)? }))
}

/// A PersistentVolumeClaim, as far as it is read.
#[derive(Debug)]
struct Claim {
    volume: String,
    class: String,
}

impl Claim {
    fn read(object: &Value) -> Self {
        let volume = object.pointer("/spec/volumeName").and_then(Value::as_str).unwrap_or("");
        Self { volume: volume.to_owned(), class: storage_class(object).to_owned() }
    }
}

fn put<K: Eq + Hash, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => _ = map.insert(key, value),
        None => _ = map.remove(&key),
    }
}

/// The plugin; it has no arguments.
#[derive(Debug, Default)]
pub struct VolumeZone {
    mirror: Mirror,
    /// By namespace and name.
    claims: HashMap<(String, String), Claim>,
    /// By name.
    volumes: HashMap<String, Vec<Topology>>,
    /// By name: the binding mode.
    classes: HashMap<String, Option<String>>,
    pods: HashMap<u32, Vec<Topology>>,
}

impl VolumeZone {
    /// Where the volumes of a pod are, or why no node fits it.
    fn topologies(&self, pod: &Value) -> Result<Vec<Topology>, String> {
        let mut topologies = Vec::new();
        // As upstream, without the claims of ephemeral volumes.
        for claim in requested_claims(pod).iter().filter(|claim| claim.pod.is_none()) {
            if claim.name.is_empty() {
                return Err("PersistentVolumeClaim had no name".to_owned());
            }
            let found = self.claims.get(&(claim.namespace.clone(), claim.name.clone()));
            let found = found.ok_or_else(|| claim.not_found())?;
            if found.volume.is_empty() {
                self.check_delayed(&found.class)?;
                continue;
            }
            let volume = self.volumes.get(&found.volume);
            let volume = volume.ok_or_else(|| not_found("persistentvolume", &found.volume))?;
            topologies.extend_from_slice(volume);
        }
        Ok(topologies)
    }

    /// A claim without a volume is for another plugin, if its class waits for the first consumer.
    fn check_delayed(&self, class: &str) -> Result<(), String> {
        if class.is_empty() {
            return Err("PersistentVolumeClaim had no pv name and storageClass name".to_owned());
        }
        let mode = self.classes.get(class);
        let mode = mode.ok_or_else(|| not_found("storageclass.storage.k8s.io", class))?;
        match mode.as_deref() {
            None => Err(format!("VolumeBindingMode not set for StorageClass {class:?}")),
            Some("WaitForFirstConsumer") => Ok(()),
            Some(_) => Err("PersistentVolume had no name".to_owned()),
        }
    }
}

fn fits(topologies: &[Topology], node: &Node<'_>) -> bool {
    if !LABELS.iter().any(|(key, _)| node.label(key).is_some()) {
        // A cluster of one zone may have no such labels at all.
        return true;
    }
    topologies.iter().all(|topology| {
        let value = node.label(topology.key).or_else(|| node.label(topology.today));
        value.is_some_and(|value| topology.values.iter().any(|v| v == value))
    })
}

impl BatchPlugin for VolumeZone {
    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        self.mirror.apply(delta);
        Synced::rows(self.mirror.checksum())
    }

    fn objects(&mut self, full: bool, changes: Vec<ObjectChange>) -> Stale {
        if full {
            self.claims.clear();
            self.volumes.clear();
            self.classes.clear();
        }
        for ObjectChange { watch, namespace, name, object } in changes {
            let object = object.as_ref();
            let mode = |o: &Value| o.get("volumeBindingMode").and_then(Value::as_str).map(str::to_owned);
            match watch {
                CLAIMS => put(&mut self.claims, (namespace, name), object.map(Claim::read)),
                VOLUMES => put(&mut self.volumes, name, object.map(|v| topologies_of(v).collect())),
                CLASSES => put(&mut self.classes, name, object.map(mode)),
                _ => {}
            }
        }
        // Every class that has claims is prepared again.
        Stale::Nothing
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.pods.remove(&class);
        if requested_claims(pod).is_empty() {
            return Ok(Prepared::skip());
        }
        let mut prepared = Prepared { reads_objects: true, ..Prepared::skip() };
        match self.topologies(pod) {
            Ok(topologies) if topologies.is_empty() => {}
            Ok(topologies) => {
                prepared.skip_filter = false;
                self.pods.insert(class, topologies);
            }
            Err(message) => {
                prepared.skip_filter = false;
                prepared.rejected = Some(Reason::unresolvable(message));
            }
        }
        Ok(prepared)
    }

    fn release(&mut self, class: u32) {
        self.pods.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let topologies = self.pods.get(&class).map_or(&[][..], |t| t);
        Asked::new(rows, self.mirror.slots()).mask(|slot| fits(topologies, &Node::new(&self.mirror, slot)))
    }

    fn explain(&mut self, _class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        for _ in rows {
            explanation.because(Reason::unresolvable("node(s) had no available volume zone"));
            explanation.end_row();
        }
        explanation
    }
}

#[cfg(test)]
mod tests;
