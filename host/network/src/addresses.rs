//! Which pod has which address: one small file per address, so that a host that is killed at any
//! instant knows it again.
//!
//! A file is made before the pod's interface and removed after it. A file without an interface is
//! therefore an address that is free.

use crate::cidr::Cidr;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// `TCP`, `UDP` or `SCTP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// As iptables spells it.
    #[must_use]
    pub const fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the host that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// Protocol of both ports.
    pub protocol: Protocol,
    /// `None` listens on every address of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<Ipv4Addr>,
    /// The port on the host.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
}

/// What one file says. Version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lease {
    version: u32,
    pub(crate) pod: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) host_ports: Vec<HostPort>,
}

/// All leases.
#[derive(Debug)]
pub(crate) struct Addresses {
    folder: PathBuf,
    cidr: Cidr,
    leases: BTreeMap<Ipv4Addr, Lease>,
    by_pod: BTreeMap<String, Ipv4Addr>,
    next: u32,
}

impl Addresses {
    /// Reads the leases in `folder`, which is made where it is missing. Files that are not leases
    /// of `cidr` are removed: nothing else has business in the folder.
    pub(crate) fn load(folder: &Path, cidr: Cidr) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut leases = BTreeMap::new();
        let mut by_pod = BTreeMap::new();
        for file in fs::read_dir(folder)? {
            let file = file?;
            let read = || {
                let address: Ipv4Addr = file.file_name().to_str()?.parse().ok()?;
                cidr.number(address)?;
                let lease: Lease = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
                (lease.version == 1 && !by_pod.contains_key(&lease.pod)).then_some((address, lease))
            };
            match read() {
                Some((address, lease)) => {
                    by_pod.insert(lease.pod.clone(), address);
                    leases.insert(address, lease);
                }
                None => {
                    tracing::warn!(file = %file.path().display(), "removing a file that is not a lease of this network");
                    fs::remove_file(file.path())?;
                }
            }
        }
        // After the highest address in use: an address should rest before it is used again.
        let next = leases.keys().next_back().and_then(|a| cidr.number(*a)).map_or(0, |n| n + 1);
        Ok(Self { folder: folder.to_owned(), cidr, leases, by_pod, next })
    }

    pub(crate) fn of(&self, pod: &str) -> Option<Ipv4Addr> {
        self.by_pod.get(pod).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, &Lease)> {
        self.leases.iter().map(|(a, l)| (*a, l))
    }

    /// The pod's address, a new one where it has none; `None` where all are taken.
    pub(crate) fn take(&mut self, pod: &str) -> io::Result<Option<Ipv4Addr>> {
        if let Some(address) = self.of(pod) {
            return Ok(Some(address));
        }
        let free = (0..self.cidr.capacity())
            .map(|n| self.next.wrapping_add(n) % self.cidr.capacity())
            .find(|n| !self.leases.contains_key(&self.cidr.pod(*n)));
        let Some(n) = free else { return Ok(None) };
        let address = self.cidr.pod(n);
        let lease = Lease { version: 1, pod: pod.to_owned(), host_ports: Vec::new() };
        self.write(address, &lease)?;
        self.next = n + 1;
        self.by_pod.insert(pod.to_owned(), address);
        self.leases.insert(address, lease);
        Ok(Some(address))
    }

    /// Remembers a pod's host ports. `false` where it has no address.
    pub(crate) fn set_host_ports(&mut self, pod: &str, ports: Vec<HostPort>) -> io::Result<bool> {
        let Some(address) = self.of(pod) else { return Ok(false) };
        let lease = Lease { version: 1, pod: pod.to_owned(), host_ports: ports };
        self.write(address, &lease)?;
        self.leases.insert(address, lease);
        Ok(true)
    }

    /// Forgets a pod; its lease, where it had one.
    pub(crate) fn release(&mut self, pod: &str) -> io::Result<Option<Lease>> {
        let Some(address) = self.of(pod) else { return Ok(None) };
        match fs::remove_file(self.folder.join(address.to_string())) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        self.by_pod.remove(pod);
        Ok(self.leases.remove(&address))
    }

    fn write(&self, address: Ipv4Addr, lease: &Lease) -> io::Result<()> {
        // A half-written file must not count as a lease, nor make one vanish.
        let new = self.folder.join(format!("{address}.new"));
        fs::write(&new, serde_json::to_vec(lease)?)?;
        fs::rename(&new, self.folder.join(address.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let cidr: Cidr = "10.9.8.0/29".parse().unwrap();
        let mut a = Addresses::load(folder.path(), cidr).unwrap();
        let first = a.take("ns/a").unwrap().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 9, 8, 2));
        assert_eq!(a.take("ns/a").unwrap(), Some(first), "the same pod, the same address");
        let second = a.take("ns/b").unwrap().unwrap();
        a.release("ns/a").unwrap();
        a.release("ns/a").unwrap();
        assert_ne!(a.take("ns/c").unwrap(), Some(first), "a released address rests");
        // Another process, after a crash in the middle of a write.
        fs::write(folder.path().join("10.9.8.6.new"), "{").unwrap();
        fs::write(folder.path().join("10.9.8.5"), "").unwrap();
        let ports =
            vec![HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: 80, container_port: 8080 }];
        assert!(a.set_host_ports("ns/b", ports.clone()).unwrap());
        assert!(!a.set_host_ports("ns/x", vec![]).unwrap());
        let mut a = Addresses::load(folder.path(), cidr).unwrap();
        assert_eq!(a.of("ns/b"), Some(second));
        assert_eq!(a.iter().find(|(_, l)| l.pod == "ns/b").unwrap().1.host_ports, ports);
        let mut taken = vec![a.take("d").unwrap(), a.take("e").unwrap(), a.take("f").unwrap()];
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), 3);
        assert_eq!(a.take("g").unwrap(), None, "all five are taken");
        a.release("e").unwrap();
        assert!(a.take("g").unwrap().is_some());
    }
}
