//! What happened since the scheduling thread last looked.
//!
//! Changes of one object coalesce, so the inbox never holds more than the cluster has objects; it
//! never blocks whoever puts something in.

use crate::engine::BindResult;
use crate::pod::Uid;
use crate::profile::Profile;
use crate::queue::Backoff;
use orlop_apimachinery::Object;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Namespace and name.
type Key = (Box<str>, Box<str>);

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

/// Everything that came in.
#[derive(Default)]
pub(crate) struct Batch {
    nodes: Coalesced,
    pods: Coalesced,
    /// Bindings that ended.
    pub(crate) bound: Vec<(Uid, Arc<str>, BindResult)>,
    /// The last set of profiles that was put to work.
    pub(crate) profiles: Option<(Vec<Profile>, Backoff)>,
    /// Nothing more is wanted.
    pub(crate) stop: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.nodes.order.is_empty()
            && self.pods.order.is_empty()
            && self.bound.is_empty()
            && self.profiles.is_none()
            && !self.stop
    }

    /// Changed nodes; `None` where they are gone.
    pub(crate) fn nodes(&mut self) -> Vec<(Key, Option<Arc<Object>>)> {
        std::mem::take(&mut self.nodes).order
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

    pub(crate) fn bound(&self, uid: Uid, node: Arc<str>, result: BindResult) {
        self.put(|b| b.bound.push((uid, node, result)));
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
