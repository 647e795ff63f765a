//! A watch as a stream of bytes or of events: initial state, missed changes, live changes,
//! bookmarks, and its end.

use crate::body::Chain;
use crate::cache::{Delivery, EventType, WatchCache};
use crate::core::Core;
use crate::negotiate::Accepted;
use crate::read::Watching;
use crate::registry::{Context, Resource};
use crate::render::{IncludeObject, View};
use crate::user::UserInfo;
use bytes::Bytes;
use futures::Stream;
use orlop_apimachinery::{Object, Status};
use orlop_client::{ApiError, WatchEvent};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often an idle watch learns how far the revisions have come.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Events that are sent in one piece.
const BATCH: usize = 256;

/// What comes next in a watch.
enum Next {
    Initial(Arc<Object>),
    InitialEnd(u64),
    Change(Delivery),
    Bookmark(u64),
    End,
}

/// A watch that goes on.
pub(crate) struct Flow {
    core: Arc<Core>,
    row: &'static Resource,
    watching: Watching,
    initial: VecDeque<Arc<Object>>,
    missed: VecDeque<Delivery>,
    bookmarks: bool,
    next_bookmark: Instant,
    until: Option<Instant>,
    cancel: CancellationToken,
    bookmarked: u64,
}

impl Flow {
    pub(crate) fn new(
        core: &Arc<Core>,
        row: &'static Resource,
        mut watching: Watching,
        bookmarks: bool,
        timeout: Option<Duration>,
    ) -> Self {
        let jitter = Duration::from_secs(rand::random_range(0..15));
        Self {
            core: core.clone(),
            row,
            initial: std::mem::take(&mut watching.initial).into(),
            missed: std::mem::take(&mut watching.missed).into(),
            bookmarked: watching.revision,
            watching,
            bookmarks,
            next_bookmark: Instant::now() + BOOKMARK_EVERY - jitter,
            until: timeout.map(|t| Instant::now() + t),
            cancel: core.cancel.clone(),
        }
    }

    fn cache(&self) -> &WatchCache {
        &self.core.cache
    }

    /// What is there without waiting.
    fn ready(&mut self) -> Option<Next> {
        if let Some(object) = self.initial.pop_front() {
            return Some(Next::Initial(object));
        }
        if std::mem::take(&mut self.watching.bookmark_initial) {
            return Some(Next::InitialEnd(self.watching.revision));
        }
        if let Some(delivery) = self.missed.pop_front() {
            return Some(Next::Change(delivery));
        }
        self.watching.subscription.changes.try_recv().ok().map(Next::Change)
    }

    /// Cancel-safe: nothing is lost where the future is dropped.
    async fn next(&mut self) -> Next {
        if let Some(next) = self.ready() {
            return next;
        }
        loop {
            let until = self.until.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
            tokio::select! {
                biased;
                change = self.watching.subscription.changes.recv() => {
                    return change.map_or(Next::End, Next::Change);
                }
                () = self.cancel.cancelled() => return Next::End,
                () = tokio::time::sleep_until(until) => return Next::End,
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    // All changes up to the published revision are in the queue already.
                    let revision = self.cache().revision();
                    if let Ok(change) = self.watching.subscription.changes.try_recv() {
                        self.next_bookmark = Instant::now();
                        return Next::Change(change);
                    }
                    if revision > self.bookmarked {
                        self.bookmarked = revision;
                        return Next::Bookmark(revision);
                    }
                }
            }
        }
    }

    fn object(&self, delivery: &Delivery) -> Result<Arc<Object>, Status> {
        let object =
            delivery.change.object(delivery.event).ok_or_else(|| Status::internal("event without object"))?;
        self.core.view(self.row, &object)
    }

    /// The watch as JSON lines.
    pub(crate) fn into_bytes(
        self,
        accepted: Accepted,
        include: IncludeObject,
        user: Arc<UserInfo>,
    ) -> impl Stream<Item = Chain> + Send + 'static {
        let writer = Writer { accepted, include, user, first: true };
        futures::stream::unfold(Some((self, writer)), |state| async move {
            let (mut flow, mut writer) = state?;
            let mut chain = Chain::default();
            let mut next = flow.next().await;
            for _ in 0..BATCH {
                if !writer.write(&flow, &mut chain, next) {
                    return (!chain.is_empty()).then_some((chain, None));
                }
                match flow.ready() {
                    Some(more) => next = more,
                    None => break,
                }
            }
            Some((chain, Some((flow, writer))))
        })
    }

    /// The watch as events that share the cache's objects.
    pub(crate) fn into_events(self) -> impl Stream<Item = Result<WatchEvent, ApiError>> + Send + 'static {
        futures::stream::unfold(self, |mut flow| async move {
            let event = match flow.next().await {
                Next::Initial(object) => Ok(WatchEvent::Added(object)),
                Next::InitialEnd(resource_version) => {
                    Ok(WatchEvent::Bookmark { resource_version, initial_events_end: true })
                }
                Next::Bookmark(resource_version) => {
                    Ok(WatchEvent::Bookmark { resource_version, initial_events_end: false })
                }
                Next::Change(delivery) => match (flow.object(&delivery), delivery.event) {
                    (Ok(object), EventType::Added) => Ok(WatchEvent::Added(object)),
                    (Ok(object), EventType::Modified) => Ok(WatchEvent::Modified(object)),
                    (Ok(object), EventType::Deleted) => Ok(WatchEvent::Deleted(object)),
                    (Err(status), _) => Err(status.into()),
                },
                Next::End => return None,
            };
            flow.core.metrics.watch_events.fetch_add(1, Ordering::Relaxed);
            Some((event, flow))
        })
    }
}

/// Renders events.
struct Writer {
    accepted: Accepted,
    include: IncludeObject,
    user: Arc<UserInfo>,
    first: bool,
}

impl Writer {
    /// Appends one event; `false` ends the stream.
    fn write(&mut self, flow: &Flow, chain: &mut Chain, next: Next) -> bool {
        let context = Context { now: jiff::Timestamp::now(), user: &self.user, random: 0 };
        let view = View { row: flow.row, accepted: self.accepted, include: self.include, context };
        let first = std::mem::take(&mut self.first);
        let (head, object) = match next {
            Next::Initial(object) => (ADDED, view.event_object(&object, first)),
            Next::InitialEnd(revision) => (BOOKMARK, view.bookmark(revision, true, first)),
            Next::Bookmark(revision) => (BOOKMARK, view.bookmark(revision, false, first)),
            Next::Change(delivery) => {
                let head = match delivery.event {
                    EventType::Added => ADDED,
                    EventType::Modified => MODIFIED,
                    EventType::Deleted => DELETED,
                };
                (head, flow.object(&delivery).and_then(|o| view.event_object(&o, first)))
            }
            Next::End => return false,
        };
        flow.core.metrics.watch_events.fetch_add(1, Ordering::Relaxed);
        match object {
            Ok(object) => {
                chain.push(Bytes::from_static(head));
                chain.push(object);
                chain.push(Bytes::from_static(b"}\n"));
                true
            }
            Err(status) => {
                chain.push(Bytes::from_static(b"{\"type\":\"ERROR\",\"object\":"));
                chain.push(Bytes::from(status.to_json()));
                chain.push(Bytes::from_static(b"}\n"));
                false
            }
        }
    }
}

const ADDED: &[u8] = b"{\"type\":\"ADDED\",\"object\":";
const MODIFIED: &[u8] = b"{\"type\":\"MODIFIED\",\"object\":";
const DELETED: &[u8] = b"{\"type\":\"DELETED\",\"object\":";
const BOOKMARK: &[u8] = b"{\"type\":\"BOOKMARK\",\"object\":";
