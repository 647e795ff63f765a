//! The server as a whole: how it starts, serves and stops.

use crate::admission::{Admission, NoAdmission};
use crate::alloc::ServiceAllocator;
use crate::authn::{Authenticator, StaticTokens, TokenFileError};
use crate::authz::{Attributes, Authorizer, ChainAuthorizer, Decision, Joined, Policies, PolicyError, Rbac};
use crate::bootstrap;
use crate::cache::WatchCache;
use crate::config::Config;
use crate::core::{AdmissionDoor, Core};
use crate::http;
use crate::loopback::LoopbackClient;
use crate::maintenance;
use crate::metrics::Metrics;
use crate::plugin_streams::PluginStreams;
use crate::registry::find;
use crate::token::TokenIssuer;
use crate::user::UserInfo;
use orlop_apimachinery::Status;
use orlop_client::ApiClient;
use orlop_store::{Store, StoreError};
use std::sync::{Arc, OnceLock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a server cannot start. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The policy file is not usable.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The token file is not usable.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// The schemas in this binary are damaged.
    #[error("the embedded schemas cannot be used: {fault}")]
    Schemas {
        /// Which line, and what is wrong with it.
        fault: String,
    },
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[source] StoreError),
    /// What every cluster has could not be made.
    #[error("the cluster's own objects could not be made")]
    Bootstrap(#[source] Status),
}

/// What a server is made of, beside its settings.
pub struct Parts {
    /// Where the objects are.
    pub store: Arc<dyn Store>,
    /// Signs and checks service-account tokens; see [`crate::pki::Pki::token_issuer`].
    pub tokens: TokenIssuer,
    /// TLS with which nodes are called; see [`crate::pki::Pki::kubelet_client_config`]. Without
    /// it logs and exec are refused.
    pub nodes: Option<Arc<rustls::ClientConfig>>,
    /// `None` takes the policy file of the settings.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// Every task is spawned on it.
    pub tracker: TaskTracker,
    /// Ends watches, listeners and tasks.
    pub cancel: CancellationToken,
}

/// The API server.
pub struct ApiServer {
    pub(crate) core: Arc<Core>,
    authorizers: Arc<Joined>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("config", &self.core.config).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Loads the state, starts the background tasks on `parts.tracker`, and makes what every
    /// cluster has. Admission passes everything until [`ApiServer::set_admission`].
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn start(config: Config, parts: Parts) -> Result<Self, StartError> {
        crate::schema::check().map_err(|e| StartError::Schemas { fault: e.to_string() })?;
        let cache = Arc::new(WatchCache::new(parts.store.clone()));
        let statics = match &config.token_file {
            Some(path) => StaticTokens::read(path)?,
            None => StaticTokens::default(),
        };
        let tokens = Arc::new(parts.tokens);
        let rbac = Rbac::follow(&cache);
        let policies = Arc::new(Policies::load(config.policy_file.as_deref())?);
        let custom = parts.authorizer.is_some();
        let authorizer = parts
            .authorizer
            .unwrap_or_else(|| Arc::new(ChainAuthorizer::new(policies.clone(), rbac.clone(), cache.clone())));
        let authorizers = Arc::new(Joined::new(authorizer));
        let from = cache.load().await.map_err(StartError::Store)?;
        let services = ServiceAllocator::new(config.service_network);
        if let Some(shelf) = find("", "v1", "services").and_then(|row| cache.shelf(row)) {
            let stored: Vec<serde_json::Value> = shelf.all().iter().map(|e| e.object().to_value()).collect();
            services.load(stored.iter());
        }
        let watches_policies = config.policy_file.is_some() && !custom;
        let core = Arc::new(Core {
            services,
            config,
            store: parts.store,
            admission: AdmissionDoor::new(Arc::new(NoAdmission)),
            authorizer: authorizers.clone(),
            rbac,
            authenticator: Authenticator::new(tokens.clone(), statics, cache.clone()),
            tokens,
            metrics: Metrics::default(),
            nodes: parts.nodes,
            plugin_streams: OnceLock::new(),
            tracker: parts.tracker,
            cancel: parts.cancel,
            cache,
        });
        core.tracker.spawn(core.cache.clone().pump(from, core.cancel.clone()));
        bootstrap::run(&core).await.map_err(StartError::Bootstrap)?;
        core.tracker.spawn(maintenance::run(core.clone()));
        core.tracker.spawn(crate::crd::controller::run(core.clone()));
        if watches_policies {
            core.tracker.spawn(maintenance::policies(core.clone(), policies));
        }
        Ok(Self { core, authorizers })
    }

    /// Puts admission plugins in force; requests that are under way end with those that they
    /// began with.
    pub fn set_admission(&self, admission: Arc<dyn Admission>) {
        self.core.admission.set(admission);
    }

    /// Lets clients have the logs of plugins and recordings of their calls. Only the first call counts.
    pub fn set_plugin_streams(&self, streams: Arc<dyn PluginStreams>) {
        let _ = self.core.plugin_streams.set(streams);
    }

    /// Asks `authorizer` too where the server's own authorizer has no opinion.
    pub fn join_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.authorizers.join(authorizer);
    }

    /// Whether `user` may do what the attributes say.
    pub async fn is_authorized(&self, user: &UserInfo, attributes: &Attributes<'_>) -> bool {
        matches!(self.authorizers.authorize(user, attributes).await, Decision::Allow(_))
    }

    /// Adds what `source` renders, in Prometheus' text format, to `/metrics`. It is called for each
    /// request of that path and must be quick.
    pub fn join_metrics(&self, source: impl Fn() -> String + Send + Sync + 'static) {
        self.core.metrics.join(Box::new(source));
    }

    /// Serves HTTPS on `listener` until the server is cancelled. Spawn it on a tracked task.
    pub async fn serve(&self, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
        http::serve(self.core.clone(), listener, tls).await;
    }

    /// The same as a future that does not borrow the server.
    pub fn serve_task(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
    ) -> impl Future<Output = ()> + Send + 'static {
        http::serve(self.core.clone(), listener, tls)
    }

    /// The API in process, as `user`.
    #[must_use]
    pub fn loopback(&self, user: UserInfo) -> Arc<dyn ApiClient> {
        Arc::new(LoopbackClient::new(self.core.clone(), user))
    }

    /// The newest revision that readers of the cache see.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.core.cache.revision()
    }
}
