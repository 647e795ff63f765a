//! ConfigMaps and Secrets that pods of this node refer to, each kept current by a watch of just
//! that object for as long as a pod refers to it.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use orlop_apimachinery::{Gvr, Object};
use orlop_client::{ApiClient, Cache, Informer, ListOptions};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::env::{Names, Sources};

const CONFIG_MAPS: Gvr = Gvr::new("", "v1", "configmaps");
const SECRETS: Gvr = Gvr::new("", "v1", "secrets");

/// How long the first read of an object may take.
const FIRST_READ: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    ConfigMap,
    Secret,
}

type Key = (Kind, Box<str>, Box<str>);

struct Entry {
    cache: Cache,
    stop: CancellationToken,
    pods: Arc<Mutex<HashSet<Box<str>>>>,
}

/// Told the uid of a pod whose object changed.
pub(crate) type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

/// See the module.
pub(crate) struct Objects {
    client: Arc<dyn ApiClient>,
    entries: Mutex<HashMap<Key, Entry>>,
    on_change: OnChange,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Objects {
    pub(crate) fn new(
        client: Arc<dyn ApiClient>,
        on_change: OnChange,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self { client, entries: Mutex::new(HashMap::new()), on_change, tasks, cancel }
    }

    fn watch(&self, kind: Kind, namespace: &str, name: &str, uid: &str) -> Cache {
        let mut entries = self.entries.lock();
        let key = (kind, namespace.into(), name.into());
        if let Some(entry) = entries.get(&key) {
            entry.pods.lock().insert(uid.into());
            return entry.cache.clone();
        }
        let gvr = match kind {
            Kind::ConfigMap => CONFIG_MAPS,
            Kind::Secret => SECRETS,
        };
        let options = ListOptions {
            namespace: namespace.to_owned(),
            field_selector: format!("metadata.name={name}"),
            ..ListOptions::default()
        };
        let pods = Arc::new(Mutex::new(HashSet::from([uid.into()])));
        let stop = self.cancel.child_token();
        let (users, on_change) = (pods.clone(), self.on_change.clone());
        let informer = Informer::new(self.client.clone(), gvr, options).with_handler(Box::new(move |_| {
            let users: Vec<Box<str>> = users.lock().iter().cloned().collect();
            for uid in users {
                on_change(&uid);
            }
        }));
        let (cache, run) = informer.start(stop.clone());
        self.tasks.spawn(run);
        entries.insert(key, Entry { cache: cache.clone(), stop, pods });
        cache
    }

    async fn get(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<Arc<Object>>, String> {
        let cache = self.watch(kind, namespace, name, uid);
        match tokio::time::timeout(FIRST_READ, cache.synced()).await {
            Ok(true) => Ok(cache.get(namespace, name)),
            _ => {
                let kind = if kind == Kind::ConfigMap { "configmap" } else { "secret" };
                Err(format!("failed to sync {kind} cache: timed out waiting for the condition"))
            }
        }
    }

    /// Reads all of `names` for the pod `uid`, and keeps watching them until [`Self::release`].
    pub(crate) async fn fetch(&self, namespace: &str, uid: &str, names: &Names) -> Result<Sources, String> {
        let maps = futures::future::join_all(
            names.config_maps.iter().map(|name| self.get(Kind::ConfigMap, namespace, name, uid)),
        );
        let secrets = futures::future::join_all(
            names.secrets.iter().map(|name| self.get(Kind::Secret, namespace, name, uid)),
        );
        let (maps, secrets) = futures::future::join(maps, secrets).await;
        let mut sources = Sources::default();
        for (name, object) in names.config_maps.iter().zip(maps) {
            let parsed = match object? {
                Some(o) => {
                    Some(Arc::new(o.parse::<ConfigMap>().map_err(|e| format!("configmap \"{name}\": {e}"))?))
                }
                None => None,
            };
            sources.config_maps.insert(name.clone(), parsed);
        }
        for (name, object) in names.secrets.iter().zip(secrets) {
            let parsed = match object? {
                Some(o) => {
                    Some(Arc::new(o.parse::<Secret>().map_err(|e| format!("secret \"{name}\": {e}"))?))
                }
                None => None,
            };
            sources.secrets.insert(name.clone(), parsed);
        }
        Ok(sources)
    }

    /// The pod is gone: objects that no other pod refers to are no longer watched.
    pub(crate) fn release(&self, uid: &str) {
        self.entries.lock().retain(|_, entry| {
            let mut pods = entry.pods.lock();
            pods.remove(uid);
            if pods.is_empty() {
                entry.stop.cancel();
            }
            !pods.is_empty()
        });
    }
}
