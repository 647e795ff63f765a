//! Which placed pods count, and how many of them each node has.
//!
//! Pods that are equal in the declared fields share an entry of the dictionary, so a selector is tried
//! once per entry. Constraints with the same namespace and selector share a matcher.

use orlop_sdk::apimachinery::selector::Selector;
use orlop_sdk::scheduler::{DictionaryDelta, Mirror, column, pod_changes};
use orlop_sdk::serde_json::{self, Value};
use std::collections::HashMap;

/// A placed pod that is not being deleted.
#[derive(Debug)]
struct Entry {
    namespace: String,
    labels: Value,
}

impl Entry {
    fn read(json: &str) -> Option<Self> {
        let mut pod: Value = serde_json::from_str(json).ok()?;
        if pod.pointer("/computed/terminating").and_then(Value::as_bool) == Some(true) {
            return None;
        }
        let namespace = pod.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("").to_owned();
        let labels = pod.pointer_mut("/metadata/labels").map(Value::take).unwrap_or_default();
        Some(Self { namespace, labels })
    }
}

#[derive(Debug)]
struct Matcher {
    key: (String, String),
    selector: Selector,
    uses: usize,
    /// Groups with a constraint that counts by it.
    groups: Vec<usize>,
    /// By slot.
    pods: Vec<i32>,
}

impl Matcher {
    fn selects(&self, entry: &Entry) -> bool {
        self.key.0 == entry.namespace && self.selector.matches_value(&entry.labels)
    }
}

/// All matchers.
#[derive(Debug, Default)]
pub(crate) struct Matchers {
    /// `None` for pods that are being deleted: they count nowhere.
    entries: Vec<Option<Entry>>,
    /// By entry: the matchers that select it.
    selected_by: Vec<Vec<usize>>,
    matchers: Vec<Option<Matcher>>,
    by_key: HashMap<(String, String), usize>,
}

impl Matchers {
    /// Forgets the entries and the counts, before a full sync.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.selected_by.clear();
        self.matchers.iter_mut().flatten().for_each(|m| m.pods.clear());
    }

    /// Takes in new entries.
    pub(crate) fn learn(&mut self, news: Vec<DictionaryDelta>) {
        for news in news {
            self.entries.truncate(news.first as usize);
            self.selected_by.truncate(news.first as usize);
            for json in &news.entries {
                let entry = Entry::read(json);
                let selects = |m: &Option<Matcher>| {
                    m.as_ref().zip(entry.as_ref()).is_some_and(|(matcher, entry)| matcher.selects(entry))
                };
                let selecting = self.matchers.iter().enumerate().filter(|(_, m)| selects(m));
                self.selected_by.push(selecting.map(|(at, _)| at).collect());
                self.entries.push(entry);
            }
        }
    }

    /// Makes room for slots.
    pub(crate) fn reach(&mut self, slots: usize) {
        self.matchers.iter_mut().flatten().for_each(|m| m.pods.resize(slots, 0));
    }

    /// The matchers that select an entry.
    pub(crate) fn selecting(&self, entry: u32) -> &[usize] {
        self.selected_by.get(entry as usize).map_or(&[], |s| s)
    }

    /// Moves the count of a node.
    pub(crate) fn shift(&mut self, matcher: usize, slot: usize, by: i32) {
        if let Some(Some(matcher)) = self.matchers.get_mut(matcher)
            && let Some(count) = matcher.pods.get_mut(slot)
        {
            *count += by;
        }
    }

    /// Moves the counts of a node by what two cells of `node.pods` do not share.
    pub(crate) fn exchange(&mut self, slot: usize, before: &[u64], after: &[u64]) {
        pod_changes(before, after, |entry, by| {
            let by = i32::try_from(by).unwrap_or(0);
            for at in 0..self.selecting(entry).len() {
                if let Some(matcher) = self.selecting(entry).get(at).copied() {
                    self.shift(matcher, slot, by);
                }
            }
        });
    }

    /// Matching pods by slot; empty for a constraint by which no pod counts.
    pub(crate) fn pods(&self, matcher: Option<usize>) -> &[i32] {
        matcher.and_then(|at| self.matchers.get(at)?.as_ref()).map_or(&[], |m| &m.pods)
    }

    /// Groups that count by the matcher.
    pub(crate) fn groups(&self, matcher: usize) -> &[usize] {
        self.matchers.get(matcher).and_then(Option::as_ref).map_or(&[], |m| &m.groups)
    }

    /// A matcher for a constraint of a group; `None` where no pod counts, as by an empty selector.
    pub(crate) fn acquire(
        &mut self,
        mirror: &Mirror,
        namespace: &str,
        selector: &Selector,
        group: usize,
    ) -> Option<usize> {
        if selector.is_nothing() || selector.is_everything() {
            return None;
        }
        let key = (namespace.to_owned(), selector.to_string());
        if let Some(at) = self.by_key.get(&key).copied() {
            let matcher = self.matchers.get_mut(at)?.as_mut()?;
            matcher.uses += 1;
            if !matcher.groups.contains(&group) {
                matcher.groups.push(group);
            }
            return Some(at);
        }
        let at = self.matchers.iter().position(Option::is_none).unwrap_or(self.matchers.len());
        let mut matcher = Matcher {
            key: key.clone(),
            selector: selector.clone(),
            uses: 1,
            groups: vec![group],
            pods: vec![0; mirror.slots()],
        };
        let mut selected = vec![false; self.entries.len()];
        for ((entry, by), selected) in self.entries.iter().zip(&mut self.selected_by).zip(&mut selected) {
            if entry.as_ref().is_some_and(|entry| matcher.selects(entry)) {
                by.push(at);
                *selected = true;
            }
        }
        if selected.contains(&true) {
            for (slot, count) in matcher.pods.iter_mut().enumerate() {
                let counts = |entry: &&u64| {
                    usize::try_from(**entry).is_ok_and(|at| selected.get(at).copied().unwrap_or(false))
                };
                let pods = mirror.list(column::PODS, slot).iter().filter(counts).count();
                *count = i32::try_from(pods).unwrap_or(i32::MAX);
            }
        }
        if at == self.matchers.len() {
            self.matchers.push(None);
        }
        *self.matchers.get_mut(at)? = Some(matcher);
        self.by_key.insert(key, at);
        Some(at)
    }

    /// A constraint of the group does not count by the matcher any more.
    pub(crate) fn release(&mut self, matcher: Option<usize>, group: usize) {
        let Some(at) = matcher else { return };
        let Some(cell) = self.matchers.get_mut(at) else { return };
        let Some(matcher) = cell else { return };
        matcher.uses -= 1;
        matcher.groups.retain(|g| *g != group);
        if matcher.uses == 0 {
            self.by_key.remove(&matcher.key);
            *cell = None;
            self.selected_by.iter_mut().for_each(|by| by.retain(|m| *m != at));
        }
    }
}
