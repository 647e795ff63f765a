//! The suite over the replicated store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../store/tests/suite/semantics.rs"]
mod semantics;

use orlop_raft::{Options, RaftStore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

async fn open() -> (semantics::Opened, (tempfile::TempDir, DropGuard)) {
    let folder = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    let store =
        RaftStore::open(&folder.path().join("data"), Options::default(), TaskTracker::new(), cancel.clone())
            .await
            .unwrap();
    (store, (folder, cancel.drop_guard()))
}

store_suite!(open:
    revisions_and_versions,
    transactions,
    ranges,
    reads_of_the_past,
    watches,
    watches_that_join_late,
    slow_watchers_are_closed,
    bad_requests,
);
