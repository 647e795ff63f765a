//! Commands: what a log entry asks of the state machine.
//!
//! One entry carries a batch of requests, so that many writers share one append and one
//! `fdatasync`. Version 1 of the encoding; see `codec`.

use crate::api::{Compare, Op, Txn};
use crate::codec::{DecodeError, Decoder, Encoder};

const VERSION: u8 = 1;

const REQUEST_TXN: u8 = 1;
const REQUEST_COMPACT: u8 = 2;
const COMPARE_MOD_REVISION: u8 = 1;
const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_GET: u8 = 3;

/// One request of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Runs a transaction.
    Txn(Txn),
    /// Forgets superseded states up to a revision.
    Compact {
        /// The revision.
        revision: u64,
    },
}

/// Encodes a batch.
#[must_use]
pub fn encode_batch(requests: &[Request]) -> Vec<u8> {
    let mut e = Encoder::with_capacity(requests.iter().map(size_hint).sum::<usize>() + 8);
    e.u8(VERSION).varint(requests.len() as u64);
    for request in requests {
        match request {
            Request::Txn(txn) => {
                e.u8(REQUEST_TXN).varint(txn.compares.len() as u64);
                for Compare::ModRevision { key, revision } in &txn.compares {
                    e.u8(COMPARE_MOD_REVISION).bytes(key).varint(*revision);
                }
                encode_ops(&mut e, &txn.success);
                encode_ops(&mut e, &txn.failure);
            }
            Request::Compact { revision } => {
                e.u8(REQUEST_COMPACT).varint(*revision);
            }
        }
    }
    e.finish()
}

/// Roughly how long a request is in a batch, in bytes.
#[must_use]
pub fn size_hint(request: &Request) -> usize {
    match request {
        Request::Txn(txn) => {
            let compares: usize =
                txn.compares.iter().map(|Compare::ModRevision { key, .. }| key.len() + 12).sum();
            let ops = txn.success.iter().chain(&txn.failure).map(|op| match op {
                Op::Put { key, value } => key.len() + value.len() + 8,
                Op::Delete { key } | Op::Get { key } => key.len() + 4,
            });
            compares + ops.sum::<usize>() + 8
        }
        Request::Compact { .. } => 12,
    }
}

fn encode_ops(e: &mut Encoder, ops: &[Op]) {
    e.varint(ops.len() as u64);
    for op in ops {
        match op {
            Op::Put { key, value } => e.u8(OP_PUT).bytes(key).bytes(value),
            Op::Delete { key } => e.u8(OP_DELETE).bytes(key),
            Op::Get { key } => e.u8(OP_GET).bytes(key),
        };
    }
}

/// Decodes a batch. Keys and values are copied out of `buf`.
///
/// # Errors
/// [`DecodeError`] where `buf` is not what [`encode_batch`] writes.
pub fn decode_batch(buf: &[u8]) -> Result<Vec<Request>, DecodeError> {
    let mut d = Decoder::version(buf, VERSION)?;
    let n = d.length()?;
    let mut requests = Vec::with_capacity(n.min(1024));
    for _ in 0..n {
        requests.push(match d.u8()? {
            REQUEST_TXN => {
                let n = d.length()?;
                let mut compares = Vec::with_capacity(n.min(16));
                for _ in 0..n {
                    match d.u8()? {
                        COMPARE_MOD_REVISION => {
                            compares.push(Compare::ModRevision { key: d.owned()?, revision: d.varint()? });
                        }
                        found => return Err(DecodeError::Tag { record: "compare", found }),
                    }
                }
                Request::Txn(Txn { compares, success: decode_ops(&mut d)?, failure: decode_ops(&mut d)? })
            }
            REQUEST_COMPACT => Request::Compact { revision: d.varint()? },
            found => return Err(DecodeError::Tag { record: "request", found }),
        });
    }
    d.finish()?;
    Ok(requests)
}

fn decode_ops(d: &mut Decoder<'_>) -> Result<Vec<Op>, DecodeError> {
    let n = d.length()?;
    let mut ops = Vec::with_capacity(n.min(16));
    for _ in 0..n {
        ops.push(match d.u8()? {
            OP_PUT => Op::Put { key: d.owned()?, value: d.owned()? },
            OP_DELETE => Op::Delete { key: d.owned()? },
            OP_GET => Op::Get { key: d.owned()? },
            found => return Err(DecodeError::Tag { record: "op", found }),
        });
    }
    Ok(ops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (bytes(), bytes()).prop_map(|(key, value)| Op::Put { key, value }),
            bytes().prop_map(|key| Op::Delete { key }),
            bytes().prop_map(|key| Op::Get { key }),
        ]
    }

    fn request() -> impl Strategy<Value = Request> {
        let compare =
            (bytes(), any::<u64>()).prop_map(|(key, revision)| Compare::ModRevision { key, revision });
        let list = || proptest::collection::vec(op(), 0..4);
        prop_oneof![
            (proptest::collection::vec(compare, 0..3), list(), list())
                .prop_map(|(compares, success, failure)| Request::Txn(Txn { compares, success, failure })),
            any::<u64>().prop_map(|revision| Request::Compact { revision }),
        ]
    }

    proptest! {
        #[test]
        fn a_batch_survives_the_round_trip(requests in proptest::collection::vec(request(), 0..6)) {
            prop_assert_eq!(decode_batch(&encode_batch(&requests)).unwrap(), requests);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(mut buf in proptest::collection::vec(0u8..6, 0..60)) {
            if let Some(first) = buf.first_mut() { *first = VERSION; }
            if let Ok(requests) = decode_batch(&buf) {
                prop_assert_eq!(encode_batch(&requests), buf);
            }
        }

        #[test]
        fn every_cut_is_refused(requests in proptest::collection::vec(request(), 1..4), at in any::<prop::sample::Index>()) {
            let whole = encode_batch(&requests);
            prop_assert!(decode_batch(&whole[..at.index(whole.len())]).is_err());
        }
    }

    #[test]
    fn the_first_version_on_disk_stays_readable() {
        let requests = vec![
            Request::Txn(Txn {
                compares: vec![Compare::ModRevision { key: "a".into(), revision: 300 }],
                success: vec![Op::Put { key: "a".into(), value: "xy".into() }, Op::Get { key: "b".into() }],
                failure: vec![Op::Delete { key: "c".into() }],
            }),
            Request::Compact { revision: 7 },
        ];
        let fixture = b"\x01\x02\x01\x01\x01\x01a\xac\x02\x02\x01\x01a\x02xy\x03\x01b\x01\x02\x01c\x02\x07";
        assert_eq!(encode_batch(&requests), fixture);
        assert_eq!(decode_batch(fixture).unwrap(), requests);
    }
}
