//! From the reservation to bound claims.
//!
//! Source: `BindPodVolumes` of `k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumebinding`.

use crate::class::Step;
use crate::storage::{BOUND_BY_CONTROLLER, Claim, ClaimKey, SELECTED_NODE, Storage, Volume};
use orlop_sdk::controller::Meta;
use orlop_sdk::scheduler::{Node, Write};
use orlop_sdk::serde_json::json;

/// What was reserved for a pod.
#[derive(Debug)]
pub(crate) struct Booking {
    steps: Vec<Step>,
    /// Once the writes were handed out: by step, the revision of the object that was written to; `None`
    /// where it needed no write.
    written: Option<Vec<Option<String>>>,
}

/// How far a binding is.
#[derive(Debug, PartialEq)]
pub(crate) enum Progress {
    /// These writes are due.
    Write(Vec<Write>),
    /// The API has not told of it yet.
    Wait,
    /// All claims are bound.
    Done,
}

fn meta(namespace: &str, name: &str, uid: &str, revision: &str) -> Meta {
    Meta {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        uid: uid.to_owned(),
        resource_version: revision.to_owned(),
        ..Meta::default()
    }
}

fn missing(kind: &str, name: &str) -> String {
    format!("failed to check binding: could not find {kind} {name:?}")
}

fn claim<'a>(storage: &'a Storage, key: &ClaimKey) -> Result<&'a Claim, String> {
    let missing = || missing("v1.PersistentVolumeClaim", &format!("{}/{}", key.0, key.1));
    storage.claim(&key.0, &key.1).ok_or_else(missing)
}

/// Whether the volume refers to this very claim.
fn refers(volume: &Volume, key: &ClaimKey, claim: &Claim) -> bool {
    volume.reference.as_ref().is_some_and(|r| r.claim == *key && r.uid == claim.uid)
}

fn bind(name: &str, volume: &Volume, key: &ClaimKey, claim: &Claim) -> Write {
    let mut patch = json!({"spec": {"claimRef": {
        "kind": "PersistentVolumeClaim",
        "apiVersion": "v1",
        "namespace": key.0,
        "name": key.1,
        "uid": claim.uid,
        "resourceVersion": claim.revision,
    }}});
    // A volume that its author made for the claim stays without it.
    if volume.reference.is_none()
        && let Some(patch) = patch.as_object_mut()
    {
        let annotations = json!({ "annotations": { BOUND_BY_CONTROLLER: "yes" } });
        patch.insert("metadata".to_owned(), annotations);
    }
    let meta = meta("", name, &volume.uid, &volume.revision);
    Write::patch("v1", "persistentvolumes", &meta, patch).at_revision(&meta)
}

impl Booking {
    /// Books the steps.
    pub(crate) fn new(steps: Vec<Step>, node: &str, storage: &mut Storage) -> Self {
        for step in &steps {
            match step {
                Step::Bind { claim, volume } => storage.assume_volume(volume, claim),
                Step::Provision { claim } => storage.assume_claim(claim, node),
            }
        }
        Self { steps, written: None }
    }

    /// Gives back what was booked.
    pub(crate) fn release(&self, storage: &mut Storage) {
        for step in &self.steps {
            match step {
                Step::Bind { claim, volume } => storage.restore_volume(volume, claim),
                Step::Provision { claim } => storage.restore_claim(claim),
            }
        }
    }

    /// The writes at first, then how far they have led.
    pub(crate) fn go_on(
        &mut self,
        storage: &Storage,
        node: &Node<'_>,
        name: &str,
    ) -> Result<Progress, String> {
        if self.written.is_none() {
            let mut writes = Vec::new();
            let mut written = Vec::new();
            for step in &self.steps {
                let write = self.write(step, storage, name)?;
                written.push(write.as_ref().map(|w| w.resource_version.clone()));
                writes.extend(write);
            }
            self.written = Some(written);
            if !writes.is_empty() {
                return Ok(Progress::Write(writes));
            }
        }
        let written = self.written.as_deref().unwrap_or(&[]);
        for (step, written) in self.steps.iter().zip(written) {
            let done = match step {
                Step::Bind { claim, volume } => bound(storage, node, claim, volume, written.as_deref())?,
                Step::Provision { claim } => provisioned(storage, node, name, claim, written.as_deref())?,
            };
            if !done {
                return Ok(Progress::Wait);
            }
        }
        Ok(Progress::Done)
    }

    fn write(&self, step: &Step, storage: &Storage, node: &str) -> Result<Option<Write>, String> {
        match step {
            Step::Bind { claim: key, volume: name } => {
                let claim = claim(storage, key)?;
                let volume = storage.volume(name).ok_or_else(|| missing("v1.PersistentVolume", name))?;
                Ok((!refers(volume, key, claim)).then(|| bind(name, volume, key, claim)))
            }
            Step::Provision { claim: key } => {
                let claim = claim(storage, key)?;
                if claim.selected_node.as_deref() == Some(node) {
                    return Ok(None);
                }
                let meta = meta(&key.0, &key.1, &claim.uid, &claim.revision);
                let patch = json!({ "metadata": { "annotations": { SELECTED_NODE: node } } });
                Ok(Some(Write::patch("v1", "persistentvolumeclaims", &meta, patch).at_revision(&meta)))
            }
        }
    }
}

fn reaches(volume: &Volume, name: &str, node: &Node<'_>) -> Result<(), String> {
    if volume.reaches(|key| node.label(key)) {
        return Ok(());
    }
    let node = node.name();
    Err(format!("pv {name:?} node affinity doesn't match node {node:?}: no matching NodeSelectorTerms"))
}

/// Whether a claim has the volume that was chosen for it. What the API told before `written` does not count.
fn bound(
    storage: &Storage,
    node: &Node<'_>,
    key: &ClaimKey,
    name: &str,
    written: Option<&str>,
) -> Result<bool, String> {
    let volume = storage.volume(name).ok_or_else(|| missing("v1.PersistentVolume", name))?;
    let claim = claim(storage, key)?;
    if written == Some(&volume.revision) {
        return Ok(false);
    }
    reaches(volume, name, node)?;
    if volume.reference.as_ref().is_none_or(|r| r.uid.is_empty()) {
        return Err(format!("ClaimRef got reset for pv {name:?}"));
    }
    Ok(claim.bound)
}

/// Whether a claim has a volume that was made for it.
fn provisioned(
    storage: &Storage,
    node: &Node<'_>,
    chosen: &str,
    key: &ClaimKey,
    written: Option<&str>,
) -> Result<bool, String> {
    let claim = claim(storage, key)?;
    if written == Some(&claim.revision) {
        return Ok(false);
    }
    match claim.selected_node.as_deref() {
        Some(selected) if selected == chosen => {}
        // A provisioner that fails takes the annotation away, so that the pod is tried again.
        _ => return Err(format!("provisioning failed for PVC {:?}", key.1)),
    }
    if !claim.volume.is_empty() {
        let Some(volume) = storage.volume(&claim.volume) else { return Ok(false) };
        reaches(volume, &claim.volume, node)?;
    }
    Ok(claim.bound)
}
