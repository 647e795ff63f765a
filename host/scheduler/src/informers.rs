//! Informers of what plugins watch and of what says something about pods. Plugins that watch the same
//! share one. What the server does not serve counts as empty, and is looked for again now and then.

use crate::inbox::Inbox;
use crate::objects::WatchKey;
use crate::scheduler::Clients;
use crate::surroundings::Surrounding;
use orlop_apimachinery::{Gvr, Reason};
use orlop_client::{ApiClient, Delta, Informer, ListOptions};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the first list of all of them is waited for; plugins then decide on what there is.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a resource is looked for that the server does not serve.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

struct Running {
    cancel: CancellationToken,
    /// Whether there was a list, or there is nothing to list.
    settled: watch::Receiver<bool>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Informers {
    clients: Clients,
    inbox: Arc<Inbox>,
    tracker: TaskTracker,
    cancel: CancellationToken,
    watched: Arc<Mutex<HashMap<WatchKey, Running>>>,
    surroundings: Arc<Mutex<Vec<Running>>>,
}

impl Informers {
    pub(crate) fn new(
        clients: Clients,
        inbox: Arc<Inbox>,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let (watched, surroundings) = (Arc::default(), Arc::default());
        Self { clients, inbox, tracker, cancel, watched, surroundings }
    }

    /// Follows namespaces, Services and controllers.
    pub(crate) fn follow_surroundings(&self) {
        for kind in Surrounding::ALL {
            let inbox = self.inbox.clone();
            let handler = move |delta: &Delta| {
                if let Some(object) = delta.latest() {
                    inbox.surrounding(kind, object, delta.new.clone());
                }
            };
            let running = self.start("", kind.gvr(), ListOptions::default(), handler);
            self.surroundings.lock().push(running);
        }
    }

    /// Follows these and nothing else of what plugins watch.
    pub(crate) fn follow(&self, watches: BTreeSet<WatchKey>) {
        let mut running = self.watched.lock();
        running.retain(|key, running| {
            let wanted = watches.contains(key);
            if !wanted {
                running.cancel.cancel();
            }
            wanted
        });
        for key in watches {
            if running.contains_key(&key) {
                continue;
            }
            let gvr = Gvr::from_api_version(&key.api_version, &key.resource);
            let options = ListOptions {
                namespace: key.namespace.clone(),
                label_selector: key.label_selector.clone(),
                ..ListOptions::default()
            };
            let (inbox, watch) = (self.inbox.clone(), Arc::new(key.clone()));
            inbox.begun(&watch);
            let handler = move |delta: &Delta| {
                if let Some(object) = delta.latest() {
                    inbox.watched(&watch, object, delta.new.clone());
                }
            };
            let started = self.start(&key.user, gvr, options, handler);
            running.insert(key, started);
        }
    }

    /// Waits for the first list of each; for a while at most.
    pub(crate) async fn settled(&self) {
        let mut all: Vec<watch::Receiver<bool>> =
            self.watched.lock().values().map(|r| r.settled.clone()).collect();
        all.extend(self.surroundings.lock().iter().map(|r| r.settled.clone()));
        let wait = async {
            for mut settled in all {
                _ = settled.wait_for(|settled| *settled).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            tracing::warn!("not everything that scheduler plugins watch was listed in time");
        }
    }

    fn start(
        &self,
        user: &str,
        gvr: Gvr,
        options: ListOptions,
        handler: impl Fn(&Delta) + Send + Sync + 'static,
    ) -> Running {
        let client = (self.clients)(user);
        let cancel = self.cancel.child_token();
        let (sender, settled) = watch::channel(false);
        let stop = cancel.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => return,
                () = until_served(client.as_ref(), &gvr, &options, &sender) => {}
            }
            let informer = Informer::new(client, gvr, options).with_handler(Box::new(handler));
            let (cache, run) = informer.start(stop);
            tokio::join!(run, async {
                cache.synced().await;
                sender.send_replace(true);
            });
        });
        Running { cancel, settled }
    }
}

/// Returns when the server serves the resource, or says something else about it.
async fn until_served(
    client: &dyn ApiClient,
    gvr: &Gvr,
    options: &ListOptions,
    settled: &watch::Sender<bool>,
) {
    while let Err(error) = client.list(gvr, options).await
        && error.is(Reason::NotFound)
    {
        if !settled.send_replace(true) {
            tracing::info!(gvk = %gvr, "not served; the scheduler goes on as if there were none");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
