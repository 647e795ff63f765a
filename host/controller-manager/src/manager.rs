//! The leader's loop: while this process leads, every admitted controller runs.
//!
//! A controller can be added, replaced and removed at any time. Replacing one lets the plans that
//! were begun finish, then starts the new revision on a new queue with every object as a key: a
//! plugin has no state to migrate.

use crate::cache::{Caches, Shared, Subscription};
use crate::controller::Controller;
use crate::framework::{ApiResource, Clients, ControllerSpec};
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, Fence, Leader, LeaderConfig, LeaderElector, Leadership};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Milliseconds since 1970, handed to plugins as their only clock.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Asked for what the API serves whenever a term of leadership begins, and whenever a
/// CustomResourceDefinition changes.
pub type Resources = Arc<dyn Fn() -> Vec<ApiResource> + Send + Sync>;

/// How the manager runs.
#[derive(Clone)]
pub struct ManagerOptions {
    /// The Lease; upstream's is `kube-controller-manager` in `kube-system`. Give a process that
    /// comes back the identity it had, so that it goes on at once.
    pub lease: LeaderConfig,
    /// User for lists and watches; upstream's is `system:kube-controller-manager`.
    pub user: String,
    /// Time for plugins.
    pub clock: Clock,
}

impl ManagerOptions {
    /// Upstream's Lease and user, the system's clock.
    #[must_use]
    pub fn new(identity: &str) -> Self {
        Self {
            lease: LeaderConfig::new("kube-system", "kube-controller-manager", identity),
            user: "system:kube-controller-manager".into(),
            clock: Arc::new(|| jiff::Timestamp::now().as_millisecond()),
        }
    }
}

/// What a controller has done, for the status of its `Plugin` and for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerStatus {
    /// Whether it runs in this process now.
    pub running: bool,
    /// Keys that were reconciled.
    pub reconciles: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Calls that failed since the last one that did not.
    pub failures_in_a_row: u32,
    /// The last failure of a call, for a reader; empty where there was none.
    pub last_failure: String,
}

type Statuses = Arc<Mutex<BTreeMap<String, ControllerStatus>>>;

/// Lets a controller report.
#[derive(Clone)]
pub(crate) struct StatusHandle {
    name: String,
    all: Statuses,
}

impl StatusHandle {
    pub(crate) fn update(&self, f: impl FnOnce(&mut ControllerStatus)) {
        f(self.all.lock().entry(self.name.clone()).or_default());
    }
}

type Specs = BTreeMap<String, ControllerSpec>;

/// Runs controllers. Cheap to clone.
#[derive(Clone)]
pub struct ControllerManager {
    clients: Arc<dyn Clients>,
    resources: Resources,
    options: ManagerOptions,
    specs: Arc<watch::Sender<Specs>>,
    statuses: Statuses,
}

struct Running {
    spec: ControllerSpec,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl ControllerManager {
    /// A manager without controllers.
    #[must_use]
    pub fn new(clients: Arc<dyn Clients>, resources: Resources, options: ManagerOptions) -> Self {
        let statuses = Statuses::default();
        Self { clients, resources, options, specs: Arc::new(watch::channel(Specs::new()).0), statuses }
    }

    /// Adds a controller, or replaces the one of the same name; takes effect at once while leading.
    pub fn apply(&self, spec: ControllerSpec) {
        let name = spec.plugin.declaration().name.clone();
        self.specs.send_modify(|specs| {
            specs.insert(name, spec);
        });
    }

    /// Removes a controller.
    pub fn remove(&self, name: &str) {
        self.specs.send_modify(|specs| {
            specs.remove(name);
        });
    }

    /// What each controller has done, by name.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, ControllerStatus> {
        self.statuses.lock().clone()
    }

    /// Takes part in the election and runs the controllers while leading. Ends some time after
    /// `cancel`: first the plans under way are finished, then the Lease is released.
    pub async fn run(self, cancel: CancellationToken) {
        let client = self.clients.acting_as(&self.options.user);
        let tasks = TaskTracker::new();
        let electing = CancellationToken::new();
        let (leader, elect) =
            LeaderElector::start(client.clone(), self.options.lease.clone(), electing.clone());
        tasks.spawn(elect);
        let mut leadership = leader.watch();
        loop {
            let now = leadership.borrow_and_update().clone();
            if let Leadership::Leading(fence) = now {
                let mut watch = leadership.clone();
                let term = cancel.child_token();
                let lost = async {
                    let still = |l: &Leadership| *l == Leadership::Leading(fence);
                    let _ = watch.wait_for(|l| !still(l)).await;
                    term.cancel();
                };
                let lead = async {
                    self.lead(client.clone(), &leader, fence, &term).await;
                    term.cancel();
                };
                // `lost` ends only when the term does; `lead` ends soon after `term` is cancelled.
                let mut lead = std::pin::pin!(lead);
                tokio::select! {
                    () = &mut lead => {}
                    () = lost => lead.await,
                }
            }
            if cancel.is_cancelled() {
                break;
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = leadership.changed() => if changed.is_err() { break },
            }
        }
        electing.cancel();
        tasks.close();
        tasks.wait().await;
    }

    /// One term of leadership.
    async fn lead(
        &self,
        client: Arc<dyn ApiClient>,
        leader: &Leader,
        fence: Fence,
        term: &CancellationToken,
    ) {
        let tasks = TaskTracker::new();
        let watching = CancellationToken::new();
        let caches = Arc::new(Caches::new(client, (self.resources)(), tasks.clone(), watching.clone()));
        let defined = Arc::new(Notify::new());
        let _definitions = definitions(&caches, &defined);
        let mut specs = self.specs.subscribe();
        let mut running: BTreeMap<String, Running> = BTreeMap::new();
        loop {
            let wanted = specs.borrow_and_update().clone();
            let stale: Vec<String> = running
                .iter()
                .filter(|(name, r)| !wanted.get(*name).is_some_and(|w| same(w, &r.spec)))
                .map(|(name, _)| name.clone())
                .collect();
            for name in stale {
                if let Some(old) = running.remove(&name) {
                    self.stop(&name, old).await;
                    caches.sweep();
                }
            }
            for (name, spec) in wanted {
                running
                    .entry(name.clone())
                    .or_insert_with(|| self.start(&name, spec, &caches, leader, fence, &tasks));
            }
            tokio::select! {
                () = term.cancelled() => break,
                () = defined.notified() => caches.serve((self.resources)()),
                changed = specs.changed() => if changed.is_err() { break },
            }
        }
        for controller in running.values() {
            controller.cancel.cancel();
        }
        for (name, controller) in running {
            self.stop(&name, controller).await;
        }
        watching.cancel();
        tasks.close();
        tasks.wait().await;
    }

    fn start(
        &self,
        name: &str,
        spec: ControllerSpec,
        caches: &Arc<Caches>,
        leader: &Leader,
        fence: Fence,
        tasks: &TaskTracker,
    ) -> Running {
        let status = StatusHandle { name: name.to_owned(), all: self.statuses.clone() };
        status.update(|s| s.running = true);
        let cancel = CancellationToken::new();
        let task = tasks.spawn(Controller::run(
            spec.clone(),
            self.clients.acting_as(&spec.user),
            caches.clone(),
            leader.clone(),
            fence,
            status,
            self.options.clock.clone(),
            cancel.clone(),
        ));
        Running { spec, cancel, task }
    }

    async fn stop(&self, name: &str, controller: Running) {
        controller.cancel.cancel();
        if let Err(error) = controller.task.await {
            tracing::error!(plugin = name, %error, "the controller's task failed");
        }
        if let Some(status) = self.statuses.lock().get_mut(name) {
            status.running = false;
        }
    }
}

/// Tells of every change of a CustomResourceDefinition, where the API serves them.
fn definitions(caches: &Caches, defined: &Arc<Notify>) -> Option<(Arc<Shared>, Subscription)> {
    static DEFINITIONS: Gvr = Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    let shared = caches.served().serves(&DEFINITIONS).then(|| caches.resource(&DEFINITIONS))?;
    let defined = defined.clone();
    let subscription = shared.subscribe(move |_| defined.notify_one());
    Some((shared, subscription))
}

fn same(a: &ControllerSpec, b: &ControllerSpec) -> bool {
    Arc::ptr_eq(&a.plugin, &b.plugin) && a.user == b.user && a.grants == b.grants
}
