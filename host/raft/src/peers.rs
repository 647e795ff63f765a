//! The transport between members.
//!
//! A store has one member so far, which never calls anybody. A membership with more than one is not
//! supported, and nothing in this crate makes one; a peer is therefore always unreachable.

use crate::types::{MemberId, TypeConfig};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, Snapshot, Vote};

/// Makes [`Peer`]s.
pub(crate) struct Peers;

/// Another member.
pub(crate) struct Peer {
    id: MemberId,
}

#[derive(Debug, thiserror::Error)]
#[error("member {id} cannot be reached: a store with more than one member is not supported")]
struct NotSupported {
    id: MemberId,
}

impl Peer {
    fn unreachable(&self) -> Unreachable {
        Unreachable::new(&NotSupported { id: self.id })
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: MemberId, _node: &BasicNode) -> Peer {
        Peer { id: target }
    }
}

type Rpc<T> = Result<T, RPCError<MemberId, BasicNode, RaftError<MemberId>>>;

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<MemberId>> {
        Err(self.unreachable().into())
    }

    async fn vote(&mut self, _rpc: VoteRequest<MemberId>, _option: RPCOption) -> Rpc<VoteResponse<MemberId>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote<MemberId>,
        _snapshot: Snapshot<TypeConfig>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<MemberId>, StreamingError<TypeConfig, Fatal<MemberId>>> {
        Err(self.unreachable().into())
    }
}
