//! The trait and its vocabulary.

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

/// One key's state at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty in the `Delete` event of a key.
    pub value: Bytes,
    /// Revision of the key's creation.
    pub create_revision: u64,
    /// Revision of this state.
    pub mod_revision: u64,
    /// Number of writes since creation; 1 for a new key, 0 in a `Delete` event.
    pub version: u64,
}

/// A read.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// First key.
    pub start: Bytes,
    /// End, exclusive; empty reads just `start`; one zero byte reads everything from `start` on.
    pub end: Bytes,
    /// 0 reads the current state; else the state at that revision.
    pub revision: u64,
    /// At most so many keys; 0 for all.
    pub limit: usize,
    /// Skips the read index: may be stale on a member that lags.
    pub serializable: bool,
}

/// Result of a read.
#[derive(Clone, Debug)]
pub struct RangeResult {
    /// In key order.
    pub kvs: Vec<KeyValue>,
    /// Whether `limit` cut the result.
    pub more: bool,
    /// Number of keys in the range, regardless of `limit`.
    pub count: u64,
    /// The store's revision at the time of the read.
    pub revision: u64,
}

/// A condition of a transaction; all must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key's mod revision is so; 0 means that the key does not exist.
    ModRevision {
        /// The key.
        key: Bytes,
        /// Its expected mod revision.
        revision: u64,
    },
}

/// A step of a transaction; all steps of one transaction share one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: Bytes,
        /// The new value.
        value: Bytes,
    },
    /// Deletes a key; deleting a missing key is no error and makes no event.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads a key as it is at this point of the transaction.
    Get {
        /// The key.
        key: Bytes,
    },
}

/// Compares and what to do in either case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `success` to run.
    pub compares: Vec<Compare>,
    /// Runs where all compares hold.
    pub success: Vec<Op>,
    /// Runs otherwise.
    pub failure: Vec<Op>,
}

/// Result of one [`Op`], in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// The state after a put, or `None` for a delete of a missing key, or the state before a delete.
    Put(KeyValue),
    /// The state before the delete.
    Delete(Option<KeyValue>),
    /// The state read.
    Get(Option<KeyValue>),
}

/// Result of a transaction.
#[derive(Clone, Debug)]
pub struct TxnResult {
    /// Whether the compares held.
    pub succeeded: bool,
    /// The store's revision after the transaction.
    pub revision: u64,
    /// One per step that ran.
    pub results: Vec<OpResult>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Created or changed.
    Put,
    /// Deleted.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// The state after; for a delete the key, the delete's revision and an empty value.
    pub kv: KeyValue,
    /// The state before, where there was one.
    pub prev: Option<KeyValue>,
}

/// All the events of one or more whole revisions, in order, and how far the watch has come.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// In revision order; may be empty in a progress notification.
    pub events: Arc<[Event]>,
    /// Every event up to this revision has been delivered.
    pub revision: u64,
}

/// A watch. `Err` is its last item. Ends without one where the store shuts down.
pub type WatchReceiver = mpsc::Receiver<Result<WatchBatch, StoreError>>;

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision was compacted. Not retryable: read the current state.
    #[error("required revision {requested} has been compacted; the oldest is {compacted}")]
    Compacted {
        /// What was asked for.
        requested: u64,
        /// Reads and watches must ask for more than this.
        compacted: u64,
    },
    /// The revision lies in the future. Not retryable.
    #[error("required revision {requested} is a future revision; the current one is {current}")]
    Future {
        /// What was asked for.
        requested: u64,
        /// The newest revision.
        current: u64,
    },
    /// No quorum or no leader. Retryable; a write may have happened.
    #[error("the store has no leader")]
    Unavailable,
    /// The reader of a watch is too slow. Watch again from the last revision seen.
    #[error("the watch fell behind and was closed")]
    SlowWatcher,
    /// The disk is full. Writes fail until there is space; reads go on. The operator must act.
    #[error("the disk is full; free some space, writes are refused until then")]
    NoSpace,
    /// The request can never succeed: an empty or oversized key, an oversized transaction.
    /// Not retryable.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
    },
    /// The store has stopped after corruption or an I/O error. The operator must act.
    #[error("the store has stopped: {message}")]
    Poisoned {
        /// What happened.
        message: String,
    },
}

/// MVCC key-value store.
///
/// Obligations: a write is acknowledged only when a quorum has it on disk; revisions grow by one
/// for every transaction that writes; all events of one revision reach a watch together.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads a range; linearizable unless it says `serializable`.
    async fn range(&self, range: Range) -> Result<RangeResult, StoreError>;

    /// Runs a transaction. Not cancel-safe: a cancelled one may have happened.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Watches keys from `start` to `end` (exclusive; empty for one key): every event with a
    /// revision greater than `after`. Progress notifications keep the revision moving where
    /// other keys change.
    async fn watch(&self, start: Bytes, end: Bytes, after: u64) -> Result<WatchReceiver, StoreError>;

    /// The newest revision applied here.
    fn revision(&self) -> u64;

    /// The newest revision known to be committed: a linearizable read must wait for this one.
    async fn read_index(&self) -> Result<u64, StoreError>;

    /// Forgets superseded states up to `revision`.
    async fn compact(&self, revision: u64) -> Result<(), StoreError>;

    /// Asks for a progress notification on every watch that has not yet learnt of the newest
    /// revision, now instead of within a fraction of a second. A reader that waits until its cache
    /// has come to [`Store::read_index`] calls this. Never blocks.
    fn request_progress(&self) {}
}
