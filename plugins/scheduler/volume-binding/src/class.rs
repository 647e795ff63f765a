//! What a class of pods needs, and what of it a node has.
//!
//! Source: `FindPodVolumes` of `k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumebinding`.

use crate::candidates::Candidates;
use crate::storage::{ClaimKey, Storage, Topology, Volume};
use orlop_sdk::apimachinery::selector::Selector;
use orlop_sdk::scheduler::Node;
use orlop_sdk::scheduler::volumes::RequestedClaim;

const NODE_CONFLICT: &str = "node(s) had volume node affinity conflict";
const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const NOT_ENOUGH_SPACE: &str = "node(s) did not have enough free storage";
const VOLUME_MISSING: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// What is to be done for a claim once the node is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It gets a volume that there is.
    Bind { claim: ClaimKey, volume: String },
    /// It gets a new one.
    Provision { claim: ClaimKey },
}

/// How a claim can get a new volume.
#[derive(Debug)]
enum Provisioning {
    /// Not at all.
    Never,
    /// Where the topologies allow it (none: everywhere), and one of the capacities, if any count, is
    /// accessible.
    Where { topologies: Vec<Topology>, capacities: Option<Vec<Selector>> },
}

#[derive(Debug)]
struct Wanted {
    key: ClaimKey,
    request: i128,
    /// The node for which it is being provisioned.
    selected: Option<Box<str>>,
    candidates: Candidates,
    provisioning: Provisioning,
}

/// What a class needs, as of a generation of the storage.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    pub(crate) generation: u64,
    /// The volumes of bound claims; `None` for one that does not exist.
    bound: Vec<Option<Volume>>,
    /// The claims that are to be bound, the smallest first.
    wanted: Vec<Wanted>,
}

impl Needs {
    /// What the claims need. An error holds for every node.
    pub(crate) fn of(storage: &Storage, claims: &[RequestedClaim]) -> Result<Self, String> {
        for requested in claims {
            let name = &requested.name;
            let Some(claim) = storage.claim(&requested.namespace, name) else {
                return Err(match requested.pod {
                    None => requested.not_found(),
                    Some(_) => format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    ),
                });
            };
            if claim.lost {
                let volume = &claim.volume;
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if claim.is_being_deleted {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            requested.check_owner(claim.controller.as_deref())?;
        }
        let mut needs = Self { generation: storage.generation(), ..Self::default() };
        let mut immediate = false;
        for requested in claims {
            let Some(claim) = storage.claim(&requested.namespace, &requested.name) else { continue };
            if claim.bound {
                needs.bound.push(storage.volume(&claim.volume).cloned());
                continue;
            }
            let class = storage.class(&claim.class).filter(|_| !claim.class.is_empty());
            let delayed = match class.map(|c| c.mode.as_deref()) {
                Some(None) => {
                    return Err(format!("VolumeBindingMode not set for StorageClass {:?}", claim.class));
                }
                Some(Some(mode)) => mode == "WaitForFirstConsumer",
                None => false,
            };
            let key = (requested.namespace.clone(), requested.name.clone());
            match class.filter(|_| delayed && claim.volume.is_empty()) {
                None => immediate = true,
                Some(_) if needs.wanted.iter().any(|w| w.key == key) => {}
                Some(class) => needs.wanted.push(Wanted {
                    request: claim.request,
                    selected: storage.selected_node(&key, claim),
                    candidates: Candidates::of(storage, &key, claim),
                    provisioning: if matches!(class.provisioner.as_str(), "" | "kubernetes.io/no-provisioner")
                    {
                        Provisioning::Never
                    } else {
                        Provisioning::Where {
                            topologies: class.topologies.clone(),
                            capacities: storage.capacities(&class.provisioner, &claim.class, claim.request),
                        }
                    },
                    key,
                }),
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        needs.wanted.sort_by_key(|wanted| wanted.request);
        Ok(needs)
    }

    /// Whether every node fits, and nothing is left to be bound.
    pub(crate) fn is_met_everywhere(&self) -> bool {
        let anywhere = |volume: &Option<Volume>| volume.as_ref().is_some_and(|v| v.affinity.is_none());
        self.is_bound() && self.bound.iter().all(anywhere)
    }

    /// Whether nothing is left to be bound.
    pub(crate) fn is_bound(&self) -> bool {
        self.wanted.is_empty()
    }

    /// What has to be done on a node, or why it cannot be.
    pub(crate) fn on(&self, node: &Node<'_>) -> Result<Vec<Step>, Vec<&'static str>> {
        let label = |key: &str| node.label(key);
        let (mut reachable, mut found) = (true, true);
        for volume in &self.bound {
            found = volume.is_some();
            reachable = volume.as_ref().is_none_or(|v| v.reaches(label));
            if !found || !reachable {
                break;
            }
        }
        let steps = self.steps(node);
        let mut reasons = Vec::new();
        if !reachable {
            reasons.push(NODE_CONFLICT);
        }
        if let Err(reason) = &steps {
            reasons.push(*reason);
        }
        if !found {
            reasons.push(VOLUME_MISSING);
        }
        match steps {
            Ok(steps) if reasons.is_empty() => Ok(steps),
            _ => Err(reasons),
        }
    }

    fn steps(&self, node: &Node<'_>) -> Result<Vec<Step>, &'static str> {
        let label = |key: &str| node.label(key);
        if self.wanted.iter().any(|w| w.selected.as_ref().is_some_and(|s| **s != *node.name())) {
            return Err(BIND_CONFLICT);
        }
        let mut steps = Vec::with_capacity(self.wanted.len());
        let mut taken: Vec<&str> = Vec::new();
        let mut rest: Vec<&Wanted> = self.wanted.iter().filter(|w| w.selected.is_some()).collect();
        for wanted in self.wanted.iter().filter(|w| w.selected.is_none()) {
            match wanted.candidates.find(label, &taken) {
                Some(volume) => {
                    taken.push(volume);
                    steps.push(Step::Bind { claim: wanted.key.clone(), volume: volume.to_owned() });
                }
                None => rest.push(wanted),
            }
        }
        for wanted in rest {
            let Provisioning::Where { topologies, capacities } = &wanted.provisioning else {
                return Err(BIND_CONFLICT);
            };
            let allows = |term: &Topology| {
                let has = |(key, values): &(String, Vec<String>)| {
                    label(key).is_some_and(|value| values.iter().any(|v| v == value))
                };
                !term.is_empty() && term.iter().all(has)
            };
            if !topologies.is_empty() && !topologies.iter().any(allows) {
                return Err(BIND_CONFLICT);
            }
            if capacities.as_ref().is_some_and(|all| !all.iter().any(|c| c.matches_with(label))) {
                return Err(NOT_ENOUGH_SPACE);
            }
            steps.push(Step::Provision { claim: wanted.key.clone() });
        }
        Ok(steps)
    }
}
