//! The plugin: follows the cluster and answers from the sums.

use crate::args::Args;
use crate::group::Group;
use crate::terms::Pod;
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, DictionaryDelta, Explanation, Mirror, Prepared, Replaced, Stale, Synced,
    Topology, column, dictionary, pod_changes,
};
use orlop_sdk::serde_json::{self, Value};
use std::collections::{BTreeSet, HashMap};

/// The plugin.
#[derive(Debug)]
pub struct InterPodAffinity {
    args: Args,
    mirror: Mirror,
    topology: Topology,
    /// Kinds of placed pods.
    entries: Vec<Pod>,
    /// By entry: the groups to which such pods matter.
    mattering: Vec<Vec<usize>>,
    groups: Vec<Option<Group>>,
    by_wish: HashMap<String, usize>,
    /// The group of each class.
    classes: HashMap<u32, usize>,
}

impl InterPodAffinity {
    fn group_of(&self, class: u32) -> Option<&Group> {
        self.groups.get(*self.classes.get(&class)?)?.as_ref()
    }

    /// Takes in new entries, and tries them on all groups.
    fn learn(&mut self, news: Vec<DictionaryDelta>) {
        for news in news {
            self.entries.truncate(news.first as usize);
            self.mattering.truncate(news.first as usize);
            for json in &news.entries {
                let number = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
                let entry = Pod::read_placed(&serde_json::from_str(json).unwrap_or(Value::Null));
                let mut matters = Vec::new();
                for (at, group) in self.groups.iter_mut().enumerate() {
                    let Some(group) = group else { continue };
                    if group.meet(number, &entry, &self.args, &self.mirror, &mut self.topology) {
                        matters.push(at);
                    }
                }
                self.entries.push(entry);
                self.mattering.push(matters);
            }
        }
    }

    /// Tells the groups of pods that came to a node or left it.
    fn exchange(
        &mut self,
        slot: usize,
        before: &[u64],
        after: Option<&[u64]>,
        touched: &mut BTreeSet<usize>,
    ) {
        let Self { mirror, topology, groups, mattering, .. } = self;
        let after = after.unwrap_or_else(|| mirror.list(column::PODS, slot));
        pod_changes(before, after, |entry, by| {
            for at in mattering.get(entry as usize).into_iter().flatten() {
                if let Some(Some(group)) = groups.get_mut(*at) {
                    group.shift(topology, slot, entry, by);
                    touched.insert(*at);
                }
            }
        });
    }

    /// Whether the labels or the very node of a row changed, not only its pods.
    fn is_new(&self, replaced: &Replaced, position: usize, slot: usize) -> bool {
        let was_live = replaced.was_live.get(position).copied().unwrap_or(false);
        let labels = replaced.list(column::LABELS, position);
        was_live != self.mirror.is_live(slot)
            || labels.is_some_and(|labels| labels != self.mirror.list(column::LABELS, slot))
    }

    /// Moves the sums by what the rows changed; answers the groups that may have noticed, and whether more
    /// than pods changed.
    fn follow(&mut self, replaced: &Replaced) -> (BTreeSet<usize>, bool) {
        let (mut touched, mut upset) = (BTreeSet::new(), false);
        self.topology.update(&self.mirror, &[]);
        for (position, row) in replaced.rows.iter().enumerate() {
            let slot = *row as usize;
            let before = replaced.list(column::PODS, position).unwrap_or(&[]);
            if self.is_new(replaced, position, slot) {
                upset = true;
                self.exchange(slot, before, Some(&[]), &mut touched);
                self.topology.update(&self.mirror, &[*row]);
                self.exchange(slot, &[], None, &mut touched);
            } else {
                self.exchange(slot, before, None, &mut touched);
            }
        }
        (touched, upset)
    }

    /// A group for such pods, with what is placed already.
    fn gather(&mut self, pod: Pod, at: usize) -> Group {
        let mut group = Group::new(pod, &self.mirror, &mut self.topology);
        for ((entry, matters), number) in self.entries.iter().zip(&mut self.mattering).zip(0..) {
            if group.meet(number, entry, &self.args, &self.mirror, &mut self.topology) {
                matters.push(at);
            }
        }
        if group.is_interested() {
            for slot in 0..self.mirror.slots() {
                pod_changes(&[], self.mirror.list(column::PODS, slot), |entry, by| {
                    group.place(&self.topology, slot, entry, by);
                });
            }
        }
        group.settle(&self.topology, false);
        group
    }
}

impl BatchPlugin for InterPodAffinity {
    fn new(args: &[u8]) -> Result<Self, String> {
        Ok(Self {
            args: Args::parse(args)?,
            mirror: Mirror::default(),
            topology: Topology::default(),
            entries: Vec::new(),
            mattering: Vec::new(),
            groups: Vec::new(),
            by_wish: HashMap::new(),
            classes: HashMap::new(),
        })
    }

    fn sync(&mut self, mut delta: Delta) -> Synced {
        let full = delta.full;
        let pods = delta.take_dictionary(dictionary::PODS);
        if full {
            self.topology.clear();
            self.entries.clear();
            self.mattering.clear();
            self.groups.iter_mut().flatten().for_each(Group::clear);
        }
        let replaced = self.mirror.exchange(delta);
        self.learn(pods);
        let (touched, upset) = self.follow(&replaced);
        let mut stale = Vec::new();
        for at in if full { (0..self.groups.len()).collect() } else { touched } {
            if let Some(Some(group)) = self.groups.get_mut(at)
                && group.settle(&self.topology, upset)
            {
                stale.extend_from_slice(&group.classes);
            }
        }
        let stale = if full { Stale::Everything } else { stale.into() };
        Synced { checksum: self.mirror.checksum(), stale }
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.release(class);
        let pod = Pod::read(pod)?;
        let wish = format!("{pod:?}");
        let at = match self.by_wish.get(&wish) {
            Some(at) => *at,
            None => {
                let at = self.groups.iter().position(Option::is_none).unwrap_or(self.groups.len());
                let group = self.gather(pod, at);
                if at == self.groups.len() {
                    self.groups.push(None);
                }
                if let Some(cell) = self.groups.get_mut(at) {
                    *cell = Some(group);
                }
                self.by_wish.insert(wish, at);
                at
            }
        };
        self.classes.insert(class, at);
        let Some(Some(group)) = self.groups.get_mut(at) else { return Ok(Prepared::default()) };
        group.classes.push(class);
        Ok(Prepared { skip_score: group.is_unscored(&self.args), ..Prepared::default() })
    }

    fn release(&mut self, class: u32) {
        let Some(at) = self.classes.remove(&class) else { return };
        let Some(cell) = self.groups.get_mut(at) else { return };
        let Some(group) = cell else { return };
        group.classes.retain(|c| *c != class);
        if group.classes.is_empty() {
            if group.is_interested() {
                self.mattering.iter_mut().for_each(|groups| groups.retain(|group| *group != at));
            }
            *cell = None;
            self.by_wish.retain(|_, group| *group != at);
        }
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let Some(group) = self.group_of(class) else { return Vec::new() };
        if rows.is_empty() {
            return group.filter(&self.mirror, &self.topology);
        }
        Asked::new(rows, self.mirror.slots())
            .mask(|slot| self.mirror.is_live(slot) && group.judge(&self.topology, slot).is_none())
    }

    fn score_raw(&mut self, _class: u32, rows: &[u32]) -> Vec<i64> {
        // Scores hang together: `normalize` works them out.
        vec![0; Asked::new(rows, self.mirror.slots()).len()]
    }

    fn normalize(&mut self, class: u32, feasible: &[u64], _raw: &[i64]) -> Vec<u8> {
        let group = self.group_of(class);
        group.map_or_else(Vec::new, |g| g.scores(self.mirror.slots(), &self.topology, feasible))
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        let group = self.group_of(class);
        for slot in rows {
            if let Some(reason) = group.and_then(|g| g.judge(&self.topology, *slot as usize)) {
                explanation.because(reason);
            }
            explanation.end_row();
        }
        explanation
    }

    fn overlay(&mut self, class: u32, mut delta: Delta) -> Vec<u64> {
        self.learn(delta.take_dictionary(dictionary::PODS));
        let Some(at) = self.classes.get(&class) else { return Vec::new() };
        let Some(Some(group)) = self.groups.get_mut(*at) else { return Vec::new() };
        let pods = delta.list_columns.iter().find(|(number, _)| *number == column::PODS);
        let cell = |position: usize| {
            let (_, cells) = pods?;
            let (from, to) = (cells.offsets.get(position)?, cells.offsets.get(position + 1)?);
            cells.values.get(*from as usize..*to as usize)
        };
        let mut position = 0;
        Asked::new(&delta.rows, 0).mask(|slot| {
            let before = self.mirror.list(column::PODS, slot);
            let after = cell(position).unwrap_or(before);
            position += 1;
            pod_changes(before, after, |entry, by| group.place(&self.topology, slot, entry, by));
            let fits = self.mirror.is_live(slot) && group.judge(&self.topology, slot).is_none();
            pod_changes(before, after, |entry, by| group.place(&self.topology, slot, entry, -by));
            fits
        })
    }
}

#[cfg(test)]
mod tests;
