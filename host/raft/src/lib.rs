//! The replicated store: openraft over fjall.
//!
//! [`RaftStore`] implements [`orlop_store::Store`]. Many concurrent transactions share one log entry
//! and one `fdatasync`; a lone one waits for nobody. The disk is touched by a few dedicated threads
//! and never by async ones.
//!
//! One member so far; log, votes, snapshots and membership are made for more.
#![forbid(unsafe_code)]

mod folder;
mod log;
mod peers;
mod record;
mod snapshot;
mod state;
mod store;
mod types;

pub use folder::OpenError;
pub use snapshot::{SnapshotData, SnapshotError};
pub use store::{Options, RaftStore};
pub use types::{Command, MemberId, Response, TypeConfig};
