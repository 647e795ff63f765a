//! What happened since the scheduling thread last looked.
//!
//! Changes of one object coalesce, so the inbox never holds more than the cluster has objects; it
//! never blocks whoever puts something in.

use crate::engine::BindResult;
use crate::objects::WatchKey;
use crate::pod::Uid;
use crate::profile::Profile;
use crate::queue::Backoff;
use crate::surroundings::Surrounding;
use orlop_apimachinery::Object;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// Namespace and name.
type Key = (Box<str>, Box<str>);

/// An object that changed, and what it is now; `None` where it is gone.
type Change = (Key, Option<Arc<Object>>);

/// The latest state of changed objects, in the order in which they first changed.
#[derive(Default)]
pub(crate) struct Coalesced {
    order: Vec<(Key, Option<Arc<Object>>)>,
    at: HashMap<Key, usize>,
}

impl Coalesced {
    fn put(&mut self, key: Key, state: Option<Arc<Object>>) {
        let next = self.order.len();
        let at = *self.at.entry(key.clone()).or_insert(next);
        match self.order.get_mut(at) {
            Some(cell) => cell.1 = state,
            None => self.order.push((key, state)),
        }
    }
}

/// How an action ended.
#[derive(Debug)]
pub(crate) enum Report {
    /// The binding of a pod to a node.
    Bound(Uid, Arc<str>, BindResult),
    /// The writes of a plugin for a pod, by their ticket.
    Written(Uid, u64, Result<(), String>),
    /// The first could not be evicted for the second.
    NotEvicted(Uid, Uid),
}

/// Everything that came in.
#[derive(Default)]
pub(crate) struct Batch {
    nodes: Coalesced,
    pods: Coalesced,
    surroundings: BTreeMap<Surrounding, Coalesced>,
    watched: HashMap<Arc<WatchKey>, Coalesced>,
    /// Watches that began from nothing: what was known of them before does not count.
    pub(crate) begun: Vec<Arc<WatchKey>>,
    /// How actions ended.
    pub(crate) reports: Vec<Report>,
    /// The last set of profiles that was put to work.
    pub(crate) profiles: Option<(Vec<Profile>, Backoff)>,
    /// Nothing more is wanted.
    pub(crate) stop: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.nodes.order.is_empty()
            && self.pods.order.is_empty()
            && self.surroundings.is_empty()
            && self.watched.is_empty()
            && self.begun.is_empty()
            && self.reports.is_empty()
            && self.profiles.is_none()
            && !self.stop
    }

    /// Changed nodes; `None` where they are gone.
    pub(crate) fn nodes(&mut self) -> Vec<(Key, Option<Arc<Object>>)> {
        std::mem::take(&mut self.nodes).order
    }

    /// Changed objects that say something about pods.
    pub(crate) fn surroundings(&mut self) -> Vec<(Surrounding, Vec<Change>)> {
        std::mem::take(&mut self.surroundings)
            .into_iter()
            .map(|(kind, changed)| (kind, changed.order))
            .collect()
    }

    /// Changed objects that plugins watch.
    pub(crate) fn watched(&mut self) -> Vec<(Arc<WatchKey>, Vec<Change>)> {
        std::mem::take(&mut self.watched).into_iter().map(|(watch, changed)| (watch, changed.order)).collect()
    }

    /// Changed pods; `None` where they are gone.
    pub(crate) fn pods(&mut self) -> Vec<(Key, Option<Arc<Object>>)> {
        std::mem::take(&mut self.pods).order
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Inbox {
    batch: Mutex<Batch>,
    filled: Condvar,
}

impl Inbox {
    fn put(&self, f: impl FnOnce(&mut Batch)) {
        f(&mut self.batch.lock());
        self.filled.notify_one();
    }

    pub(crate) fn node(&self, name: &str, state: Option<Arc<Object>>) {
        self.put(|b| b.nodes.put(("".into(), name.into()), state));
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str, state: Option<Arc<Object>>) {
        self.put(|b| b.pods.put((namespace.into(), name.into()), state));
    }

    pub(crate) fn surrounding(&self, kind: Surrounding, object: &Object, state: Option<Arc<Object>>) {
        let key = (object.namespace().into(), object.name().into());
        self.put(|b| b.surroundings.entry(kind).or_default().put(key, state));
    }

    pub(crate) fn begun(&self, watch: &Arc<WatchKey>) {
        self.put(|b| {
            b.watched.remove(watch);
            b.begun.push(watch.clone());
        });
    }

    pub(crate) fn watched(&self, watch: &Arc<WatchKey>, object: &Object, state: Option<Arc<Object>>) {
        let key = (object.namespace().into(), object.name().into());
        self.put(|b| b.watched.entry(watch.clone()).or_default().put(key, state));
    }

    pub(crate) fn report(&self, report: Report) {
        self.put(|b| b.reports.push(report));
    }

    pub(crate) fn profiles(&self, profiles: Vec<Profile>, backoff: Backoff) {
        self.put(|b| b.profiles = Some((profiles, backoff)));
    }

    pub(crate) fn stop(&self) {
        self.put(|b| b.stop = true);
    }

    /// Whether something waits.
    pub(crate) fn has_some(&self) -> bool {
        !self.batch.lock().is_empty()
    }

    /// Takes all there is; waits until there is something or `until` is reached.
    pub(crate) fn take(&self, until: Option<Instant>) -> Batch {
        let mut batch = self.batch.lock();
        while batch.is_empty() {
            match until {
                Some(until) => {
                    if self.filled.wait_until(&mut batch, until).timed_out() {
                        break;
                    }
                }
                None => self.filled.wait(&mut batch),
            }
        }
        std::mem::take(&mut *batch)
    }
}
