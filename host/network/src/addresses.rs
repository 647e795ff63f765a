//! Who has which address: one small file per address in use.
//!
//! A file is written whole before it appears under its name, so a kill at any moment leaves either
//! the lease or nothing. Leases of ended pods are taken back by whoever knows that they ended.

use crate::{Ipv4Cidr, NetworkError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Transport of a host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the host that leads to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Only for traffic to this address; `None` for all of the host's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_ip: Option<Ipv4Addr>,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the pod.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// An address in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose it is.
    pub key: String,
    /// The address.
    pub address: Ipv4Addr,
    /// Ports of the host that lead there.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ports: Vec<HostPort>,
}

/// All leases of the node.
pub(crate) struct Addresses {
    dir: PathBuf,
    range: Ipv4Cidr,
    by_address: BTreeMap<Ipv4Addr, Lease>,
    by_key: HashMap<String, Ipv4Addr>,
    /// Searching goes on after the address given last, so that one is not given again at once.
    last: Ipv4Addr,
}

fn state(path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_path_buf();
    move |source| NetworkError::State { path, source }
}

impl Addresses {
    /// Reads the leases in `dir`, which is made where it is missing. A lease outside of `range`
    /// (the range was changed) is kept until it is released.
    pub(crate) fn open(dir: &Path, range: Ipv4Cidr) -> Result<Self, NetworkError> {
        fs::create_dir_all(dir).map_err(state(dir))?;
        let mut addresses = Self {
            dir: dir.to_path_buf(),
            range,
            by_address: BTreeMap::new(),
            by_key: HashMap::new(),
            last: range.first_host(),
        };
        for entry in fs::read_dir(dir).map_err(state(dir))? {
            let path = entry.map_err(state(dir))?.path();
            let named: Option<Ipv4Addr> =
                path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
            let Some(address) = named else {
                // What a kill left before the rename.
                fs::remove_file(&path).map_err(state(&path))?;
                continue;
            };
            let bytes = fs::read(&path).map_err(state(&path))?;
            match serde_json::from_slice::<Lease>(&bytes) {
                Ok(lease) if lease.address == address => addresses.remember(lease),
                _ => {
                    let source =
                        io::Error::new(io::ErrorKind::InvalidData, "not a lease of this address; remove it");
                    return Err(NetworkError::State { path, source });
                }
            }
        }
        if let Some((highest, _)) = addresses.by_address.last_key_value().filter(|(a, _)| range.gives(**a)) {
            addresses.last = *highest;
        }
        Ok(addresses)
    }

    fn remember(&mut self, lease: Lease) {
        self.by_key.insert(lease.key.clone(), lease.address);
        self.by_address.insert(lease.address, lease);
    }

    /// The address of `key`: the one that it has, else a free one.
    pub(crate) fn lease(&mut self, key: &str, ports: &[HostPort]) -> Result<Lease, NetworkError> {
        let address = match self.by_key.get(key) {
            Some(address) => *address,
            None => self.free()?,
        };
        let lease = Lease { key: key.to_owned(), address, ports: ports.to_vec() };
        if self.by_address.get(&address) != Some(&lease) {
            self.write(&lease)?;
            self.remember(lease.clone());
            self.last = address;
        }
        Ok(lease)
    }

    pub(crate) fn find(&self, key: &str) -> Option<Lease> {
        self.by_address.get(self.by_key.get(key)?).cloned()
    }

    /// Frees the address of `key`. Idempotent.
    pub(crate) fn release(&mut self, key: &str) -> Result<(), NetworkError> {
        let Some(address) = self.by_key.get(key).copied() else { return Ok(()) };
        let path = self.dir.join(address.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(state(&path)(error)),
            _ => {}
        }
        self.by_key.remove(key);
        self.by_address.remove(&address);
        Ok(())
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.by_address.values()
    }

    fn free(&self) -> Result<Ipv4Addr, NetworkError> {
        let after = self.last.to_bits().saturating_add(1)..self.range.broadcast().to_bits();
        let before = self.range.first_host().to_bits() + 1..self.last.to_bits().saturating_add(1);
        after
            .chain(before)
            .map(Ipv4Addr::from_bits)
            .find(|a| self.range.gives(*a) && !self.by_address.contains_key(a))
            .ok_or(NetworkError::Exhausted { range: self.range })
    }

    fn write(&self, lease: &Lease) -> Result<(), NetworkError> {
        let path = self.dir.join(lease.address.to_string());
        let fresh = self.dir.join(format!("{}.new", lease.address));
        let bytes = serde_json::to_vec(lease).map_err(|e| state(&path)(io::Error::other(e)))?;
        fs::write(&fresh, bytes).map_err(state(&fresh))?;
        fs::rename(&fresh, &path).map_err(state(&path))
    }
}
