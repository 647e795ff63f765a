//! Admission plugins behind the API server's door.
//!
//! A request is matched against the rules of the active plugins, the context objects that they
//! declare are looked up, and the request goes to a worker thread, which takes whatever waits at that moment
//! as one batch through the chain. Async threads never run plugin code.
//!
//! Invariant: where a plugin fails and its policy is `Fail`, the request is refused; only what is
//! needed to repair the cluster passes (see [`is_exempt`]).

mod chain;
mod context;
mod memo;
mod trial;
mod wire;
mod worker;

use super::manager::PluginManager;
use super::policy::PluginPolicy;
use super::set::PluginSets;
use async_trait::async_trait;
use chain::Chain;
use context::ContextSource;
use orlop_apimachinery::{Gvr, Reason, Status};
use orlop_apiserver::admission::{Admission, AdmissionRequest, Operation, Verdict};
use orlop_client::ApiClient;
use orlop_plugin::Runtime;
use orlop_plugin::manifest::admission::Phase;
use parking_lot::RwLock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker::{Case, Job, Workers};

/// How long a request waits for users' plugins after the start.
const START_UP: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct PluginAdmission {
    runtime: Arc<Runtime>,
    sets: PluginSets,
    policy: watch::Receiver<Arc<PluginPolicy>>,
    users_loaded: watch::Receiver<bool>,
    chain: RwLock<Arc<Chain>>,
    context: Arc<ContextSource>,
    workers: Workers,
}

impl PluginAdmission {
    /// Starts the worker threads. `client` reads context objects.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub(crate) fn start(
        runtime: Arc<Runtime>,
        manager: &PluginManager,
        policy: watch::Receiver<Arc<PluginPolicy>>,
        client: Arc<dyn ApiClient>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> std::io::Result<Self> {
        let context = Arc::new(ContextSource::new(client, tasks, cancel, tokio::runtime::Handle::current()));
        Ok(Self {
            runtime,
            sets: manager.sets(),
            policy,
            users_loaded: manager.users_loaded(),
            chain: RwLock::default(),
            workers: Workers::start(&context)?,
            context,
        })
    }

    /// The chain of the current set and policy.
    fn chain(&self) -> Arc<Chain> {
        let set = self.sets.borrow().clone();
        let policy = self.policy.borrow().clone();
        {
            let chain = self.chain.read();
            if chain.is_of(&set, &policy) {
                return chain.clone();
            }
        }
        let chain = Arc::new(Chain::link(&self.runtime, set, policy));
        self.context.follow(&chain);
        *self.chain.write() = chain.clone();
        chain
    }

    /// Waits until users' plugins have been loaded after the start.
    async fn loaded(&self) -> bool {
        let mut loaded = self.users_loaded.clone();
        tokio::time::timeout(START_UP, loaded.wait_for(|l| *l)).await.is_ok_and(|r| r.is_ok())
    }

    async fn run(
        &self,
        phase: Phase,
        requests: Vec<AdmissionRequest>,
    ) -> (Vec<AdmissionRequest>, Vec<Verdict>) {
        let chain = self.chain();
        let mut cases = Vec::with_capacity(requests.len());
        let mut recalled = true;
        for request in requests {
            let contexts = self.context.prefetch(&chain, phase, &request).await;
            let mut case = Case::new(request, contexts, Verdict::allow());
            recalled &= case.recall(phase, &chain);
            cases.push(case);
        }
        if recalled {
            return cases.into_iter().map(|c| (c.request, c.verdict)).unzip();
        }
        self.ask(phase, chain, cases).await
    }

    async fn ask(
        &self,
        phase: Phase,
        chain: Arc<Chain>,
        cases: Vec<Case>,
    ) -> (Vec<AdmissionRequest>, Vec<Verdict>) {
        let count = cases.len();
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.workers.send(Job { phase, chain, cases, reply }).await;
        match answer.await {
            Ok(cases) => cases.into_iter().map(|c| (c.request, c.verdict)).unzip(),
            Err(_) => (Vec::new(), vec![unavailable(); count]),
        }
    }

    async fn gate(&self, requests: &[AdmissionRequest]) -> Option<Vec<Verdict>> {
        if requests.iter().all(is_exempt) || self.loaded().await {
            return None;
        }
        Some(requests.iter().map(|r| if is_exempt(r) { Verdict::allow() } else { unavailable() }).collect())
    }
}

fn unavailable() -> Verdict {
    let message = "the server is loading its admission plugins, please try again";
    Verdict::deny(Status::failure(Reason::ServiceUnavailable, message))
}

/// Requests that no failing plugin may refuse: those about plugins, and the control plane's own in its
/// namespaces. Otherwise a broken plugin could not be repaired.
fn is_exempt(request: &AdmissionRequest) -> bool {
    if request.gvr.group == "orlop.dev" && request.gvr.resource == "plugins" {
        return true;
    }
    let user = &request.user;
    let is_control_plane = user.groups.iter().any(|g| g == "system:masters" || g == "system:nodes")
        || user.name.starts_with("system:kube-")
        || user.name.starts_with("system:serviceaccount:kube-system:");
    is_control_plane && ["kube-system", "kube-node-lease"].contains(&request.namespace.as_str())
}

#[async_trait]
impl Admission for PluginAdmission {
    fn handles(&self, operation: Operation, gvr: &Gvr, subresource: &str) -> bool {
        // While plugins are loaded nobody knows what they would ask to see.
        !*self.users_loaded.borrow() || self.chain().handles(operation, gvr, subresource)
    }

    async fn mutate(&self, requests: &mut [AdmissionRequest]) -> Vec<Verdict> {
        if let Some(refused) = self.gate(requests).await {
            return refused;
        }
        let taken = requests.iter_mut().map(|request| {
            let object = request.object.take();
            AdmissionRequest { object, ..request.clone() }
        });
        let (objects, verdicts) = self.run(Phase::Mutate, taken.collect()).await;
        for (request, done) in requests.iter_mut().zip(objects) {
            request.object = done.object;
        }
        verdicts
    }

    async fn validate(&self, requests: &[AdmissionRequest]) -> Vec<Verdict> {
        if let Some(refused) = self.gate(requests).await {
            return refused;
        }
        let chain = self.chain();
        let mut contexts = Vec::with_capacity(requests.len());
        let mut known = Vec::with_capacity(requests.len());
        for request in requests {
            let prefetched = self.context.prefetch(&chain, Phase::Validate, request).await;
            known.push(memo::validated(&chain, request, &prefetched));
            contexts.push(prefetched);
        }
        if known.iter().all(Option::is_some) {
            return known.into_iter().flatten().collect();
        }
        let cases = requests.iter().cloned().zip(contexts);
        let cases = cases.map(|(request, context)| Case::new(request, context, Verdict::allow()));
        self.ask(Phase::Validate, chain, cases.collect()).await.1
    }
}

#[cfg(test)]
mod tests;
