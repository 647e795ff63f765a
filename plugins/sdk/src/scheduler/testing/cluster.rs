//! A small cluster that tells plugins of itself as the host does.

use crate::scheduler::{Delta, DictionaryDelta, ListCells, column, dictionary, set_bit};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// Nodes with names, labels, taints and placed pods, which can change. [`Cluster::delta`] makes the
/// delta since the last one, [`Cluster::overlay`] that of a question.
///
/// It sends the columns `node.name`, `node.unschedulable`, `node.labels`, `node.taints` and
/// `node.pods`.
///
/// ```
/// use orlop_sdk::scheduler::testing::Cluster;
/// use orlop_sdk::scheduler::{Mirror, Node};
/// use orlop_sdk::serde_json::json;
///
/// let mut cluster = Cluster::default();
/// let node = cluster.node("a", &[]);
/// cluster.place(node, json!({"metadata": {"labels": {"app": "web"}}}));
/// let mut mirror = Mirror::default();
/// mirror.apply(cluster.delta());
/// assert_eq!(Node::new(&mirror, node as usize).pods().count(), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    nodes: Vec<Option<ClusterNode>>,
    changed: BTreeSet<u32>,
    names: Entries,
    labels: Entries,
    taints: Entries,
    pods: Entries,
    begun: bool,
}

#[derive(Clone, Debug)]
struct ClusterNode {
    name: String,
    labels: Vec<String>,
    taints: Value,
    unschedulable: bool,
    pods: Vec<Value>,
}

#[derive(Clone, Debug, Default)]
struct Entries {
    numbers: HashMap<String, u32>,
    entries: Vec<String>,
    told: usize,
}

impl Entries {
    fn number(&mut self, entry: &str) -> u32 {
        if let Some(number) = self.numbers.get(entry) {
            return *number;
        }
        let number = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.numbers.insert(entry.to_owned(), number);
        self.entries.push(entry.to_owned());
        number
    }

    fn tell(&mut self, dictionary: u32, into: &mut Vec<DictionaryDelta>) {
        let entries = self.entries.get(self.told..).unwrap_or(&[]).to_vec();
        if !entries.is_empty() {
            let first = u32::try_from(self.told).unwrap_or(u32::MAX);
            into.push(DictionaryDelta { dictionary, first, entries });
        }
        self.told = self.entries.len();
    }
}

fn to_labels(labels: &[(&str, &str)]) -> Vec<String> {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

impl Cluster {
    /// Adds a node and answers its slot.
    pub fn node(&mut self, name: &str, labels: &[(&str, &str)]) -> u32 {
        let node = ClusterNode {
            name: name.to_owned(),
            labels: to_labels(labels),
            taints: Value::Array(Vec::new()),
            unschedulable: false,
            pods: Vec::new(),
        };
        self.nodes.push(Some(node));
        let slot = u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX);
        self.changed.insert(slot);
        slot
    }

    fn change(&mut self, slot: u32, change: impl FnOnce(&mut ClusterNode)) {
        if let Some(Some(node)) = self.nodes.get_mut(slot as usize) {
            change(node);
            self.changed.insert(slot);
        }
    }

    /// Takes a node away; its slot stays empty.
    pub fn remove(&mut self, slot: u32) {
        if let Some(node) = self.nodes.get_mut(slot as usize) {
            *node = None;
            self.changed.insert(slot);
        }
    }

    /// Gives a node other labels.
    pub fn label(&mut self, slot: u32, labels: &[(&str, &str)]) {
        self.change(slot, |node| node.labels = to_labels(labels));
    }

    /// Gives a node other taints: a JSON array.
    pub fn taint(&mut self, slot: u32, taints: Value) {
        self.change(slot, |node| node.taints = taints);
    }

    /// Cordons a node, or takes that back.
    pub fn cordon(&mut self, slot: u32, unschedulable: bool) {
        self.change(slot, |node| node.unschedulable = unschedulable);
    }

    /// Places a pod, cut down to `placedPodFields`.
    pub fn place(&mut self, slot: u32, pod: Value) {
        self.change(slot, |node| node.pods.push(pod));
    }

    /// Takes one such pod from a node.
    pub fn take(&mut self, slot: u32, pod: &Value) {
        self.change(slot, |node| {
            if let Some(at) = node.pods.iter().position(|p| p == pod) {
                node.pods.remove(at);
            }
        });
    }

    /// The pods of a node.
    #[must_use]
    pub fn pods(&self, slot: u32) -> &[Value] {
        self.nodes.get(slot as usize).and_then(Option::as_ref).map_or(&[], |node| &node.pods)
    }

    /// How many slots there are, empty ones included.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// Makes the next delta a full one.
    pub fn start_over(&mut self) {
        self.begun = false;
    }

    /// What changed since the last delta; everything, the first time.
    pub fn delta(&mut self) -> Delta {
        let full = !std::mem::replace(&mut self.begun, true);
        let mut rows: Vec<u32> = std::mem::take(&mut self.changed).into_iter().collect();
        if full {
            rows = (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).collect();
            for entries in [&mut self.names, &mut self.labels, &mut self.taints, &mut self.pods] {
                *entries = Entries::default();
            }
            self.taints.number("[]");
        }
        let nodes = rows.iter().map(|slot| self.nodes.get(*slot as usize).cloned().flatten()).collect();
        Delta { full, ..self.encode(rows, nodes) }
    }

    /// The rows as they would be with these pods on them, in the given order.
    pub fn overlay(&mut self, rows: &[(u32, Vec<Value>)]) -> Delta {
        let nodes = rows.iter().map(|(slot, pods)| {
            let node = self.nodes.get(*slot as usize).cloned().flatten();
            node.map(|node| ClusterNode { pods: pods.clone(), ..node })
        });
        let nodes = nodes.collect();
        self.encode(rows.iter().map(|(slot, _)| *slot).collect(), nodes)
    }

    fn encode(&mut self, rows: Vec<u32>, nodes: Vec<Option<ClusterNode>>) -> Delta {
        let slots = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let mut live = vec![0; rows.len().div_ceil(64)];
        let (mut names, mut taints, mut cordoned) = (Vec::new(), Vec::new(), Vec::new());
        let mut labels = ListCells { offsets: vec![0], values: Vec::new() };
        let mut pods = labels.clone();
        for (position, node) in nodes.into_iter().enumerate() {
            set_bit(&mut live, position, node.is_some());
            let mut cells = [Vec::new(), Vec::new()];
            let (mut name, mut taint, mut cordon) = (0, 0, false);
            if let Some(node) = node {
                name = self.names.number(&node.name);
                taint = self.taints.number(&node.taints.to_string());
                cordon = node.unschedulable;
                cells = [
                    node.labels.iter().map(|label| u64::from(self.labels.number(label))).collect(),
                    node.pods.iter().map(|pod| u64::from(self.pods.number(&pod.to_string()))).collect(),
                ];
            }
            names.push(name);
            taints.push(taint);
            cordoned.push(u32::from(cordon));
            for (column, mut cell) in [&mut labels, &mut pods].into_iter().zip(cells) {
                cell.sort_unstable();
                column.values.append(&mut cell);
                column.offsets.push(u32::try_from(column.values.len()).unwrap_or(u32::MAX));
            }
        }
        let mut dictionaries = Vec::new();
        self.names.tell(dictionary::NAMES, &mut dictionaries);
        self.labels.tell(dictionary::LABELS, &mut dictionaries);
        self.taints.tell(dictionary::TAINT_SETS, &mut dictionaries);
        self.pods.tell(dictionary::PODS, &mut dictionaries);
        Delta {
            full: false,
            slots,
            rows,
            live,
            dictionaries,
            s64_columns: Vec::new(),
            u32_columns: vec![
                (column::NAME, names),
                (column::UNSCHEDULABLE, cordoned),
                (column::TAINTS, taints),
            ],
            list_columns: vec![(column::LABELS, labels), (column::PODS, pods)],
        }
    }
}
