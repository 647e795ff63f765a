//! The store: MVCC with etcd's semantics behind one trait.
//!
//! One revision counter for the whole store; create revision, mod revision and version per key;
//! transactions with compares; watch from any revision that is not compacted; compaction.
//! Source of the semantics: the etcd v3 API.
//!
//! [`Store`] is what the API server sees. The rest is what a backend is made of: commands and their
//! encoding, the pure [`apply`], reads over [`Tables`], and the [`Hub`] that feeds watches. Where
//! the tables lie and how commands get an order is the backend's affair.
#![forbid(unsafe_code)]

mod api;
mod apply;
mod catch_up;
pub mod codec;
mod command;
mod hub;
mod memory;
mod read;
mod tables;

pub use api::{
    Compare, Event, EventKind, KeyValue, Op, OpResult, Range, RangeResult, Store, StoreError, Txn, TxnResult,
    WatchBatch, WatchReceiver,
};
pub use apply::{Applied, MAX_KEY, MAX_OPS, MAX_TXN, Outcome, apply, validate};
pub use catch_up::{ReadHistory, start_watch};
pub use command::{Request, decode_batch, encode_batch, size_hint};
pub use hub::{Hub, Joined, WATCH_BUFFER};
pub use memory::{MemoryStore, MemoryTables};
pub use read::{Garbage, History, ReadError, Span, check_revision, garbage, history, range};
pub use tables::{Counters, Table, TableError, Tables, Visit, Write};
