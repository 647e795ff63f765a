//! One informer per resource for all controllers, with indexes and subscribers that come and go.
//!
//! Invariant: when [`Shared::cache`] reports a revision as reached, indexes and subscribers have
//! seen everything up to it, because the informer advances only after its handlers ran.

use crate::framework::ApiResource;
use crate::paths;
use crate::served::Served;
use orlop_apimachinery::gvk::split_api_version;
use orlop_apimachinery::{Gvr, Object, OwnerReference, Selector};
use orlop_client::informer::Key as ObjectKey;
use orlop_client::{ApiClient, Cache, Delta, Informer, ListOptions};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What an index finds objects by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IndexKind {
    /// Namespace.
    Namespace,
    /// Uid of the managing owner.
    Controller,
    /// Namespace, for objects without a managing owner.
    Orphans,
    /// Uid of any owner.
    Owners,
    /// `namespace/value` of a label.
    Label(String),
    /// Text at a path.
    Field(String),
}

impl IndexKind {
    fn values(&self, object: &Object) -> Vec<String> {
        match self {
            Self::Namespace => vec![object.namespace().to_owned()],
            Self::Controller => object.controller_ref().map(|r| r.uid.to_string()).into_iter().collect(),
            Self::Orphans if object.controller_ref().is_none() => vec![object.namespace().to_owned()],
            Self::Orphans => Vec::new(),
            Self::Owners => object.meta().owner_references.iter().map(|r| r.uid.to_string()).collect(),
            Self::Label(key) => {
                object.label(key).map(|v| format!("{}/{v}", object.namespace())).into_iter().collect()
            }
            Self::Field(path) => {
                Some(paths::text(object.bytes(), path)).filter(|v| !v.is_empty()).into_iter().collect()
            }
        }
    }
}

type Index = HashMap<String, BTreeSet<ObjectKey>>;
type Selectors = HashMap<ObjectKey, (u64, Arc<Selector>)>;
type Subscriber = Arc<dyn Fn(&Delta) + Send + Sync>;

#[derive(Default)]
struct Hub {
    indexes: RwLock<Vec<(IndexKind, Index)>>,
    subscribers: RwLock<Vec<(u64, Subscriber)>>,
    /// Parsed selectors by path, then object; valid for one resourceVersion.
    selectors: Mutex<HashMap<String, Selectors>>,
    serial: AtomicU64,
}

impl Hub {
    fn change(&self, delta: &Delta) {
        let Some(latest) = delta.latest() else { return };
        let key = object_key(latest);
        for (kind, index) in self.indexes.write().iter_mut() {
            reindex(kind, index, &key, delta.old.as_deref(), delta.new.as_deref());
        }
        if delta.new.is_none() {
            for known in self.selectors.lock().values_mut() {
                known.remove(&key);
            }
        }
        let subscribers: Vec<Subscriber> = self.subscribers.read().iter().map(|(_, s)| s.clone()).collect();
        for subscriber in subscribers {
            subscriber(delta);
        }
    }
}

fn reindex(kind: &IndexKind, index: &mut Index, key: &ObjectKey, old: Option<&Object>, new: Option<&Object>) {
    let before = old.map(|o| kind.values(o)).unwrap_or_default();
    let after = new.map(|o| kind.values(o)).unwrap_or_default();
    for value in before.iter().filter(|v| !after.contains(v)) {
        if let Some(keys) = index.get_mut(value) {
            keys.remove(key);
            if keys.is_empty() {
                index.remove(value);
            }
        }
    }
    for value in after {
        index.entry(value).or_default().insert(key.clone());
    }
}

pub(crate) fn object_key(object: &Object) -> ObjectKey {
    (object.namespace().into(), object.name().into())
}

/// One resource.
pub(crate) struct Shared {
    pub(crate) gvr: Gvr,
    pub(crate) cache: Cache,
    hub: Arc<Hub>,
    /// Ends its informer.
    cancel: CancellationToken,
}

/// Ends a subscription when dropped.
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.subscribers.write().retain(|(id, _)| *id != self.id);
    }
}

impl Shared {
    /// Builds an index where there is none yet.
    pub(crate) fn ensure_index(&self, kind: &IndexKind) {
        let mut indexes = self.hub.indexes.write();
        if indexes.iter().any(|(k, _)| k == kind) {
            return;
        }
        let mut index = Index::new();
        for object in self.cache.list() {
            reindex(kind, &mut index, &object_key(&object), None, Some(&object));
        }
        indexes.push((kind.clone(), index));
    }

    /// The objects that an index finds; empty where the index was never asked for.
    pub(crate) fn by_index(&self, kind: &IndexKind, value: &str) -> Vec<Arc<Object>> {
        let keys: Vec<ObjectKey> = {
            let indexes = self.hub.indexes.read();
            let index = indexes.iter().find(|(k, _)| k == kind).map(|(_, i)| i);
            index.and_then(|i| i.get(value)).into_iter().flatten().cloned().collect()
        };
        keys.iter().filter_map(|(namespace, name)| self.cache.get(namespace, name)).collect()
    }

    /// Number of objects that an index finds.
    pub(crate) fn count(&self, kind: &IndexKind, value: &str) -> usize {
        let indexes = self.hub.indexes.read();
        let index = indexes.iter().find(|(k, _)| k == kind).map(|(_, i)| i);
        index.and_then(|i| i.get(value)).map_or(0, BTreeSet::len)
    }

    /// Calls `f` for every change from now on, and once for every object that there is.
    pub(crate) fn subscribe(&self, f: impl Fn(&Delta) + Send + Sync + 'static) -> Subscription {
        let subscriber: Subscriber = Arc::new(f);
        let id = self.hub.serial.fetch_add(1, Ordering::Relaxed);
        self.hub.subscribers.write().push((id, subscriber.clone()));
        for object in self.cache.list() {
            subscriber(&Delta { old: None, new: Some(object) });
        }
        Subscription { hub: self.hub.clone(), id }
    }

    /// The selector of one of this resource's objects at `path`, parsed once per revision; selects
    /// nothing where it is absent or malformed.
    pub(crate) fn selector(&self, object: &Object, path: &str) -> Arc<Selector> {
        let version = object.meta().resource_version;
        let key = object_key(object);
        let mut all = self.hub.selectors.lock();
        if let Some((known, selector)) = all.get(path).and_then(|by| by.get(&key))
            && *known == version
        {
            return selector.clone();
        }
        let selector = Arc::new(parse_selector(&self.gvr, paths::field(object.bytes(), path)));
        all.entry(path.to_owned()).or_default().insert(key, (version, selector.clone()));
        selector
    }
}

/// The core group has plain maps (an empty one selects nothing), the others `LabelSelector`s.
fn parse_selector(gvr: &Gvr, selector: Option<Value>) -> Selector {
    match selector {
        Some(Value::Object(map)) if gvr.group.is_empty() && map.is_empty() => Selector::nothing(),
        Some(map @ Value::Object(_)) if gvr.group.is_empty() => Selector::from_map(&map),
        Some(selector @ Value::Object(_)) => {
            Selector::from_label_selector(&selector).unwrap_or_else(|_| Selector::nothing())
        }
        _ => Selector::nothing(),
    }
}

fn owner_key(group: &str, kind: &str, uid: &str) -> String {
    format!("{group}/{kind}/{uid}")
}

/// Owners that went, the latest ones.
#[derive(Default)]
struct Gone {
    owners: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Gone {
    const MOST: usize = 4096;

    fn add(&mut self, owner: &str) {
        let owner: Arc<str> = owner.into();
        if !self.owners.insert(owner.clone()) {
            return;
        }
        self.order.push_back(owner);
        if self.order.len() > Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.owners.remove(&oldest);
        }
    }
}

/// All resources that any controller watches or reads, for one term of leadership.
pub(crate) struct Caches {
    pub(crate) client: Arc<dyn ApiClient>,
    served: watch::Sender<Arc<Served>>,
    shared: Mutex<HashMap<Gvr, Arc<Shared>>>,
    gone: Mutex<Gone>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Caches {
    pub(crate) fn new(
        client: Arc<dyn ApiClient>,
        resources: Vec<ApiResource>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let (served, _) = watch::channel(Arc::new(Served::new(resources)));
        Self { client, served, shared: Mutex::default(), gone: Mutex::default(), tasks, cancel }
    }

    /// The cache of a resource; its informer is started where there is none.
    pub(crate) fn resource(&self, gvr: &Gvr) -> Arc<Shared> {
        let mut all = self.shared.lock();
        if let Some(shared) = all.get(gvr) {
            return shared.clone();
        }
        let hub = Arc::new(Hub::default());
        let handler = hub.clone();
        let informer = Informer::new(self.client.clone(), gvr.clone(), ListOptions::default())
            .with_handler(Box::new(move |delta| handler.change(delta)));
        let cancel = self.cancel.child_token();
        let (cache, run) = informer.start(cancel.clone());
        self.tasks.spawn(run);
        let shared = Arc::new(Shared { gvr: gvr.clone(), cache, hub, cancel });
        all.insert(gvr.clone(), shared.clone());
        shared
    }

    /// The cache of a resource where there is one.
    pub(crate) fn existing(&self, gvr: &Gvr) -> Option<Arc<Shared>> {
        self.shared.lock().get(gvr).cloned()
    }

    /// What the API serves now.
    pub(crate) fn served(&self) -> Arc<Served> {
        self.served.borrow().clone()
    }

    /// Tells of every change of [`Self::served`] from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Served>> {
        self.served.subscribe()
    }

    /// The API serves this now.
    pub(crate) fn serve(&self, resources: Vec<ApiResource>) {
        self.served.send_if_modified(|served| {
            let differs = served.all() != resources;
            if differs {
                *served = Arc::new(Served::new(resources));
            }
            differs
        });
    }

    /// Ends the informers of what is not served any more and used by nobody.
    pub(crate) fn sweep(&self) {
        let served = self.served();
        self.shared.lock().retain(|gvr, shared| {
            let stays = Arc::strong_count(shared) > 1 || served.serves(gvr);
            if !stays {
                shared.cancel.cancel();
            }
            stays
        });
    }

    /// Whether an owner was seen to go. Its type may have gone since, and then nobody else can say.
    pub(crate) fn is_gone(&self, owner: &OwnerReference) -> bool {
        let (group, _) = split_api_version(&owner.api_version);
        self.gone.lock().owners.contains(owner_key(group, &owner.kind, &owner.uid).as_str())
    }

    /// Remembers that an owner went.
    pub(crate) fn owner_went(&self, gvr: &Gvr, uid: &str) {
        if let Some(kind) = self.served().kind_of(gvr) {
            self.gone.lock().add(&owner_key(&gvr.group, kind, uid));
        }
    }

    /// Where an owner lives: its resource, and its namespace as seen from the dependent's.
    /// `None` for a kind that the API does not serve, and for a namespaced owner of a cluster-scoped object.
    pub(crate) fn locate(&self, owner: &OwnerReference, namespace: &str) -> Option<(Gvr, String)> {
        let served = self.served();
        let resource = served.by_kind(&owner.api_version, &owner.kind)?;
        if !resource.namespaced {
            return Some((resource.gvr.clone(), String::new()));
        }
        (!namespace.is_empty()).then(|| (resource.gvr.clone(), namespace.to_owned()))
    }

    /// An owner as the caches know it, with the right uid.
    pub(crate) fn cached_owner(&self, owner: &OwnerReference, namespace: &str) -> Option<Arc<Object>> {
        let (gvr, namespace) = self.locate(owner, namespace)?;
        let found = self.existing(&gvr)?.cache.get(&namespace, &owner.name)?;
        (found.uid() == owner.uid.as_ref()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_neither_served_nor_used_is_not_watched() {
        static WIDGETS: Gvr = Gvr::new("example.com", "v1", "widgets");
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let client = orlop_testkit::MemoryApi::new().client();
        let caches = Caches::new(client, Vec::new(), tasks.clone(), cancel.clone());
        let used = caches.resource(&WIDGETS);
        caches.sweep();
        assert!(caches.existing(&WIDGETS).is_some());
        drop(used);
        caches.sweep();
        assert!(caches.existing(&WIDGETS).is_none());
        tasks.close();
        tokio::time::timeout(std::time::Duration::from_secs(30), tasks.wait()).await.unwrap();
        assert!(!cancel.is_cancelled());
    }
}
