//! `orlop server`: opens what the parts need, joins them, and ends them in order.

mod log;
mod pod_network;
mod requirements;

use crate::cli::ServerArgs;
use crate::deciders::{self, Deciders};
use crate::folders::Layout;
use crate::{address, embedded, error_chain, image_service};
use anyhow::{Context, Result, anyhow, bail};
use orlop_apiserver::pki::{self, Names, Pki};
use orlop_apiserver::{ApiServer, Config, Parts, ServiceNetwork, UserInfo};
use orlop_client::ApiClient;
use orlop_container::{RuncConfig, RuncRuntime, Runtime as ContainerRuntime};
use orlop_network::Network;
use orlop_node::{Node, NodeConfig, NodeServer};
use orlop_raft::RaftStore;
use pod_network::PodBridge;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the parts may take to end after a signal.
const SHUTDOWN: Duration = Duration::from_secs(15);

/// What was said on the command line, checked and completed.
struct Settings {
    args: ServerArgs,
    node_name: String,
    node_ip: IpAddr,
    services: ServiceNetwork,
    pods: orlop_network::Cidr,
    layout: Layout,
}

/// Runs a node until a signal ends it.
pub(crate) fn run(args: Box<ServerArgs>) -> Result<()> {
    log::init(&args.log)?;
    embedded::plugins()?;
    requirements::check()?;
    let settings = Settings::new(*args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

impl Settings {
    fn new(args: ServerArgs) -> Result<Self> {
        let node_name = match &args.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
        };
        let faults = orlop_apimachinery::names::dns1123_subdomain(&node_name);
        if let Some(fault) = faults.first() {
            bail!("`{node_name}` cannot be a node's name: {fault}; name it by --node-name");
        }
        let services = ServiceNetwork::parse(&args.service_cidr)
            .ok_or_else(|| anyhow!("--service-cidr `{}` is not a range for Services", args.service_cidr))?;
        let pods = args.pod_cidr.parse().map_err(|e| anyhow!("--pod-cidr `{}`: {e}", args.pod_cidr))?;
        if let Some(policies) = &args.policies
            && !policies.is_dir()
        {
            bail!("--policies {}: there is no such folder", policies.display());
        }
        let layout = Layout::new(&args.folders.data_dir)?;
        let node_ip = args.node_ip.unwrap_or_else(address::detect);
        Ok(Self { args, node_name, node_ip, services, pods, layout })
    }

    fn policy(&self, file: &str) -> Option<std::path::PathBuf> {
        self.args.policies.as_ref().map(|dir| dir.join(file))
    }
}

/// Waits for SIGTERM or SIGINT.
async fn signalled() -> Result<&'static str> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

async fn serve(settings: Settings) -> Result<()> {
    let listen = settings.args.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen}; if another process has the port, choose one by --listen")
    })?;
    let cancel = CancellationToken::new();
    // The store ends last, so that the others can write to their end.
    let (tasks, store_tasks) = (TaskTracker::new(), TaskTracker::new());
    let store_cancel = CancellationToken::new();
    let started = start(&settings, listener, &tasks, &cancel, &store_tasks, &store_cancel).await;
    let ended = match started {
        Ok(()) => {
            let why = tokio::select! {
                why = signalled() => why?,
                () = cancel.cancelled() => "a part that ended",
            };
            tracing::info!(why, "shutting down; containers run on");
            Ok(())
        }
        Err(error) => Err(error),
    };
    cancel.cancel();
    tasks.close();
    if tokio::time::timeout(SHUTDOWN, tasks.wait()).await.is_err() {
        tracing::warn!(seconds = SHUTDOWN.as_secs(), "some parts did not end in time");
    }
    store_cancel.cancel();
    store_tasks.close();
    if tokio::time::timeout(SHUTDOWN, store_tasks.wait()).await.is_err() {
        tracing::warn!(seconds = SHUTDOWN.as_secs(), "the store did not end in time");
    }
    ended
}

async fn start(
    settings: &Settings,
    listener: TcpListener,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
    store_tasks: &TaskTracker,
    store_cancel: &CancellationToken,
) -> Result<()> {
    let layout = &settings.layout;
    // First what only one process may hold: whoever comes second is told so before anything is done.
    let containers = containers(settings, tasks, cancel).await?;
    image_service::serve(&layout.image_socket(), containers.clone(), tasks, cancel)?;
    let store = RaftStore::open(
        &layout.store(),
        orlop_raft::Options::default(),
        store_tasks.clone(),
        store_cancel.clone(),
    )
    .await
    .map_err(anyhow::Error::from)?;

    let listen = listener.local_addr()?;
    let names = Names {
        node_name: settings.node_name.clone(),
        addresses: vec![settings.node_ip],
        service_ip: settings.services.first(),
    };
    let pki = Pki::load_or_create(&layout.pki(), &names)?;
    let reached_at = if listen.ip().is_unspecified() { settings.node_ip } else { listen.ip() };
    let url = format!("https://{}", SocketAddr::new(reached_at, listen.port()));

    let config = Config {
        advertise_address: reached_at,
        secure_port: listen.port(),
        service_network: settings.services,
        policy_file: settings.policy("authorization.yaml").filter(|f| f.is_file()),
        ..Config::default()
    };
    let tokens = pki.token_issuer(&config.service_account_issuer, &config.api_audiences)?;
    let parts = Parts {
        store,
        tokens,
        nodes: Some(pki.kubelet_client_config()?),
        authorizer: None,
        tracker: tasks.clone(),
        cancel: cancel.clone(),
    };
    let api = Arc::new(ApiServer::start(config, parts).await?);

    // Admission comes before the first request: nothing is let in unchecked.
    let deciders = Deciders::start(deciders::Options {
        cache: settings.args.plugin_cache.clone().unwrap_or_else(|| layout.plugin_cache()),
        policy_file: settings.policy("plugins.yaml"),
        scheduler_file: settings.policy("scheduler.yaml"),
        ca_certificate: pki.ca.certificate.clone(),
        identity: settings.node_name.clone(),
        api: api.clone(),
        tasks: tasks.clone(),
        cancel: cancel.clone(),
    })?;
    tasks.spawn(api.serve_task(listener, pki.server_config()?));
    pki.write_kubeconfig(&layout.kubeconfig(), &url)?;
    tracing::info!(%url, "serving the API");
    deciders.run();

    let node_user = UserInfo::new(format!("system:node:{}", settings.node_name), ["system:nodes"]);
    let node = Node::new(node_config(settings, &pki)?, api.loopback(node_user), containers);
    let ends_all = cancel.clone();
    let node_cancel = cancel.child_token();
    tasks.spawn(async move {
        if let Err(error) = node.run(node_cancel).await {
            tracing::error!(error = %error_chain::Chain(&error), "the node agent cannot run");
            ends_all.cancel();
        }
    });
    proxy(settings, api.loopback(UserInfo::new("system:kube-proxy", ["system:node-proxier"])), tasks, cancel);
    Ok(())
}

/// The embedded runc driver over the built-in pod network.
async fn containers(
    settings: &Settings,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<Arc<dyn ContainerRuntime>> {
    let layout = &settings.layout;
    let mut network = layout.network(settings.pods);
    network.service_cidr = settings.args.service_cidr.parse().ok();
    let network = Network::open(network).await.context("cannot make the pod network")?;
    let shim = embedded::extract_shim(&layout.programs())?;
    let mut config = RuncConfig::new(layout.containers(), layout.run(), shim);
    config.network = Some(Arc::new(PodBridge::new(network)));
    config.tracker = tasks.clone();
    config.cancel = cancel.clone();
    let runtime = RuncRuntime::open(config).await.context("cannot open the container runtime")?;
    Ok(Arc::new(runtime))
}

fn node_config(settings: &Settings, pki: &Pki) -> Result<NodeConfig> {
    let mut config = NodeConfig::new(settings.node_name.clone(), settings.node_ip, settings.layout.node());
    config.pod_cidr = Some(settings.args.pod_cidr.clone());
    let manifests = settings.args.manifests.clone().unwrap_or_else(|| settings.layout.manifests());
    std::fs::create_dir_all(&manifests).with_context(|| format!("cannot create {}", manifests.display()))?;
    config.static_pod_dir = Some(manifests);
    config.server = Some(NodeServer {
        listen: SocketAddr::new(settings.args.listen.ip(), settings.args.kubelet_port),
        tls: pki::server_config(&pki.node_serving, &pki.ca.certificate)?,
    });
    Ok(config)
}

fn proxy(settings: &Settings, client: Arc<dyn ApiClient>, tasks: &TaskTracker, cancel: &CancellationToken) {
    let config = orlop_proxy::Config::new(settings.node_name.clone(), Some(settings.args.pod_cidr.clone()));
    let proxy = orlop_proxy::Proxy::new(client, config);
    let proxy_cancel = cancel.child_token();
    let ends_all = cancel.clone();
    tasks.spawn(async move {
        if let Err(error) = proxy.run(proxy_cancel).await {
            tracing::error!(error = %error_chain::Chain(&error), "the proxy cannot run");
            ends_all.cancel();
        }
    });
}
