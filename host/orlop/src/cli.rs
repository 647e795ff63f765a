//! The command line.

pub(crate) mod image;
pub(crate) mod plugin;
pub(crate) mod reset;

use clap::{Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// A Kubernetes-compatible cluster in one binary: plugins decide, the host acts.
#[derive(Parser, Debug)]
#[command(name = "orlop", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a node with every role: API server, store, scheduler, controllers, node agent, proxy
    Server(Box<ServerArgs>),
    /// Images in this node's store
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Plugins: write, build, test, measure, install, watch, roll back
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Compile a plugin from standard input into a folder of compiled plugins; the server starts it
    #[command(hide = true)]
    CompilePlugin {
        /// The folder
        cache: PathBuf,
    },
    /// Remove every container, mount, network device, iptables rule and cgroup that a stopped
    /// server left behind; data stays
    Reset(reset::ResetArgs),
}

/// Where a node keeps its things.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Folders {
    /// Everything that must survive: store, keys, images, containers
    #[arg(long, value_name = "DIR", default_value = "/var/lib/orlop")]
    pub(crate) data_dir: PathBuf,
}

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) folders: Folders,
    /// Address and port of the API
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:6443")]
    pub(crate) listen: SocketAddr,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Address of this node [default: the one that routes to the world]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Addresses of this node's pods
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/24")]
    pub(crate) pod_cidr: String,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    pub(crate) service_cidr: String,
    /// Scheduler profiles, plugin policy and authorization, each reloaded when its file changes
    /// [default: those built in]
    #[arg(long, value_name = "DIR")]
    pub(crate) policies: Option<PathBuf>,
    /// Static pods: every manifest in this folder is run [default: DATA_DIR/manifests]
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// Where compiled plugins are kept; nothing but a cache, readable by root alone
    /// [default: DATA_DIR/plugin-cache]
    #[arg(long, value_name = "DIR")]
    pub(crate) plugin_cache: Option<PathBuf>,
    /// Port of the node's own API (logs, exec)
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub(crate) kubelet_port: u16,
    /// What to log, such as `info` or `info,orlop_scheduler=debug`
    #[arg(long, env = "ORLOP_LOG", default_value = "info,openraft=warn")]
    pub(crate) log: String,
}
