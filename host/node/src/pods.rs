//! Which pods there are, and a worker for each.
//!
//! Sources (the API, the folder of static pods) put keys on a queue; a key is compared with what
//! its sources say now. Nothing here depends on the order or the number of notifications.

use crate::api::{PODS, delete_pod};
use crate::pod::actions::{Shared, instance_of};
use crate::pod::model::{Sandbox, spec_of};
use crate::pod::worker::{ApiSide, Handle, Seed, Update, Worker};
use crate::qos::requests_of;
use crate::quantity::{bytes_of, cpu_millis};
use crate::static_pods::{self, StaticPod};
use crate::volumes::remove_pod_dir;
use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use orlop_apimachinery::Object;
use orlop_client::{Cache, ResourceRef, WriteOptions};
use orlop_container::RuntimeError;
use orlop_container::cri::{
    ContainerEventType, ContainerFilter, ContainerState, PodSandboxFilter, PodSandboxState,
};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often what the runtime has is compared with what the workers know, should an event have
/// been lost.
const RELIST: Duration = Duration::from_secs(60);

/// Namespace and name.
pub(crate) type Key = (Box<str>, Box<str>);

/// Keys to look at, each once.
#[derive(Default)]
pub(crate) struct Queue {
    keys: Mutex<HashSet<Key>>,
    wake: Notify,
}

impl Queue {
    pub(crate) fn push(&self, namespace: &str, name: &str) {
        self.keys.lock().insert((namespace.into(), name.into()));
        self.wake.notify_one();
    }

    async fn take(&self) -> HashSet<Key> {
        loop {
            let keys = std::mem::take(&mut *self.keys.lock());
            if !keys.is_empty() {
                return keys;
            }
            self.wake.notified().await;
        }
    }
}

/// The workers of a node, for those who look from outside.
#[derive(Default)]
pub(crate) struct Registry {
    handles: Mutex<HashMap<Box<str>, Arc<Handle>>>,
}

impl Registry {
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<Handle>> {
        self.handles.lock().get(uid).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.handles.lock().values().cloned().collect()
    }

    /// A pod with one running container, without a worker.
    #[cfg(test)]
    pub(crate) fn put_for_tests(&self, uid: &str, pod: Arc<Pod>, container: &str, id: &str) {
        let handle = Handle::new(uid, false, pod);
        handle.publish_for_tests(container, id);
        self.handles.lock().insert(uid.into(), handle);
    }

    /// A pod by name; of several with the same name the one that is not over.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<Handle>> {
        let named: Vec<Arc<Handle>> = self
            .all()
            .into_iter()
            .filter(|h| {
                let p = h.published();
                p.pod.metadata.namespace.as_deref() == Some(namespace)
                    && p.pod.metadata.name.as_deref() == Some(name)
            })
            .collect();
        named.iter().find(|h| !h.published().over).or(named.first()).cloned()
    }
}

/// Static pods as last read from their folder, by namespace and full name.
pub(crate) type Statics = watch::Receiver<Option<Arc<HashMap<Key, StaticPod>>>>;

/// See the module.
pub(crate) struct Pods {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) queue: Arc<Queue>,
    /// The pods of this node in the API.
    pub(crate) cache: Cache,
    pub(crate) statics: Statics,
    /// Uid of the Node object, for the owner of mirror pods; empty until it is registered.
    pub(crate) node_uid: watch::Receiver<String>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
    /// What the runtime had when the agent started, by pod uid.
    seeds: HashMap<Box<str>, Found>,
    /// Pods whose worker is done while their object (with finalizers) remains.
    done: HashMap<Box<str>, Key>,
    swept: bool,
}

#[derive(Default)]
struct Found {
    namespace: String,
    name: String,
    grace: Option<i64>,
    seed: Seed,
}

impl Pods {
    #[expect(clippy::too_many_arguments, reason = "the parts that Node::run has put together")]
    pub(crate) fn new(
        shared: Arc<Shared>,
        registry: Arc<Registry>,
        queue: Arc<Queue>,
        cache: Cache,
        statics: Statics,
        node_uid: watch::Receiver<String>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let (seeds, done) = (HashMap::new(), HashMap::new());
        Self { shared, registry, queue, cache, statics, node_uid, tasks, cancel, seeds, done, swept: false }
    }

    /// Reads what the runtime has from before.
    pub(crate) async fn recover(&mut self) -> Result<(), RuntimeError> {
        let runtime = &self.shared.runtime;
        for sandbox in runtime.list_pod_sandbox(PodSandboxFilter::default()).await? {
            let status = match runtime.pod_sandbox_status(&sandbox.id).await {
                Ok(status) => status,
                Err(e) if e.is_not_found() => continue,
                Err(e) => return Err(e),
            };
            let found = self.seeds.entry(status.metadata.uid.as_str().into()).or_default();
            found.namespace.clone_from(&status.metadata.namespace);
            found.name.clone_from(&status.metadata.name);
            found.seed.sandboxes.push(Sandbox {
                ready: status.state == PodSandboxState::Ready,
                stopped: false,
                attempt: status.metadata.attempt,
                ips: status.ips,
                id: status.id.into(),
            });
        }
        for container in runtime.list_containers(ContainerFilter::default()).await? {
            let Some(uid) = container.labels.get(crate::container::sandbox::POD_UID) else { continue };
            let status = match runtime.container_status(&container.id).await {
                Ok(status) => status,
                Err(e) if e.is_not_found() => continue,
                Err(e) => return Err(e),
            };
            let label = |name: &str| status.labels.get(name).cloned().unwrap_or_default();
            let grace =
                status.annotations.get(crate::container::config::POD_GRACE).and_then(|g| g.parse().ok());
            let (namespace, pod_name) =
                (label(crate::container::sandbox::POD_NAMESPACE), label(crate::container::sandbox::POD_NAME));
            let name = status.metadata.name.clone();
            let instance = instance_of(&self.shared, uid, status).await;
            let found = self.seeds.entry(uid.as_str().into()).or_default();
            found.namespace = namespace;
            found.name = pod_name;
            found.grace = grace.or(found.grace);
            found.seed.containers.push((name, instance));
        }
        if !self.seeds.is_empty() {
            tracing::info!(pods = self.seeds.len(), "pods found in the runtime");
        }
        Ok(())
    }

    /// Runs until `cancel`.
    pub(crate) async fn run(mut self) {
        let queue = self.queue.clone();
        let cache = self.cache.clone();
        let mut statics = self.statics.clone();
        let mut node_uid = self.node_uid.clone();
        let cancel = self.cancel.clone();
        loop {
            let synced = async {
                if self.swept || !cache.synced().await {
                    std::future::pending::<()>().await;
                }
            };
            let keys = tokio::select! {
                () = cancel.cancelled() => return,
                keys = queue.take() => keys,
                Ok(()) = statics.changed() => self.static_keys(),
                Ok(()) = node_uid.changed() => self.static_keys(),
                () = synced, if self.statics_loaded() => {
                    self.sweep().await;
                    self.static_keys()
                }
            };
            for key in keys {
                self.reconcile(&key).await;
            }
        }
    }

    fn statics_loaded(&self) -> bool {
        self.statics.borrow().is_some()
    }

    fn static_pod(&self, key: &Key) -> Option<StaticPod> {
        self.statics.borrow().as_ref().and_then(|all| all.get(key).cloned())
    }

    /// Keys of all static pods, present and past.
    fn static_keys(&self) -> HashSet<Key> {
        let mut keys: HashSet<Key> =
            self.statics.borrow().as_ref().map(|all| all.keys().cloned().collect()).unwrap_or_default();
        for handle in self.registry.all().into_iter().filter(|h| h.is_static) {
            keys.insert(key_of(&handle.published().pod));
        }
        keys
    }

    async fn reconcile(&mut self, key: &Key) {
        let object = self.cache.get(&key.0, &key.1);
        let api = object.as_ref().and_then(|o| parse(o));
        let wanted = match (self.static_pod(key), api) {
            (Some(static_pod), api) => {
                let api = self.mirror(key, &static_pod, api).await;
                Some((static_pod.uid.clone(), true, Update { pod: static_pod.pod, api }))
            }
            (None, Some((pod, side))) if is_mirror(&pod) => {
                if self.statics_loaded() {
                    tracing::info!(namespace = %key.0, name = %key.1, "deleting a mirror pod without a static pod");
                    self.delete_mirror(key, &side.uid).await;
                }
                None
            }
            (None, Some((pod, side))) => {
                Some((side.uid.clone().into(), false, Update { pod, api: Some(side) }))
            }
            (None, None) => None,
        };
        let uid = wanted.as_ref().map(|(uid, ..)| uid.clone());
        // Whoever has the name without being wanted goes.
        let mut waits = false;
        for handle in self.registry.all() {
            if key_of(&handle.published().pod) == *key && Some(&handle.uid) != uid.as_ref() {
                handle.gone();
                waits |= handle.is_static;
            }
        }
        self.done.retain(|done, k| k != key || Some(done) == uid.as_ref());
        let Some((uid, is_static, update)) = wanted else { return };
        if let Some(handle) = self.registry.get(&uid) {
            handle.update(update);
            return;
        }
        // A static pod takes over from its former version only when that has ended.
        if self.done.contains_key(&uid) || (is_static && waits) {
            return;
        }
        let seed = self.seeds.remove(&uid).map(|f| f.seed).unwrap_or_default();
        let refusal = if seed.containers.is_empty() && seed.sandboxes.is_empty() && !is_static {
            self.refuse(&update)
        } else {
            None
        };
        self.spawn(&uid, is_static, update, seed, refusal);
    }

    fn spawn(
        &mut self,
        uid: &str,
        is_static: bool,
        update: Update,
        seed: Seed,
        refusal: Option<(&'static str, String)>,
    ) -> Arc<Handle> {
        let handle = Handle::new(uid, is_static, update.pod.clone());
        if let Some((reason, message)) = refusal {
            handle.fail(reason, &message);
        }
        self.registry.handles.lock().insert(uid.into(), handle.clone());
        let key = key_of(&update.pod);
        if !is_static {
            self.done.insert(uid.into(), key.clone());
        }
        let worker = Worker::new(self.shared.clone(), handle.clone(), update, seed);
        let (registry, queue, cancel) = (self.registry.clone(), self.queue.clone(), self.cancel.clone());
        let uid: Box<str> = uid.into();
        self.tasks.spawn(async move {
            worker.run(cancel).await;
            registry.handles.lock().remove(&uid);
            queue.push(&key.0, &key.1);
        });
        handle
    }

    /// Whether the node has no room for a new pod; the scheduler's view may be older than ours.
    fn refuse(&self, update: &Update) -> Option<(&'static str, String)> {
        let phase = update.api.as_ref().and_then(|a| a.status.phase.as_deref());
        if update.pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let others: Vec<Arc<Pod>> =
            self.registry.all().iter().map(|h| h.published()).filter(|p| !p.over).map(|p| p.pod).collect();
        let allocatable = &self.shared.allocatable;
        let wanted = requests_of(spec_of(&update.pod));
        let limit = i64::from(self.shared.config.max_pods);
        let used = i64::try_from(others.len()).unwrap_or(i64::MAX);
        let short = |name: &str, wanted: i64, used: i64, capacity: i64| {
            format!(
                "Pod was rejected: Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            )
        };
        if used + 1 > limit {
            return Some(("OutOfpods", short("pods", 1, used, limit)));
        }
        let (mut cpu, mut memory) = (0, 0);
        for pod in &others {
            let r = requests_of(spec_of(pod));
            cpu += r.cpu_millis;
            memory += r.memory;
        }
        let capacity = cpu_millis(Some(allocatable)).unwrap_or(i64::MAX);
        if wanted.cpu_millis > 0 && cpu + wanted.cpu_millis > capacity {
            return Some(("OutOfcpu", short("cpu", wanted.cpu_millis, cpu, capacity)));
        }
        let capacity = bytes_of(Some(allocatable), "memory").unwrap_or(i64::MAX);
        if wanted.memory > 0 && memory + wanted.memory > capacity {
            return Some(("OutOfmemory", short("memory", wanted.memory, memory, capacity)));
        }
        None
    }

    // === mirror pods ===

    /// Makes sure that a static pod has its mirror; the mirror's API side where it is there.
    async fn mirror(
        &self,
        key: &Key,
        static_pod: &StaticPod,
        api: Option<(Arc<Pod>, ApiSide)>,
    ) -> Option<ApiSide> {
        if let Some((pod, side)) = api {
            let current = is_mirror(&pod)
                && annotation(&pod, static_pods::MIRROR) == Some(&static_pod.uid)
                && pod.metadata.deletion_timestamp.is_none();
            if current {
                return Some(side);
            }
            if !is_mirror(&pod) {
                tracing::warn!(namespace = %key.0, name = %key.1, "a pod of the API has the name of a static pod; it gives way");
            }
            self.delete_mirror(key, &side.uid).await;
            return None;
        }
        // Before the first list nobody knows whether there is one.
        if self.cache.resource_version() == 0 {
            return None;
        }
        // A mirror is owned by its Node, so it waits until the Node is registered, as the kubelet's
        // does; every static pod is looked at again then.
        let node_uid = self.node_uid.borrow().clone();
        if node_uid.is_empty() {
            return None;
        }
        let body = static_pods::mirror_of(static_pod, &self.shared.config.node_name, &node_uid);
        let at = ResourceRef::new(&PODS, &key.0, "");
        match self.shared.client.create(at, Bytes::from(body.to_string()), &WriteOptions::default()).await {
            Ok(object) => parse(&object).map(|(_, side)| side),
            Err(e) => {
                if !e.is(orlop_apimachinery::Reason::AlreadyExists) {
                    tracing::warn!(namespace = %key.0, name = %key.1, error = %e, "a mirror pod could not be created");
                    self.retry_later(key);
                }
                None
            }
        }
    }

    async fn delete_mirror(&self, key: &Key, uid: &str) {
        if let Err(error) = delete_pod(self.shared.client.as_ref(), &key.0, &key.1, uid).await {
            tracing::warn!(namespace = %key.0, name = %key.1, %error, "a mirror pod could not be deleted");
            self.retry_later(key);
        }
    }

    fn retry_later(&self, key: &Key) {
        let (queue, key, cancel) = (self.queue.clone(), key.clone(), self.cancel.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(10)) => queue.push(&key.0, &key.1),
            }
        });
    }

    // === orphans ===

    /// Both sources are known: what the runtime and the disk have of pods that neither knows goes.
    async fn sweep(&mut self) {
        self.swept = true;
        for key in self.cache.list().iter().map(|o| (o.namespace().into(), o.name().into())) {
            self.reconcile(&key).await;
        }
        for key in self.static_keys() {
            self.reconcile(&key).await;
        }
        for (uid, found) in std::mem::take(&mut self.seeds) {
            tracing::info!(namespace = found.namespace, name = found.name, %uid, "ending a pod that is no longer wanted");
            let names: HashSet<&String> = found.seed.containers.iter().map(|(name, _)| name).collect();
            let containers =
                names.into_iter().map(|n| Container { name: n.clone(), ..Container::default() }).collect();
            let pod = Pod {
                metadata: ObjectMeta {
                    name: Some(found.name),
                    namespace: Some(found.namespace),
                    uid: Some(uid.to_string()),
                    ..ObjectMeta::default()
                },
                spec: Some(PodSpec {
                    containers,
                    termination_grace_period_seconds: found.grace,
                    ..PodSpec::default()
                }),
                status: None,
            };
            let update = Update { pod: Arc::new(pod), api: None };
            self.spawn(&uid, false, update, found.seed, None).gone();
        }
        self.sweep_folders().await;
    }

    /// Folders that a crash has left behind.
    async fn sweep_folders(&self) {
        let config = &self.shared.config;
        for (dir, of_uid) in [(config.root_dir.join("pods"), false), (config.log_dir.clone(), true)] {
            let Ok(mut entries) = tokio::fs::read_dir(&dir).await else { continue };
            while let Ok(Some(entry)) = entries.next_entry().await {
                let name = entry.file_name().to_string_lossy().into_owned();
                let uid = if of_uid { name.rsplit('_').next().unwrap_or_default() } else { &name };
                if self.registry.get(uid).is_some() {
                    continue;
                }
                if let Err(error) = remove_pod_dir(entry.path()).await {
                    tracing::warn!(%error, path = %entry.path().display(), "a folder of a past pod stayed");
                }
            }
        }
    }
}

fn key_of(pod: &Pod) -> Key {
    let meta = &pod.metadata;
    (meta.namespace.as_deref().unwrap_or_default().into(), meta.name.as_deref().unwrap_or_default().into())
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, static_pods::MIRROR).is_some()
}

fn parse(object: &Object) -> Option<(Arc<Pod>, ApiSide)> {
    let mut pod: Pod = match object.parse() {
        Ok(pod) => pod,
        Err(error) => {
            tracing::warn!(namespace = object.namespace(), name = object.name(), %error, "a pod cannot be read");
            return None;
        }
    };
    let status = pod.status.take().unwrap_or_default();
    pod.metadata.managed_fields = None;
    let side =
        ApiSide { uid: object.uid().to_owned(), resource_version: object.meta().resource_version, status };
    Some((Arc::new(pod), side))
}

// === runtime events ===

/// Passes the runtime's events on to the workers, until `cancel`.
pub(crate) async fn follow_runtime(shared: Arc<Shared>, registry: Arc<Registry>, cancel: CancellationToken) {
    let mut relist = tokio::time::interval(RELIST);
    relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut events = shared.runtime.get_container_events();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            event = events.next() => match event {
                Some(event) => {
                    let ends = matches!(
                        event.container_event_type,
                        ContainerEventType::Stopped | ContainerEventType::Deleted
                    );
                    if !ends {
                        continue;
                    }
                    let Some(handle) = registry.get(&event.pod.uid) else { continue };
                    if event.is_sandbox() {
                        handle.sandbox_changed(&event.pod_sandbox_id);
                    } else {
                        handle.container_changed(&event.container_id);
                    }
                }
                None => {
                    tracing::warn!("the runtime's event stream ended, subscribing again");
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    }
                    events = shared.runtime.get_container_events();
                    compare(&shared, &registry).await;
                }
            },
            _ = relist.tick() => compare(&shared, &registry).await,
        }
    }
}

/// Tells workers of containers and sandboxes that are not as they believe.
async fn compare(shared: &Shared, registry: &Registry) {
    let containers = shared.runtime.list_containers(ContainerFilter::default()).await;
    let sandboxes = shared.runtime.list_pod_sandbox(PodSandboxFilter::default()).await;
    let (containers, sandboxes) = match (containers, sandboxes) {
        (Ok(containers), Ok(sandboxes)) => (containers, sandboxes),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "the runtime could not be listed");
            return;
        }
    };
    let running: HashSet<&str> =
        containers.iter().filter(|c| c.state == ContainerState::Running).map(|c| c.id.as_str()).collect();
    let ready: HashSet<&str> =
        sandboxes.iter().filter(|s| s.state == PodSandboxState::Ready).map(|s| s.id.as_str()).collect();
    for handle in registry.all() {
        let published = handle.published();
        for (id, _, believed) in published.containers.iter().filter_map(|c| c.current.as_ref()) {
            if *believed && !running.contains(id.as_ref()) {
                handle.container_changed(id);
            }
        }
        if let Some(id) = published.sandbox_id.filter(|id| !ready.contains(id.as_ref())) {
            handle.sandbox_changed(&id);
        }
    }
}
