//! A watch of the API in memory: what changed after a revision, as one selector sees it.

use super::Shared;
use super::rules::metadata;
use crate::selector::Selector;
use orlop_apimachinery::{Gvr, Object, Status};
use orlop_client::{ApiError, WatchEvent};
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

pub(super) struct Watcher {
    pub(super) shared: Arc<Shared>,
    pub(super) moved: watch::Receiver<(u64, u64)>,
    pub(super) gvr: Gvr,
    pub(super) namespace: String,
    pub(super) selector: Selector,
    pub(super) epoch: u64,
    pub(super) revision: u64,
    pub(super) ready: VecDeque<Result<WatchEvent, ApiError>>,
    pub(super) over: bool,
}

impl Watcher {
    pub(super) fn selects(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || self.namespace == object.namespace())
            && self.selector.matches(&object.to_value())
    }

    fn collect(&mut self) {
        let shared = self.shared.clone();
        let state = shared.state.lock();
        if state.epoch != self.epoch {
            self.over = true;
            return;
        }
        if state.compacted > self.revision {
            self.ready.push_back(Err(Status::expired("too old resource version").into()));
            self.over = true;
            return;
        }
        let from = state.history.partition_point(|c| c.revision <= self.revision);
        for change in state.history.get(from..).unwrap_or_default() {
            self.revision = change.revision;
            if change.gvr != self.gvr {
                continue;
            }
            let old = change.old.as_ref().filter(|o| self.selects(o));
            let new = change.new.as_ref().filter(|o| self.selects(o));
            let event = match (old, new) {
                (None, Some(new)) => WatchEvent::Added(new.clone()),
                (Some(_), Some(new)) => WatchEvent::Modified(new.clone()),
                (Some(old), None) => WatchEvent::Deleted(at_revision(old, change.revision)),
                (None, None) => continue,
            };
            self.ready.push_back(Ok(event));
        }
    }

    pub(super) async fn next(mut self) -> Option<(Result<WatchEvent, ApiError>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((event, self));
            }
            if self.over {
                return None;
            }
            self.moved.borrow_and_update();
            self.collect();
            if self.ready.is_empty() && !self.over && self.moved.changed().await.is_err() {
                return None;
            }
        }
    }
}

fn at_revision(object: &Arc<Object>, revision: u64) -> Arc<Object> {
    let mut value = object.to_value();
    metadata(&mut value).insert("resourceVersion".into(), json!(revision.to_string()));
    Object::from_value(&value).map_or_else(|_| object.clone(), Arc::new)
}
