//! From `Plugin` objects and embedded bytes to the set of active plugins.
//!
//! Every change of an object is staged off the hot threads: fetch, verify, compile, link, self-test, warm.
//! What passes becomes active, or, where `spec.rollout` says so, goes through shadow and canary first.
//! What is refused or given up leaves the revision before it active. An active revision that keeps
//! failing is rolled back to the one before it, which stays on standby, or, where there is none,
//! suspended behind a breaker. What happened stands in the object's status and in Events; what ran is
//! kept as `PluginRevision`s.
//!
//! A built-in plugin needs no object to be active; its object is made so that users see it. An object
//! of a built-in's name with another source replaces it; deleting that object brings it back.
//!
//! Invariant: the published set is only ever swapped as a whole; a set once published never changes.

mod containment;
mod entry;
mod metrics;
mod report;
mod revisions;
mod rolling;
mod settle;
mod stage;

use super::access::Access;
use super::health::Health;
use super::object::{PLUGINS, PluginSpec, StageError};
use super::policy::PluginPolicy;
use super::set::{ActivePlugin, PluginSet, PluginSets};
use entry::{Entry, Staging};
use orlop_apimachinery::Object;
use orlop_client::{ApiClient, Cache, Informer, ListOptions, ResourceRef, WriteOptions};
use orlop_plugin::{Kind, PluginError, Runtime};
use parking_lot::Mutex;
use report::{Reporter, Standing};
use revisions::Ledger;
use stage::{Progress, Refusal, Request, Stager};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The plugins that the program carries: object name and bytes.
pub(crate) type Builtins = &'static [(&'static str, &'static [u8])];

/// How long reports that could not be written wait for the next try.
const RETRY: Duration = Duration::from_secs(5);
/// How often candidates and stagings are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long users' plugins that were there at the start are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct PluginManager {
    stager: Arc<Stager>,
    builtins: Builtins,
    identity: String,
    policy: watch::Receiver<Arc<PluginPolicy>>,
    sets: watch::Sender<Arc<PluginSet>>,
    users_loaded: watch::Sender<bool>,
    complete: watch::Sender<bool>,
    changed: Arc<Notify>,
    /// Counts revisions and stagings of this process.
    serial: AtomicU64,
    entries: Mutex<BTreeMap<String, Entry>>,
}

/// How a staging ended: plugin, number of the staging, outcome.
type Staged = (String, u64, Result<ActivePlugin, Refusal>);

/// What the manager works with while it runs.
struct Desk {
    client: Arc<dyn ApiClient>,
    cache: Cache,
    ledger: Ledger,
    staging: JoinSet<Staged>,
}

impl PluginManager {
    /// A manager that has loaded nothing yet. Users' plugins are shown what their `spec.grants` say, and nothing else.
    #[cfg(test)]
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        builtins: Builtins,
        policy: watch::Receiver<Arc<PluginPolicy>>,
    ) -> Self {
        Self::with_access(runtime, builtins, policy, Arc::new(super::access::GrantsOnly), "local")
    }

    /// A manager that has loaded nothing yet. `access` knows roles; `identity` names this process in statuses.
    pub(crate) fn with_access(
        runtime: Arc<Runtime>,
        builtins: Builtins,
        policy: watch::Receiver<Arc<PluginPolicy>>,
        access: Arc<dyn Access>,
        identity: &str,
    ) -> Self {
        Self {
            stager: Arc::new(Stager { runtime, builtins, access }),
            builtins,
            identity: identity.to_owned(),
            policy,
            sets: watch::Sender::new(Arc::default()),
            users_loaded: watch::Sender::new(false),
            complete: watch::Sender::new(false),
            changed: Arc::default(),
            serial: AtomicU64::new(0),
            entries: Mutex::default(),
        }
    }

    /// The published sets.
    pub(crate) fn sets(&self) -> PluginSets {
        self.sets.subscribe()
    }

    /// Turns true when the built-in admission plugins, and users' plugins that were there at the
    /// start, have been staged.
    pub(crate) fn users_loaded(&self) -> watch::Receiver<bool> {
        self.users_loaded.subscribe()
    }

    /// Turns true when everything that was there at the start, built in or not, has been staged.
    pub(crate) fn complete(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Loads the built-in plugins of one kind, all at once. Admission comes first, before requests are let in.
    pub(crate) async fn load_builtins(self: &Arc<Self>, kind: Kind) {
        let mut loading = JoinSet::new();
        for (name, bytes) in self.builtins {
            let known = self.entries.lock().contains_key(*name);
            if !known && orlop_plugin::inspect(bytes).is_ok_and(|i| i.manifest.kind == kind) {
                let (serial, task) = self.begin(name, PluginSpec::builtin(name), None, 0, false);
                loading.spawn(async move { (*name, serial, task.await) });
            }
        }
        while let Some(loaded) = loading.join_next().await {
            if let Ok((name, serial, result)) = loaded {
                self.settle(name, serial, result);
            }
        }
    }

    /// Follows objects, failures and policy until `cancel`.
    pub(crate) async fn run(self: Arc<Self>, client: Arc<dyn ApiClient>, cancel: CancellationToken) {
        let dirty: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let informer = {
            let (dirty, changed) = (dirty.clone(), self.changed.clone());
            Informer::new(client.clone(), PLUGINS.clone(), ListOptions::default()).with_handler(Box::new(
                move |delta| {
                    if let Some(object) = delta.latest() {
                        dirty.lock().insert(object.name().to_owned());
                        changed.notify_one();
                    }
                },
            ))
        };
        let (cache, following) = informer.start(cancel.clone());
        let (ledger, recording) = Ledger::new(client.clone(), cancel.clone());
        let desk = Desk { client, cache, ledger, staging: JoinSet::new() };
        let work = self.work(desk, dirty);
        tokio::select! {
            () = following => {}
            () = recording => {}
            () = work => {}
            () = cancel.cancelled() => {}
        }
    }

    async fn work(self: &Arc<Self>, mut desk: Desk, dirty: Arc<Mutex<BTreeSet<String>>>) {
        // Until admission is complete, requests wait at its door: the built-in checks first, then
        // what users added.
        self.load_builtins(Kind::Admission).await;
        desk.cache.synced().await;
        desk.ledger.synced().await;
        for object in desk.cache.list().iter().filter(|o| PluginSpec::of(o).is_ok_and(|s| !s.is_builtin())) {
            self.reconcile(&mut desk, object.name()).await;
        }
        let all = async {
            while let Some(staged) = desk.staging.join_next().await {
                self.staged(staged);
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::warn!("some users' plugins are still being staged; requests are let in without them");
        }
        self.users_loaded.send_replace(true);
        self.load_builtins(Kind::Scheduler).await;
        self.load_builtins(Kind::Controller).await;
        self.complete.send_replace(true);
        let mut reporter = Reporter::new(desk.client.clone(), self.identity.clone());
        let mut policy = self.policy.clone();
        let mut starting = true;
        dirty.lock().extend(self.builtins.iter().map(|(name, _)| (*name).to_owned()));
        loop {
            let mut names = std::mem::take(&mut *dirty.lock());
            names.extend(self.due());
            for name in names {
                self.reconcile(&mut desk, &name).await;
            }
            self.contain(&desk).await;
            self.advance();
            let recorded = self.record(&desk).await;
            let standings: Vec<(String, Standing)> =
                self.entries.lock().iter().map(|(n, e)| (n.clone(), e.standing_now())).collect();
            let all_told = reporter.publish(&desk.cache, &standings).await && recorded;
            if std::mem::take(&mut starting) {
                orlop_plugin::release_memory();
            }
            tokio::select! {
                () = self.changed.notified() => {}
                changed = policy.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tracing::info!("plugin policy changed, staging all plugins again");
                    dirty.lock().extend(self.entries.lock().keys().cloned());
                }
                Some(staged) = desk.staging.join_next() => {
                    self.staged(staged);
                }
                () = tokio::time::sleep(RETRY), if !all_told => {}
                () = tokio::time::sleep(LOOK), if self.is_moving() => {}
                () = tokio::time::sleep(RETRY), if self.is_waiting() => {}
            }
        }
    }

    fn staged(&self, staged: Result<Staged, tokio::task::JoinError>) {
        match staged {
            Ok((name, serial, result)) => self.settle(&name, serial, result),
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "the staging of a plugin was aborted"),
        }
    }

    /// Brings one plugin to what its object says; long work goes on beside.
    async fn reconcile(self: &Arc<Self>, desk: &mut Desk, name: &str) {
        let builtin = self.builtins.iter().any(|(n, _)| *n == name);
        let Some(object) = desk.cache.get("", name) else {
            if !builtin {
                self.retire(name);
                desk.ledger.forget(name);
                return;
            }
            self.stage_if_changed(desk, name, PluginSpec::builtin(name), None).await;
            materialise(desk.client.as_ref(), name).await;
            return;
        };
        match PluginSpec::of(&object) {
            Err(error) => {
                self.refuse(name, object.meta().generation, StageError::Spec(error));
            }
            Ok(spec) if !spec.is_enabled() => self.disable(name, object.meta().generation),
            Ok(spec) => self.stage_if_changed(desk, name, spec, Some(&object)).await,
        }
    }

    async fn stage_if_changed(
        self: &Arc<Self>,
        desk: &mut Desk,
        name: &str,
        spec: PluginSpec,
        object: Option<&Object>,
    ) {
        let generation = object.map_or(0, |o| o.meta().generation);
        let fingerprint = self.fingerprint(&spec);
        let unseen = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(name.to_owned()).or_default();
            entry.rollout = spec.rollout.clone().unwrap_or_default();
            entry.history = spec.history();
            let same = entry.staged.as_ref() == Some(&fingerprint);
            match &mut entry.staging {
                Some(staging) if same => staging.generation = generation,
                _ if same => entry.generation = generation,
                _ => {}
            }
            let unseen = object.is_some() && !std::mem::replace(&mut entry.seen, object.is_some());
            if same && !unseen {
                return;
            }
            unseen && entry.active.as_ref().is_none_or(|a| a.builtin)
        };
        if unseen
            && let Some(object) = object
            && self.resume(desk, object, &spec, &fingerprint).await
        {
            return;
        }
        if self.entries.lock().get(name).is_some_and(|e| e.staged.as_ref() == Some(&fingerprint)) {
            self.with_entry(name, |entry| entry.generation = generation);
            return;
        }
        match spec.pinned() {
            Some(number) => self.pin(desk, name, number, fingerprint, generation),
            None => {
                let task = self.begin(name, spec, None, generation, false);
                self.spawn(desk, name, task);
            }
        }
    }

    /// Notes that a staging begins, and returns it; see [`PluginManager::settle`].
    fn begin(
        self: &Arc<Self>,
        name: &str,
        spec: PluginSpec,
        kept: Option<(u64, super::object::Fetched)>,
        generation: i64,
        at_once: bool,
    ) -> (u64, impl Future<Output = Result<ActivePlugin, Refusal>> + Send + use<>) {
        let serial = self.next_serial();
        let progress = Arc::new(Progress::default());
        let fingerprint = self.fingerprint(&spec);
        self.with_entry(name, |entry| {
            entry.staged = Some(fingerprint);
            entry.staging = Some(Staging { serial, progress: progress.clone(), generation, at_once });
        });
        let (number, kept) = kept.map_or((0, None), |(number, kept)| (number, Some(kept)));
        let request = Request {
            object: name.to_owned(),
            spec,
            kept,
            policy: self.policy.borrow().clone(),
            revision: serial,
            number,
            health: Arc::new(Health::new(self.changed.clone())),
        };
        let stager = self.stager.clone();
        (serial, async move { stager.stage(request, &progress).await })
    }

    fn spawn(
        &self,
        desk: &mut Desk,
        name: &str,
        (serial, task): (u64, impl Future<Output = Result<ActivePlugin, Refusal>> + Send + 'static),
    ) {
        let name = name.to_owned();
        desk.staging.spawn(async move { (name, serial, task.await) });
    }

    /// Two plugins may not call themselves the same.
    fn check_name(&self, plugin: &ActivePlugin) -> Result<(), StageError> {
        let set = self.sets.borrow();
        match set.named(plugin.name()) {
            Some(other) if other.object != plugin.object => Err(StageError::Policy {
                message: format!(
                    "the name {} is taken by the active plugin \"{}\"; to replace it, name the object \"{}\"",
                    plugin.name(),
                    other.object,
                    other.object
                ),
            }),
            _ => Ok(()),
        }
    }

    fn fingerprint(&self, spec: &PluginSpec) -> String {
        let spec = serde_json::to_string(&spec.content()).unwrap_or_default();
        let policy = format!("{:?}", self.policy.borrow());
        orlop_plugin::Digest::of(format!("{spec}\n{policy}").as_bytes()).hex()
    }

    fn with_entry<T>(&self, name: &str, f: impl FnOnce(&mut Entry) -> T) -> T {
        f(self.entries.lock().entry(name.to_owned()).or_default())
    }

    fn publish(&self) {
        let entries = self.entries.lock();
        let plugins: BTreeMap<_, _> =
            entries.iter().filter_map(|(n, e)| Some((n.clone(), e.active.clone()?))).collect();
        let candidates: BTreeMap<_, _> = entries
            .iter()
            .filter_map(|(n, e)| Some((n.clone(), e.candidate.as_ref()?.candidate.clone())))
            .collect();
        self.sets.send_modify(|set| {
            *set = Arc::new(PluginSet { generation: set.generation + 1, plugins, candidates });
        });
    }
}

/// Makes the object of a built-in plugin.
async fn materialise(client: &dyn ApiClient, name: &str) {
    let object = serde_json::json!({
        "apiVersion": "orlop.dev/v1",
        "kind": "Plugin",
        "metadata": { "name": name, "labels": { "orlop.dev/builtin": "true" } },
        "spec": PluginSpec::builtin(name),
    });
    let options = WriteOptions { field_manager: report::MANAGER.to_owned(), ..WriteOptions::default() };
    let made = client.create(ResourceRef::new(&PLUGINS, "", ""), object.to_string().into(), &options).await;
    if let Err(error) = made
        && !error.is(orlop_apimachinery::Reason::AlreadyExists)
    {
        tracing::warn!(plugin = name, %error, "the object of a built-in plugin could not be made");
    }
}

/// For adapters: reports how a call of a plugin ended.
pub(crate) fn record<T>(health: &Health, result: &Result<T, PluginError>) {
    match result {
        Ok(_) => health.succeeded(),
        Err(error) => {
            health.failed(Instant::now(), error);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
