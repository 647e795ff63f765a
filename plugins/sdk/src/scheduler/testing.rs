//! For tests of plugins, natively.

mod cluster;

pub use cluster::Cluster;

use super::{
    BatchPlugin, Delta, DictionaryDelta, Explanation, ListCells, Prepared, Synced, set_bit, test_bit,
};
use serde_json::Value;

/// Builds a full delta of nodes 0, 1, 2 …
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    delta: Delta,
}

impl Nodes {
    /// So many nodes without any column.
    #[must_use]
    pub fn new(nodes: u32) -> Self {
        let mut live = vec![0; (nodes as usize).div_ceil(64)];
        (0..nodes as usize).for_each(|i| set_bit(&mut live, i, true));
        Self {
            delta: Delta { full: true, slots: nodes, rows: (0..nodes).collect(), live, ..Delta::default() },
        }
    }

    /// Rows of a table of `slots` slots, all live, for an overlay or a later delta.
    #[must_use]
    pub fn rows(slots: u32, rows: &[u32]) -> Self {
        let mut live = vec![0; rows.len().div_ceil(64)];
        (0..rows.len()).for_each(|i| set_bit(&mut live, i, true));
        Self { delta: Delta { full: false, slots, rows: rows.to_vec(), live, ..Delta::default() } }
    }

    /// A column of s64.
    #[must_use]
    pub fn s64(mut self, column: u32, values: &[i64]) -> Self {
        self.delta.s64_columns.push((column, values.to_vec()));
        self
    }

    /// A column of u32.
    #[must_use]
    pub fn u32(mut self, column: u32, values: &[u32]) -> Self {
        self.delta.u32_columns.push((column, values.to_vec()));
        self
    }

    /// A column of lists.
    #[must_use]
    pub fn lists(mut self, column: u32, cells: &[&[u64]]) -> Self {
        let mut list = ListCells { offsets: vec![0], values: Vec::new() };
        for cell in cells {
            list.values.extend_from_slice(cell);
            list.offsets.push(u32::try_from(list.values.len()).unwrap_or(u32::MAX));
        }
        self.delta.list_columns.push((column, list));
        self
    }

    /// A dictionary.
    #[must_use]
    pub fn dictionary(mut self, dictionary: u32, entries: &[&str]) -> Self {
        let entries = entries.iter().map(|e| (*e).to_owned()).collect();
        self.delta.dictionaries.push(DictionaryDelta { dictionary, first: 0, entries });
        self
    }

    /// The delta.
    #[must_use]
    pub fn delta(self) -> Delta {
        self.delta
    }
}

/// A plugin with one class, number 1.
pub struct Bench<P> {
    /// The plugin.
    pub plugin: P,
    /// What it made of the pod.
    pub prepared: Prepared,
}

impl<P: BatchPlugin> Bench<P> {
    /// Starts the plugin with `args`, shows it the nodes and the pod.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn new(args: &Value, nodes: Nodes, pod: &Value) -> Result<Self, String> {
        let mut plugin = P::new(args.to_string().as_bytes())?;
        plugin.sync(nodes.delta());
        let prepared = plugin.prepare(1, pod)?;
        Ok(Self { plugin, prepared })
    }

    /// Starts the plugin with `args`, shows it the cluster and the pod.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn in_cluster(args: &Value, cluster: &mut Cluster, pod: &Value) -> Result<Self, String> {
        let mut plugin = P::new(args.to_string().as_bytes())?;
        plugin.sync(cluster.delta());
        let prepared = plugin.prepare(1, pod)?;
        Ok(Self { plugin, prepared })
    }

    /// Tells the plugin what changed in the cluster.
    pub fn sync(&mut self, cluster: &mut Cluster) -> Synced {
        self.plugin.sync(cluster.delta())
    }

    /// Which of the rows would fit with these pods on them.
    pub fn would_fit(&mut self, cluster: &mut Cluster, rows: &[(u32, Vec<Value>)]) -> Vec<bool> {
        let mask = self.plugin.overlay(1, cluster.overlay(rows));
        (0..rows.len()).map(|i| test_bit(&mask, i)).collect()
    }

    /// The scores of `nodes` nodes after the plugin's own normalisation, where those of `feasible` fit.
    pub fn normalized(&mut self, nodes: usize, feasible: &[bool]) -> Vec<u8> {
        let feasible = super::pack(nodes, |i| feasible.get(i).copied().unwrap_or(false));
        let raw = self.plugin.score_raw(1, &[]);
        self.plugin.normalize(1, &feasible, &raw)
    }

    /// Which of `nodes` nodes fit.
    pub fn fits(&mut self, nodes: usize) -> Vec<bool> {
        let mask = self.plugin.filter(1, &[]);
        (0..nodes).map(|i| test_bit(&mask, i)).collect()
    }

    /// The texts of the reasons of one node.
    pub fn reasons(&mut self, slot: u32) -> Vec<String> {
        let Explanation { reasons, refs, .. } = self.plugin.explain(1, &[slot]);
        refs.iter().filter_map(|r| reasons.get(*r as usize)).map(|r| r.text.clone()).collect()
    }
}
