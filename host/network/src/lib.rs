//! The built-in pod network of one node: a bridge, a veth pair per pod, addresses from the node's
//! pod range, masquerade towards the outside, host ports.
//!
//! Knows no pods: it joins a network namespace to the bridge under a key that the caller chooses.
//! What was given to whom is on disk, so that a host that was killed neither gives a living pod's
//! address away nor loses free ones.
#![forbid(unsafe_code)]

mod addresses;
mod cidr;
mod links;
mod rules;

pub use addresses::{HostPort, Lease, Protocol};
pub use cidr::{CidrError, Ipv4Cidr};

use addresses::Addresses;
use links::Links;
use parking_lot::Mutex;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use tokio_util::task::TaskTracker;

/// What the network is made of.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of the bridge; at most 15 bytes.
    pub bridge: String,
    /// Addresses of this node's pods; the first is the bridge's own.
    pub pod_cidr: Ipv4Cidr,
    /// Where leases are kept.
    pub state_dir: PathBuf,
}

/// Why the network could not be made, or a pod not joined to it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The state folder cannot be read or written. The operator must act.
    #[error("the network's state at {} cannot be used", path.display())]
    State {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Every address is given out. The operator must give the node a larger range.
    #[error("no address is left in {range}")]
    Exhausted {
        /// The node's pod range.
        range: Ipv4Cidr,
    },
    /// The kernel refused a change of links, addresses or routes.
    #[error("cannot {what}")]
    Netlink {
        /// What was to be done.
        what: String,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// A namespace could not be entered, or a thread not made.
    #[error("cannot {what}")]
    System {
        /// What was to be done.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// iptables refused the rules, or is missing.
    #[error("cannot write the pod network's iptables rules: {message}")]
    Rules {
        /// What it said, or what to install.
        message: String,
    },
}

/// The pod network of this node.
pub struct Network {
    config: NetworkConfig,
    addresses: Mutex<Addresses>,
    links: Links,
    /// Held while the rules of host ports are written.
    rules: tokio::sync::Mutex<()>,
}

impl Network {
    /// Makes the bridge and the rules where they are missing, and reads who has which address.
    /// The netlink connection runs on `tasks`.
    ///
    /// # Errors
    /// Any [`NetworkError`] but [`NetworkError::Exhausted`].
    pub async fn open(config: NetworkConfig, tasks: &TaskTracker) -> Result<Self, NetworkError> {
        let addresses = Addresses::open(&config.state_dir, config.pod_cidr)?;
        let links = Links::connect(tasks)?;
        links.ensure_bridge(&config.bridge, config.pod_cidr).await?;
        set_sysctls(&config.bridge);
        let network =
            Self { config, addresses: Mutex::new(addresses), links, rules: tokio::sync::Mutex::default() };
        network.write_rules().await?;
        Ok(network)
    }

    /// Gives the namespace at `netns` an `eth0` with an address and a default route, and `ports` of
    /// the host. Idempotent for the same key. Not cancel-safe: call [`Network::detach`] then.
    ///
    /// # Errors
    /// Any [`NetworkError`]; nothing is left behind.
    pub async fn attach(
        &self,
        key: &str,
        netns: &Path,
        ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, NetworkError> {
        let lease = self.addresses.lock().lease(key, ports)?;
        let prefix = self.config.pod_cidr.prefix();
        let gateway = self.config.pod_cidr.first_host();
        let joined = self.links.join(&self.config.bridge, netns, lease.address, prefix, gateway).await;
        let joined = match joined {
            Ok(()) if ports.is_empty() => Ok(()),
            Ok(()) => self.write_rules().await,
            Err(error) => Err(error),
        };
        if let Err(error) = joined {
            self.detach(key).await?;
            return Err(error);
        }
        Ok(vec![IpAddr::V4(lease.address)])
    }

    /// Takes back what [`Network::attach`] gave. Idempotent; the namespace may be gone already.
    ///
    /// # Errors
    /// [`NetworkError::State`], [`NetworkError::Netlink`] or [`NetworkError::Rules`].
    pub async fn detach(&self, key: &str) -> Result<(), NetworkError> {
        let Some(lease) = self.addresses.lock().find(key) else { return Ok(()) };
        self.links.remove(&links::host_end(lease.address)).await?;
        self.addresses.lock().release(key)?;
        if !lease.ports.is_empty() {
            self.write_rules().await?;
        }
        Ok(())
    }

    /// Keys that hold an address, in no particular order.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.addresses.lock().leases().map(|l| l.key.clone()).collect()
    }

    /// The bridge's own address, which is the pods' gateway.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.config.pod_cidr.first_host()
    }

    async fn write_rules(&self) -> Result<(), NetworkError> {
        let _writing = self.rules.lock().await;
        let leases: Vec<Lease> =
            self.addresses.lock().leases().filter(|l| !l.ports.is_empty()).cloned().collect();
        rules::apply(rules::render(&self.config.bridge, self.config.pod_cidr, &leases)).await
    }
}

/// Removes the bridge, its ports and every rule. Leases on disk stay.
///
/// # Errors
/// [`NetworkError::Netlink`], [`NetworkError::System`] or [`NetworkError::Rules`]; idempotent, so it
/// may be called again.
pub async fn cleanup(bridge: &str, tasks: &TaskTracker) -> Result<(), NetworkError> {
    rules::remove().await?;
    let links = Links::connect(tasks)?;
    links.remove_bridge(bridge).await
}

/// What forwarding needs of the kernel. A refusal is only said: the setting may be right already,
/// or the machine may do without it.
fn set_sysctls(bridge: &str) {
    let route_localnet = format!("net/ipv4/conf/{bridge}/route_localnet");
    for (name, value, why) in [
        ("net/ipv4/ip_forward", "1", "pods reach nothing outside their node without it"),
        (
            "net/bridge/bridge-nf-call-iptables",
            "1",
            "pods of one node do not reach each other by a Service without it",
        ),
        (route_localnet.as_str(), "1", "host ports are not reached by localhost without it"),
    ] {
        let path = Path::new("/proc/sys").join(name);
        if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
            continue;
        }
        if let Err(error) = std::fs::write(&path, value) {
            tracing::warn!(setting = name, value, %error, why, "a kernel setting could not be made");
        }
    }
}

#[cfg(test)]
mod tests;
