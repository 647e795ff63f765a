//! The watch cache: one copy of every object, fed by one watch on the store.
//!
//! Each storage prefix has a shelf: an ordered map of entries, a ring of recent changes, and the
//! watchers. The pump applies the store's batches in revision order; a shelf's lock is held while
//! its map, its ring and its watchers move together, so that a watch registered under the lock
//! misses nothing and sees nothing twice.
//!
//! Invariants: [`WatchCache::revision`] is published after every shelf has applied it; a watcher
//! that cannot keep up is closed, never waited for.

mod drafts;
mod entry;
mod shelf;
mod watcher;

pub(crate) use drafts::Draft;
use drafts::{Announced, Drafts};
pub(crate) use entry::Entry;
pub(crate) use shelf::Shelf;
pub(crate) use watcher::{Delivery, EventType, Filter, Scope, Subscription};

use crate::crd;
use crate::registry::{Resource, built_in, find};
use crate::storage;
use bytes::Bytes;
use orlop_store::{Event, EventKind, Range, Store, StoreError};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a reader waits for the cache to reach a revision.
const FRESH: Duration = Duration::from_secs(3);

/// All shelves.
pub(crate) struct WatchCache {
    shelves: Vec<Arc<Shelf>>,
    by_prefix: HashMap<&'static str, usize>,
    /// Of types that are defined at run time, by prefix.
    custom: RwLock<BTreeMap<&'static str, Custom>>,
    publisher: crd::table::Publisher,
    definitions: Option<Arc<Shelf>>,
    revision: watch::Sender<u64>,
    drafts: Drafts,
    store: Arc<dyn Store>,
}

/// An entry and its key.
type Keyed = (Box<str>, Arc<Entry>);

/// The shelf of a type that is defined at run time.
struct Custom {
    definition: String,
    shelf: Arc<Shelf>,
}

impl WatchCache {
    /// One empty shelf per storage prefix of the table.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let mut shelves = Vec::new();
        let mut by_prefix = HashMap::new();
        for row in built_in() {
            let Some(prefix) = row.storage() else { continue };
            by_prefix.entry(prefix).or_insert_with(|| {
                shelves.push(Arc::new(Shelf::new(row)));
                shelves.len() - 1
            });
        }
        let (revision, _) = watch::channel(0);
        let mut cache = Self {
            shelves,
            by_prefix,
            custom: RwLock::default(),
            publisher: crd::table::Publisher::new(),
            definitions: None,
            revision,
            drafts: Drafts::default(),
            store,
        };
        cache.definitions = find(crd::GROUP, "v1", crd::RESOURCE).and_then(|row| cache.shelf(row));
        cache
    }

    /// The shelf of a stored row.
    pub(crate) fn shelf(&self, row: &Resource) -> Option<Arc<Shelf>> {
        self.by_storage(row.storage()?)
    }

    fn by_storage(&self, prefix: &str) -> Option<Arc<Shelf>> {
        match self.by_prefix.get(prefix) {
            Some(at) => self.shelves.get(*at).cloned(),
            None => self.custom.read().get(prefix).map(|c| c.shelf.clone()),
        }
    }

    /// All shelves.
    pub(crate) fn shelves(&self) -> Vec<Arc<Shelf>> {
        let custom = self.custom.read();
        self.shelves.iter().cloned().chain(custom.values().map(|c| c.shelf.clone())).collect()
    }

    /// Serves what a definition says from `revision` on. Instances are written only after it, so a new
    /// shelf misses none.
    fn define(&self, name: &str, definition: Option<&Entry>, revision: u64) {
        let rows = definition.map_or(&[][..], |d| crd::rows(&d.object().to_value()));
        let first =
            rows.iter().copied().find(|r| r.custom.is_some_and(|c| c.storage)).or(rows.first().copied());
        let mut custom = self.custom.write();
        let wanted = first.and_then(|r| Some((r.storage()?, r)));
        let old =
            custom.iter().find(|(_, c)| c.definition == name).map(|(prefix, c)| (*prefix, c.shelf.clone()));
        let same = match (&old, wanted) {
            (Some((_, shelf)), Some((_, row))) => std::ptr::eq(shelf.row(), row),
            (None, None) => true,
            _ => false,
        };
        if !same {
            if let Some((prefix, _)) = &old {
                custom.remove(prefix);
            }
            if let Some((prefix, row)) = wanted {
                let shelf = Arc::new(Shelf::new(row));
                let before = old.as_ref().map(|(_, shelf)| shelf.renewed()).unwrap_or_default();
                shelf.reset(before, revision);
                custom.insert(prefix, Custom { definition: name.to_owned(), shelf });
            }
        }
        drop(custom);
        self.publisher.publish(name, rows);
        // Watchers begin again, and see the type as it is now.
        if let Some((_, shelf)) = old.filter(|_| !same) {
            shelf.close();
        }
    }

    /// Everything up to here has been applied.
    pub(crate) fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Waits until `revision` has been applied; `false` after three seconds. Cancel-safe.
    pub(crate) async fn wait_for(&self, revision: u64) -> bool {
        if self.revision() >= revision {
            return true;
        }
        let mut seen = self.revision.subscribe();
        self.store.request_progress();
        let wait = seen.wait_for(|r| *r >= revision);
        matches!(tokio::time::timeout(FRESH, wait).await, Ok(Ok(_)))
    }

    /// Waits for everything that was acknowledged before the call. Cancel-safe.
    pub(crate) async fn wait_current(&self) -> Result<u64, StoreError> {
        let revision = self.store.read_index().await?;
        if self.wait_for(revision).await { Ok(revision) } else { Err(StoreError::Unavailable) }
    }

    /// Loads the current state. Returns the revision from which to pump.
    pub(crate) async fn load(&self) -> Result<u64, StoreError> {
        let start = Bytes::from_static(storage::ROOT.as_bytes());
        let end = storage::prefix_end(&start);
        let all = self.store.range(Range { start, end, ..Range::default() }).await?;
        self.load_definitions(&all.kvs, all.revision);
        let mut loads: HashMap<*const Shelf, Vec<Keyed>> = HashMap::new();
        for kv in &all.kvs {
            let Some((shelf, key)) = self.locate(&kv.key) else { continue };
            match Entry::decode(&kv.value, kv.mod_revision) {
                Ok(entry) => {
                    loads.entry(Arc::as_ptr(&shelf)).or_default().push((key.into(), Arc::new(entry)));
                }
                Err(error) => {
                    tracing::error!(key = %String::from_utf8_lossy(&kv.key), %error, "stored object cannot be read");
                }
            }
        }
        for shelf in self.shelves() {
            shelf.reset(loads.remove(&Arc::as_ptr(&shelf)).unwrap_or_default(), all.revision);
        }
        self.revision.send_replace(all.revision);
        Ok(all.revision)
    }

    /// Defines the types of which there are definitions, and forgets all others.
    fn load_definitions(&self, kvs: &[orlop_store::KeyValue], revision: u64) {
        let mut there = BTreeSet::new();
        for kv in kvs {
            let Some((_, key)) = self.locate(&kv.key).filter(|(shelf, _)| self.defines(shelf)) else {
                continue;
            };
            if let Ok(entry) = Entry::decode(&kv.value, kv.mod_revision) {
                self.define(key, Some(&entry), revision);
                there.insert(key.to_owned());
            }
        }
        let known: Vec<String> = self.custom.read().values().map(|c| c.definition.clone()).collect();
        for name in known.iter().filter(|name| !there.contains(*name)) {
            self.define(name, None, revision);
        }
    }

    fn defines(&self, shelf: &Arc<Shelf>) -> bool {
        self.definitions.as_ref().is_some_and(|d| Arc::ptr_eq(d, shelf))
    }

    /// Applies the store's events until `cancel`; loads anew where the watch is lost.
    pub(crate) async fn pump(self: Arc<Self>, mut from: u64, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                ended = self.pump_once(&mut from) => {
                    if cancel.is_cancelled() { return; }
                    match ended {
                        Ok(()) => tracing::warn!("the store's watch ended, watching again"),
                        Err(StoreError::Compacted { .. }) => {
                            tracing::warn!("the store's watch was overtaken by compaction, loading anew");
                            self.reload(&mut from).await;
                        }
                        Err(error) => tracing::warn!(%error, "the store's watch failed, watching again"),
                    }
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
    }

    async fn reload(&self, from: &mut u64) {
        match self.load().await {
            Ok(revision) => *from = revision,
            Err(error) => tracing::warn!(%error, "the store cannot be read"),
        }
    }

    async fn pump_once(&self, from: &mut u64) -> Result<(), StoreError> {
        let start = Bytes::from_static(storage::ROOT.as_bytes());
        let end = storage::prefix_end(&start);
        let mut batches = self.store.watch(start, end, *from).await?;
        while let Some(batch) = batches.recv().await {
            let batch = batch?;
            self.apply(&batch.events);
            *from = batch.revision.max(*from);
            let revision = *from;
            self.revision.send_if_modified(|r| {
                let newer = revision > *r;
                *r = revision.max(*r);
                newer
            });
        }
        Ok(())
    }

    fn apply(&self, events: &[Event]) {
        let mut at = 0;
        while let Some(event) = events.get(at) {
            let Some((shelf, name)) = self.locate(&event.kv.key) else {
                at += 1;
                continue;
            };
            if self.defines(&shelf) {
                // What follows in this batch may be of the type that it defines.
                at += 1;
                if let Some(change) = self.decode(name, event) {
                    // The type is served before anybody hears of it.
                    self.define(name, change.2.as_deref(), event.kv.mod_revision);
                    shelf.apply(std::iter::once(change));
                }
                continue;
            }
            let mut run = Vec::new();
            while let Some(event) = events.get(at) {
                match self.locate(&event.kv.key) {
                    Some((same, key)) if Arc::ptr_eq(&same, &shelf) => run.push((key, event)),
                    Some(_) => break,
                    None => {}
                }
                at += 1;
            }
            shelf.apply(run.into_iter().filter_map(|(key, event)| self.decode(key, event)));
        }
    }

    /// The shelf of a key, and the key's rest (`namespace/name` or `name`).
    fn locate<'k>(&self, key: &'k [u8]) -> Option<(Arc<Shelf>, &'k str)> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(storage::ROOT)?;
        // The longest prefix wins: `services/specs` lies beside `services/endpoints`.
        let mut end = 0;
        let mut found = None;
        for _ in 0..3 {
            let Some(next) = key.get(end..).and_then(|rest| rest.find('/')) else { break };
            end += next;
            if let Some(shelf) = key.get(..end).and_then(|p| self.by_storage(p)) {
                found = Some((shelf, key.get(end + 1..)?));
                break;
            }
            end += 1;
        }
        found
    }

    /// Announces what is about to be written, until the answer is dropped.
    pub(crate) fn announce(&self, key: Bytes, draft: Draft) -> Announced<'_> {
        self.drafts.announce(key, draft)
    }

    fn decode<'k>(&self, key: &'k str, event: &Event) -> Option<(&'k str, u64, Option<Arc<Entry>>)> {
        let revision = event.kv.mod_revision;
        if event.kind == EventKind::Delete {
            return Some((key, revision, None));
        }
        let drafted = self.drafts.entry(&event.kv);
        match drafted.map_or_else(|| Entry::decode(&event.kv.value, revision).map(Arc::new), Ok) {
            Ok(entry) => Some((key, revision, Some(entry))),
            Err(error) => {
                tracing::error!(key, %error, "stored object cannot be read");
                None
            }
        }
    }
}
