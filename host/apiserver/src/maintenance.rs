//! What goes on in the background: expiry of events, compaction, fresh policies, sweeping.

use crate::authz::Policies;
use crate::core::Core;
use crate::registry::at;
use crate::storage;
use orlop_store::{Op, Txn};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Deletions in one transaction.
const BATCH: usize = 100;

/// Forgets old states and objects past their time until the server is cancelled.
pub(crate) async fn run(core: Arc<Core>) {
    let mut compaction = interval(core.config.compaction_interval);
    compaction.set_missed_tick_behavior(MissedTickBehavior::Delay);
    compaction.tick().await;
    let mut expiry = interval(Duration::from_secs(60));
    expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = core.cache.revision();
    loop {
        tokio::select! {
            () = core.cancel.cancelled() => return,
            _ = compaction.tick() => {
                let now = core.cache.revision();
                // What was current one interval ago goes: everything younger stays readable.
                if last > 0 && let Err(error) = core.store.compact(last).await {
                    tracing::warn!(%error, revision = last, "compaction failed, trying again later");
                }
                last = now;
                core.cache.shelves().iter().for_each(|s| s.sweep());
            }
            _ = expiry.tick() => expire(&core).await,
        }
    }
}

/// Reads changed policies until the server is cancelled.
pub(crate) async fn policies(core: Arc<Core>, policies: Arc<Policies>) {
    let mut ticks = interval(Duration::from_secs(2));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = core.cancel.cancelled() => return,
            _ = ticks.tick() => match policies.reload() {
                Ok(true) => tracing::info!("new authorization policies are in force"),
                Ok(false) => {}
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::error!(%error, why, "authorization policies cannot be used, the last good ones stay");
                }
            },
        }
    }
}

/// Deletes the objects that are past their time.
pub(crate) async fn expire(core: &Core) {
    let now = jiff::Timestamp::now();
    for shelf in core.cache.shelves() {
        let Some(ttl) = shelf.row().strategy.ttl() else { continue };
        let ttl = i64::try_from(core.config.event_ttl.as_secs().min(ttl.max(1))).unwrap_or(i64::MAX);
        let oldest = now.as_second() - ttl;
        let mut doomed = Vec::new();
        for entry in shelf.all() {
            let object = entry.object();
            if seconds(&object.meta().creation_timestamp).is_none_or(|t| t > oldest) {
                continue;
            }
            let body = object.to_value();
            let touched = [&["lastTimestamp"][..], &["series", "lastObservedTime"], &["eventTime"]]
                .iter()
                .filter_map(|path| at(&body, path).and_then(Value::as_str).and_then(seconds))
                .max();
            if touched.is_none_or(|t| t <= oldest) {
                let prefix = shelf.row().storage().unwrap_or_default();
                doomed.push(storage::key(prefix, object.namespace(), object.name()));
            }
        }
        for keys in doomed.chunks(BATCH) {
            let success = keys.iter().map(|key| Op::Delete { key: key.clone() }).collect();
            if let Err(error) = core.store.txn(Txn { success, ..Txn::default() }).await {
                tracing::warn!(%error, "expired events cannot be deleted, trying again later");
                return;
            }
        }
    }
}

fn seconds(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(|t| t.as_second())
}
