//! What is known of claims, volumes, classes and capacities, and what is assumed of them.

use orlop_sdk::apimachinery::quantity::Quantity;
use orlop_sdk::apimachinery::selector::{NodeSelector, Selector};
use orlop_sdk::scheduler::ObjectChange;
use orlop_sdk::scheduler::volumes::{controller, storage_class};
use orlop_sdk::serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Names the node that a claim is to be provisioned for.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Tells that a volume was bound by a controller and not by its author.
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Namespace and name.
pub(crate) type ClaimKey = (String, String);

/// A PersistentVolumeClaim, as far as it is read.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) uid: Box<str>,
    pub(crate) revision: Box<str>,
    /// Uid of the owner that controls it.
    pub(crate) controller: Option<Box<str>>,
    pub(crate) class: Box<str>,
    /// The volume that it names.
    pub(crate) volume: Box<str>,
    /// Whether the binding is complete.
    pub(crate) bound: bool,
    pub(crate) lost: bool,
    pub(crate) is_being_deleted: bool,
    pub(crate) selected_node: Option<Box<str>>,
    pub(crate) request: i128,
    modes: u8,
    block: bool,
    /// `None` selects everything; a faulty one nothing.
    selector: Option<Selector>,
}

/// A PersistentVolume, as far as it is read.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) uid: Box<str>,
    pub(crate) revision: Box<str>,
    class: Box<str>,
    pub(crate) capacity: i128,
    /// `None` reaches every node; a faulty one none.
    pub(crate) affinity: Option<NodeSelector>,
    pub(crate) reference: Option<Reference>,
    modes: u8,
    block: bool,
    available: bool,
    is_being_deleted: bool,
    labels: Vec<(Box<str>, Box<str>)>,
}

/// `spec.claimRef`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) claim: ClaimKey,
    /// Empty where only the author of the volume has bound it.
    pub(crate) uid: Box<str>,
}

/// A StorageClass.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub(crate) provisioner: String,
    pub(crate) mode: Option<String>,
    pub(crate) topologies: Vec<Topology>,
}

/// A term of `allowedTopologies`: each label must have one of the values.
pub(crate) type Topology = Vec<(String, Vec<String>)>;

#[derive(Clone, Debug)]
struct Capacity {
    class: String,
    limit: Option<i128>,
    /// Nodes that have access; nothing where it is not available.
    topology: Selector,
}

/// What is booked of a volume until the API tells of it.
#[derive(Clone, Debug)]
struct Assumed {
    reference: Reference,
    /// The revision of the volume that it is assumed of; any later one tells more.
    revision: Box<str>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// Access modes, one bit each.
fn modes(list: Option<&Value>) -> u8 {
    let bit = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => 1,
        Some("ReadOnlyMany") => 2,
        Some("ReadWriteMany") => 4,
        Some("ReadWriteOncePod") => 8,
        _ => 16,
    };
    list.and_then(Value::as_array).into_iter().flatten().fold(0, |modes, mode| modes | bit(mode))
}

fn is_block(object: &Value) -> bool {
    text(object, "/spec/volumeMode") == "Block"
}

fn is_being_deleted(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn quantity(value: Option<&Value>) -> Option<i128> {
    Some(Quantity::parse(value?.as_str()?).ok()?.nanos())
}

fn label_selector(value: Option<&Value>) -> Option<Selector> {
    let value = value.filter(|v| !v.is_null())?;
    Some(Selector::from_label_selector(value).unwrap_or_else(|_| Selector::nothing()))
}

impl Claim {
    fn read(object: &Value) -> Self {
        let volume = text(object, "/spec/volumeName");
        Self {
            uid: text(object, "/metadata/uid").into(),
            revision: text(object, "/metadata/resourceVersion").into(),
            controller: controller(object).map(Into::into),
            class: storage_class(object).into(),
            bound: !volume.is_empty() && annotation(object, BIND_COMPLETED).is_some(),
            volume: volume.into(),
            lost: text(object, "/status/phase") == "Lost",
            is_being_deleted: is_being_deleted(object),
            selected_node: annotation(object, SELECTED_NODE).map(Into::into),
            request: quantity(object.pointer("/spec/resources/requests/storage")).unwrap_or(0),
            modes: modes(object.pointer("/spec/accessModes")),
            block: is_block(object),
            selector: label_selector(object.pointer("/spec/selector")),
        }
    }
}

impl Volume {
    fn read(object: &Value) -> Self {
        let affinity = object.pointer("/spec/nodeAffinity/required").filter(|a| !a.is_null());
        let reference = object.pointer("/spec/claimRef").filter(|r| r.is_object());
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
        let labels = labels.map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or("").into()));
        let mut labels: Vec<(Box<str>, Box<str>)> = labels.collect();
        labels.sort_unstable();
        Self {
            uid: text(object, "/metadata/uid").into(),
            revision: text(object, "/metadata/resourceVersion").into(),
            class: storage_class(object).into(),
            capacity: quantity(object.pointer("/spec/capacity/storage")).unwrap_or(0),
            affinity: affinity.map(|a| NodeSelector::from_value(a).unwrap_or_default()),
            reference: reference.map(|r| Reference {
                claim: (text(r, "/namespace").to_owned(), text(r, "/name").to_owned()),
                uid: text(r, "/uid").into(),
            }),
            modes: modes(object.pointer("/spec/accessModes")),
            block: is_block(object),
            available: text(object, "/status/phase") == "Available",
            is_being_deleted: is_being_deleted(object),
            labels,
        }
    }

    /// Whether a node with these labels can reach it.
    pub(crate) fn reaches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.affinity.as_ref().is_none_or(|affinity| affinity.matches("", label))
    }

    /// Whether it is usable for a claim of this size and mode at all.
    pub(crate) fn suits(&self, claim: &Claim) -> bool {
        self.capacity >= claim.request && self.block == claim.block && !self.is_being_deleted
    }

    /// Whether a claim that it was not made for may take it.
    pub(crate) fn is_free_for(&self, claim: &Claim) -> bool {
        self.available
            && claim.modes & !self.modes == 0
            && claim.selector.as_ref().is_none_or(|selector| selector.matches(&self.labels))
    }
}

impl Class {
    fn read(object: &Value) -> Self {
        let list = |of: &Value, key: &str| of.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let term = |term: &Value| -> Topology {
            let expressions = list(term, "matchLabelExpressions");
            expressions.iter().map(|e| (text(e, "/key").to_owned(), texts(e.get("values")))).collect()
        };
        Self {
            provisioner: text(object, "/provisioner").to_owned(),
            mode: object.get("volumeBindingMode").and_then(Value::as_str).map(str::to_owned),
            topologies: list(object, "allowedTopologies").iter().map(term).collect(),
        }
    }
}

/// Everything of it.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    claims: HashMap<ClaimKey, Claim>,
    volumes: BTreeMap<String, Volume>,
    by_class: HashMap<Box<str>, BTreeSet<String>>,
    classes: HashMap<String, Class>,
    /// Drivers whose capacities count.
    drivers: BTreeSet<String>,
    capacities: BTreeMap<ClaimKey, Capacity>,
    assumed_volumes: HashMap<String, Assumed>,
    /// Node and revision of the claim.
    assumed_claims: HashMap<ClaimKey, (Box<str>, Box<str>)>,
    generation: u64,
}

impl Storage {
    /// Changes whenever anything does.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes in what changed; the numbers are positions in the manifest's `watches`.
    pub(crate) fn apply(&mut self, full: bool, changes: Vec<ObjectChange>) {
        self.generation += 1;
        if full {
            let assumed =
                (std::mem::take(&mut self.assumed_volumes), std::mem::take(&mut self.assumed_claims));
            let generation = self.generation;
            *self =
                Self { assumed_volumes: assumed.0, assumed_claims: assumed.1, generation, ..Self::default() };
        }
        for ObjectChange { watch, namespace, name, object } in changes {
            match watch {
                0 => put(&mut self.claims, (namespace, name), object.as_ref().map(Claim::read)),
                1 => self.put_volume(name, object.as_ref().map(Volume::read)),
                2 => put(&mut self.classes, name, object.as_ref().map(Class::read)),
                3 => {
                    let counts = |o: &Value| o.pointer("/spec/storageCapacity").and_then(Value::as_bool);
                    if object.as_ref().and_then(counts) == Some(true) {
                        self.drivers.insert(name);
                    } else {
                        self.drivers.remove(&name);
                    }
                }
                4 => match object {
                    Some(object) => _ = self.capacities.insert((namespace, name), Capacity::read(&object)),
                    None => _ = self.capacities.remove(&(namespace, name)),
                },
                _ => {}
            }
        }
    }

    fn put_volume(&mut self, name: String, volume: Option<Volume>) {
        if let Some(before) = self.volumes.remove(&name)
            && let Some(names) = self.by_class.get_mut(&before.class)
        {
            names.remove(&name);
        }
        if let Some(volume) = volume {
            self.by_class.entry(volume.class.clone()).or_default().insert(name.clone());
            self.volumes.insert(name, volume);
        }
    }

    pub(crate) fn claim(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(crate) fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    pub(crate) fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }

    /// The volumes of a class, by name.
    pub(crate) fn of_class(&self, class: &str) -> impl Iterator<Item = (&str, &Volume)> {
        let names = self.by_class.get(class).into_iter().flatten();
        names.filter_map(|name| Some((name.as_str(), self.volumes.get(name)?)))
    }

    /// The node that a claim is or will be provisioned for.
    pub(crate) fn selected_node(&self, key: &ClaimKey, claim: &Claim) -> Option<Box<str>> {
        let assumed = self.assumed_claims.get(key).filter(|(_, revision)| *revision == claim.revision);
        assumed.map(|(node, _)| node.clone()).or_else(|| claim.selected_node.clone())
    }

    /// Whether a volume is set aside for a claim: `None` where it is for none.
    pub(crate) fn is_for(&self, name: &str, volume: &Volume, key: &ClaimKey, uid: &str) -> Option<bool> {
        let assumed = self.assumed_volumes.get(name).filter(|a| a.revision == volume.revision);
        let reference = assumed.map(|a| &a.reference).or(volume.reference.as_ref())?;
        Some(reference.claim == *key && (reference.uid.is_empty() || *reference.uid == *uid))
    }

    /// Where a driver publishes capacities: the nodes from which a volume of this size can be made.
    pub(crate) fn capacities(&self, provisioner: &str, class: &str, request: i128) -> Option<Vec<Selector>> {
        if !self.drivers.contains(provisioner) {
            return None;
        }
        let suits = |c: &&Capacity| c.class == class && c.limit.is_some_and(|limit| limit >= request);
        Some(self.capacities.values().filter(suits).map(|c| c.topology.clone()).collect())
    }

    /// Takes it that a volume is bound to a claim.
    pub(crate) fn assume_volume(&mut self, name: &str, claim: &ClaimKey) {
        let uid = self.claims.get(claim).map(|c| c.uid.clone()).unwrap_or_default();
        let Some(revision) = self.volumes.get(name).map(|v| v.revision.clone()) else { return };
        self.generation += 1;
        let assumed = Assumed { reference: Reference { claim: claim.clone(), uid }, revision };
        self.assumed_volumes.insert(name.to_owned(), assumed);
    }

    /// Takes it that a claim will be provisioned for a node.
    pub(crate) fn assume_claim(&mut self, key: &ClaimKey, node: &str) {
        let Some(revision) = self.claims.get(key).map(|c| c.revision.clone()) else { return };
        self.generation += 1;
        self.assumed_claims.insert(key.clone(), (node.into(), revision));
    }

    /// Forgets what was assumed of a volume for a claim.
    pub(crate) fn restore_volume(&mut self, name: &str, claim: &ClaimKey) {
        if self.assumed_volumes.get(name).is_some_and(|a| a.reference.claim == *claim) {
            self.generation += 1;
            self.assumed_volumes.remove(name);
        }
    }

    /// Forgets what was assumed of a claim.
    pub(crate) fn restore_claim(&mut self, key: &ClaimKey) {
        self.generation += 1;
        self.assumed_claims.remove(key);
    }
}

impl Capacity {
    fn read(object: &Value) -> Self {
        let limit = quantity(object.get("maximumVolumeSize")).or_else(|| quantity(object.get("capacity")));
        Self {
            class: text(object, "/storageClassName").to_owned(),
            limit,
            topology: label_selector(object.get("nodeTopology")).unwrap_or_else(Selector::nothing),
        }
    }
}

fn put<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => _ = map.insert(key, value),
        None => _ = map.remove(&key),
    }
}
