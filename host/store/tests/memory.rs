//! The suite over the store in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "suite/semantics.rs"]
mod semantics;

use orlop_store::MemoryStore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

async fn open() -> (semantics::Opened, DropGuard) {
    let cancel = CancellationToken::new();
    (MemoryStore::new(TaskTracker::new(), cancel.clone()), cancel.drop_guard())
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
