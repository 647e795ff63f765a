//! `orlop reset`: what a server left in the kernel, and its containers and images.

use super::Folders;
use crate::folders::Layout;
use anyhow::{Context, Result, bail};
use orlop_container::cgroups::Cgroups;
use orlop_network::Network;
use std::os::unix::net::UnixStream;

#[derive(clap::Args, Debug)]
pub(crate) struct ResetArgs {
    #[command(flatten)]
    folders: Folders,
}

/// Removes containers, images, mounts, network devices, iptables rules and cgroups. Objects and
/// keys stay. Tries everything before it fails; may be run again.
///
/// # Errors
/// Where a server still runs, or something could not be removed.
pub(crate) fn run(args: &ResetArgs) -> Result<()> {
    if !args.folders.data_dir.exists() {
        return Ok(());
    }
    let layout = Layout::existing(&args.folders.data_dir)?;
    if UnixStream::connect(layout.image_socket()).is_ok() {
        bail!("a server runs on {}; stop it first", args.folders.data_dir.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let containers = orlop_container::cleanup_all(&layout.containers(), &layout.run())
        .context("cannot remove every container");
    let rules =
        runtime.block_on(orlop_proxy::Proxy::cleanup()).context("cannot remove the rules of Services");
    // Which addresses were given does not matter for their removal.
    let pods = "10.244.0.0/24".parse().map_err(|e| anyhow::anyhow!("{e}"));
    let network = pods.and_then(|pods| {
        let cleaned = runtime.block_on(Network::cleanup_all(layout.network(pods)));
        cleaned.context("cannot remove the pod network")
    });
    let volumes = crate::folders::remove_mounts_below(&layout.node());
    // The parents of pods' cgroups stay where another node of this machine has pods in them.
    let cgroups = Cgroups::detect().context("cannot list the cgroups").map(|c| c.prune("/kubepods"));
    containers.and(rules).and(network).and(volumes).and(cgroups)
}
