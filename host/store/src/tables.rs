//! The tables of the state machine: byte strings in key order, and the records in them.
//!
//! | table | key | record |
//! |---|---|---|
//! | `Current` | the key | its state |
//! | `Old` | the key (escaped), mod revision | a superseded state and the revision that superseded it |
//! | `Changes` | revision, number within the revision | which key changed, and the state's place before |
//! | `Meta` | a name | counters; what the backend adds |
//!
//! A change at revision *s* names the state that it superseded, so compaction to *c* is: for each
//! change up to *c*, remove that state from `Old`, then the change. Nothing else is ever searched.

use crate::api::{EventKind, KeyValue};
use crate::codec::{DecodeError, Decoder, Encoder};
use bytes::Bytes;
use std::ops::ControlFlow;

const VERSION: u8 = 1;

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The newest state of every living key.
    Current,
    /// Superseded states that a read at an earlier revision may need.
    Old,
    /// The log of changes, which watches catch up from.
    Changes,
    /// Counters.
    Meta,
}

impl Table {
    /// All of them, in the order in which a snapshot holds them.
    pub const ALL: [Self; 4] = [Self::Current, Self::Old, Self::Changes, Self::Meta];

    /// Name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Old => "old",
            Self::Changes => "changes",
            Self::Meta => "meta",
        }
    }
}

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A record is not what this program writes. The store stops; the operator must act.
    #[error("a record in the table {table} is corrupt")]
    Corrupt {
        /// Name of the table.
        table: &'static str,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// The storage engine failed. The store stops; the operator must act.
    #[error("the storage engine failed")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Called for each record of a scan; ends it with `Break`.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, TableError> + 'a;

/// Reads tables. All reads of one `Tables` see one state.
pub trait Tables {
    /// One record, copied.
    ///
    /// # Errors
    /// [`TableError`]
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, TableError>;

    /// The records from `start` to `end` (exclusive; `None` for all), in key order.
    ///
    /// # Errors
    /// [`TableError`], and what `visit` returns.
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TableError>;
}

/// One write of a [`crate::Applied`]; `None` removes.
pub type Write = (Table, Vec<u8>, Option<Vec<u8>>);

fn corrupt(table: Table) -> impl FnOnce(DecodeError) -> TableError {
    move |source| TableError::Corrupt { table: table.name(), source }
}

// === Current ===

/// Record of [`Table::Current`].
pub(crate) fn encode_current(kv: &KeyValue) -> Vec<u8> {
    let mut e = Encoder::with_capacity(kv.value.len() + 24);
    e.u8(VERSION).varint(kv.create_revision).varint(kv.mod_revision).varint(kv.version).rest(&kv.value);
    e.finish()
}

/// The mod revision of a record, without copying the value.
pub(crate) fn current_mod_revision(record: &[u8]) -> Result<u64, TableError> {
    let read = || {
        let mut d = Decoder::version(record, VERSION)?;
        d.varint()?;
        d.varint()
    };
    read().map_err(corrupt(Table::Current))
}

/// Decodes a record of [`Table::Current`] for `key`.
pub(crate) fn decode_current(key: Bytes, record: &[u8]) -> Result<KeyValue, TableError> {
    let read = || {
        let mut d = Decoder::version(record, VERSION)?;
        let (create_revision, mod_revision, version) = (d.varint()?, d.varint()?, d.varint()?);
        Ok(KeyValue { key, value: Bytes::copy_from_slice(d.rest()), create_revision, mod_revision, version })
    };
    read().map_err(corrupt(Table::Current))
}

// === Old ===

/// Escapes a key so that the order of escaped keys, whatever follows them, is the order of the keys.
pub(crate) fn escape(key: &[u8], room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + room);
    for &b in key {
        out.push(b);
        if b == 0 {
            out.push(0xff);
        }
    }
    out
}

fn unescape(encoded: &[u8]) -> Result<(Vec<u8>, &[u8]), DecodeError> {
    let mut key = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    loop {
        match rest {
            [0, 0, tail @ ..] => return Ok((key, tail)),
            [0, 0xff, tail @ ..] => {
                key.push(0);
                rest = tail;
            }
            [0, found, ..] => return Err(DecodeError::Tag { record: "escaped key", found: *found }),
            [b, tail @ ..] => {
                key.push(*b);
                rest = tail;
            }
            [] => return Err(DecodeError::Truncated),
        }
    }
}

/// Key in [`Table::Old`].
pub(crate) fn old_key(key: &[u8], mod_revision: u64) -> Vec<u8> {
    let mut out = escape(key, 10);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&mod_revision.to_be_bytes());
    out
}

/// Record of [`Table::Old`].
pub(crate) fn encode_old(kv: &KeyValue, superseded_by: u64) -> Vec<u8> {
    let mut e = Encoder::with_capacity(kv.value.len() + 24);
    e.u8(VERSION).varint(superseded_by).varint(kv.create_revision).varint(kv.version).rest(&kv.value);
    e.finish()
}

/// A superseded state.
pub(crate) struct Old<'a> {
    pub(crate) key: Vec<u8>,
    pub(crate) mod_revision: u64,
    pub(crate) superseded_by: u64,
    create_revision: u64,
    version: u64,
    value: &'a [u8],
}

impl<'a> Old<'a> {
    pub(crate) fn decode(key: &[u8], record: &'a [u8]) -> Result<Self, TableError> {
        let read = || {
            let (key, tail) = unescape(key)?;
            let revision: [u8; 8] = tail.try_into().map_err(|_| DecodeError::Truncated)?;
            let mut d = Decoder::version(record, VERSION)?;
            Ok(Old {
                key,
                mod_revision: u64::from_be_bytes(revision),
                superseded_by: d.varint()?,
                create_revision: d.varint()?,
                version: d.varint()?,
                value: d.rest(),
            })
        };
        read().map_err(corrupt(Table::Old))
    }

    pub(crate) fn into_kv(self) -> KeyValue {
        KeyValue {
            key: self.key.into(),
            value: Bytes::copy_from_slice(self.value),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
        }
    }
}

// === Changes ===

/// Key in [`Table::Changes`].
pub(crate) fn change_key(revision: u64, number: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(12);
    out.extend_from_slice(&revision.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out
}

/// Record of [`Table::Changes`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) revision: u64,
    pub(crate) kind: EventKind,
    /// Mod revision of the state before; 0 where there was none.
    pub(crate) previous: u64,
    pub(crate) key: &'a [u8],
}

impl<'a> Change<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::with_capacity(self.key.len() + 12);
        let kind = match self.kind {
            EventKind::Put => 1,
            EventKind::Delete => 2,
        };
        e.u8(VERSION).u8(kind).varint(self.previous).rest(self.key);
        e.finish()
    }

    pub(crate) fn decode(key: &[u8], record: &'a [u8]) -> Result<Self, TableError> {
        let read = || {
            let revision: [u8; 8] =
                key.first_chunk::<8>().filter(|_| key.len() == 12).copied().ok_or(DecodeError::Truncated)?;
            let mut d = Decoder::version(record, VERSION)?;
            let kind = match d.u8()? {
                1 => EventKind::Put,
                2 => EventKind::Delete,
                found => return Err(DecodeError::Tag { record: "change", found }),
            };
            Ok(Change { revision: u64::from_be_bytes(revision), kind, previous: d.varint()?, key: d.rest() })
        };
        read().map_err(corrupt(Table::Changes))
    }
}

// === Meta ===

const COUNTERS: &[u8] = b"counters";

/// The state machine's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Revision of the last transaction that wrote.
    pub revision: u64,
    /// Reads below this revision, and watches after an earlier one, are refused.
    pub compacted: u64,
}

impl Counters {
    /// Reads them; both 0 in an empty store.
    ///
    /// # Errors
    /// [`TableError`]
    pub fn load(tables: &impl Tables) -> Result<Self, TableError> {
        let Some(record) = tables.get(Table::Meta, COUNTERS)? else { return Ok(Self::default()) };
        let read = || {
            let mut d = Decoder::version(&record, VERSION)?;
            let counters = Self { revision: d.varint()?, compacted: d.varint()? };
            d.finish()?;
            Ok(counters)
        };
        read().map_err(corrupt(Table::Meta))
    }

    pub(crate) fn write(self) -> Write {
        let mut e = Encoder::with_capacity(16);
        e.u8(VERSION).varint(self.revision).varint(self.compacted);
        (Table::Meta, COUNTERS.to_vec(), Some(e.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff)], 1..6)
    }

    proptest! {
        #[test]
        fn escaped_keys_keep_their_order(a in key(), b in key(), ra in any::<u64>(), rb in any::<u64>()) {
            let (ea, eb) = (old_key(&a, ra), old_key(&b, rb));
            prop_assert_eq!(ea.cmp(&eb), a.cmp(&b).then(ra.cmp(&rb)));
            // The bounds of a scan are escaped keys without what follows.
            prop_assert_eq!(ea < escape(&b, 0), a < b);
            prop_assert_eq!(unescape(&ea).unwrap(), (a, &ra.to_be_bytes()[..]));
        }

        #[test]
        fn decoders_take_any_bytes(k in proptest::collection::vec(any::<u8>(), 0..20), v in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = Old::decode(&k, &v).map(Old::into_kv);
            let _ = Change::decode(&k, &v);
            let _ = decode_current(Bytes::new(), &v);
            let _ = current_mod_revision(&v);
        }
    }

    #[test]
    fn the_first_version_on_disk_stays_readable() {
        let kv = KeyValue {
            key: Bytes::from_static(b"k\0"),
            value: Bytes::from_static(b"v"),
            create_revision: 2,
            mod_revision: 300,
            version: 3,
        };
        assert_eq!(encode_current(&kv), b"\x01\x02\xac\x02\x03v");
        assert_eq!(decode_current(kv.key.clone(), b"\x01\x02\xac\x02\x03v").unwrap(), kv);
        let key = b"k\0\xff\0\0\0\0\0\0\0\0\x01\x2c";
        assert_eq!(old_key(&kv.key, 300), key);
        assert_eq!(encode_old(&kv, 301), b"\x01\xad\x02\x02\x03v");
        let old = Old::decode(key, b"\x01\xad\x02\x02\x03v").unwrap();
        assert_eq!((old.superseded_by, old.into_kv()), (301, kv));
        let change = Change { revision: 5, kind: EventKind::Delete, previous: 4, key: b"k" };
        assert_eq!(change.encode(), b"\x01\x02\x04k");
        assert_eq!(Change::decode(&change_key(5, 1), b"\x01\x02\x04k").unwrap(), change);
        assert_eq!(Counters { revision: 9, compacted: 1 }.write().2.unwrap(), b"\x01\x09\x01");
    }
}
