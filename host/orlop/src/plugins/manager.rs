//! From `Plugin` objects and embedded bytes to the set of active plugins.
//!
//! Every change of an object is staged off the hot threads: fetch, verify the digest, compile, link,
//! init and self-test. Only what passes all stages becomes active; what is refused leaves the revision
//! before it active. A revision that keeps failing is rolled back to the one before it, or, where there
//! is none, suspended behind a breaker. What happened stands in the object's status and in Events.
//!
//! A built-in plugin needs no object to be active; its object is made so that users see it. An object
//! of a built-in's name with another source replaces it; deleting that object brings it back.
//!
//! Invariant: the published set is only ever swapped as a whole; a set once published never changes.

mod report;
mod stage;

use super::health::Health;
use super::object::{PLUGINS, PluginSpec, StageError};
use super::policy::PluginPolicy;
use super::set::{ActivePlugin, PluginSet, PluginSets};
use orlop_apimachinery::Object;
use orlop_client::{ApiClient, Cache, Informer, ListOptions, ResourceRef, WriteOptions};
use orlop_plugin::{Kind, PluginError, Runtime};
use parking_lot::Mutex;
use report::{Reporter, Standing, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The plugins that the program carries: object name and bytes.
pub(crate) type Builtins = &'static [(&'static str, &'static [u8])];

/// How long reports that could not be written wait for the next try.
const RETRY: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct PluginManager {
    runtime: Arc<Runtime>,
    builtins: Builtins,
    policy: watch::Receiver<Arc<PluginPolicy>>,
    sets: watch::Sender<Arc<PluginSet>>,
    users_loaded: watch::Sender<bool>,
    complete: watch::Sender<bool>,
    changed: Arc<Notify>,
    revisions: AtomicU64,
    entries: Mutex<BTreeMap<String, Entry>>,
}

/// What is known of one plugin.
#[derive(Default)]
struct Entry {
    /// Spec and policy that were staged last, whatever came of it.
    staged: Option<String>,
    /// What runs.
    active: Option<Arc<ActivePlugin>>,
    /// What ran before, without being given up.
    last_good: Option<Arc<ActivePlugin>>,
    /// What the user is told.
    standing: Standing,
    /// The object's generation that all this is about; 0 without an object.
    generation: i64,
}

impl PluginManager {
    /// A manager that has loaded nothing yet.
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        builtins: Builtins,
        policy: watch::Receiver<Arc<PluginPolicy>>,
    ) -> Self {
        Self {
            runtime,
            builtins,
            policy,
            sets: watch::Sender::new(Arc::default()),
            users_loaded: watch::Sender::new(false),
            complete: watch::Sender::new(false),
            changed: Arc::default(),
            revisions: AtomicU64::new(0),
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

    /// Loads the built-in plugins of one kind, all at once. Admission comes first, before requests are let in.
    pub(crate) async fn load_builtins(self: &Arc<Self>, kind: Kind) {
        let mut loading = tokio::task::JoinSet::new();
        for (name, bytes) in self.builtins {
            let known = self.entries.lock().contains_key(*name);
            if !known && orlop_plugin::inspect(bytes).is_ok_and(|i| i.manifest.kind == kind) {
                let manager = self.clone();
                loading
                    .spawn(async move { manager.stage((*name).to_owned(), PluginSpec::builtin(name)).await });
            }
        }
        while loading.join_next().await.is_some() {}
        orlop_plugin::release_memory();
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
        let reporter = Reporter::new(client.clone());
        let work = self.work(client, cache, dirty, reporter);
        tokio::select! {
            () = following => {}
            () = work => {}
            () = cancel.cancelled() => {}
        }
    }

    async fn work(
        self: &Arc<Self>,
        client: Arc<dyn ApiClient>,
        cache: Cache,
        dirty: Arc<Mutex<BTreeSet<String>>>,
        mut reporter: Reporter,
    ) {
        // Until admission is complete, requests wait at its door: the built-in checks first, then
        // what users added.
        self.load_builtins(Kind::Admission).await;
        cache.synced().await;
        for object in cache.list().iter().filter(|o| PluginSpec::of(o).is_ok_and(|s| !s.is_builtin())) {
            self.reconcile(client.as_ref(), &cache, object.name()).await;
        }
        self.users_loaded.send_replace(true);
        self.load_builtins(Kind::Scheduler).await;
        self.load_builtins(Kind::Controller).await;
        self.complete.send_replace(true);
        let mut policy = self.policy.clone();
        dirty.lock().extend(self.builtins.iter().map(|(name, _)| (*name).to_owned()));
        loop {
            let names = std::mem::take(&mut *dirty.lock());
            let staged_any = !names.is_empty();
            for name in names {
                self.reconcile(client.as_ref(), &cache, &name).await;
            }
            if staged_any {
                orlop_plugin::release_memory();
            }
            self.contain().await;
            let standings: Vec<(String, Standing)> =
                self.entries.lock().iter().map(|(n, e)| (n.clone(), e.standing_now())).collect();
            let all_told = reporter.publish(&cache, &standings).await;
            tokio::select! {
                () = self.changed.notified() => {}
                changed = policy.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tracing::info!("plugin policy changed, staging all plugins again");
                    dirty.lock().extend(self.entries.lock().keys().cloned());
                }
                () = tokio::time::sleep(RETRY), if !all_told => {}
            }
        }
    }

    /// Brings one plugin to what its object says.
    async fn reconcile(self: &Arc<Self>, client: &dyn ApiClient, cache: &Cache, name: &str) {
        let builtin = self.builtins.iter().any(|(n, _)| *n == name);
        let Some(object) = cache.get("", name) else {
            if !builtin {
                self.retire(name);
                return;
            }
            self.stage_if_changed(name, PluginSpec::builtin(name), None).await;
            materialise(client, name).await;
            return;
        };
        match PluginSpec::of(&object) {
            Err(error) => {
                self.refuse(name, &StageError::Spec(error));
                // Whatever comes next is news, even what was there before.
                self.entries.lock().entry(name.to_owned()).or_default().staged = None;
            }
            Ok(spec) if !spec.is_enabled() => self.disable(name),
            Ok(spec) => self.stage_if_changed(name, spec, Some(&object)).await,
        }
        self.entries.lock().entry(name.to_owned()).or_default().generation = object.meta().generation;
    }

    async fn stage_if_changed(self: &Arc<Self>, name: &str, spec: PluginSpec, object: Option<&Object>) {
        let fingerprint = self.fingerprint(&spec);
        let first_sight = {
            let entries = self.entries.lock();
            let entry = entries.get(name);
            if entry.is_some_and(|e| e.staged.as_ref() == Some(&fingerprint)) {
                return;
            }
            entry.is_none_or(|e| e.active.as_ref().is_none_or(|a| a.builtin))
        };
        // After a restart: what was given up before is not tried again until its object changes.
        if first_sight && let Some(message) = object.and_then(report::rolled_back) {
            self.keep_rolled_back(name, fingerprint, message).await;
            return;
        }
        self.stage(name.to_owned(), spec).await;
    }

    /// Stages a spec and activates what passes.
    async fn stage(self: &Arc<Self>, name: String, spec: PluginSpec) {
        let fingerprint = self.fingerprint(&spec);
        let staged = self.prepare(&name, spec).await;
        match staged {
            Ok(plugin) => self.activate(&name, fingerprint, plugin),
            Err(error) => {
                self.refuse(&name, &error);
                self.entries.lock().entry(name).or_default().staged = Some(fingerprint);
            }
        }
    }

    async fn prepare(self: &Arc<Self>, name: &str, spec: PluginSpec) -> Result<ActivePlugin, StageError> {
        let (manager, name) = (self.clone(), name.to_owned());
        let policy = self.policy.borrow().clone();
        let task = tokio::task::spawn_blocking(move || {
            let request = stage::Request {
                object: &name,
                spec: &spec,
                builtins: manager.builtins,
                policy: &policy,
                revision: manager.revisions.fetch_add(1, Ordering::Relaxed) + 1,
                health: Arc::new(Health::new(manager.changed.clone())),
            };
            let plugin = stage::stage(&manager.runtime, request)?;
            manager.check_name(&plugin)?;
            Ok(plugin)
        });
        task.await.unwrap_or_else(|error| {
            Err(StageError::Fetch { message: format!("staging was aborted: {error}") })
        })
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
        let spec = serde_json::to_string(spec).unwrap_or_default();
        let policy = format!("{:?}", self.policy.borrow());
        orlop_plugin::Digest::of(format!("{spec}\n{policy}").as_bytes()).hex()
    }

    fn activate(&self, name: &str, fingerprint: String, plugin: ActivePlugin) {
        let plugin = Arc::new(plugin);
        tracing::info!(plugin = name, revision = plugin.revision, digest = %plugin.digest(), "plugin is active");
        {
            let mut entries = self.entries.lock();
            let entry = entries.entry(name.to_owned()).or_default();
            entry.last_good = entry.active.take().filter(|old| !old.health.report().open);
            entry.active = Some(plugin.clone());
            entry.staged = Some(fingerprint);
            entry.standing = Standing::active(&plugin);
        }
        self.publish();
    }

    fn refuse(&self, name: &str, error: &StageError) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(name.to_owned()).or_default();
        entry.standing = Standing::refused(error.reason(), &error.to_string(), entry.active.as_deref());
        tracing::warn!(plugin = name, reason = error.reason(), %error, "plugin was refused");
    }

    fn disable(&self, name: &str) {
        {
            let mut entries = self.entries.lock();
            let entry = entries.entry(name.to_owned()).or_default();
            *entry = Entry { standing: Standing::disabled(), ..Entry::default() };
        }
        self.publish();
    }

    fn retire(&self, name: &str) {
        if self.entries.lock().remove(name).is_some() {
            tracing::info!(plugin = name, "plugin was removed");
            self.publish();
        }
    }

    fn publish(&self) {
        let entries = self.entries.lock();
        let plugins: BTreeMap<_, _> =
            entries.iter().filter_map(|(n, e)| Some((n.clone(), e.active.clone()?))).collect();
        self.sets.send_modify(|set| {
            *set = Arc::new(PluginSet { generation: set.generation + 1, plugins, ..PluginSet::default() });
        });
    }

    /// Rolls back what failed too often, where there is something to roll back to.
    async fn contain(self: &Arc<Self>) {
        let open: Vec<(String, Arc<ActivePlugin>)> = {
            let entries = self.entries.lock();
            let failing = entries.iter().filter_map(|(n, e)| Some((n.clone(), e.active.clone()?)));
            failing.filter(|(_, plugin)| plugin.health.report().open).collect()
        };
        for (name, failed) in open {
            let last_good = self.entries.lock().get(&name).and_then(|e| e.last_good.clone());
            let fallback = match last_good {
                Some(plugin) => Some(self.renew(&plugin)),
                None if !failed.builtin && self.builtins.iter().any(|(n, _)| *n == name) => {
                    self.prepare(&name, PluginSpec::builtin(&name)).await.ok()
                }
                None => None,
            };
            let Some(fallback) = fallback else { continue };
            let message = failed.health.report().last.map(|(_, m)| m).unwrap_or_default();
            tracing::warn!(plugin = %name, digest = %failed.digest(), to = %fallback.digest(), "plugin was rolled back");
            {
                let mut entries = self.entries.lock();
                let Some(entry) = entries.get_mut(&name) else { continue };
                let fallback = Arc::new(fallback);
                entry.standing = Standing::rolled_back(&failed, &fallback, &message);
                entry.active = Some(fallback);
                entry.last_good = None;
            }
            self.publish();
        }
    }

    /// The same revision as a new one, with a clean record.
    fn renew(&self, plugin: &ActivePlugin) -> ActivePlugin {
        ActivePlugin {
            object: plugin.object.clone(),
            revision: self.revisions.fetch_add(1, Ordering::Relaxed) + 1,
            compiled: plugin.compiled.clone(),
            options: plugin.options.clone(),
            failure_policy: plugin.failure_policy,
            health: Arc::new(Health::new(self.changed.clone())),
            builtin: plugin.builtin,
        }
    }

    async fn keep_rolled_back(self: &Arc<Self>, name: &str, fingerprint: String, message: String) {
        let has_active = self.entries.lock().get(name).is_some_and(|e| e.active.is_some());
        if !has_active && self.builtins.iter().any(|(n, _)| *n == name) {
            self.stage(name.to_owned(), PluginSpec::builtin(name)).await;
        }
        let mut entries = self.entries.lock();
        let entry = entries.entry(name.to_owned()).or_default();
        entry.staged = Some(fingerprint);
        entry.standing = Standing { state: State::RolledBack, message, ..entry.standing.clone() };
    }
}

impl Entry {
    /// The standing with what the active revision's health adds.
    fn standing_now(&self) -> Standing {
        let mut standing = self.standing.clone();
        standing.generation = self.generation;
        if let Some(active) = &self.active {
            let report = active.health.report();
            standing.failures += report.failures;
            standing.active_digest = active.digest().to_string();
            standing.kind = active.manifest().kind.as_str();
            standing.plugin = active.name().to_owned();
            if report.open {
                standing.suspend(report.last);
            } else if let Some((reason, message)) = report.last
                && standing.state == State::Active
            {
                standing.message = format!("last failure: {reason}: {message}");
            }
        }
        standing
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
