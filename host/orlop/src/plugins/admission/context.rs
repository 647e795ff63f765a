//! Objects that plugins declare as context: from informers, and from the store where that is asked for.

use super::chain::Chain;
use bytes::Bytes;
use orlop_apimachinery::{Gvr, Object};
use orlop_apiserver::admission::AdmissionRequest;
use orlop_client::{ApiClient, Cache, Informer, ListOptions, ResourceRef};
use orlop_plugin::manifest::admission::{ContextObject, Phase};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long an object that is about to be made is waited for.
const WAIT: Duration = Duration::from_millis(1500);
const POLL: Duration = Duration::from_millis(50);
const INDEX: &str = "namespace";

/// JSON of one context object, or why it could not be had.
pub(super) type Fetched = Result<Bytes, String>;

/// What was looked up for one request: (place in the chain, number of the context) → (what name, the JSON).
pub(super) type Prefetched = HashMap<(usize, usize), (Option<String>, Fetched)>;

pub(super) struct ContextSource {
    client: Arc<dyn ApiClient>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    handle: Handle,
    caches: Mutex<HashMap<Gvr, Cache>>,
}

fn gvr(context: &ContextObject) -> Gvr {
    Gvr::from_api_version(&context.api_version, &context.resource)
}

impl ContextSource {
    pub(super) fn new(
        client: Arc<dyn ApiClient>,
        tasks: TaskTracker,
        cancel: CancellationToken,
        handle: Handle,
    ) -> Self {
        Self { client, tasks, cancel, handle, caches: Mutex::default() }
    }

    /// Starts an informer for every resource that the chain's plugins declare. They are kept: a
    /// cache in process costs its maps only.
    pub(super) fn follow(&self, chain: &Chain) {
        let mut caches = self.caches.lock();
        let candidates = chain.links().iter().filter_map(|l| Some(&l.trial.as_ref()?.link));
        let links = chain.links().iter().chain(candidates);
        for context in links.filter_map(|l| l.manifest()).flat_map(|m| &m.context) {
            let gvr = gvr(context);
            if caches.contains_key(&gvr) {
                continue;
            }
            let informer = Informer::new(self.client.clone(), gvr.clone(), ListOptions::default())
                .with_index(INDEX, Box::new(|o: &Object| vec![o.namespace().to_owned()]));
            let (cache, run) = informer.start(self.cancel.clone());
            self.tasks.spawn_on(run, &self.handle);
            caches.insert(gvr, cache);
        }
    }

    /// Looks up what the plugins of the chain want to know about `request`, each object once.
    pub(super) async fn prefetch(
        &self,
        chain: &Chain,
        phase: Phase,
        request: &AdmissionRequest,
    ) -> Prefetched {
        let mut out = Prefetched::new();
        for (at, link) in chain.matching(phase, request) {
            for (i, context) in link.manifest().into_iter().flat_map(|m| &m.context).enumerate() {
                let name = resolve(context, request);
                let fetched = self.fetch(context, request, name.as_deref()).await;
                out.insert((at, i), (name, fetched));
            }
        }
        out
    }

    /// What was prefetched, unless a plugin before has changed the name to look up. For worker threads.
    pub(super) fn get(
        &self,
        prefetched: &mut Prefetched,
        at: usize,
        i: usize,
        context: &ContextObject,
        request: &AdmissionRequest,
    ) -> Fetched {
        let name = resolve(context, request);
        match prefetched.remove(&(at, i)) {
            Some((before, fetched)) if before == name => fetched,
            _ => self.handle.block_on(self.fetch(context, request, name.as_deref())),
        }
    }

    async fn fetch(
        &self,
        context: &ContextObject,
        request: &AdmissionRequest,
        name: Option<&str>,
    ) -> Fetched {
        let gvr = gvr(context);
        let cache = self.caches.lock().get(&gvr).filter(|c| c.resource_version() > 0).cloned();
        let namespace = if context.cluster_scoped { "" } else { request.namespace.as_str() };
        let Some(name) = name else {
            let items = match cache {
                Some(cache) => cache.by_index(INDEX, namespace),
                None => {
                    let options = ListOptions { namespace: namespace.to_owned(), ..ListOptions::default() };
                    self.client.list(&gvr, &options).await.map_err(|e| e.to_string())?.items
                }
            };
            return Ok(array(&items));
        };
        if name.is_empty() {
            return Ok(Bytes::from_static(b"null"));
        }
        if let Some(object) = cache.as_ref().and_then(|c| c.get(namespace, name)) {
            return Ok(object.bytes().clone());
        }
        if cache.is_some() && !context.live {
            return Ok(Bytes::from_static(b"null"));
        }
        let patience = if context.wait_for.iter().any(|n| n == name) { WAIT } else { Duration::ZERO };
        let begin = Instant::now();
        loop {
            match self.client.get(ResourceRef::new(&gvr, namespace, name)).await {
                Ok(object) => return Ok(object.bytes().clone()),
                Err(error) if !error.is_not_found() => return Err(error.to_string()),
                Err(_) if begin.elapsed() >= patience => {
                    return Ok(Bytes::from_static(b"null"));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

/// What was prefetched, where it is there and a plugin before has not changed the name to look up.
pub(super) fn prefetched(
    prefetched: &Prefetched,
    at: usize,
    i: usize,
    context: &ContextObject,
    request: &AdmissionRequest,
) -> Option<Bytes> {
    let (name, fetched) = prefetched.get(&(at, i))?;
    fetched.as_ref().ok().filter(|_| *name == resolve(context, request)).cloned()
}

fn resolve(context: &ContextObject, request: &AdmissionRequest) -> Option<String> {
    context.resolve(&request.namespace, &request.name, request.object.as_ref().unwrap_or(&Value::Null))
}

fn array(items: &[Arc<Object>]) -> Bytes {
    let mut out = vec![b'['];
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item.bytes());
    }
    out.push(b']');
    out.into()
}
