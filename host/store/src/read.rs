//! Reads: ranges at any revision that is not compacted, the history for watches, and what a
//! compaction may remove.

use crate::api::{Event, EventKind, KeyValue, Range, RangeResult, StoreError};
use crate::tables::{
    Change, Counters, Old, Table, TableError, Tables, Write, change_key, current_mod_revision,
    decode_current, escape, old_key,
};
use bytes::Bytes;
use std::ops::ControlFlow;

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The request's fault.
    #[error(transparent)]
    Refused(StoreError),
    /// The store's fault: it must stop.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A range of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// First key.
    pub start: Bytes,
    /// End as in [`Range::end`].
    pub end: Bytes,
}

impl Span {
    /// Whether it is one key.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.end.is_empty()
    }

    /// Whether it has no end.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.end.as_ref() == [0]
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_single() {
            return key == self.start;
        }
        key >= self.start.as_ref() && (self.is_open() || key < self.end.as_ref())
    }

    /// The prefix of which it holds all keys, where there is one.
    #[must_use]
    pub fn prefix(&self) -> Option<&[u8]> {
        if self.is_single() {
            return None;
        }
        if self.is_open() {
            return self.start.is_empty().then_some(&[]);
        }
        let (last, head) = self.start.split_last()?;
        let (end_last, end_head) = self.end.split_last()?;
        (head == end_head && last.checked_add(1) == Some(*end_last)).then_some(self.start.as_ref())
    }

    fn end(&self) -> Option<&[u8]> {
        if self.is_open() { None } else { Some(self.end.as_ref()) }
    }
}

/// Checks a revision against the counters.
///
/// # Errors
/// [`StoreError::Compacted`], [`StoreError::Future`]
pub fn check_revision(counters: Counters, requested: u64) -> Result<(), StoreError> {
    if requested > counters.revision {
        return Err(StoreError::Future { requested, current: counters.revision });
    }
    if requested < counters.compacted {
        return Err(StoreError::Compacted { requested, compacted: counters.compacted });
    }
    Ok(())
}

/// Reads a range.
///
/// # Errors
/// [`ReadError`]
pub fn range(tables: &impl Tables, counters: Counters, range: &Range) -> Result<RangeResult, ReadError> {
    let span = Span { start: range.start.clone(), end: range.end.clone() };
    let past = range.revision != 0 && range.revision != counters.revision;
    if range.revision != 0 {
        check_revision(counters, range.revision).map_err(ReadError::Refused)?;
    }
    let limit = if range.limit == 0 { usize::MAX } else { range.limit };
    let mut kvs = Vec::new();
    let mut count = 0u64;
    if span.is_single() && !past {
        if let Some(record) = tables.get(Table::Current, &span.start)? {
            count = 1;
            kvs.push(decode_current(span.start, &record)?);
        }
    } else if past {
        (kvs, count) = range_at(tables, &span, range.revision, limit)?;
    } else {
        tables.scan(Table::Current, &span.start, span.end(), &mut |key, record| {
            count += 1;
            if kvs.len() < limit {
                kvs.push(decode_current(Bytes::copy_from_slice(key), record)?);
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    let more = (kvs.len() as u64) < count;
    Ok(RangeResult { kvs, more, count, revision: counters.revision })
}

/// The states valid at `revision`: those of `Current` that are no newer, and those of `Old` that
/// were written by then and superseded after. A key has at most one of them.
fn range_at(
    tables: &impl Tables,
    span: &Span,
    revision: u64,
    limit: usize,
) -> Result<(Vec<KeyValue>, u64), TableError> {
    let single_end;
    let (start, end) = if span.is_single() {
        single_end = [span.start.as_ref(), &[0]].concat();
        (span.start.as_ref(), Some(single_end.as_slice()))
    } else {
        (span.start.as_ref(), span.end())
    };
    let mut old = Vec::new();
    let (old_start, old_end) = (escape(start, 0), end.map(|e| escape(e, 0)));
    tables.scan(Table::Old, &old_start, old_end.as_deref(), &mut |key, record| {
        let state = Old::decode(key, record)?;
        if state.mod_revision <= revision && revision < state.superseded_by {
            old.push(state.into_kv());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let mut count = old.len() as u64;
    let mut old = old.into_iter().peekable();
    let mut kvs = Vec::new();
    tables.scan(Table::Current, start, end, &mut |key, record| {
        if current_mod_revision(record)? > revision {
            return Ok(ControlFlow::Continue(()));
        }
        count += 1;
        while let Some(kv) = old.next_if(|kv| kv.key.as_ref() < key && kvs.len() < limit) {
            kvs.push(kv);
        }
        if kvs.len() < limit {
            kvs.push(decode_current(Bytes::copy_from_slice(key), record)?);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let room = limit - kvs.len();
    kvs.extend(old.take(room));
    Ok((kvs, count))
}

/// A part of the history.
#[derive(Debug)]
pub struct History {
    /// Events in revision order, whole revisions only.
    pub events: Vec<Event>,
    /// Every event up to this revision is in this part or an earlier one.
    pub revision: u64,
}

/// Events of keys in `span` with a revision greater than `after`, about `max` changes (of any key)
/// at a time.
///
/// # Errors
/// [`ReadError`]
pub fn history(
    tables: &impl Tables,
    counters: Counters,
    span: &Span,
    after: u64,
    max: usize,
) -> Result<History, ReadError> {
    check_revision(counters, after).map_err(ReadError::Refused)?;
    let mut events = Vec::new();
    let mut seen = 0;
    let mut reached = after;
    let mut cut = false;
    tables.scan(Table::Changes, &change_key(after.saturating_add(1), 0), None, &mut |key, record| {
        let change = Change::decode(key, record)?;
        if seen >= max && change.revision != reached {
            cut = true;
            return Ok(ControlFlow::Break(()));
        }
        seen += 1;
        reached = change.revision;
        if span.contains(change.key) {
            events.push(event(tables, &change)?);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(History { events, revision: if cut { reached } else { counters.revision } })
}

fn event(tables: &impl Tables, change: &Change<'_>) -> Result<Event, TableError> {
    let key = Bytes::copy_from_slice(change.key);
    let old = |mod_revision: u64| -> Result<Option<KeyValue>, TableError> {
        let at = old_key(change.key, mod_revision);
        let Some(record) = tables.get(Table::Old, &at)? else { return Ok(None) };
        Ok(Some(KeyValue { key: key.clone(), ..Old::decode(&at, &record)?.into_kv() }))
    };
    let missing =
        || TableError::Corrupt { table: Table::Old.name(), source: crate::codec::DecodeError::Truncated };
    let prev = if change.previous == 0 { None } else { Some(old(change.previous)?.ok_or_else(missing)?) };
    let kv = match change.kind {
        EventKind::Delete => KeyValue {
            key,
            value: Bytes::new(),
            create_revision: 0,
            mod_revision: change.revision,
            version: 0,
        },
        EventKind::Put => match old(change.revision)? {
            Some(kv) => kv,
            None => {
                let record = tables.get(Table::Current, change.key)?.ok_or_else(missing)?;
                decode_current(key, &record)?
            }
        },
    };
    Ok(Event { kind: change.kind, kv, prev })
}

/// One step of a compaction.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Removals; to be made in one atomic step.
    pub writes: Vec<Write>,
    /// The changes up to this revision are gone once `writes` are made.
    pub collected: u64,
}

/// What the next step of a compaction removes: about `max` changes after the revision `collected`
/// and up to `compacted`, and the states that they superseded. Begins with `collected` 0 and is
/// done when that reaches `compacted`.
///
/// # Errors
/// [`TableError`]
pub fn garbage(
    tables: &impl Tables,
    collected: u64,
    compacted: u64,
    max: usize,
) -> Result<Garbage, TableError> {
    let mut step = Garbage { writes: Vec::new(), collected: compacted };
    let mut seen = 0;
    let mut last = 0;
    let start = change_key(collected.saturating_add(1), 0);
    let end = change_key(compacted.saturating_add(1), 0);
    tables.scan(Table::Changes, &start, Some(&end), &mut |key, record| {
        let change = Change::decode(key, record)?;
        if seen >= max && change.revision != last {
            step.collected = last;
            return Ok(ControlFlow::Break(()));
        }
        last = change.revision;
        seen += 1;
        if change.previous != 0 {
            step.writes.push((Table::Old, old_key(change.key, change.previous), None));
        }
        step.writes.push((Table::Changes, key.to_vec(), None));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(step)
}
