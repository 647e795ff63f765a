//! Fan-out of events to watches.
//!
//! A watch is live (in a group of watches of the same keys) or catching up from the history; it
//! joins where the hub's window of recent events begins at or before the watch's place, under the
//! lock under which events are published, so nothing is lost or sent twice.
//!
//! An event costs its own groups only: groups of one key and groups of a prefix are found by hash.
//! Watches of other keys learn that the revision moved by progress notifications, sent for many
//! revisions at once.

use crate::api::{Event, StoreError, WatchBatch};
use crate::read::Span;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Batches that wait for a slow reader before its watch is closed.
pub const WATCH_BUFFER: usize = 1024;

/// Most events in the window of recent events.
const WINDOW_EVENTS: usize = 8192;

/// Most bytes of keys and values in the window of recent events.
const WINDOW_BYTES: usize = 4 << 20;

/// How long other watches may wait to learn of a new revision.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

type Sender = mpsc::Sender<Result<WatchBatch, StoreError>>;

struct Watcher {
    tx: Sender,
    /// The revision that the reader knows of, once it has read all that was sent.
    sent: u64,
}

struct Group {
    span: Span,
    watchers: Vec<Watcher>,
    pending: Vec<Event>,
}

#[derive(Default)]
struct Routes {
    single: HashMap<Bytes, u64>,
    prefix: BTreeMap<usize, HashMap<Bytes, u64>>,
    other: Vec<u64>,
}

struct State {
    revision: u64,
    /// Recent events, in order, all with a revision greater than `floor`.
    window: VecDeque<Event>,
    window_bytes: usize,
    floor: u64,
    groups: HashMap<u64, Group>,
    by_span: HashMap<Span, u64>,
    routes: Routes,
    next_id: u64,
    behind: bool,
    closed: Option<Option<String>>,
}

/// The hub. One per store.
pub struct Hub {
    state: Mutex<State>,
    nothing: Arc<[Event]>,
    progress: Notify,
}

fn size_of(event: &Event) -> usize {
    event.kv.key.len() + event.kv.value.len() + event.prev.as_ref().map_or(0, |p| p.value.len()) + 160
}

impl Routes {
    fn insert(&mut self, span: &Span, id: u64) {
        if span.is_single() {
            self.single.insert(span.start.clone(), id);
        } else if let Some(prefix) = span.prefix() {
            self.prefix.entry(prefix.len()).or_default().insert(Bytes::copy_from_slice(prefix), id);
        } else {
            self.other.push(id);
        }
    }

    fn remove(&mut self, span: &Span, id: u64) {
        if span.is_single() {
            self.single.remove(&span.start);
        } else if let Some(prefix) = span.prefix() {
            if let Some(of_length) = self.prefix.get_mut(&prefix.len()) {
                of_length.remove(prefix);
                if of_length.is_empty() {
                    self.prefix.remove(&prefix.len());
                }
            }
        } else {
            self.other.retain(|o| *o != id);
        }
    }
}

/// What [`Hub::join`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined {
    /// The watch is live.
    Live,
    /// The events up to this revision must come from the history first.
    History(u64),
    /// The reader is gone, too slow, or the hub is closed.
    Ended,
}

impl Hub {
    /// A hub of a store at `revision`.
    #[must_use]
    pub fn new(revision: u64) -> Self {
        let state = State {
            revision,
            window: VecDeque::new(),
            window_bytes: 0,
            floor: revision,
            groups: HashMap::new(),
            by_span: HashMap::new(),
            routes: Routes::default(),
            next_id: 0,
            behind: false,
            closed: None,
        };
        Self { state: Mutex::new(state), nothing: Arc::from([]), progress: Notify::new() }
    }

    /// Publishes the events of whole revisions, the last of which is `revision`. In revision order.
    pub fn publish(&self, events: Vec<Event>, revision: u64) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.closed.is_some() || revision <= state.revision {
            return;
        }
        state.revision = revision;
        let mut touched = Vec::new();
        for event in &events {
            let key = event.kv.key.as_ref();
            let single = state.routes.single.get(key);
            let prefixes = state.routes.prefix.iter();
            let prefixes = prefixes.filter_map(|(n, of_length)| key.get(..*n).and_then(|p| of_length.get(p)));
            for id in single.into_iter().chain(prefixes).chain(&state.routes.other) {
                let Some(group) = state.groups.get_mut(id) else { continue };
                if group.span.contains(key) {
                    if group.pending.is_empty() {
                        touched.push(*id);
                    }
                    group.pending.push(event.clone());
                }
            }
        }
        for event in events {
            state.window_bytes += size_of(&event);
            state.window.push_back(event);
        }
        state.trim_window();
        let mut empty = Vec::new();
        for id in &touched {
            let Some(group) = state.groups.get_mut(id) else { continue };
            let events: Arc<[Event]> = std::mem::take(&mut group.pending).into();
            let batch = WatchBatch { events, revision };
            group.watchers.retain_mut(|watcher| deliver(watcher, &batch));
            if group.watchers.is_empty() {
                empty.push(*id);
            }
        }
        for id in empty {
            state.remove_group(id);
        }
        if state.groups.len() > touched.len() && !state.behind {
            state.behind = true;
            self.progress.notify_one();
        }
    }

    /// Makes a watch of `span` live that has seen everything up to `after`.
    pub fn join(&self, span: &Span, after: u64, tx: &Sender) -> Joined {
        let mut state = self.state.lock();
        if let Some(reason) = &state.closed {
            if let Some(message) = reason {
                // The reader learns the reason where there is room; else it sees the end.
                let _ = tx.try_send(Err(StoreError::Poisoned { message: message.clone() }));
            }
            return Joined::Ended;
        }
        if after < state.floor {
            return Joined::History(state.floor);
        }
        let revision = state.revision;
        let missed: Vec<Event> = state
            .window
            .iter()
            .skip_while(|e| e.kv.mod_revision <= after)
            .filter(|e| span.contains(&e.kv.key))
            .cloned()
            .collect();
        let mut watcher = Watcher { tx: tx.clone(), sent: after };
        if !missed.is_empty() && !deliver(&mut watcher, &WatchBatch { events: missed.into(), revision }) {
            return Joined::Ended;
        }
        if watcher.sent < revision && !state.behind {
            state.behind = true;
            self.progress.notify_one();
        }
        state.add(span, watcher);
        Joined::Live
    }

    /// Tells every watch that has not heard of the newest revision about it.
    pub fn send_progress(&self) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.behind = false;
        let batch = WatchBatch { events: self.nothing.clone(), revision: state.revision };
        let mut empty = Vec::new();
        for (id, group) in &mut state.groups {
            group.watchers.retain_mut(|watcher| {
                if watcher.tx.is_closed() {
                    return false;
                }
                // A reader with a full buffer has other things to learn first.
                if watcher.sent < batch.revision && watcher.tx.capacity() > WATCH_BUFFER / 2 {
                    return deliver(watcher, &batch);
                }
                true
            });
            if group.watchers.is_empty() {
                empty.push(*id);
            }
        }
        for id in empty {
            state.remove_group(id);
        }
    }

    /// Sends progress notifications until `cancel`; must be spawned once per hub. Sleeps while
    /// nothing is written.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let work = async {
            loop {
                self.progress.notified().await;
                tokio::time::sleep(PROGRESS_INTERVAL).await;
                self.send_progress();
            }
        };
        tokio::select! {
            () = cancel.cancelled() => self.close(None),
            () = work => {}
        }
    }

    /// Begins anew at `revision`, as after a snapshot from another member: every watch ends with
    /// `SlowWatcher` and must be made again.
    pub fn reset(&self, revision: u64) {
        let mut state = self.state.lock();
        state.revision = revision;
        state.floor = revision;
        state.window.clear();
        state.window_bytes = 0;
        state.end_all(|| StoreError::SlowWatcher);
    }

    /// Ends all watches: with `Poisoned` where there is a reason, else without an error.
    pub fn close(&self, reason: Option<String>) {
        let mut state = self.state.lock();
        if let Some(message) = &reason {
            state.end_all(|| StoreError::Poisoned { message: message.clone() });
        }
        state.groups.clear();
        state.by_span.clear();
        state.routes = Routes::default();
        state.window.clear();
        state.closed.get_or_insert(reason);
    }

    /// Number of live watches.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.state.lock().groups.values().map(|g| g.watchers.len()).sum()
    }
}

/// Sends, keeping the last place of the buffer for an error. `false` where the watch has ended.
fn deliver(watcher: &mut Watcher, batch: &WatchBatch) -> bool {
    if watcher.tx.capacity() <= 1 {
        let _ = watcher.tx.try_send(Err(StoreError::SlowWatcher));
        return false;
    }
    watcher.sent = batch.revision;
    watcher.tx.try_send(Ok(batch.clone())).is_ok()
}

impl State {
    /// Cuts whole revisions only: a watch joins after a revision, never within one.
    fn trim_window(&mut self) {
        while self.window.len() > WINDOW_EVENTS || self.window_bytes > WINDOW_BYTES {
            let Some(first) = self.window.front().map(|e| e.kv.mod_revision) else { break };
            while let Some(event) = self.window.pop_front_if(|e| e.kv.mod_revision == first) {
                self.window_bytes -= size_of(&event);
            }
            self.floor = first;
        }
    }

    fn add(&mut self, span: &Span, watcher: Watcher) {
        let id = match self.by_span.get(span) {
            Some(id) => *id,
            None => {
                self.next_id += 1;
                let id = self.next_id;
                self.by_span.insert(span.clone(), id);
                self.routes.insert(span, id);
                self.groups
                    .insert(id, Group { span: span.clone(), watchers: Vec::new(), pending: Vec::new() });
                id
            }
        };
        if let Some(group) = self.groups.get_mut(&id) {
            group.watchers.push(watcher);
        }
    }

    fn remove_group(&mut self, id: u64) {
        if let Some(group) = self.groups.remove(&id) {
            self.by_span.remove(&group.span);
            self.routes.remove(&group.span, id);
        }
    }

    fn end_all(&mut self, error: impl Fn() -> StoreError) {
        for (_, group) in self.groups.drain() {
            for watcher in group.watchers {
                let _ = watcher.tx.try_send(Err(error()));
            }
        }
        self.by_span.clear();
        self.routes = Routes::default();
    }
}
