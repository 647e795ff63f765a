//! Everything that decides: the plugin runtime, and the parts that ask plugins.
//!
//! No request passes admission before its plugins are loaded; scheduler and controllers follow as
//! soon as theirs are, and only while this process leads.

mod policy_file;
mod roles;

use crate::embedded;
use crate::plugin_streams::MonitorStreams;
use crate::plugins::access::{self, PluginAuthorizer};
use crate::plugins::admission::PluginAdmission;
use crate::plugins::manager::PluginManager;
use crate::plugins::policy::PluginPolicy;
use crate::plugins::scheduler::ActiveSchedulerPlugins;
use crate::plugins::{controller, scheduler};
use anyhow::{Context, Result};
use orlop_apiserver::registry::served;
use orlop_apiserver::user::SERVICE_ACCOUNT_PREFIX;
use orlop_apiserver::{ApiServer, UserInfo};
use orlop_client::ApiClient;
use orlop_client::lease::{LeaderConfig, LeaderElector, Leadership};
use orlop_controller_manager::{ApiResource, ControllerManager, ManagerOptions};
use orlop_plugin::{Runtime, RuntimeOptions};
use orlop_plugin_tools::monitor::Monitor;
use orlop_scheduler::{Clients, Scheduler, SchedulerOptions};
use policy_file::PolicyFile;
use roles::Roles;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the deciders are made of.
pub(crate) struct Options {
    /// Folder of compiled plugins.
    pub(crate) cache: PathBuf,
    /// `plugins.yaml`; `None` or a missing file means the built-in one.
    pub(crate) policy_file: Option<PathBuf>,
    /// `scheduler.yaml`; the same.
    pub(crate) scheduler_file: Option<PathBuf>,
    /// Published to every namespace.
    pub(crate) ca_certificate: String,
    /// This process in elections.
    pub(crate) identity: String,
    pub(crate) api: Arc<ApiServer>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
}

/// The deciders, with admission in force.
pub(crate) struct Deciders {
    options: Options,
    runtime: Arc<Runtime>,
    monitor: Arc<Monitor>,
    manager: Arc<PluginManager>,
    policy_file: PolicyFile,
    policy: watch::Sender<Arc<PluginPolicy>>,
}

impl Deciders {
    /// Puts admission in force. Its plugins are loaded by [`Deciders::run`]; requests that they
    /// might have to see wait for them.
    ///
    /// # Errors
    /// Where the policy is refused or the plugin runtime cannot start.
    pub(crate) fn start(options: Options) -> Result<Self> {
        let monitor = Arc::new(Monitor::default());
        options.api.set_plugin_streams(Arc::new(MonitorStreams(monitor.clone())));
        let runtime = Runtime::new(&RuntimeOptions {
            cache: Some(options.cache.clone()),
            compiler: Some(vec!["/proc/self/exe".into(), "compile-plugin".into()]),
            observer: Some(monitor.clone()),
            ..RuntimeOptions::default()
        })
        .context("cannot start the plugin runtime")?;
        let runtime = Arc::new(runtime);
        let rootca = json!({ "rootCA": options.ca_certificate });
        let policy_file = PolicyFile::new(
            options.policy_file.clone(),
            vec![("root-ca-certificate-publisher-controller".to_owned(), rootca)],
        );
        let policy = watch::Sender::new(Arc::new(policy_file.read()?));
        let manager = Arc::new(PluginManager::with_access(
            runtime.clone(),
            embedded::plugins()?,
            policy.subscribe(),
            Arc::new(Roles::new(&options.api)),
            &options.identity,
        ));
        options.api.join_authorizer(Arc::new(PluginAuthorizer::new(manager.sets())));
        options.api.join_metrics({
            let manager = manager.clone();
            move || manager.metrics()
        });
        let reader = options.api.loopback(UserInfo::master("system:admission"));
        let admission = PluginAdmission::start(
            runtime.clone(),
            &manager,
            policy.subscribe(),
            reader,
            options.tasks.clone(),
            options.cancel.clone(),
        )
        .context("cannot start the admission threads")?;
        options.api.set_admission(Arc::new(admission));
        Ok(Self { options, runtime, monitor, manager, policy_file, policy })
    }

    /// Loads all other plugins and lets them decide.
    pub(crate) fn run(self) {
        let Self { options, runtime, monitor, manager, policy_file, policy } = self;
        let Options { api, tasks, cancel, identity, scheduler_file, .. } = options;

        let client = api.loopback(UserInfo::master("system:plugin-manager"));
        tasks.spawn(manager.clone().run(client, cancel.clone()));
        tasks.spawn(policy_file.follow(policy, cancel.clone()));

        let controllers = controllers(&api, &identity);
        tasks.spawn(controller::follow(runtime.clone(), manager.sets(), controllers.clone(), cancel.clone()));
        let mut complete = manager.complete();
        let plugins_loaded = cancel.clone();
        tasks.spawn({
            let cancel = cancel.clone();
            async move {
                // A controller that leads before its plugins are there would only hold the Lease.
                tokio::select! {
                    () = cancel.cancelled() => return,
                    _ = complete.wait_for(|c| *c) => {}
                }
                controllers.run(cancel).await;
            }
        });

        let scheduling = Scheduling {
            clients: clients_of(&api),
            client: api.loopback(UserInfo::new("system:kube-scheduler", ["system:masters"])),
            runtime,
            monitor,
            manager,
            config_file: scheduler_file,
            identity,
            tasks: tasks.clone(),
        };
        tasks.spawn(scheduling.run(plugins_loaded));
    }
}

/// A client for each user.
fn clients_of(api: &Arc<ApiServer>) -> Arc<impl Fn(&str) -> Arc<dyn ApiClient> + Send + Sync + use<>> {
    let api = api.clone();
    Arc::new(move |user: &str| -> Arc<dyn ApiClient> { api.loopback(identity_of(user)) })
}

fn controllers(api: &Arc<ApiServer>, identity: &str) -> ControllerManager {
    let clients = clients_of(api);
    let resources = Arc::new(|| {
        let mut seen = BTreeSet::new();
        let served = served().filter(|r| r.storage().is_some() && r.verbs.contains(&"list"));
        // The objects of a custom resource are the same in all its versions.
        let served = served.filter(|r| r.custom.is_none() || seen.insert(r.storage()));
        let described = served.map(|r| ApiResource {
            gvr: r.gvr.clone(),
            gvk: r.gvk(),
            namespaced: r.namespaced,
            deletable: ["list", "watch", "delete"].iter().all(|verb| r.verbs.contains(verb)),
        });
        described.collect()
    });
    ControllerManager::new(clients, resources, ManagerOptions::new(identity))
}

/// `system:serviceaccount:…` with the groups of a service account, `system:plugin:…` with those of a plugin;
/// others are the host's own parts.
fn identity_of(user: &str) -> UserInfo {
    if let Some(object) = user.strip_prefix(access::USER_PREFIX) {
        return access::user(object);
    }
    match user.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':')) {
        Some((namespace, name)) => UserInfo::service_account(namespace, name, ""),
        None => UserInfo::master(user),
    }
}

/// The scheduler and its leadership.
struct Scheduling {
    client: Arc<dyn ApiClient>,
    clients: Clients,
    runtime: Arc<Runtime>,
    monitor: Arc<Monitor>,
    manager: Arc<PluginManager>,
    config_file: Option<PathBuf>,
    identity: String,
    tasks: TaskTracker,
}

impl Scheduling {
    async fn run(self, cancel: CancellationToken) {
        let mut complete = self.manager.complete();
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = complete.wait_for(|c| *c) => {}
        }
        let sets = self.manager.sets();
        let options = SchedulerOptions {
            client: self.client.clone(),
            clients: self.clients.clone(),
            plugins: Arc::new(ActiveSchedulerPlugins::new(
                self.runtime.clone(),
                sets.clone(),
                self.monitor.clone(),
            )),
            config_file: self.config_file.clone(),
            seed: rand::random(),
        };
        let made = tokio::task::spawn_blocking(move || Scheduler::new(options)).await;
        let scheduler = match made {
            Ok(Ok(scheduler)) => scheduler,
            Ok(Err(error)) => {
                let error = crate::error_chain::Chain(&error).to_string();
                tracing::error!(error, "the scheduler cannot start; repair its configuration and restart");
                return;
            }
            Err(error) => {
                tracing::error!(%error, "the scheduler cannot start");
                return;
            }
        };
        self.tasks.spawn(scheduler::follow(sets, scheduler.clone(), self.monitor.clone(), cancel.clone()));

        // The Lease is given back after the scheduler has ended, so that two never decide at once.
        let electing = CancellationToken::new();
        let lease = LeaderConfig::new("kube-system", "kube-scheduler", &self.identity);
        let (leader, elect) = LeaderElector::start(self.client.clone(), lease, electing.clone());
        let election = self.tasks.spawn(elect);
        let mut leadership = leader.watch();
        while !cancel.is_cancelled() {
            let now = leadership.borrow_and_update().clone();
            if let Leadership::Leading(fence) = now {
                let term = cancel.child_token();
                let mut watched = leadership.clone();
                let ended = term.clone();
                let lost = async move {
                    let _ = watched.wait_for(|l| *l != Leadership::Leading(fence)).await;
                    ended.cancel();
                };
                let work = async {
                    let outcome = scheduler.run(term.clone()).await;
                    term.cancel();
                    outcome
                };
                let ((), outcome) = tokio::join!(
                    async {
                        tokio::select! { () = lost => {}, () = term.cancelled() => {} }
                    },
                    work
                );
                if let Err(error) = outcome {
                    let error = crate::error_chain::Chain(&error).to_string();
                    tracing::error!(error, "the scheduler ended");
                    // Another member may do better; this one tries again when the Lease is renewed.
                }
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                changed = leadership.changed() => if changed.is_err() { break },
            }
        }
        electing.cancel();
        let _ = election.await;
    }
}
