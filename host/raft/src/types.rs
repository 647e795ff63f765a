//! The types that openraft is instantiated with.

use crate::snapshot::SnapshotData;
use bytes::Bytes;
use openraft::{BasicNode, Entry, TokioRuntime};
use orlop_store::Outcome;

/// Id of a member; never 0.
pub type MemberId = u64;

/// An encoded batch of requests ([`orlop_store::encode_batch`]).
#[derive(Clone, PartialEq, Eq)]
pub struct Command(pub(crate) Bytes);

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

/// Outcomes of a batch, in order; empty for entries that are not commands.
#[derive(Debug, Default)]
pub struct Response(pub(crate) Vec<Outcome>);

openraft::declare_raft_types!(
    /// Orlop's instance of openraft.
    pub TypeConfig:
        D = Command,
        R = Response,
        NodeId = MemberId,
        Node = BasicNode,
        Entry = Entry<TypeConfig>,
        SnapshotData = SnapshotData,
        AsyncRuntime = TokioRuntime,
);

pub(crate) type LogId = openraft::LogId<MemberId>;
pub(crate) type StoredMembership = openraft::StoredMembership<MemberId, BasicNode>;
pub(crate) type StorageError = openraft::StorageError<MemberId>;
pub(crate) type StorageIOError = openraft::StorageIOError<MemberId>;
