//! The logic, natively testable.

use orlop_sdk::scheduler::volumes::{not_found, requested_claims, storage_class};
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, Node, ObjectChange, Objects, Prepared, Reason, Stale,
    Synced,
};
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

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

/// The plugin; it has no arguments.
#[derive(Debug, Default)]
pub struct VolumeZone {
    mirror: Mirror,
    objects: Objects,
    classes: HashMap<u32, Vec<Topology>>,
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
            let found = self.objects.get(CLAIMS, &claim.namespace, &claim.name);
            let found = found.ok_or_else(|| claim.not_found())?;
            let volume = found.pointer("/spec/volumeName").and_then(Value::as_str).unwrap_or("");
            if volume.is_empty() {
                self.check_delayed(storage_class(found))?;
                continue;
            }
            let volume =
                self.objects.get(VOLUMES, "", volume).ok_or_else(|| not_found("persistentvolume", volume))?;
            topologies.extend(topologies_of(volume));
        }
        Ok(topologies)
    }

    /// A claim without a volume is for another plugin, if its class waits for the first consumer.
    fn check_delayed(&self, class: &str) -> Result<(), String> {
        if class.is_empty() {
            return Err("PersistentVolumeClaim had no pv name and storageClass name".to_owned());
        }
        let found = self.objects.get(CLASSES, "", class);
        let found = found.ok_or_else(|| not_found("storageclass.storage.k8s.io", class))?;
        match found.get("volumeBindingMode").and_then(Value::as_str) {
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
        self.objects.apply(full, changes);
        // Every class that has claims is prepared again.
        Stale::Nothing
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.classes.remove(&class);
        if requested_claims(pod).is_empty() {
            return Ok(Prepared::skip());
        }
        let mut prepared = Prepared { reads_objects: true, ..Prepared::skip() };
        match self.topologies(pod) {
            Ok(topologies) if topologies.is_empty() => {}
            Ok(topologies) => {
                prepared.skip_filter = false;
                self.classes.insert(class, topologies);
            }
            Err(message) => {
                prepared.skip_filter = false;
                prepared.rejected = Some(Reason::unresolvable(message));
            }
        }
        Ok(prepared)
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let topologies = self.classes.get(&class).map_or(&[][..], |t| t);
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
