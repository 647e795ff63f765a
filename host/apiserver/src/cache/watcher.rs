//! Who watches a shelf, and which changes he sees.

use super::entry::{Change, Entry};
use crate::registry::SelectableField;
use crate::selectors::FieldFilter;
use orlop_apimachinery::selector::Selector;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Changes that wait for a slow watcher before it is closed: as many as the cache remembers anyway.
pub(crate) const QUEUE: usize = super::shelf::MOST;

/// How a change looks to one watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
}

/// One change on its way to one watcher.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) change: Arc<Change>,
    pub(crate) event: EventType,
}

/// Part of a shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything.
    All,
    /// One namespace.
    Namespace(Box<str>),
    /// One object: `namespace/name` or `name`.
    Key(Box<str>),
}

impl Scope {
    pub(crate) fn contains(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(ns) => namespace_of(key) == ns.as_ref(),
            Self::Key(k) => k.as_ref() == key,
        }
    }
}

pub(crate) fn namespace_of(key: &str) -> &str {
    key.split_once('/').map_or("", |(ns, _)| ns)
}

/// What a reader wants of a shelf.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) scope: Scope,
    pub(crate) labels: Selector,
    pub(crate) fields: FieldFilter,
}

impl Filter {
    /// Whether the selectors (not the scope) match.
    pub(crate) fn matches(&self, entry: &Entry, declared: &[SelectableField]) -> bool {
        self.labels.matches(&entry.object().meta().labels) && self.fields.matches(entry, declared)
    }

    /// How a change inside the scope looks; `None` where it is not seen.
    pub(crate) fn classify(&self, change: &Change, declared: &[SelectableField]) -> Option<EventType> {
        let was = change.old.as_ref().is_some_and(|e| self.matches(e, declared));
        let is = change.new.as_ref().is_some_and(|e| self.matches(e, declared));
        match (was, is) {
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        }
    }
}

/// A registered watch. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// Ends where the watcher was too slow or the cache was loaded anew.
    pub(crate) changes: mpsc::Receiver<Delivery>,
}

#[derive(Debug)]
struct Watcher {
    queue: mpsc::Sender<Delivery>,
    filter: Filter,
    after: u64,
}

/// Where a watcher is filed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Slot {
    All,
    Namespace(Box<str>),
    Key(Box<str>),
    /// Index of the selectable field and the value it must have.
    Field(usize, Box<str>),
}

/// The watchers of one shelf, filed so that a change meets only those whom it may concern.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    slots: HashMap<Slot, Vec<Watcher>>,
    /// How many watchers are filed under each selectable field.
    fields: HashMap<usize, usize>,
}

impl Watchers {
    pub(crate) fn add(&mut self, filter: Filter, after: u64) -> (mpsc::Sender<Delivery>, Subscription) {
        let (queue, changes) = mpsc::channel(QUEUE);
        let slot = match (&filter.scope, filter.fields.indexable()) {
            (Scope::Key(key), _) => Slot::Key(key.clone()),
            (_, Some((field, value))) => {
                *self.fields.entry(field).or_default() += 1;
                Slot::Field(field, value.into())
            }
            (Scope::Namespace(ns), None) => Slot::Namespace(ns.clone()),
            (Scope::All, None) => Slot::All,
        };
        self.slots.entry(slot).or_default().push(Watcher { queue: queue.clone(), filter, after });
        (queue, Subscription { changes })
    }

    /// Hands a change to everyone whom it concerns; drops those who are gone or too slow.
    pub(crate) fn dispatch(&mut self, change: &Arc<Change>, declared: &[SelectableField]) {
        if self.slots.is_empty() {
            return;
        }
        self.send(&Slot::All, change, declared);
        let namespace = namespace_of(&change.key);
        if !namespace.is_empty() {
            self.send(&Slot::Namespace(namespace.into()), change, declared);
        }
        self.send(&Slot::Key(change.key.clone()), change, declared);
        let indexed: Vec<usize> = self.fields.keys().copied().collect();
        for field in indexed {
            let value = |entry: &Option<Arc<Entry>>| {
                entry.as_ref().and_then(|e| e.fields(declared).get(field).cloned())
            };
            let (old, new) = (value(&change.old), value(&change.new));
            if let Some(old) = &old
                && Some(old) != new.as_ref()
            {
                self.send(&Slot::Field(field, old.clone()), change, declared);
            }
            if let Some(new) = new {
                self.send(&Slot::Field(field, new), change, declared);
            }
        }
    }

    fn send(&mut self, slot: &Slot, change: &Arc<Change>, declared: &[SelectableField]) {
        let Some(watchers) = self.slots.get_mut(slot) else { return };
        let before = watchers.len();
        watchers.retain(|w| {
            if w.queue.is_closed() {
                return false;
            }
            if change.revision <= w.after || !w.filter.scope.contains(&change.key) {
                return true;
            }
            match w.filter.classify(change, declared) {
                Some(event) => w.queue.try_send(Delivery { change: change.clone(), event }).is_ok(),
                None => true,
            }
        });
        let gone = before - watchers.len();
        if watchers.is_empty() {
            self.slots.remove(slot);
        }
        self.forget(slot, gone);
    }

    fn forget(&mut self, slot: &Slot, gone: usize) {
        if let Slot::Field(field, _) = slot
            && let Some(count) = self.fields.get_mut(field)
        {
            *count = count.saturating_sub(gone);
            if *count == 0 {
                self.fields.remove(field);
            }
        }
    }

    /// Drops watchers whose readers are gone.
    pub(crate) fn sweep(&mut self) {
        let slots: Vec<Slot> = self.slots.keys().cloned().collect();
        for slot in slots {
            let Some(watchers) = self.slots.get_mut(&slot) else { continue };
            let before = watchers.len();
            watchers.retain(|w| !w.queue.is_closed());
            let gone = before - watchers.len();
            if watchers.is_empty() {
                self.slots.remove(&slot);
            }
            self.forget(&slot, gone);
        }
    }

    /// Ends all watches.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.fields.clear();
    }

    /// Number of watches.
    pub(crate) fn len(&self) -> usize {
        self.slots.values().map(Vec::len).sum()
    }
}
