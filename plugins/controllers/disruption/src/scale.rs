//! How many pods there shall be: what the owners of the pods that are there say.

use crate::budget::Pod;
use orlop_sdk::controller::{Item, Meta, OwnerReference};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Owner {
    metadata: Meta,
    spec: Replicas,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Replicas {
    replicas: Option<i64>,
}

/// The owners of the pods, by uid: the owner that counts, and what it asks for.
struct Owners(BTreeMap<String, Owner>);

impl Owners {
    fn of(item: &Item<'_>) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for input in ["replicaSets", "deployments", "statefulSets", "replicationControllers"] {
            let owners: Vec<Owner> = item.input(input)?;
            all.extend(owners.into_iter().map(|o| (o.metadata.uid.clone(), o)));
        }
        Ok(Self(all))
    }

    /// Uid and count of the object that says how many pods there shall be.
    fn resolve(&self, reference: &OwnerReference) -> Option<(String, i64)> {
        let owner = self.0.get(&reference.uid)?;
        let deployment = owner.metadata.controller().filter(|above| above.kind == "Deployment");
        let owner = deployment.map_or(Some(owner), |above| self.0.get(&above.uid))?;
        Some((owner.metadata.uid.clone(), owner.spec.replicas.unwrap_or(1)))
    }
}

/// What the owners of `pods` ask for together, and the names of pods without owner.
///
/// # Errors
/// Where an owner is of a kind that does not say how many pods it wants.
pub(crate) fn expected(item: &Item<'_>, pods: &[Pod]) -> Result<(i64, Vec<String>), String> {
    let owners = Owners::of(item)?;
    let mut counts = BTreeMap::new();
    let mut unmanaged = Vec::new();
    for pod in pods {
        let Some(reference) = pod.metadata.controller() else {
            unmanaged.push(pod.metadata.name.clone());
            continue;
        };
        let Some((uid, count)) = owners.resolve(reference) else {
            let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
            return Err(match (reference.kind.as_str(), group) {
                ("DaemonSet", "apps") => {
                    "daemonsets.apps does not implement the scale subresource".to_owned()
                }
                ("Job", "batch") => "jobs.batch does not implement the scale subresource".to_owned(),
                _ => format!("found no controllers for pod {:?}", pod.metadata.name),
            });
        };
        counts.insert(uid, count);
    }
    Ok((counts.values().sum(), unmanaged))
}
