//! The watch cache: one copy of every object, fed by one watch on the store.
//!
//! Each storage prefix has a shelf: an ordered map of entries, a ring of recent changes, and the
//! watchers. The pump applies the store's batches in revision order; a shelf's lock is held while
//! its map, its ring and its watchers move together, so that a watch registered under the lock
//! misses nothing and sees nothing twice.
//!
//! Invariants: [`WatchCache::revision`] is published after every shelf has applied it; a watcher
//! that cannot keep up is closed, never waited for.

mod entry;
mod shelf;
mod watcher;

pub(crate) use entry::Entry;
pub(crate) use shelf::Shelf;
pub(crate) use watcher::{Delivery, EventType, Filter, Scope, Subscription};

use crate::registry::{Resource, served};
use crate::storage;
use bytes::Bytes;
use orlop_store::{Event, EventKind, Range, Store, StoreError};
use std::collections::HashMap;
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
    revision: watch::Sender<u64>,
    store: Arc<dyn Store>,
}

impl WatchCache {
    /// One empty shelf per storage prefix of the table.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let mut shelves = Vec::new();
        let mut by_prefix = HashMap::new();
        for row in served() {
            let Some(prefix) = row.storage() else { continue };
            by_prefix.entry(prefix).or_insert_with(|| {
                shelves.push(Arc::new(Shelf::new(row)));
                shelves.len() - 1
            });
        }
        let (revision, _) = watch::channel(0);
        Self { shelves, by_prefix, revision, store }
    }

    /// The shelf of a stored row.
    pub(crate) fn shelf(&self, row: &Resource) -> Option<&Arc<Shelf>> {
        let at = self.by_prefix.get(row.storage()?)?;
        self.shelves.get(*at)
    }

    /// All shelves.
    pub(crate) fn shelves(&self) -> &[Arc<Shelf>] {
        &self.shelves
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
        let mut loads: Vec<Vec<(Box<str>, Arc<Entry>)>> = self.shelves.iter().map(|_| Vec::new()).collect();
        for kv in all.kvs {
            let Some((at, key)) = self.locate(&kv.key) else { continue };
            match Entry::decode(&kv.value, kv.mod_revision) {
                Ok(entry) => {
                    if let Some(load) = loads.get_mut(at) {
                        load.push((key.into(), Arc::new(entry)));
                    }
                }
                Err(error) => {
                    tracing::error!(key = %String::from_utf8_lossy(&kv.key), %error, "stored object cannot be read");
                }
            }
        }
        for (shelf, load) in self.shelves.iter().zip(loads) {
            shelf.reset(load, all.revision);
        }
        self.revision.send_replace(all.revision);
        Ok(all.revision)
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
            let Some((index, _)) = self.locate(&event.kv.key) else {
                at += 1;
                continue;
            };
            let mut run = Vec::new();
            while let Some(event) = events.get(at) {
                match self.locate(&event.kv.key) {
                    Some((i, key)) if i == index => run.push((key, event)),
                    Some(_) => break,
                    None => {}
                }
                at += 1;
            }
            if let Some(shelf) = self.shelves.get(index) {
                shelf.apply(run.into_iter().filter_map(|(key, event)| decode(key, event)));
            }
        }
    }

    /// The shelf of a key, and the key's rest (`namespace/name` or `name`).
    fn locate<'k>(&self, key: &'k [u8]) -> Option<(usize, &'k str)> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(storage::ROOT)?;
        // The longest prefix wins: `services/specs` lies beside `services/endpoints`.
        let mut end = 0;
        let mut found = None;
        for _ in 0..3 {
            let Some(next) = key.get(end..).and_then(|rest| rest.find('/')) else { break };
            end += next;
            if let Some(at) = key.get(..end).and_then(|p| self.by_prefix.get(p)) {
                found = Some((*at, key.get(end + 1..)?));
                break;
            }
            end += 1;
        }
        found
    }
}

fn decode<'k>(key: &'k str, event: &Event) -> Option<(&'k str, u64, Option<Entry>)> {
    let revision = event.kv.mod_revision;
    match event.kind {
        EventKind::Delete => Some((key, revision, None)),
        EventKind::Put => match Entry::decode(&event.kv.value, revision) {
            Ok(entry) => Some((key, revision, Some(entry))),
            Err(error) => {
                tracing::error!(key, %error, "stored object cannot be read");
                None
            }
        },
    }
}
