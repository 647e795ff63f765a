//! Joins the runtime's `PodNetwork` to the built-in bridge.

use async_trait::async_trait;
use orlop_container::cri::{self, NetworkError, PodKey, PodNetwork, PortMapping};
use orlop_network::{HostPort, Network, Protocol};
use std::net::IpAddr;
use std::path::Path;

/// The bridge as the container runtime asks for it.
pub(crate) struct PodBridge {
    network: Network,
}

impl PodBridge {
    pub(crate) const fn new(network: Network) -> Self {
        Self { network }
    }
}

/// One lease per sandbox: a rebuilt sandbox is another guest of the network.
fn name(pod: &PodKey) -> String {
    pod.sandbox_id.clone()
}

fn refused(error: orlop_network::NetworkError) -> NetworkError {
    NetworkError { message: error.to_string(), source: Some(Box::new(error)) }
}

fn host_port(mapping: &PortMapping) -> Option<HostPort> {
    let protocol = match mapping.protocol {
        cri::Protocol::Tcp => Protocol::Tcp,
        cri::Protocol::Udp => Protocol::Udp,
        cri::Protocol::Sctp => Protocol::Sctp,
    };
    let host_ip = match mapping.host_ip {
        Some(IpAddr::V4(ip)) if !ip.is_unspecified() => Some(ip),
        Some(IpAddr::V6(_)) => return None,
        _ => None,
    };
    (mapping.host_port != 0).then_some(HostPort {
        protocol,
        host_ip,
        host_port: mapping.host_port,
        container_port: mapping.container_port,
    })
}

#[async_trait]
impl PodNetwork for PodBridge {
    async fn attach(
        &self,
        pod: &PodKey,
        netns: &Path,
        ports: &[PortMapping],
    ) -> Result<Vec<IpAddr>, NetworkError> {
        let attachment = self.network.attach(&name(pod), netns).await.map_err(refused)?;
        let ports: Vec<HostPort> = ports.iter().filter_map(host_port).collect();
        if !ports.is_empty() {
            self.network.set_host_ports(&name(pod), ports).await.map_err(refused)?;
        }
        Ok(attachment.addresses)
    }

    async fn detach(&self, pod: &PodKey, _netns: &Path) -> Result<(), NetworkError> {
        self.network.detach(&name(pod)).await.map_err(refused)
    }
}
