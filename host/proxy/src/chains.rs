//! Names of chains, as kube-proxy makes them: scripts and people look for them.

use crate::model::Protocol;
use sha2::{Digest, Sha256};
use std::fmt::Display;

/// Prefixes of chains that belong to one Service port or endpoint.
pub(crate) const SERVICE_CHAINS: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-"];

/// The first 16 characters of the base32 of the SHA-256: kernels want short chain names.
fn short_hash(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text.as_bytes());
    // 16 characters of 5 bits are 80 bits.
    let bits = digest.iter().take(10).fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..16).rev().map(|n| char::from(ALPHABET[(bits >> (5 * n)) as usize & 31])).collect()
}

/// The chains of one Service port.
#[derive(Clone, Debug)]
pub(crate) struct PortChains {
    /// `KUBE-SVC-*`: any endpoint.
    pub(crate) cluster: String,
    /// `KUBE-SVL-*`: endpoints of this node.
    pub(crate) local: String,
    /// `KUBE-EXT-*`: from outside.
    pub(crate) external: String,
    /// `KUBE-FW-*`: who may reach the load balancer's address.
    pub(crate) firewall: String,
}

impl PortChains {
    /// Of the port `name` (`namespace/service:port`).
    #[must_use]
    pub(crate) fn new(name: &str, protocol: Protocol) -> Self {
        let hash = short_hash(&format!("{name}{}", protocol.lower()));
        Self {
            cluster: format!("KUBE-SVC-{hash}"),
            local: format!("KUBE-SVL-{hash}"),
            external: format!("KUBE-EXT-{hash}"),
            firewall: format!("KUBE-FW-{hash}"),
        }
    }
}

/// `KUBE-SEP-*`: one endpoint (`ip:port`) of one Service port.
#[must_use]
pub(crate) fn endpoint_chain(name: &str, protocol: Protocol, endpoint: impl Display) -> String {
    format!("KUBE-SEP-{}", short_hash(&format!("{name}{}{endpoint}", protocol.lower())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kube_proxy() {
        let chains = PortChains::new("ns1/svc1:p80", Protocol::Tcp);
        assert_eq!(chains.cluster, "KUBE-SVC-XPGD46QRK7WJZT7O");
        assert_eq!(
            endpoint_chain("ns1/svc1:p80", Protocol::Tcp, "10.180.0.1:80"),
            "KUBE-SEP-SXIVWICOYRO3J4NJ"
        );
        assert_eq!(
            PortChains::new("default/kubernetes:https", Protocol::Tcp).cluster,
            "KUBE-SVC-NPX46M4PTMTKRN6Y"
        );
        assert!(chains.cluster.len() <= 28);
    }
}
