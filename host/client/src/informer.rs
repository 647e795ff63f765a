//! A local, indexed cache of one resource, kept current by list and watch.
//!
//! The cache holds the `Arc<Object>`s that the client hands out: in process they are the very
//! ones of the API server's watch cache, so an informer costs its maps and nothing else.
//!
//! Handlers run on the informer's task, in revision order, after the cache was updated. They must
//! be quick (put a key on a queue, apply a delta to a table) and never block.

use crate::api::{ApiClient, ApiError, ListOptions, WatchEvent, WatchOptions};
use futures::StreamExt;
use orlop_apimachinery::{Gvr, Object, Reason};
use parking_lot::RwLock;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often a resource that is not served is asked for.
const NOT_SERVED: Duration = Duration::from_secs(1);

/// Namespace and name.
pub type Key = (Box<str>, Box<str>);

/// Maps an object to the values under which an index finds it.
pub type IndexFn = Box<dyn Fn(&Object) -> Vec<String> + Send + Sync>;

/// Called once for every change.
pub type Handler = Box<dyn Fn(&Delta) + Send + Sync>;

/// One change. `old` and `new` are never both `None`.
#[derive(Clone, Debug)]
pub struct Delta {
    /// State before; `None` where the object is new.
    pub old: Option<Arc<Object>>,
    /// State after; `None` where the object is gone.
    pub new: Option<Arc<Object>>,
}

impl Delta {
    /// The newer of the two states.
    #[must_use]
    pub fn latest(&self) -> Option<&Arc<Object>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

#[derive(Default)]
struct Index {
    by_value: HashMap<String, BTreeSet<Key>>,
}

struct State {
    objects: HashMap<Key, Arc<Object>>,
    indexes: Vec<Index>,
    resource_version: u64,
}

/// Read side of an informer; cheap to clone.
#[derive(Clone)]
pub struct Cache {
    state: Arc<RwLock<State>>,
    index_fns: Arc<Vec<(&'static str, IndexFn)>>,
    revision: watch::Receiver<u64>,
}

/// Keeps a [`Cache`] current. Build it, add indexes and handlers, then [`Informer::run`] it.
pub struct Informer {
    client: Arc<dyn ApiClient>,
    gvr: Gvr,
    options: ListOptions,
    index_fns: Vec<(&'static str, IndexFn)>,
    handlers: Vec<Handler>,
}

fn key_of(object: &Object) -> Key {
    (object.namespace().into(), object.name().into())
}

impl Informer {
    /// An informer of all objects of `gvr` that match `options` (its `resource_version` is ignored).
    #[must_use]
    pub fn new(client: Arc<dyn ApiClient>, gvr: Gvr, options: ListOptions) -> Self {
        Self { client, gvr, options, index_fns: Vec::new(), handlers: Vec::new() }
    }

    /// Adds an index, read by [`Cache::by_index`].
    #[must_use]
    pub fn with_index(mut self, name: &'static str, f: IndexFn) -> Self {
        self.index_fns.push((name, f));
        self
    }

    /// Adds a handler; handlers are called in the order in which they were added.
    #[must_use]
    pub fn with_handler(mut self, f: Handler) -> Self {
        self.handlers.push(f);
        self
    }

    /// Splits into the read side and the future that keeps it current until `cancel`.
    /// The future must be spawned on a tracked task.
    pub fn start(self, cancel: CancellationToken) -> (Cache, impl Future<Output = ()> + Send + 'static) {
        let (revision_tx, revision) = watch::channel(0);
        let state = State {
            objects: HashMap::new(),
            indexes: self.index_fns.iter().map(|_| Index::default()).collect(),
            resource_version: 0,
        };
        let cache =
            Cache { state: Arc::new(RwLock::new(state)), index_fns: Arc::new(self.index_fns), revision };
        let writer = Writer { cache: cache.clone(), handlers: self.handlers, revision: revision_tx };
        let run = run(self.client, self.gvr, self.options, writer, cancel);
        (cache, run)
    }
}

struct Writer {
    cache: Cache,
    handlers: Vec<Handler>,
    revision: watch::Sender<u64>,
}

impl Writer {
    fn change(&self, key: Key, new: Option<Arc<Object>>) {
        let old = {
            let mut state = self.cache.state.write();
            let old = match &new {
                Some(object) => state.objects.insert(key.clone(), object.clone()),
                None => state.objects.remove(&key),
            };
            for ((_, f), index) in self.cache.index_fns.iter().zip(state.indexes.iter_mut()) {
                let before: HashSet<String> = old.iter().flat_map(|o| f(o)).collect();
                let after: HashSet<String> = new.iter().flat_map(|o| f(o)).collect();
                for value in before.difference(&after) {
                    if let Some(keys) = index.by_value.get_mut(value) {
                        keys.remove(&key);
                        if keys.is_empty() {
                            index.by_value.remove(value);
                        }
                    }
                }
                for value in after.difference(&before) {
                    index.by_value.entry(value.clone()).or_default().insert(key.clone());
                }
            }
            old
        };
        if old.is_none() && new.is_none() {
            return;
        }
        let delta = Delta { old, new };
        for handler in &self.handlers {
            handler(&delta);
        }
    }

    fn advance(&self, revision: u64) {
        self.cache.state.write().resource_version = revision;
        self.revision.send_replace(revision);
    }

    fn replace(&self, items: Vec<Arc<Object>>, revision: u64) {
        let fresh: HashSet<Key> = items.iter().map(|o| key_of(o)).collect();
        let gone: Vec<Key> =
            self.cache.state.read().objects.keys().filter(|k| !fresh.contains(*k)).cloned().collect();
        for key in gone {
            self.change(key, None);
        }
        for object in items {
            let key = key_of(&object);
            let known = self.cache.state.read().objects.get(&key).map(|o| o.meta().resource_version);
            if known != Some(object.meta().resource_version) {
                self.change(key, Some(object));
            }
        }
        self.advance(revision);
    }
}

async fn run(
    client: Arc<dyn ApiClient>,
    gvr: Gvr,
    options: ListOptions,
    writer: Writer,
    cancel: CancellationToken,
) {
    let mut backoff = Backoff::new();
    let mut absent = false;
    while !cancel.is_cancelled() {
        let ended = tokio::select! {
            () = cancel.cancelled() => return,
            ended = list_and_watch(client.as_ref(), &gvr, &options, &writer, &mut backoff) => ended,
        };
        let Err(error) = ended else { continue };
        let pause = if error.is(Reason::Expired) {
            continue;
        } else if error.is_not_found() {
            if !absent {
                tracing::info!(gvk = %gvr, "informer waits until the resource is served");
            }
            NOT_SERVED
        } else {
            tracing::warn!(gvk = %gvr, %error, "informer lost its watch, retrying");
            backoff.next()
        };
        absent = error.is_not_found();
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn list_and_watch(
    client: &dyn ApiClient,
    gvr: &Gvr,
    options: &ListOptions,
    writer: &Writer,
    backoff: &mut Backoff,
) -> Result<(), ApiError> {
    let list = client.list(gvr, &ListOptions { resource_version: None, ..options.clone() }).await?;
    let mut revision = list.resource_version;
    writer.replace(list.items, revision);
    loop {
        let watch_options = WatchOptions {
            namespace: options.namespace.clone(),
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            resource_version: Some(revision),
            send_initial_events: false,
        };
        let mut stream = client.watch(gvr, &watch_options).await?;
        let mut progressed = false;
        while let Some(event) = stream.next().await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    revision = object.meta().resource_version;
                    writer.change(key_of(&object), Some(object));
                }
                WatchEvent::Deleted(object) => {
                    revision = revision.max(object.meta().resource_version);
                    writer.change(key_of(&object), None);
                }
                WatchEvent::Bookmark { resource_version, .. } => revision = resource_version,
            }
            progressed = true;
            backoff.reset();
            writer.advance(revision);
        }
        // A server ends watches now and then; one that ends at once, again and again, is sick.
        if !progressed {
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

impl Cache {
    /// One object, as last seen.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(&(namespace.into(), name.into())).cloned()
    }

    /// All objects, in no particular order.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Object>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// The objects that the index `name` maps to `value`, in key order; empty for an unknown index.
    #[must_use]
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<Object>> {
        let state = self.state.read();
        let Some(at) = self.index_fns.iter().position(|(n, _)| *n == name) else { return Vec::new() };
        let keys = state.indexes.get(at).and_then(|i| i.by_value.get(value));
        keys.into_iter().flatten().filter_map(|k| state.objects.get(k).cloned()).collect()
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Revision up to which the cache has seen everything; 0 before the first list.
    #[must_use]
    pub fn resource_version(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Waits for the first list. Cancel-safe. Returns `false` where the informer ended first.
    pub async fn synced(&self) -> bool {
        self.reached(1).await
    }

    /// Waits until the cache has seen `revision`. Cancel-safe. Returns `false` where the informer
    /// ended first.
    ///
    /// A revision at which another resource was written is reached only by a bookmark: wait only
    /// for revisions of this resource's own objects.
    pub async fn reached(&self, revision: u64) -> bool {
        let mut seen = self.revision.clone();
        seen.wait_for(|r| *r >= revision).await.is_ok()
    }
}

struct Backoff {
    step: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const MAX_STEP: u32 = 8;

    const fn new() -> Self {
        Self { step: 0 }
    }

    const fn reset(&mut self) {
        self.step = 0;
    }

    /// 100 ms to 25.6 s, with up to half of it random.
    fn next(&mut self) -> Duration {
        let whole = Self::FIRST.saturating_mul(1 << self.step);
        self.step = (self.step + 1).min(Self::MAX_STEP);
        whole.mul_f64(rand::random_range(0.5..1.0))
    }
}
