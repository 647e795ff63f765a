//! What nodes have attached, counted when it is asked for and again when something of it changed.

use crate::csi_node::CsiNode;
use crate::volume::{Volume, inline, of_persistent_volume, to_come};
use orlop_sdk::scheduler::volumes::{RequestedClaim, controller, requested_claims, storage_class};
use orlop_sdk::scheduler::{DictionaryDelta, Mirror, Node, ObjectChange, column};
use orlop_sdk::serde_json::{Value, from_str};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

const CLAIMS: u32 = 0;
const VOLUMES: u32 = 1;
const CLASSES: u32 = 2;
const NODES: u32 = 3;
const ATTACHMENTS: u32 = 4;

/// What a pod asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) claims: Vec<RequestedClaim>,
    inline: Vec<Volume>,
}

impl Asked {
    /// Of a pod, or of an entry of the dictionary of placed pods.
    pub(crate) fn of(pod: &Value) -> Self {
        Self { claims: requested_claims(pod), inline: inline(pod) }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.inline.is_empty()
    }
}

/// What one node may attach, and has.
#[derive(Debug, Default)]
pub(crate) struct Count {
    csi_node: CsiNode,
    /// Of its pods; not counted where there is no limit.
    volumes: BTreeSet<Volume>,
    /// By driver; those of VolumeAttachments included.
    by_driver: BTreeMap<String, usize>,
}

/// What a count was made from: where it changes, the count is void.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Claim(String, String),
    Volume(String),
    Node(String),
}

/// A VolumeAttachment.
#[derive(Debug)]
struct Attachment {
    node: String,
    attacher: String,
    volume: String,
}

/// A PersistentVolumeClaim, as far as it is read.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Uid of the owner that controls it.
    pub(crate) controller: Option<Box<str>>,
    volume: String,
    class: Box<str>,
}

/// A PersistentVolume: how it is attached, if it is, and whether it is a CSI volume by itself.
#[derive(Debug)]
struct Persistent {
    volume: Option<Volume>,
    csi: bool,
}

/// Objects, entries and counts.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    /// By namespace and name.
    claims: HashMap<String, HashMap<String, Claim>>,
    volumes: HashMap<String, Persistent>,
    /// Provisioners of storage classes.
    classes: HashMap<String, String>,
    csi_nodes: HashMap<String, CsiNode>,
    attachments: HashMap<String, Attachment>,
    /// Names of the attachments of a node.
    by_node: HashMap<String, BTreeSet<String>>,
    entries: Vec<Asked>,
    /// By slot.
    counts: Vec<Option<Count>>,
    slots_of: HashMap<Source, BTreeSet<usize>>,
}

impl Attached {
    /// Takes in what changed of the watched objects.
    pub(crate) fn apply(&mut self, full: bool, changes: Vec<ObjectChange>) {
        if full {
            let entries = std::mem::take(&mut self.entries);
            *self = Self { entries, ..Self::default() };
        }
        for ObjectChange { watch, namespace, name, object } in changes {
            let object = object.as_ref();
            match watch {
                CLAIMS => {
                    let claims = self.claims.entry(namespace.clone()).or_default();
                    put(claims, name.clone(), object.map(Claim::read));
                    if claims.is_empty() {
                        self.claims.remove(&namespace);
                    }
                    self.forget(&Source::Claim(namespace, name));
                }
                VOLUMES => {
                    put(&mut self.volumes, name.clone(), object.map(Persistent::read));
                    self.forget(&Source::Volume(name));
                }
                CLASSES => {
                    let provisioner = object.and_then(|o| o.get("provisioner")).and_then(Value::as_str);
                    put(&mut self.classes, name, provisioner.map(str::to_owned));
                    // Classes hardly ever change.
                    self.forget_all();
                }
                NODES => {
                    put(&mut self.csi_nodes, name.clone(), object.map(CsiNode::read));
                    self.forget(&Source::Node(name));
                }
                ATTACHMENTS => self.put_attachment(&name, object),
                _ => {}
            }
        }
    }

    fn put_attachment(&mut self, name: &str, object: Option<&Value>) {
        if let Some(before) = self.attachments.remove(name) {
            if let Some(names) = self.by_node.get_mut(&before.node) {
                names.remove(name);
                if names.is_empty() {
                    self.by_node.remove(&before.node);
                }
            }
            self.forget(&Source::Node(before.node));
        }
        let text = |key: &str| {
            object
                .and_then(|o| o.pointer(key))
                .and_then(Value::as_str)
                .filter(|t| !t.is_empty())
                .map(str::to_owned)
        };
        let parts =
            (text("/spec/nodeName"), text("/spec/attacher"), text("/spec/source/persistentVolumeName"));
        let (Some(node), Some(attacher), Some(volume)) = parts else { return };
        self.by_node.entry(node.clone()).or_default().insert(name.to_owned());
        self.forget(&Source::Node(node.clone()));
        self.attachments.insert(name.to_owned(), Attachment { node, attacher, volume });
    }

    fn forget(&mut self, source: &Source) {
        for slot in self.slots_of.remove(source).unwrap_or_default() {
            self.forget_slot(slot);
        }
    }

    /// The pods of a slot changed.
    pub(crate) fn forget_slot(&mut self, slot: usize) {
        if let Some(count) = self.counts.get_mut(slot) {
            *count = None;
        }
    }

    /// Everything may have changed.
    pub(crate) fn forget_all(&mut self) {
        self.counts.clear();
        self.slots_of.clear();
    }

    /// Takes in new entries of the dictionary of placed pods; `full`: there were none before.
    pub(crate) fn extend(&mut self, full: bool, dictionaries: Vec<DictionaryDelta>) {
        if full {
            self.entries.clear();
        }
        for DictionaryDelta { first, entries, .. } in dictionaries {
            self.entries.truncate(first as usize);
            let decode = |entry: &String| Asked::of(&from_str(entry).unwrap_or_default());
            self.entries.extend(entries.iter().map(decode));
        }
    }

    /// A claim that there is.
    pub(crate) fn claim(&self, claim: &RequestedClaim) -> Option<&Claim> {
        self.claims.get(&claim.namespace)?.get(&claim.name)
    }

    fn volume_of(&self, requested: &RequestedClaim) -> Option<Volume> {
        let claim = self.claim(requested)?;
        if let Some(persistent) = self.volumes.get(&claim.volume) {
            return persistent.volume.clone();
        }
        // Not bound yet, or to a volume that is not there (any more).
        to_come(self.classes.get(&*claim.class)?, &requested.namespace, &requested.name)
    }

    /// The volumes of a pod, each once.
    pub(crate) fn volumes(&self, asked: &Asked) -> Vec<Volume> {
        let claimed = asked.claims.iter().filter_map(|claim| self.volume_of(claim));
        let mut volumes: Vec<Volume> = claimed.chain(asked.inline.iter().cloned()).collect();
        volumes.sort_unstable();
        volumes.dedup();
        volumes
    }

    fn entries_at(&self, mirror: &Mirror, slot: usize) -> impl Iterator<Item = &Asked> {
        let numbers = mirror.list(column::PODS, slot).to_vec();
        numbers.into_iter().filter_map(|n| self.entries.get(usize::try_from(n).ok()?))
    }

    /// Counts a node's volumes.
    pub(crate) fn count(&self, mirror: &Mirror, slot: usize) -> Count {
        let node = Node::new(mirror, slot).name();
        let csi_node = self.csi_nodes.get(node).cloned().unwrap_or_default();
        let mut count = Count { csi_node, ..Count::default() };
        if count.csi_node.limits.is_empty() {
            return count;
        }
        for asked in self.entries_at(mirror, slot) {
            count.volumes.extend(self.volumes(asked).into_iter().filter(|v| count.csi_node.attaches(v)));
        }
        for volume in &count.volumes {
            *count.by_driver.entry(volume.driver.clone()).or_default() += 1;
        }
        let mut seen = HashSet::new();
        for attachment in self.attachments_at(node) {
            let persistent = self.volumes.get(&attachment.volume).filter(|p| p.csi);
            let Some(volume) = persistent.and_then(|p| p.volume.as_ref()) else { continue };
            let same = |v: &Volume| v.driver == attachment.attacher && v.handle == volume.handle;
            if seen.insert((&attachment.attacher, &volume.handle)) && !count.volumes.iter().any(same) {
                *count.by_driver.entry(attachment.attacher.clone()).or_default() += 1;
            }
        }
        count
    }

    fn attachments_at(&self, node: &str) -> impl Iterator<Item = &Attachment> {
        self.by_node.get(node).into_iter().flatten().filter_map(|name| self.attachments.get(name))
    }

    /// The same, remembered.
    pub(crate) fn counted(&mut self, mirror: &Mirror, slot: usize) -> &Count {
        if self.counts.len() <= slot {
            self.counts.resize_with(mirror.slots().max(slot + 1), || None);
        }
        if self.counts.get(slot).is_some_and(Option::is_none) {
            let count = self.count(mirror, slot);
            let node = Node::new(mirror, slot).name();
            let mut sources = HashSet::new();
            if !count.csi_node.limits.is_empty() {
                for claim in self.entries_at(mirror, slot).flat_map(|asked| &asked.claims) {
                    let volume = self.claim(claim).map(|c| Source::Volume(c.volume.clone()));
                    sources.extend(volume);
                    sources.insert(Source::Claim(claim.namespace.clone(), claim.name.clone()));
                }
                let attached = self.attachments_at(node);
                sources.extend(attached.map(|attachment| Source::Volume(attachment.volume.clone())));
            }
            sources.insert(Source::Node(node.to_owned()));
            for source in sources {
                self.slots_of.entry(source).or_default().insert(slot);
            }
            if let Some(cell) = self.counts.get_mut(slot) {
                *cell = Some(count);
            }
        }
        const NONE: &Count = &Count {
            csi_node: CsiNode { limits: Vec::new(), migrated: String::new() },
            volumes: BTreeSet::new(),
            by_driver: BTreeMap::new(),
        };
        self.counts.get(slot).and_then(Option::as_ref).unwrap_or(NONE)
    }
}

impl Claim {
    fn read(object: &Value) -> Self {
        Self {
            controller: controller(object).map(Into::into),
            volume: object.pointer("/spec/volumeName").and_then(Value::as_str).unwrap_or("").to_owned(),
            class: storage_class(object).into(),
        }
    }
}

impl Persistent {
    fn read(object: &Value) -> Self {
        let csi = object.pointer("/spec/csi").is_some_and(Value::is_object);
        Self { volume: of_persistent_volume(object), csi }
    }
}

impl Count {
    /// Whether the new volumes may be attached too.
    pub(crate) fn has_room(&self, new: &[Volume]) -> bool {
        self.csi_node.limits.iter().all(|(driver, limit)| {
            let adds =
                |v: &&Volume| v.driver == **driver && self.csi_node.attaches(v) && !self.volumes.contains(*v);
            let added = new.iter().filter(adds).count();
            let attached = self.by_driver.get(&**driver).copied().unwrap_or(0);
            added == 0 || attached + added <= *limit
        })
    }
}

fn put<V>(map: &mut HashMap<String, V>, key: String, value: Option<V>) {
    match value {
        Some(value) => _ = map.insert(key, value),
        None => _ = map.remove(&key),
    }
}
