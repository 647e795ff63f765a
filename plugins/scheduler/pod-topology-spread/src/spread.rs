//! The plugin: follows the cluster and answers from the counts.

use crate::args::Defaults;
use crate::constraint::Wanted;
use crate::group::{Group, Sight};
use crate::matchers::Matchers;
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, Prepared, Replaced, Stale, Synced, Topology, column,
    dictionary, pod_changes,
};
use orlop_sdk::serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// The plugin.
#[derive(Debug)]
pub struct PodTopologySpread {
    defaults: Defaults,
    mirror: Mirror,
    topology: Topology,
    matchers: Matchers,
    groups: Vec<Option<Group>>,
    by_wish: HashMap<String, usize>,
    /// The group of each class that has one.
    classes: HashMap<u32, usize>,
}

impl PodTopologySpread {
    fn group_of(&self, class: u32) -> Option<&Group> {
        self.groups.get(*self.classes.get(&class)?)?.as_ref()
    }

    const fn sight(&self) -> Sight<'_> {
        Sight { mirror: &self.mirror, topology: &self.topology, matchers: &self.matchers }
    }

    /// Counts everything, after a full sync.
    fn recount(&mut self, rows: &[u32]) {
        self.topology.update(&self.mirror, rows);
        for slot in rows {
            let slot = *slot as usize;
            self.matchers.exchange(slot, &[], self.mirror.list(column::PODS, slot));
        }
        let sight = Sight { mirror: &self.mirror, topology: &self.topology, matchers: &self.matchers };
        self.groups.iter_mut().flatten().for_each(|group| group.count(sight));
    }

    /// Whether labels, taints or the very node of a row changed, not only its pods.
    fn is_new(&self, replaced: &Replaced, position: usize, slot: usize) -> bool {
        let was_live = replaced.was_live.get(position).copied().unwrap_or(false);
        let labels = replaced.list(column::LABELS, position);
        let taints = replaced.u32(column::TAINTS, position);
        let names = replaced.u32(column::NAME, position);
        let now = |number: u32| self.mirror.u32(number).get(slot).copied();
        was_live != self.mirror.is_live(slot)
            || labels.is_some_and(|labels| labels != self.mirror.list(column::LABELS, slot))
            || taints.is_some_and(|taints| Some(taints) != now(column::TAINTS))
            || names.is_some_and(|name| Some(name) != now(column::NAME))
    }

    /// Moves the counts by what the rows changed; answers the groups that may have noticed.
    fn follow(&mut self, replaced: &Replaced) -> BTreeSet<usize> {
        let mut touched = BTreeSet::new();
        self.topology.update(&self.mirror, &[]);
        for (position, row) in replaced.rows.iter().enumerate() {
            let slot = *row as usize;
            let before = replaced.list(column::PODS, position).unwrap_or(&[]);
            let after = self.mirror.list(column::PODS, slot);
            if self.is_new(replaced, position, slot) {
                let sight =
                    Sight { mirror: &self.mirror, topology: &self.topology, matchers: &self.matchers };
                self.groups.iter_mut().flatten().for_each(|group| group.retract(sight, slot));
                self.topology.update(&self.mirror, &[*row]);
                self.matchers.exchange(slot, before, after);
                let sight =
                    Sight { mirror: &self.mirror, topology: &self.topology, matchers: &self.matchers };
                self.groups.iter_mut().flatten().for_each(|group| group.admit(sight, slot));
                touched.extend(0..self.groups.len());
                continue;
            }
            let Self { matchers, groups, topology, .. } = self;
            pod_changes(before, after, |entry, by| {
                let by = i32::try_from(by).unwrap_or(0);
                for at in 0..matchers.selecting(entry).len() {
                    let Some(matcher) = matchers.selecting(entry).get(at).copied() else { continue };
                    matchers.shift(matcher, slot, by);
                    for at in matchers.groups(matcher) {
                        if let Some(Some(group)) = groups.get_mut(*at) {
                            group.shift(topology, matcher, slot, by);
                            touched.insert(*at);
                        }
                    }
                }
            });
        }
        touched
    }
}

impl BatchPlugin for PodTopologySpread {
    fn new(args: &[u8]) -> Result<Self, String> {
        Ok(Self {
            defaults: Defaults::parse(args)?,
            mirror: Mirror::default(),
            topology: Topology::default(),
            matchers: Matchers::default(),
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
            self.matchers.clear();
        }
        let replaced = self.mirror.exchange(delta);
        self.matchers.learn(pods);
        self.matchers.reach(self.mirror.slots());
        if full {
            self.recount(&replaced.rows);
            return Synced { checksum: self.mirror.checksum(), stale: Stale::Everything };
        }
        let touched = self.follow(&replaced);
        let mut stale = Vec::new();
        for at in touched {
            if let Some(Some(group)) = self.groups.get_mut(at)
                && group.settle(&self.topology)
            {
                stale.extend_from_slice(&group.classes);
            }
        }
        Synced { checksum: self.mirror.checksum(), stale: stale.into() }
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.release(class);
        let wanted = Wanted::read(pod, &self.defaults)?;
        let prepared = Prepared {
            skip_filter: wanted.hard.is_empty(),
            skip_score: wanted.soft.is_empty(),
            ..Prepared::default()
        };
        if prepared.skip_filter && prepared.skip_score {
            return Ok(prepared);
        }
        let wish = format!("{wanted:?}");
        let at = match self.by_wish.get(&wish) {
            Some(at) => *at,
            None => {
                let at = self.groups.iter().position(Option::is_none).unwrap_or(self.groups.len());
                let group = Group::new(wanted, at, &self.mirror, &mut self.topology, &mut self.matchers);
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
        if let Some(Some(group)) = self.groups.get_mut(at) {
            group.classes.push(class);
        }
        Ok(prepared)
    }

    fn release(&mut self, class: u32) {
        let Some(at) = self.classes.remove(&class) else { return };
        let Some(cell) = self.groups.get_mut(at) else { return };
        let Some(group) = cell else { return };
        group.classes.retain(|c| *c != class);
        if group.classes.is_empty() {
            group.matchers().for_each(|matcher| self.matchers.release(matcher, at));
            *cell = None;
            self.by_wish.retain(|_, group| *group != at);
        }
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let Some(at) = self.classes.get(&class) else { return Vec::new() };
        let Some(Some(group)) = self.groups.get_mut(*at) else { return Vec::new() };
        let sight = Sight { mirror: &self.mirror, topology: &self.topology, matchers: &self.matchers };
        if rows.is_empty() {
            return group.filter(sight);
        }
        Asked::new(rows, self.mirror.slots())
            .mask(|slot| self.mirror.is_live(slot) && group.judge(&self.topology, slot).is_none())
    }

    fn score_raw(&mut self, _class: u32, rows: &[u32]) -> Vec<i64> {
        // Scores depend on which nodes are feasible: `normalize` works them out.
        vec![0; Asked::new(rows, self.mirror.slots()).len()]
    }

    fn normalize(&mut self, class: u32, feasible: &[u64], _raw: &[i64]) -> Vec<u8> {
        match self.group_of(class) {
            Some(group) => group.scores(self.sight(), feasible),
            None => Vec::new(),
        }
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
        self.matchers.learn(delta.take_dictionary(dictionary::PODS));
        let Some(group) = self.group_of(class) else { return Vec::new() };
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
            let mut more: HashMap<usize, i32> = HashMap::new();
            pod_changes(before, after, |entry, by| {
                for matcher in self.matchers.selecting(entry) {
                    *more.entry(*matcher).or_default() += i32::try_from(by).unwrap_or(0);
                }
            });
            let more = |matcher: usize| more.get(&matcher).copied().unwrap_or(0);
            self.mirror.is_live(slot) && group.judge_with(&self.topology, slot, more).is_none()
        })
    }
}

#[cfg(test)]
mod tests;
