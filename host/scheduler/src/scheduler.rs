//! Joins the engine to an API server: informers in, bindings, conditions and events out.

use crate::binding::{Hands, NODES, PODS};
use crate::config::{ConfigError, SchedulerConfig};
use crate::engine::{Action, Engine};
use crate::events::Recorder;
use crate::framework::{PluginError, PluginFactory};
use crate::inbox::{Batch, Inbox, Report};
use crate::informers::Informers;
use crate::objects::WatchKey;
use crate::profile::{Enabled, Profile};
use orlop_client::{ApiClient, Delta, Informer, ListOptions};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Rounds whose actions wait to be carried out.
const QUEUED_ROUNDS: usize = 64;
/// Bindings under way before the engine pauses.
const MAX_IN_FLIGHT: usize = 1024;
/// Pods that are scheduled before the inbox is looked at again.
const CYCLES_PER_ROUND: usize = 64;
/// How often the configuration file is looked at.
const FILE_CHECK: Duration = Duration::from_secs(1);

/// Why the scheduler does not start, or goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The configuration is refused. The user must repair it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file cannot be read.
    #[error("the scheduler configuration {path:?} cannot be read")]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A plugin does not start.
    #[error("scheduler plugin {plugin:?} of profile {profile:?} cannot be used")]
    Plugin {
        /// Its name.
        plugin: String,
        /// `spec.schedulerName`
        profile: String,
        /// What it or the runtime says.
        #[source]
        source: PluginError,
    },
    /// The operating system refuses a thread.
    #[error("the scheduling thread could not be started")]
    Thread(#[source] std::io::Error),
}

/// The client of a user; the empty one is the scheduler's own.
pub type Clients = Arc<dyn Fn(&str) -> Arc<dyn ApiClient> + Send + Sync>;

/// What a scheduler is made of.
#[derive(Clone)]
pub struct SchedulerOptions {
    /// The API server, as the scheduler's own user.
    pub client: Arc<dyn ApiClient>,
    /// The API server, as the user that a plugin names.
    pub clients: Clients,
    /// Where plugins come from.
    pub plugins: Arc<dyn PluginFactory>,
    /// A `KubeSchedulerConfiguration`; looked at every second for changes. `None`, or a file that is
    /// not there, means the default.
    pub config_file: Option<PathBuf>,
    /// Decides among nodes that are equally good.
    pub seed: u64,
}

struct Running {
    inbox: Arc<Inbox>,
    informers: Informers,
}

/// The scheduler. It may be started, stopped and started again, as leadership comes and goes.
#[derive(Clone)]
pub struct Scheduler {
    options: SchedulerOptions,
    /// The configuration that was last found good.
    config: Arc<Mutex<SchedulerConfig>>,
    running: Arc<Mutex<Option<Running>>>,
}

impl Scheduler {
    /// Reads the configuration and tries its plugins; starts nothing.
    ///
    /// # Errors
    /// Where the configuration is refused or one of its plugins does not start.
    pub fn new(options: SchedulerOptions) -> Result<Self, SchedulerError> {
        let config = read(options.config_file.as_deref(), options.plugins.as_ref())?;
        build(&config, options.plugins.as_ref())?;
        Ok(Self { options, config: Arc::new(Mutex::new(config)), running: Arc::default() })
    }

    /// Puts another configuration to work, between two scheduling cycles. What ran before goes on
    /// where this fails. Blocks while plugins start.
    ///
    /// # Errors
    /// Where one of its plugins does not start.
    pub fn reload(&self, config: SchedulerConfig) -> Result<(), SchedulerError> {
        let profiles = build(&config, self.options.plugins.as_ref())?;
        let backoff = config.backoff;
        let enabled = profiles.iter().map(Profile::summary).collect::<Vec<_>>().join("; ");
        *self.config.lock() = config;
        if let Some(running) = &*self.running.lock() {
            running.informers.follow(watches(&profiles));
            running.inbox.profiles(profiles, backoff);
        }
        tracing::info!(profiles = enabled, "scheduler profiles put to work");
        Ok(())
    }

    /// To be called when the factory would give other plugins than before: puts them to work
    /// between two scheduling cycles. A configuration file that was refused for a plugin that was
    /// not there gets another chance. What ran before goes on where this fails. Blocks while plugins
    /// start.
    ///
    /// # Errors
    /// Where one of the plugins does not start.
    pub fn plugins_changed(&self) -> Result<(), SchedulerError> {
        let file = self.options.config_file.as_deref();
        let config = match read(file, self.options.plugins.as_ref()) {
            Ok(config) => config,
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "scheduler configuration refused, the previous one stays");
                self.config.lock().clone()
            }
        };
        self.reload(config)
    }

    /// Schedules until `cancel`. Bindings that have begun are brought to their end before it
    /// returns. Not cancel-safe: let it return.
    ///
    /// # Errors
    /// Where a plugin does not start, or the system gives no thread.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), SchedulerError> {
        let config = self.config.lock().clone();
        let profiles = build(&config, self.options.plugins.as_ref())?;
        let watched = watches(&profiles);
        let engine = Engine::new(profiles, config.backoff, self.options.seed);
        let inbox = Arc::new(Inbox::default());
        let inner = cancel.child_token();
        let tracker = TaskTracker::new();
        let client = self.options.client.clone();

        let (pods, run_pods) = pod_informer(client.clone(), inbox.clone()).start(inner.clone());
        let (nodes, run_nodes) = node_informer(client.clone(), inbox.clone()).start(inner.clone());
        tracker.spawn(run_pods);
        tracker.spawn(run_nodes);
        let informers = Informers::new(self.clients(), inbox.clone(), tracker.clone(), inner.clone());
        informers.follow_surroundings();
        informers.follow(watched);
        let synced = tokio::select! {
            () = cancel.cancelled() => false,
            (nodes, pods) = async {
                informers.settled().await;
                (nodes.synced().await, pods.synced().await)
            } => nodes && pods,
        };
        if synced {
            tracing::info!(nodes = nodes.len(), pods = pods.len(), "scheduler caches are synced");
            *self.running.lock() = Some(Running { inbox: inbox.clone(), informers: informers.clone() });
            // A configuration that came while the caches were synced.
            let newest = self.config.lock().clone();
            if newest != config {
                let profiles = build(&newest, self.options.plugins.as_ref())?;
                informers.follow(watches(&profiles));
                inbox.profiles(profiles, newest.backoff);
            }
            self.work(engine, inbox, &tracker, &cancel, &inner).await?;
            *self.running.lock() = None;
        }
        inner.cancel();
        tracker.close();
        tracker.wait().await;
        Ok(())
    }

    /// A client for each user; the empty one is the scheduler's own.
    fn clients(&self) -> Clients {
        let (own, clients) = (self.options.client.clone(), self.options.clients.clone());
        Arc::new(move |user| if user.is_empty() { own.clone() } else { clients(user) })
    }

    async fn work(
        &self,
        engine: Engine,
        inbox: Arc<Inbox>,
        tracker: &TaskTracker,
        cancel: &CancellationToken,
        inner: &CancellationToken,
    ) -> Result<(), SchedulerError> {
        let client = self.options.client.clone();
        let (recorder, run_recorder) = Recorder::new(client.clone(), tracker.clone(), inner.clone());
        tracker.spawn(run_recorder);
        let (sender, actions) = mpsc::channel(QUEUED_ROUNDS);
        let (clients, inbox_of) = (self.clients(), inbox.clone());
        let hands = Hands { client, clients, inbox: inbox_of, recorder, tracker: tracker.clone() };
        tracker.spawn(hands.run(actions, inner.clone()));
        if self.options.config_file.is_some() {
            tracker.spawn(self.clone().watch_file(inner.clone()));
        }
        let (ended, end) = oneshot::channel();
        let thread_inbox = inbox.clone();
        std::thread::Builder::new()
            .name("scheduler".to_owned())
            .spawn(move || {
                drive(engine, &thread_inbox, &sender);
                _ = ended.send(());
            })
            .map_err(SchedulerError::Thread)?;
        let mut end = std::pin::pin!(end);
        let gone = tokio::select! {
            () = cancel.cancelled() => false,
            _ = &mut end => true,
        };
        if !gone {
            inbox.stop();
            _ = end.await;
        }
        Ok(())
    }

    /// Puts a changed file to work; a bad one is warned of once and what ran before goes on.
    async fn watch_file(self, cancel: CancellationToken) {
        let Some(path) = self.options.config_file.clone() else { return };
        let mut seen = stamp(&path);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(FILE_CHECK) => {}
            }
            let now = stamp(&path);
            if now == seen {
                continue;
            }
            seen = now;
            let this = self.clone();
            let path = path.clone();
            let reloaded = tokio::task::spawn_blocking(move || {
                let config = read(Some(&path), this.options.plugins.as_ref())?;
                if config == *this.config.lock() { Ok(()) } else { this.reload(config) }
            });
            match reloaded.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let error = chain(&error);
                    tracing::warn!(error, "scheduler configuration refused, the previous one stays");
                }
                Err(error) => tracing::warn!(%error, "scheduler configuration could not be loaded"),
            }
        }
    }
}

/// An error with all its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// What changes when a file is written.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn read(path: Option<&Path>, plugins: &dyn PluginFactory) -> Result<SchedulerConfig, SchedulerError> {
    let known = plugins.names();
    let text = match path.map(|p| (p, std::fs::read_to_string(p))) {
        None => None,
        Some((_, Ok(text))) => Some(text),
        Some((_, Err(error))) if error.kind() == std::io::ErrorKind::NotFound => None,
        Some((path, Err(source))) => {
            return Err(SchedulerError::Unreadable { path: path.to_owned(), source });
        }
    };
    let text = text.as_deref().unwrap_or(crate::config::DEFAULT_CONFIG);
    Ok(SchedulerConfig::parse(text, &known)?)
}

fn build(config: &SchedulerConfig, plugins: &dyn PluginFactory) -> Result<Vec<Profile>, SchedulerError> {
    let profile = |spec: &crate::config::ProfileSpec| {
        let enabled = spec.plugins.iter().map(|p| {
            let opened = plugins.open(&p.name, &p.args);
            let plugin = opened.map_err(|source| SchedulerError::Plugin {
                plugin: p.name.clone(),
                profile: spec.scheduler_name.clone(),
                source,
            })?;
            let required = plugin.required();
            let user = plugin.user().into();
            Ok(Enabled { plugin, hooks: p.hooks, weight: p.weight, required, user })
        });
        let enabled = enabled.collect::<Result<Vec<_>, SchedulerError>>()?;
        Ok(Profile::new(spec.scheduler_name.clone(), enabled).with_orders(&spec.orders))
    };
    config.profiles.iter().map(profile).collect()
}

/// What the plugins of all profiles watch.
fn watches(profiles: &[Profile]) -> BTreeSet<WatchKey> {
    profiles.iter().flat_map(|p| p.watches().cloned()).collect()
}

fn pod_informer(client: Arc<dyn ApiClient>, inbox: Arc<Inbox>) -> Informer {
    // As upstream: pods that have ended take nothing and need nothing.
    let options = ListOptions {
        field_selector: "status.phase!=Succeeded,status.phase!=Failed".to_owned(),
        ..ListOptions::default()
    };
    Informer::new(client, PODS.clone(), options).with_handler(Box::new(move |delta: &Delta| {
        if let Some(object) = delta.latest() {
            inbox.pod(object.namespace(), object.name(), delta.new.clone());
        }
    }))
}

fn node_informer(client: Arc<dyn ApiClient>, inbox: Arc<Inbox>) -> Informer {
    Informer::new(client, NODES.clone(), ListOptions::default()).with_handler(Box::new(
        move |delta: &Delta| {
            if let Some(object) = delta.latest() {
                inbox.node(object.name(), delta.new.clone());
            }
        },
    ))
}

/// The scheduling thread.
fn drive(mut engine: Engine, inbox: &Inbox, actions: &mpsc::Sender<Vec<Action>>) {
    let mut until = Some(Instant::now());
    loop {
        let batch = inbox.take(until);
        if batch.stop {
            return;
        }
        take_in(&mut engine, batch);
        let mut idle = false;
        for _ in 0..CYCLES_PER_ROUND {
            let now = Instant::now();
            if engine.in_flight() >= MAX_IN_FLIGHT || !engine.cycle(now) {
                idle = true;
                break;
            }
        }
        let decided = engine.take_actions();
        if !decided.is_empty() && actions.blocking_send(decided).is_err() {
            return;
        }
        // A binding that ends wakes a paused engine; only a queue that is empty now may sleep.
        let paused = engine.in_flight() >= MAX_IN_FLIGHT;
        until = match (idle, paused) {
            (false, _) if !inbox.has_some() => Some(Instant::now()),
            (false, _) => None,
            (true, true) => None,
            (true, false) => engine.next_wakeup(),
        };
    }
}

fn take_in(engine: &mut Engine, mut batch: Batch) {
    let now = Instant::now();
    if let Some((profiles, backoff)) = batch.profiles.take() {
        engine.set_profiles(profiles, backoff, now);
    }
    for (kind, changes) in batch.surroundings() {
        for ((namespace, name), object) in changes {
            engine.surrounding(kind, &namespace, &name, object.as_deref(), now);
        }
    }
    for watch in std::mem::take(&mut batch.begun) {
        engine.watch_begun(&watch);
    }
    let watched = batch.watched();
    for (watch, changes) in &watched {
        for ((namespace, name), object) in changes {
            engine.watched(watch, namespace, name, object.clone());
        }
    }
    if !watched.is_empty() {
        engine.objects_changed(now);
    }
    for ((_, name), object) in batch.nodes() {
        engine.node(&name, object.as_deref());
    }
    for ((namespace, name), object) in batch.pods() {
        engine.pod(&namespace, &name, object.as_ref(), now);
    }
    for report in std::mem::take(&mut batch.reports) {
        match report {
            Report::Bound(uid, node, result) => engine.bound(&uid, &node, result, now),
            Report::Written(uid, ticket, result) => engine.written(&uid, ticket, result, now),
            Report::NotEvicted(victim, by) => engine.eviction_failed(&victim, &by, now),
        }
    }
}
