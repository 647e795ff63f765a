//! Puts the parts of the agent together and runs them.

use crate::config::NodeConfig;
use crate::container::files::parse_resolv_conf;
use crate::events::Recorder;
use crate::host_facts;
use crate::node_status::{Reporter, allocatable};
use crate::objects::Objects;
use crate::pod::actions::Shared;
use crate::pods::{Pods, Queue, Registry, follow_runtime};
use crate::server::Server;
use crate::static_pods;
use crate::tokens::Tokens;
use crate::volumes::VolumeSet;
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, Informer, ListOptions};
use orlop_container::{Runtime, RuntimeError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A folder of the agent cannot be made: permissions, or a full disk.
    #[error("cannot create {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The address of the node's server is taken or not of this machine.
    #[error("cannot listen on {address} for the node's API")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The runtime cannot say what it runs; retryable.
    #[error("the container runtime cannot be listed")]
    Runtime(#[source] RuntimeError),
}

/// The agent of one node.
pub struct Node {
    config: Arc<NodeConfig>,
    client: Arc<dyn ApiClient>,
    runtime: Arc<dyn Runtime>,
}

impl Node {
    /// An agent that has not begun yet.
    #[must_use]
    pub fn new(config: NodeConfig, client: Arc<dyn ApiClient>, runtime: Arc<dyn Runtime>) -> Self {
        Self { config: Arc::new(config), client, runtime }
    }

    /// Runs until `cancel`; containers run on after it. Everything that it spawns has ended when
    /// it returns.
    ///
    /// # Errors
    /// [`NodeError`] where it cannot begin; once begun it retries whatever fails.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), NodeError> {
        let tasks = TaskTracker::new();
        let result = self.begin(&tasks, &cancel).await;
        if result.is_ok() {
            cancel.cancelled().await;
        } else {
            cancel.cancel();
        }
        tasks.close();
        tasks.wait().await;
        result
    }

    async fn begin(&self, tasks: &TaskTracker, cancel: &CancellationToken) -> Result<(), NodeError> {
        let config = self.config.clone();
        for path in [config.root_dir.join("pods"), config.log_dir.clone()] {
            std::fs::create_dir_all(&path).map_err(|source| NodeError::Folder { path, source })?;
        }
        let capacity = host_facts::capacity(&config.root_dir);
        let (recorder, send_events) = Recorder::new(self.client.clone(), &config.node_name, cancel.clone());
        tasks.spawn(send_events);

        let services =
            Informer::new(self.client.clone(), Gvr::new("", "v1", "services"), ListOptions::default())
                .with_index("namespace", Box::new(|o| vec![o.namespace().to_owned()]));
        let (services, run_services) = services.start(cancel.clone());
        tasks.spawn(run_services);

        let registry: Arc<Registry> = Arc::default();
        let of_objects = registry.clone();
        let objects = Arc::new(Objects::new(
            self.client.clone(),
            Arc::new(move |uid| {
                if let Some(handle) = of_objects.get(uid) {
                    handle.sources_changed();
                }
            }),
            tasks.clone(),
            cancel.clone(),
        ));
        let tokens = Tokens::new(self.client.clone());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let host_dns = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
        let shared = Arc::new(Shared {
            volumes: VolumeSet::new(config.clone(), objects.clone(), tokens),
            runtime: self.runtime.clone(),
            client: self.client.clone(),
            recorder: recorder.clone(),
            services,
            allocatable: allocatable(&config, capacity),
            memory_capacity: capacity.memory,
            host_dns: parse_resolv_conf(&host_dns),
            starts: Semaphore::new((cores * 4).max(4)),
            objects,
            config: config.clone(),
        });

        let queue: Arc<Queue> = Arc::default();
        let of_pods = queue.clone();
        let options = ListOptions {
            field_selector: format!("spec.nodeName={}", config.node_name),
            ..ListOptions::default()
        };
        let informer = Informer::new(self.client.clone(), crate::api::PODS.clone(), options).with_handler(
            Box::new(move |delta| {
                if let Some(object) = delta.latest() {
                    of_pods.push(object.namespace(), object.name());
                }
            }),
        );
        let (cache, run_informer) = informer.start(cancel.clone());

        let (statics_tx, statics) = watch::channel(None);
        let (uid_tx, node_uid) = watch::channel(String::new());
        let mut pods = Pods::new(
            shared.clone(),
            registry.clone(),
            queue,
            cache,
            statics,
            node_uid,
            tasks.clone(),
            cancel.clone(),
        );
        // Events from before the list are not lost: the workers are compared with a list later.
        let follow = follow_runtime(shared.clone(), registry.clone(), cancel.clone());
        let mut tries = 0;
        loop {
            match pods.recover().await {
                Ok(()) => break,
                Err(error) if tries < 5 && !cancel.is_cancelled() => {
                    tries += 1;
                    tracing::warn!(%error, "the runtime cannot be listed yet");
                    tokio::time::sleep(Duration::from_millis(200 << tries)).await;
                }
                Err(error) => return Err(NodeError::Runtime(error)),
            }
        }
        let port = match &config.server {
            Some(server) => {
                let listener = tokio::net::TcpListener::bind(server.listen)
                    .await
                    .map_err(|source| NodeError::Listen { address: server.listen, source })?;
                let port = listener.local_addr().map_or(server.listen.port(), |a| a.port());
                let serve = Server::new(shared.clone(), registry.clone(), tasks.clone(), cancel.clone());
                tasks.spawn(serve.run(listener, server.tls.clone()));
                Some(port)
            }
            None => None,
        };
        tasks.spawn(static_pods::follow(config.clone(), statics_tx, cancel.clone()));
        tasks.spawn(follow);
        tasks.spawn(pods.run());
        tasks.spawn(run_informer);
        let reporter = Reporter {
            config,
            client: self.client.clone(),
            runtime: self.runtime.clone(),
            recorder,
            capacity,
            port,
            uid: uid_tx,
        };
        tasks.spawn(reporter.run(cancel.clone()));
        Ok(())
    }
}
