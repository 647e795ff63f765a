//! Starts watches: live at once where the hub's window reaches back far enough, else from the
//! history until it does.

use crate::api::{StoreError, WatchBatch, WatchReceiver};
use crate::hub::{Hub, Joined, WATCH_BUFFER};
use crate::read::{History, Span};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Changes read from the history in one step.
const STEP: usize = 2048;

/// Steps after which a watch that still is not live is given up: the store is written faster than
/// this reader reads.
const MAX_STEPS_WITHOUT_GAIN: u32 = 64;

/// Reads the history; see [`crate::history`].
#[async_trait]
pub trait ReadHistory: Send + Sync + 'static {
    /// Events of `span` after a revision, about `max` changes at a time.
    async fn history(&self, span: &Span, after: u64, max: usize) -> Result<History, StoreError>;
}

/// Starts a watch of `span` after revision `after`, which the caller has checked against the
/// counters. A catch-up runs on `tracker` until it is done or `cancel`.
pub fn start_watch(
    hub: &Arc<Hub>,
    history: &Arc<impl ReadHistory>,
    tracker: &TaskTracker,
    cancel: &CancellationToken,
    span: Span,
    after: u64,
) -> WatchReceiver {
    let (tx, rx) = mpsc::channel(WATCH_BUFFER);
    if let Joined::History(_) = hub.join(&span, after, &tx) {
        let (hub, history, cancel) = (hub.clone(), history.clone(), cancel.clone());
        tracker.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = catch_up(&hub, history.as_ref(), &span, after, &tx) => {}
            }
        });
    }
    rx
}

async fn catch_up(
    hub: &Hub,
    history: &impl ReadHistory,
    span: &Span,
    mut after: u64,
    tx: &mpsc::Sender<Result<WatchBatch, StoreError>>,
) {
    let mut distance = u64::MAX;
    let mut stuck = 0;
    loop {
        let part = match history.history(span, after, STEP).await {
            Ok(part) => part,
            Err(error) => {
                let _ = tx.send(Err(error)).await;
                return;
            }
        };
        after = part.revision;
        if !part.events.is_empty() {
            let batch = WatchBatch { events: part.events.into(), revision: after };
            if tx.send(Ok(batch)).await.is_err() {
                return;
            }
        }
        match hub.join(span, after, tx) {
            Joined::Live | Joined::Ended => return,
            Joined::History(floor) => {
                let left = floor - after;
                stuck = if left < distance { 0 } else { stuck + 1 };
                distance = distance.min(left);
            }
        }
        if stuck > MAX_STEPS_WITHOUT_GAIN {
            let _ = tx.send(Err(StoreError::SlowWatcher)).await;
            return;
        }
    }
}
