//! The state machine: a batch of requests and the tables before give the writes, the results and
//! the events.
//!
//! Pure: no clock, randomness, environment or hash order takes part, so the same log gives the same
//! tables, byte for byte, on every member.

use crate::api::{Compare, Event, EventKind, KeyValue, Op, OpResult, StoreError, Txn, TxnResult};
use crate::command::Request;
use crate::tables::{Change, Counters, Table, TableError, Tables, Write};
use crate::tables::{change_key, decode_current, encode_current, encode_old, old_key};
use bytes::Bytes;
use std::collections::HashMap;

/// Longest key, in bytes. An escaped key and its revision must fit the storage engine's limit.
pub const MAX_KEY: usize = 16 * 1024;

/// Largest transaction, in bytes: etcd's default limit of a request is 1.5 MiB; this leaves room
/// for an object of that size and its compares.
pub const MAX_TXN: usize = 2 * 1024 * 1024;

/// Most steps of a transaction, compares included.
pub const MAX_OPS: usize = 4096;

/// Checks a transaction before it is proposed. What passes can be applied on every member.
///
/// # Errors
/// [`StoreError::Invalid`]
pub fn validate(txn: &Txn) -> Result<(), StoreError> {
    let invalid = |message: String| Err(StoreError::Invalid { message });
    let mut size = 0;
    let keys = txn.compares.iter().map(|Compare::ModRevision { key, .. }| key);
    let ops = txn.success.iter().chain(&txn.failure).map(|op| match op {
        Op::Put { key, value } => {
            size += value.len();
            key
        }
        Op::Delete { key } | Op::Get { key } => key,
    });
    let mut count = 0;
    let mut total = 0;
    for key in keys.chain(ops) {
        if key.is_empty() {
            return invalid("etcdserver: key is not provided".to_owned());
        }
        if key.len() > MAX_KEY {
            return invalid(format!("the key has {} bytes, more than {MAX_KEY}", key.len()));
        }
        count += 1;
        total += key.len();
    }
    if count > MAX_OPS {
        return invalid("etcdserver: too many operations in txn request".to_owned());
    }
    if total + size > MAX_TXN {
        return invalid("etcdserver: request is too large".to_owned());
    }
    Ok(())
}

/// Result of one request.
#[derive(Debug)]
pub enum Outcome {
    /// Of a transaction.
    Txn(TxnResult),
    /// Of a compaction; refused where the revision is already compacted or lies in the future.
    Compact(Result<(), StoreError>),
}

/// What a batch does.
#[derive(Debug)]
pub struct Applied {
    /// The counters after.
    pub counters: Counters,
    /// To be written in one atomic step. A key occurs at most once per table.
    pub writes: Vec<Write>,
    /// One per request, in order.
    pub outcomes: Vec<Outcome>,
    /// In revision order.
    pub events: Vec<Event>,
}

struct Batch<'a, T> {
    tables: &'a T,
    counters: Counters,
    /// Keys read or written by this batch: state now, and whether it was written.
    overlay: HashMap<Bytes, (Option<KeyValue>, bool)>,
    /// Keys of the overlay that were written, in order of the first write.
    dirty: Vec<Bytes>,
    writes: Vec<Write>,
    events: Vec<Event>,
}

/// Applies a batch. The caller must make `writes` durable, atomically, before it acknowledges
/// anything or applies the next batch.
///
/// # Errors
/// [`TableError`]: the store must stop, since this member cannot follow the log.
pub fn apply(
    tables: &impl Tables,
    counters: Counters,
    requests: Vec<Request>,
) -> Result<Applied, TableError> {
    let mut batch = Batch {
        tables,
        counters,
        overlay: HashMap::new(),
        dirty: Vec::new(),
        writes: Vec::new(),
        events: Vec::new(),
    };
    let mut outcomes = Vec::with_capacity(requests.len());
    for request in requests {
        outcomes.push(match request {
            Request::Txn(txn) => Outcome::Txn(batch.txn(txn)?),
            Request::Compact { revision } => Outcome::Compact(batch.compact(revision)),
        });
    }
    let Batch { counters: after, overlay, dirty, mut writes, events, .. } = batch;
    for key in dirty {
        let state = overlay.get(&key).and_then(|(kv, _)| kv.as_ref());
        writes.push((Table::Current, key.to_vec(), state.map(encode_current)));
    }
    if after != counters {
        writes.push(after.write());
    }
    Ok(Applied { counters: after, writes, outcomes, events })
}

impl<T: Tables> Batch<'_, T> {
    fn get(&mut self, key: &Bytes) -> Result<Option<KeyValue>, TableError> {
        if let Some((kv, _)) = self.overlay.get(key) {
            return Ok(kv.clone());
        }
        let record = self.tables.get(Table::Current, key)?;
        let kv = record.map(|r| decode_current(key.clone(), &r)).transpose()?;
        self.overlay.insert(key.clone(), (kv.clone(), false));
        Ok(kv)
    }

    fn set(&mut self, key: &Bytes, kv: Option<KeyValue>) {
        let slot = self.overlay.entry(key.clone()).or_default();
        slot.0 = kv;
        if !slot.1 {
            slot.1 = true;
            self.dirty.push(key.clone());
        }
    }

    fn txn(&mut self, txn: Txn) -> Result<TxnResult, TableError> {
        let mut succeeded = true;
        for Compare::ModRevision { key, revision } in &txn.compares {
            if self.get(key)?.map_or(0, |kv| kv.mod_revision) != *revision {
                succeeded = false;
                break;
            }
        }
        let ops = if succeeded { txn.success } else { txn.failure };
        let revision = self.counters.revision + 1;
        let mut results = Vec::with_capacity(ops.len());
        // Keys written by this transaction, in order, with their state before it.
        let mut before: Vec<(Bytes, Option<KeyValue>)> = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value } => {
                    let old = self.get(&key)?;
                    let kv = KeyValue {
                        key: key.clone(),
                        value,
                        create_revision: old.as_ref().map_or(revision, |o| o.create_revision),
                        mod_revision: revision,
                        version: old.as_ref().map_or(0, |o| o.version) + 1,
                    };
                    self.set(&key, Some(kv.clone()));
                    remember(&mut before, key, old);
                    results.push(OpResult::Put(kv));
                }
                Op::Delete { key } => {
                    let old = self.get(&key)?;
                    if old.is_some() {
                        self.set(&key, None);
                        remember(&mut before, key, old.clone());
                    }
                    results.push(OpResult::Delete(old));
                }
                Op::Get { key } => results.push(OpResult::Get(self.get(&key)?)),
            }
        }
        if !before.is_empty() {
            self.counters.revision = revision;
        }
        let mut number = 0;
        for (key, prev) in before {
            let now = self.get(&key)?;
            let (kind, kv) = match (now, &prev) {
                (Some(kv), _) => (EventKind::Put, kv),
                (None, Some(_)) => {
                    let kv = KeyValue {
                        key: key.clone(),
                        value: Bytes::new(),
                        create_revision: 0,
                        mod_revision: revision,
                        version: 0,
                    };
                    (EventKind::Delete, kv)
                }
                // Created and deleted within the transaction: nobody will ever see it.
                (None, None) => continue,
            };
            let previous = prev.as_ref().map_or(0, |p| p.mod_revision);
            let change = Change { revision, kind, previous, key: &key };
            self.writes.push((Table::Changes, change_key(revision, number), Some(change.encode())));
            if let Some(prev) = &prev {
                self.writes.push((
                    Table::Old,
                    old_key(&key, prev.mod_revision),
                    Some(encode_old(prev, revision)),
                ));
            }
            self.events.push(Event { kind, kv, prev });
            number += 1;
        }
        Ok(TxnResult { succeeded, revision: self.counters.revision, results })
    }

    fn compact(&mut self, revision: u64) -> Result<(), StoreError> {
        if revision > self.counters.revision {
            return Err(StoreError::Future { requested: revision, current: self.counters.revision });
        }
        if revision <= self.counters.compacted {
            return Err(StoreError::Compacted { requested: revision, compacted: self.counters.compacted });
        }
        self.counters.compacted = revision;
        Ok(())
    }
}

/// Keeps the state before the transaction's first write of `key`.
fn remember(before: &mut Vec<(Bytes, Option<KeyValue>)>, key: Bytes, old: Option<KeyValue>) {
    if !before.iter().any(|(k, _)| *k == key) {
        before.push((key, old));
    }
}
