//! What nodes have attached, counted when it is asked for and again when something of it changed.

use crate::volume::{Volume, inline, of_persistent_volume, to_come};
use orlop_sdk::scheduler::volumes::{RequestedClaim, requested_claims, storage_class};
use orlop_sdk::scheduler::{DictionaryDelta, Mirror, Node, ObjectChange, Objects, column};
use orlop_sdk::serde_json::{Value, from_str};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

const CLAIMS: u32 = 0;
const VOLUMES: u32 = 1;
const CLASSES: u32 = 2;
const NODES: u32 = 3;
const ATTACHMENTS: u32 = 4;

const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";

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

/// What one node has attached.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// Of its pods.
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

/// Objects, entries and counts.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    objects: Objects,
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
            self.attachments.clear();
            self.by_node.clear();
            self.forget_all();
        }
        for change in &changes {
            match change.watch {
                CLAIMS => self.forget(&Source::Claim(change.namespace.clone(), change.name.clone())),
                VOLUMES => self.forget(&Source::Volume(change.name.clone())),
                NODES => self.forget(&Source::Node(change.name.clone())),
                ATTACHMENTS => self.put_attachment(&change.name, change.object.as_ref()),
                // Classes hardly ever change.
                _ => self.forget_all(),
            }
        }
        self.objects.apply(full, changes);
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

    /// A claim that a new pod asks for.
    pub(crate) fn claim(&self, claim: &RequestedClaim) -> Option<&Value> {
        self.objects.get(CLAIMS, &claim.namespace, &claim.name)
    }

    fn volume_of(&self, requested: &RequestedClaim) -> Option<Volume> {
        let claim = self.claim(requested)?;
        let name = claim.pointer("/spec/volumeName").and_then(Value::as_str).unwrap_or("");
        if let Some(volume) = self.objects.get(VOLUMES, "", name).filter(|_| !name.is_empty()) {
            return of_persistent_volume(volume);
        }
        // Not bound yet, or to a volume that is not there (any more).
        let class = self.objects.get(CLASSES, "", storage_class(claim))?;
        let provisioner = class.get("provisioner").and_then(Value::as_str).unwrap_or("");
        to_come(provisioner, &requested.namespace, &requested.name)
    }

    /// The volumes of a pod, each once.
    pub(crate) fn volumes(&self, asked: &Asked) -> Vec<Volume> {
        let claimed = asked.claims.iter().filter_map(|claim| self.volume_of(claim));
        let mut volumes: Vec<Volume> = claimed.chain(asked.inline.iter().cloned()).collect();
        volumes.sort_unstable();
        volumes.dedup();
        volumes
    }

    /// The CSINode of a node.
    pub(crate) fn csi_node(&self, name: &str) -> Option<&Value> {
        self.objects.get(NODES, "", name)
    }

    fn entries_at(&self, mirror: &Mirror, slot: usize) -> impl Iterator<Item = &Asked> {
        let numbers = mirror.list(column::PODS, slot).to_vec();
        numbers.into_iter().filter_map(|n| self.entries.get(usize::try_from(n).ok()?))
    }

    /// Counts a node's volumes.
    pub(crate) fn count(&self, mirror: &Mirror, slot: usize, csi_node: &Value) -> Count {
        let node = Node::new(mirror, slot).name();
        let mut count = Count::default();
        for asked in self.entries_at(mirror, slot) {
            count.volumes.extend(self.volumes(asked).into_iter().filter(|v| counts(v, csi_node)));
        }
        for volume in &count.volumes {
            *count.by_driver.entry(volume.driver.clone()).or_default() += 1;
        }
        let attachments = self.by_node.get(node).into_iter().flatten();
        let mut seen = HashSet::new();
        for attachment in attachments.filter_map(|name| self.attachments.get(name)) {
            let handle = self
                .objects
                .get(VOLUMES, "", &attachment.volume)
                .and_then(|v| v.pointer("/spec/csi/volumeHandle"))
                .and_then(Value::as_str);
            let Some(handle) = handle else { continue };
            let same = |v: &Volume| v.driver == attachment.attacher && v.handle == handle;
            if seen.insert((&attachment.attacher, handle)) && !count.volumes.iter().any(same) {
                *count.by_driver.entry(attachment.attacher.clone()).or_default() += 1;
            }
        }
        count
    }

    /// The same, remembered.
    pub(crate) fn counted(&mut self, mirror: &Mirror, slot: usize, csi_node: &Value) -> &Count {
        if self.counts.len() <= slot {
            self.counts.resize_with(mirror.slots().max(slot + 1), || None);
        }
        if self.counts.get(slot).is_some_and(Option::is_none) {
            let count = self.count(mirror, slot, csi_node);
            let node = Node::new(mirror, slot).name().to_owned();
            let mut sources = HashSet::new();
            for claim in self.entries_at(mirror, slot).flat_map(|asked| &asked.claims) {
                let volume =
                    self.claim(claim).and_then(|c| c.pointer("/spec/volumeName")).and_then(Value::as_str);
                sources.extend(volume.map(|v| Source::Volume(v.to_owned())));
                sources.insert(Source::Claim(claim.namespace.clone(), claim.name.clone()));
            }
            let attachments = self.by_node.get(&node).into_iter().flatten();
            sources.extend(
                attachments
                    .filter_map(|name| self.attachments.get(name))
                    .map(|attachment| Source::Volume(attachment.volume.clone())),
            );
            sources.insert(Source::Node(node));
            for source in sources {
                self.slots_of.entry(source).or_default().insert(slot);
            }
            if let Some(cell) = self.counts.get_mut(slot) {
                *cell = Some(count);
            }
        }
        const NONE: &Count = &Count { volumes: BTreeSet::new(), by_driver: BTreeMap::new() };
        self.counts.get(slot).and_then(Option::as_ref).unwrap_or(NONE)
    }
}

/// Whether a volume is attached by its CSI driver on this node.
fn counts(volume: &Volume, csi_node: &Value) -> bool {
    let Some(plugin) = volume.if_migrated else { return true };
    let migrated =
        csi_node.pointer("/metadata/annotations").and_then(|a| a.get(MIGRATED)).and_then(Value::as_str);
    migrated.is_some_and(|list| list.split(',').any(|p| p == plugin))
}

/// The limit of a driver on a node; `None` where there is none.
fn limit(csi_node: &Value, driver: &str) -> Option<usize> {
    let drivers = csi_node.pointer("/spec/drivers").and_then(Value::as_array)?;
    let driver = drivers.iter().find(|d| d.get("name").and_then(Value::as_str) == Some(driver))?;
    usize::try_from(driver.pointer("/allocatable/count")?.as_u64()?).ok()
}

/// Whether a node has a limit for one of the volumes.
pub(crate) fn is_limited(new: &[Volume], csi_node: &Value) -> bool {
    new.iter().any(|volume| limit(csi_node, &volume.driver).is_some())
}

impl Count {
    /// Whether the new volumes may be attached too.
    pub(crate) fn has_room(&self, new: &[Volume], csi_node: &Value) -> bool {
        let mut added: HashMap<&str, usize> = HashMap::new();
        for volume in new.iter().filter(|v| counts(v, csi_node) && !self.volumes.contains(*v)) {
            *added.entry(&volume.driver).or_default() += 1;
        }
        added.into_iter().all(|(driver, added)| {
            let attached = self.by_driver.get(driver).copied().unwrap_or(0);
            limit(csi_node, driver).is_none_or(|limit| attached + added <= limit)
        })
    }
}
