//! The store: MVCC with etcd's semantics behind one trait.
//!
//! One revision counter for the whole store; create revision, mod revision and version per key;
//! transactions with compares; watch from any revision that is not compacted; compaction.
//! Source of the semantics: the etcd v3 API.
#![forbid(unsafe_code)]

mod api;

pub use api::{
    Compare, Event, EventKind, KeyValue, Op, OpResult, Range, RangeResult, Store, StoreError, Txn, TxnResult, WatchBatch,
    WatchReceiver,
};
