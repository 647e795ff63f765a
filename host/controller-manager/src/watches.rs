//! What one controller watches: the resources that it names, and, where it is over everything,
//! whatever the API serves at the moment.
//!
//! A controller starts when all that it names is served and read; a resource may be served only later.

use crate::cache::{Caches, IndexKind, Shared, Subscription};
use crate::declaration::{Declaration, Watch};
use crate::framework::ControllerPlugin;
use crate::inputs;
use crate::keys::{Key, Mapper};
use crate::served::Served;
use orlop_apimachinery::Gvr;
use orlop_client::WorkQueue;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often a controller that waits says so.
const REMINDER: Duration = Duration::from_secs(10);

/// A resource whose changes become keys, until this is dropped.
struct Watched {
    _subscriptions: Vec<Subscription>,
    _shared: Arc<Shared>,
}

/// The watches of one controller.
pub(crate) struct Watches {
    name: String,
    plugin: Arc<dyn ControllerPlugin>,
    caches: Arc<Caches>,
    queue: WorkQueue<Key>,
    changes: watch::Receiver<Arc<Served>>,
    named: Vec<Watched>,
    everything: HashMap<Gvr, Watched>,
}

impl Watches {
    /// Starts all informers and indexes, waits for them, then lets changes become keys. `None` where
    /// the term ended first.
    pub(crate) async fn start(
        name: &str,
        plugin: Arc<dyn ControllerPlugin>,
        caches: Arc<Caches>,
        queue: WorkQueue<Key>,
    ) -> Option<Self> {
        let changes = caches.changes();
        let mut watches = Self {
            name: name.to_owned(),
            plugin,
            caches,
            queue,
            changes,
            named: Vec::new(),
            everything: HashMap::new(),
        };
        let declaration = watches.plugin.declaration();
        let used = inputs::prepare(declaration, &watches.caches);
        let mut mapped = Vec::new();
        for watch in declaration.watches.iter().filter(|w| !w.resource.is_empty()) {
            let gvr = Gvr::from_api_version(&watch.api_version, &watch.resource);
            let shared = watches.caches.resource(&gvr);
            mapped.push((shared, vec![watches.mapper(watch, gvr)]));
        }
        if watches.is_over_everything() {
            for resource in watches.caches.served().collectable() {
                watches.caches.resource(&resource.gvr);
            }
        }
        for shared in used.iter().chain(mapped.iter().map(|(shared, _)| shared)) {
            if !watches.read(shared).await {
                return None;
            }
        }
        for name in &watches.plugin.declaration().start {
            watches.queue.add(Key::named(name));
        }
        watches.named.extend(used.into_iter().map(|shared| subscribe(shared, Vec::new())));
        watches.named.extend(mapped.into_iter().map(|(shared, mappers)| subscribe(shared, mappers)));
        watches.changes.mark_changed();
        watches.follow().await.then_some(watches)
    }

    /// Waits until something else is served, where that matters. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if !self.is_over_everything() || self.changes.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Watches what is served now; `false` where the term ended first.
    pub(crate) async fn follow(&mut self) -> bool {
        if !self.is_over_everything() {
            return true;
        }
        loop {
            let served = self.changes.borrow_and_update().clone();
            self.everything.retain(|gvr, _| served.collects(gvr));
            let mut fresh = Vec::new();
            for resource in served.collectable() {
                if self.everything.contains_key(&resource.gvr) {
                    continue;
                }
                let shared = self.caches.resource(&resource.gvr);
                if inputs::reads_everything(self.plugin.declaration()) {
                    shared.ensure_index(&IndexKind::Owners);
                }
                let watches = self.plugin.declaration().watches.iter().filter(|w| w.resource.is_empty());
                let mappers: Vec<Mapper> = watches.map(|w| self.mapper(w, resource.gvr.clone())).collect();
                fresh.push((resource.gvr.clone(), shared, mappers));
            }
            let mut changes = self.changes.clone();
            let read = async {
                for (_, shared, _) in &fresh {
                    if !self.read(shared).await {
                        return false;
                    }
                }
                true
            };
            tokio::select! {
                read = read => if !read { return false },
                // A type that goes again can never be read.
                Ok(()) = changes.changed() => continue,
            }
            for (gvr, shared, mappers) in fresh {
                self.everything.insert(gvr, subscribe(shared, mappers));
            }
            self.caches.sweep();
            return true;
        }
    }

    fn is_over_everything(&self) -> bool {
        let declaration: &Declaration = self.plugin.declaration();
        inputs::reads_everything(declaration) || declaration.watches.iter().any(|w| w.resource.is_empty())
    }

    fn mapper(&self, watch: &Watch, gvr: Gvr) -> Mapper {
        Mapper::new(self.plugin.declaration(), watch, gvr, &self.caches, &self.queue)
    }

    /// Waits for the first list.
    async fn read(&self, shared: &Shared) -> bool {
        let mut first = std::pin::pin!(shared.cache.synced());
        let mut told = false;
        loop {
            if let Ok(read) = tokio::time::timeout(REMINDER, &mut first).await {
                return read;
            }
            if self.caches.served().serves(&shared.gvr) {
                tracing::warn!(plugin = %self.name, gvk = %shared.gvr, "still waiting for the cache");
            } else if !told {
                tracing::info!(plugin = %self.name, gvk = %shared.gvr, "the controller waits for a resource that is not served");
                told = true;
            }
        }
    }
}

fn subscribe(shared: Arc<Shared>, mappers: Vec<Mapper>) -> Watched {
    let subscriptions =
        mappers.into_iter().map(|mapper| shared.subscribe(move |delta| mapper.change(delta))).collect();
    Watched { _subscriptions: subscriptions, _shared: shared }
}
