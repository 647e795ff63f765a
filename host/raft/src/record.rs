//! What Raft itself puts on disk: votes, log ids, memberships, log entries. Version 1; see
//! [`orlop_store::codec`].

use crate::types::{Command, LogId, MemberId, StoredMembership, TypeConfig};
use bytes::Bytes;
use openraft::{BasicNode, CommittedLeaderId, Entry, EntryPayload, LeaderId, Membership, Vote};
use orlop_store::codec::{DecodeError, Decoder, Encoder};
use std::collections::{BTreeMap, BTreeSet};

const VERSION: u8 = 1;

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

fn put_log_id(e: &mut Encoder, id: &LogId) {
    e.varint(id.leader_id.term).varint(id.leader_id.node_id).varint(id.index);
}

fn get_log_id(d: &mut Decoder<'_>) -> Result<LogId, DecodeError> {
    Ok(LogId::new(CommittedLeaderId::new(d.varint()?, d.varint()?), d.varint()?))
}

fn put_optional(e: &mut Encoder, id: Option<&LogId>) {
    match id {
        None => {
            e.u8(0);
        }
        Some(id) => {
            e.u8(1);
            put_log_id(e, id);
        }
    }
}

fn get_optional(d: &mut Decoder<'_>) -> Result<Option<LogId>, DecodeError> {
    match d.u8()? {
        0 => Ok(None),
        1 => get_log_id(d).map(Some),
        found => Err(DecodeError::Tag { record: "log id", found }),
    }
}

fn put_membership(e: &mut Encoder, membership: &Membership<MemberId, BasicNode>) {
    let configs = membership.get_joint_config();
    e.varint(configs.len() as u64);
    for voters in configs {
        e.varint(voters.len() as u64);
        for id in voters {
            e.varint(*id);
        }
    }
    let nodes: Vec<_> = membership.nodes().collect();
    e.varint(nodes.len() as u64);
    for (id, node) in nodes {
        e.varint(*id).bytes(node.addr.as_bytes());
    }
}

fn get_membership(d: &mut Decoder<'_>) -> Result<Membership<MemberId, BasicNode>, DecodeError> {
    let mut configs = Vec::new();
    for _ in 0..d.length()? {
        let mut voters = BTreeSet::new();
        for _ in 0..d.length()? {
            voters.insert(d.varint()?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..d.length()? {
        nodes.insert(d.varint()?, BasicNode::new(d.text()?));
    }
    // openraft takes it for granted that every voter has an address.
    if configs.iter().flatten().any(|id| !nodes.contains_key(id)) {
        return Err(DecodeError::Integer);
    }
    Ok(Membership::new(configs, nodes))
}

pub(crate) fn encode_vote(vote: &Vote<MemberId>) -> Vec<u8> {
    let mut e = Encoder::with_capacity(24);
    e.u8(VERSION).varint(vote.leader_id.term).varint(vote.leader_id.node_id).u8(u8::from(vote.committed));
    e.finish()
}

pub(crate) fn decode_vote(record: &[u8]) -> Result<Vote<MemberId>, DecodeError> {
    let mut d = Decoder::version(record, VERSION)?;
    let leader_id = LeaderId::new(d.varint()?, d.varint()?);
    let committed = match d.u8()? {
        0 => false,
        1 => true,
        found => return Err(DecodeError::Tag { record: "vote", found }),
    };
    d.finish()?;
    Ok(Vote { leader_id, committed })
}

pub(crate) fn encode_log_id(id: &LogId) -> Vec<u8> {
    let mut e = Encoder::with_capacity(24);
    e.u8(VERSION);
    put_log_id(&mut e, id);
    e.finish()
}

pub(crate) fn decode_log_id(record: &[u8]) -> Result<LogId, DecodeError> {
    let mut d = Decoder::version(record, VERSION)?;
    let id = get_log_id(&mut d)?;
    d.finish()?;
    Ok(id)
}

/// How far the state machine has come, and the membership at that point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl Progress {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::with_capacity(64);
        e.u8(VERSION);
        put_optional(&mut e, self.applied.as_ref());
        put_optional(&mut e, self.membership.log_id().as_ref());
        put_membership(&mut e, self.membership.membership());
        e.finish()
    }

    pub(crate) fn decode(record: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::version(record, VERSION)?;
        let applied = get_optional(&mut d)?;
        let at = get_optional(&mut d)?;
        let membership = StoredMembership::new(at, get_membership(&mut d)?);
        d.finish()?;
        Ok(Self { applied, membership })
    }
}

pub(crate) fn encode_entry(entry: &Entry<TypeConfig>) -> Vec<u8> {
    let room = if let EntryPayload::Normal(command) = &entry.payload { command.0.len() } else { 64 };
    let mut e = Encoder::with_capacity(room + 32);
    e.u8(VERSION);
    put_log_id(&mut e, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => {
            e.u8(BLANK);
        }
        EntryPayload::Normal(command) => {
            e.u8(COMMAND).rest(&command.0);
        }
        EntryPayload::Membership(membership) => {
            e.u8(MEMBERSHIP);
            put_membership(&mut e, membership);
        }
    }
    e.finish()
}

pub(crate) fn decode_entry(record: &[u8]) -> Result<Entry<TypeConfig>, DecodeError> {
    let mut d = Decoder::version(record, VERSION)?;
    let log_id = get_log_id(&mut d)?;
    let payload = match d.u8()? {
        BLANK => {
            d.finish()?;
            EntryPayload::Blank
        }
        COMMAND => EntryPayload::Normal(Command(Bytes::copy_from_slice(d.rest()))),
        MEMBERSHIP => {
            let membership = get_membership(&mut d)?;
            d.finish()?;
            EntryPayload::Membership(membership)
        }
        found => return Err(DecodeError::Tag { record: "log entry", found }),
    };
    Ok(Entry { log_id, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    #[test]
    fn the_first_version_on_disk_stays_readable() {
        let vote = Vote::new_committed(3, 1);
        assert_eq!(encode_vote(&vote), [1, 3, 1, 1]);
        assert_eq!(decode_vote(&[1, 3, 1, 1]).unwrap(), vote);
        assert_eq!(encode_log_id(&log_id(2, 300)), [1, 2, 1, 0xac, 2]);
        assert_eq!(decode_log_id(&[1, 2, 1, 0xac, 2]).unwrap(), log_id(2, 300));
        let membership =
            Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, BasicNode::new("a"))]));
        let progress = Progress {
            applied: Some(log_id(2, 9)),
            membership: StoredMembership::new(Some(log_id(1, 0)), membership),
        };
        let fixture = b"\x01\x01\x02\x01\x09\x01\x01\x01\x00\x01\x01\x01\x01\x01\x01a";
        assert_eq!(progress.encode(), fixture);
        assert_eq!(Progress::decode(fixture).unwrap(), progress);
        let entry =
            Entry { log_id: log_id(2, 4), payload: EntryPayload::Normal(Command(Bytes::from_static(b"xy"))) };
        assert_eq!(encode_entry(&entry), b"\x01\x02\x01\x04\x01xy");
        assert_eq!(decode_entry(b"\x01\x02\x01\x04\x01xy").unwrap(), entry);
        assert_eq!(decode_entry(b"\x01\x02\x01\x04\x00").unwrap().payload, EntryPayload::Blank);
    }

    #[test]
    fn no_cut_and_no_flip_makes_a_decoder_panic() {
        let membership = Membership::new(
            vec![BTreeSet::from([1, 2])],
            BTreeMap::from([(1, BasicNode::new("a")), (2, BasicNode::new("b"))]),
        );
        let whole = Progress {
            applied: Some(log_id(2, 9)),
            membership: StoredMembership::new(Some(log_id(1, 0)), membership.clone()),
        }
        .encode();
        let entry =
            encode_entry(&Entry { log_id: log_id(1, 1), payload: EntryPayload::Membership(membership) });
        for record in [whole, entry] {
            for at in 0..record.len() {
                assert!(Progress::decode(&record[..at]).is_err());
                for flip in 1..=255u8 {
                    let mut damaged = record.clone();
                    damaged[at] ^= flip;
                    let _ = Progress::decode(&damaged);
                    let _ = decode_entry(&damaged);
                }
            }
        }
    }
}
