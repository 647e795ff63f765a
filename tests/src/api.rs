//! kube-rs against a test's cluster.

use crate::Cluster;
use anyhow::Result;

/// A client with the administrator's certificate.
///
/// # Errors
/// Where the kubeconfig cannot be read.
pub async fn client(cluster: &Cluster) -> Result<kube::Client> {
    // The one TLS provider of the process; a second installation would be the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.kubeconfig())?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    // The kubeconfig names the address that the node listens on; we come from another host.
    config.cluster_url = cluster.server_url().parse()?;
    Ok(kube::Client::try_from(config)?)
}
