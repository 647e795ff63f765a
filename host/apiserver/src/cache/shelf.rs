//! The cached objects of one storage prefix.

use super::entry::{Change, Entry};
use super::watcher::{Delivery, Filter, Scope, Subscription, Watchers};
use crate::registry::{Resource, SelectableField};
use parking_lot::RwLock;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Changes younger than this stay in the ring, as far as [`MOST`] allows.
const FRESH: Duration = Duration::from_secs(75);
const FEWEST: usize = 128;
pub(super) const MOST: usize = 16_384;

/// Is told of each change of a shelf while its lock is held: the key, the state before, the state after.
pub(crate) type Observer = Box<dyn Fn(&str, Option<&Arc<Entry>>, Option<&Arc<Entry>>) + Send + Sync>;

/// Objects, recent changes and watchers of one storage prefix.
pub(crate) struct Shelf {
    /// First row that uses the prefix: its strategy names the selectable fields.
    row: &'static Resource,
    observer: OnceLock<Observer>,
    state: RwLock<State>,
}

struct State {
    objects: BTreeMap<Box<str>, Arc<Entry>>,
    ring: VecDeque<(Instant, Arc<Change>)>,
    /// Every change after this revision is in the ring.
    floor: u64,
    /// Revision of the last change.
    changed: u64,
    watchers: Watchers,
}

/// A consistent look at part of a shelf.
pub(crate) struct Snapshot {
    /// In key order, at most as many as asked for.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The last change of the shelf when the look was taken.
    pub(crate) changed: u64,
    /// Whether the limit cut the result; then the number of matching entries left.
    pub(crate) remaining: Option<u64>,
}

/// Why a watch cannot begin: changes after its revision are no longer known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooOld {
    /// Oldest revision from which a watch can begin.
    pub(crate) floor: u64,
}

impl Shelf {
    pub(crate) fn new(row: &'static Resource) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            ring: VecDeque::new(),
            floor: 0,
            changed: 0,
            watchers: Watchers::default(),
        };
        Self { row, observer: OnceLock::new(), state: RwLock::new(state) }
    }

    /// Has `observer` told of every change from now on; there is one at most.
    pub(crate) fn observe(&self, observer: Observer) {
        if self.observer.set(observer).is_err() {
            tracing::error!(resource = %self.row.gvr, "two observers of one shelf; the second is ignored");
        }
    }

    /// First row that uses the prefix.
    pub(crate) fn row(&self) -> &'static Resource {
        self.row
    }

    /// What can be selected.
    pub(crate) fn fields(&self) -> &'static [SelectableField] {
        self.row.strategy.selectable_fields()
    }

    /// Replaces everything; watchers are closed and must begin again.
    pub(crate) fn reset(&self, objects: Vec<(Box<str>, Arc<Entry>)>, revision: u64) {
        let mut state = self.state.write();
        let mut before = std::mem::replace(&mut state.objects, objects.into_iter().collect());
        if let Some(observer) = self.observer.get() {
            for (key, new) in &state.objects {
                observer(key, before.remove(key).as_ref(), Some(new));
            }
            for (key, old) in &before {
                observer(key, Some(old), None);
            }
        }
        state.ring.clear();
        state.floor = revision;
        state.changed = state.objects.values().map(|e| e.object().meta().resource_version).max().unwrap_or(0);
        state.watchers.clear();
    }

    /// The entries as another row may look at them.
    pub(crate) fn renewed(&self) -> Vec<(Box<str>, Arc<Entry>)> {
        let state = self.state.read();
        state.objects.iter().map(|(key, entry)| (key.clone(), Arc::new(entry.renewed()))).collect()
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.state.write().watchers.clear();
    }

    /// Applies changes in revision order.
    pub(crate) fn apply<'k>(&self, events: impl Iterator<Item = (&'k str, u64, Option<Arc<Entry>>)>) {
        let declared = self.fields();
        let now = Instant::now();
        let mut state = self.state.write();
        for (key, revision, new) in events {
            let old = match &new {
                Some(entry) => match state.objects.get_mut(key) {
                    Some(slot) => Some(std::mem::replace(slot, entry.clone())),
                    None => state.objects.insert(key.into(), entry.clone()),
                },
                None => state.objects.remove(key),
            };
            if old.is_none() && new.is_none() {
                continue;
            }
            if let Some(observer) = self.observer.get() {
                observer(key, old.as_ref(), new.as_ref());
            }
            let change = Arc::new(Change::new(key.into(), revision, old, new));
            state.changed = revision;
            state.watchers.dispatch(&change, declared);
            state.ring.push_back((now, change));
        }
        state.trim(now);
    }

    /// One object as the cache has it.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().objects.get(key).cloned()
    }

    /// Matching entries whose key is greater than `after` (all, where empty), at most `limit`
    /// (all, where 0).
    pub(crate) fn list(&self, filter: &Filter, after: &str, limit: usize) -> Snapshot {
        let state = self.state.read();
        let mut entries = Vec::new();
        let mut remaining = 0;
        state.visit(&filter.scope, after, |entry| {
            if !filter.matches(entry, self.fields()) {
                return;
            }
            if limit != 0 && entries.len() == limit {
                remaining += 1;
            } else {
                entries.push(entry.clone());
            }
        });
        Snapshot { entries, changed: state.changed, remaining: (remaining > 0).then_some(remaining) }
    }

    /// Begins a watch after `since`. Missed changes are in the queue already.
    ///
    /// # Errors
    /// [`TooOld`] where the ring no longer reaches back that far.
    pub(crate) fn watch_since(
        &self,
        filter: Filter,
        since: u64,
    ) -> Result<(Vec<Delivery>, Subscription), TooOld> {
        let declared = self.fields();
        let mut state = self.state.write();
        if since < state.floor {
            return Err(TooOld { floor: state.floor });
        }
        let from = state.ring.partition_point(|(_, c)| c.revision <= since);
        let missed = state
            .ring
            .range(from..)
            .filter(|(_, c)| filter.scope.contains(&c.key))
            .filter_map(|(_, c)| Some(Delivery { event: filter.classify(c, declared)?, change: c.clone() }))
            .collect();
        let after = since.max(state.changed);
        let (_, subscription) = state.watchers.add(filter, after);
        Ok((missed, subscription))
    }

    /// Begins a watch with a look at the current state.
    pub(crate) fn watch_now(&self, filter: Filter) -> (Snapshot, Subscription) {
        let declared = self.fields();
        let mut state = self.state.write();
        let mut entries = Vec::new();
        state.visit(&filter.scope, "", |entry| {
            if filter.matches(entry, declared) {
                entries.push(entry.clone());
            }
        });
        let changed = state.changed;
        let (_, subscription) = state.watchers.add(filter, changed);
        (Snapshot { entries, changed, remaining: None }, subscription)
    }

    /// All entries.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// Number of objects.
    pub(crate) fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Number of watches.
    pub(crate) fn watches(&self) -> usize {
        self.state.read().watchers.len()
    }

    /// Forgets what is no longer needed: old changes, watchers that have gone.
    pub(crate) fn sweep(&self) {
        let mut state = self.state.write();
        state.trim(Instant::now());
        state.watchers.sweep();
    }
}

impl State {
    fn trim(&mut self, now: Instant) {
        while self.ring.len() > FEWEST {
            let old = self.ring.front().is_some_and(|(at, _)| now.duration_since(*at) > FRESH);
            if !old && self.ring.len() <= MOST {
                break;
            }
            if let Some((_, change)) = self.ring.pop_front() {
                self.floor = change.revision;
            }
        }
    }

    fn visit<'s>(&'s self, scope: &Scope, after: &str, mut f: impl FnMut(&'s Arc<Entry>)) {
        match scope {
            Scope::Key(key) => {
                if after.is_empty() || key.as_ref() > after {
                    self.objects.get(key.as_ref()).into_iter().for_each(f);
                }
            }
            Scope::All | Scope::Namespace(_) => {
                let prefix = match scope {
                    Scope::Namespace(ns) => format!("{ns}/"),
                    _ => String::new(),
                };
                let from = if after > prefix.as_str() {
                    Bound::Excluded(after)
                } else {
                    Bound::Included(prefix.as_str())
                };
                for (key, entry) in self.objects.range::<str, _>((from, Bound::Unbounded)) {
                    if !key.starts_with(&prefix) {
                        break;
                    }
                    f(entry);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
