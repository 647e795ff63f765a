//! A store in memory, for tests: the same state machine, tables and hub as on disk, without a log.

use crate::api::{Range, RangeResult, Store, StoreError, Txn, TxnResult, WatchReceiver};
use crate::apply::{Outcome, apply, validate};
use crate::catch_up::{ReadHistory, start_watch};
use crate::command::{Request, decode_batch, encode_batch};
use crate::hub::Hub;
use crate::read::{History, ReadError, Span, check_revision, garbage, history, range};
use crate::tables::{Counters, Table, TableError, Tables, Visit, Write};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tables in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTables {
    tables: [BTreeMap<Vec<u8>, Bytes>; 4],
}

impl MemoryTables {
    fn table(&self, table: Table) -> &BTreeMap<Vec<u8>, Bytes> {
        let [current, old, changes, meta] = &self.tables;
        match table {
            Table::Current => current,
            Table::Old => old,
            Table::Changes => changes,
            Table::Meta => meta,
        }
    }

    /// Executes the writes of an [`crate::Applied`] or of [`garbage`].
    pub fn write(&mut self, writes: Vec<Write>) {
        for (table, key, value) in writes {
            let [current, old, changes, meta] = &mut self.tables;
            let map = match table {
                Table::Current => current,
                Table::Old => old,
                Table::Changes => changes,
                Table::Meta => meta,
            };
            match value {
                Some(value) => map.insert(key, value.into()),
                None => map.remove(&key),
            };
        }
    }

    /// Number of records of a table.
    #[must_use]
    pub fn len(&self, table: Table) -> usize {
        self.table(table).len()
    }
}

impl Tables for MemoryTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        Ok(self.table(table).get(key).cloned())
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TableError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, record) in self.table(table).range::<[u8], _>((Bound::Included(start), end)) {
            if visit(key, record)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

struct State {
    tables: MemoryTables,
    counters: Counters,
}

/// A store in memory. Loses everything with its last `Arc`.
pub struct MemoryStore {
    state: RwLock<State>,
    hub: Arc<Hub>,
    tracker: TaskTracker,
    cancel: CancellationToken,
    this: std::sync::Weak<Self>,
}

fn store_error(error: ReadError) -> StoreError {
    match error {
        ReadError::Refused(error) => error,
        ReadError::Table(error) => StoreError::Poisoned { message: error.to_string() },
    }
}

impl MemoryStore {
    /// An empty store whose tasks run on `tracker` until `cancel`.
    #[must_use]
    pub fn new(tracker: TaskTracker, cancel: CancellationToken) -> Arc<Self> {
        let hub = Arc::new(Hub::new(0));
        tracker.spawn(hub.clone().run(cancel.clone()));
        Arc::new_cyclic(|this| Self {
            state: RwLock::new(State { tables: MemoryTables::default(), counters: Counters::default() }),
            hub,
            tracker,
            cancel,
            this: this.clone(),
        })
    }

    fn apply(&self, request: Request) -> Result<Outcome, StoreError> {
        let poisoned = |message: String| StoreError::Poisoned { message };
        // Through the encoding, as in a log.
        let requests = decode_batch(&encode_batch(&[request])).map_err(|e| poisoned(e.to_string()))?;
        let mut state = self.state.write();
        let mut applied =
            apply(&state.tables, state.counters, requests).map_err(|e| poisoned(e.to_string()))?;
        state.tables.write(applied.writes);
        let mut collected = state.counters.compacted;
        while collected < applied.counters.compacted {
            let step = garbage(&state.tables, collected, applied.counters.compacted, 100)
                .map_err(|e| poisoned(e.to_string()))?;
            state.tables.write(step.writes);
            collected = step.collected;
        }
        state.counters = applied.counters;
        self.hub.publish(applied.events, applied.counters.revision);
        applied.outcomes.pop().ok_or_else(|| poisoned("a request without an outcome".to_owned()))
    }
}

#[async_trait]
impl ReadHistory for MemoryStore {
    async fn history(&self, span: &Span, after: u64, max: usize) -> Result<History, StoreError> {
        let state = self.state.read();
        history(&state.tables, state.counters, span, after, max).map_err(store_error)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn range(&self, request: Range) -> Result<RangeResult, StoreError> {
        let state = self.state.read();
        range(&state.tables, state.counters, &request).map_err(store_error)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        validate(&txn)?;
        match self.apply(Request::Txn(txn))? {
            Outcome::Txn(result) => Ok(result),
            Outcome::Compact(_) => Err(StoreError::Poisoned { message: "the wrong outcome".to_owned() }),
        }
    }

    async fn watch(&self, start: Bytes, end: Bytes, after: u64) -> Result<WatchReceiver, StoreError> {
        check_revision(self.state.read().counters, after)?;
        let this = self.this.upgrade().ok_or(StoreError::Unavailable)?;
        Ok(start_watch(&self.hub, &this, &self.tracker, &self.cancel, Span { start, end }, after))
    }

    fn revision(&self) -> u64 {
        self.state.read().counters.revision
    }

    async fn read_index(&self) -> Result<u64, StoreError> {
        Ok(self.revision())
    }

    async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        match self.apply(Request::Compact { revision })? {
            Outcome::Compact(result) => result,
            Outcome::Txn(_) => Err(StoreError::Poisoned { message: "the wrong outcome".to_owned() }),
        }
    }

    fn request_progress(&self) {
        self.hub.send_progress();
    }
}
