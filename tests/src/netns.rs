//! A host of its own: a network namespace joined to ours by a veth pair.

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;

/// A network namespace with one address and a default route; removed when dropped.
pub struct NetNs {
    name: String,
    subnet: u8,
    // Holds the subnet for as long as we live, against other test processes.
    _lock: Flock<File>,
}

impl NetNs {
    /// Makes the namespace.
    ///
    /// # Errors
    /// Where the kernel refuses, or all subnets are taken.
    pub fn new() -> Result<Self> {
        let (subnet, lock) = free_subnet()?;
        let ns = Self { name: format!("orlop-test-{subnet}"), subnet, _lock: lock };
        ns.remove();
        let (name, link) = (ns.name.as_str(), ns.link());
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["address", "add", &format!("{}/30", ns.gateway()), "dev", &link])?;
        ip(&["link", "set", &link, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "address", "add", &format!("{}/30", ns.address()), "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "route", "add", "default", "via", &ns.gateway().to_string()])?;
        Ok(ns)
    }

    /// The address of the host in the namespace.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, 2)
    }

    /// Our own address on the link to it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, 1)
    }

    /// A command that runs in the namespace, with our own mounts and cgroups.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    fn link(&self) -> String {
        format!("otest{}", self.subnet)
    }

    fn remove(&self) {
        // What is not there need not be removed; what stays shows when the name is taken next.
        let _ = ip(&["netns", "delete", &self.name]);
        let _ = ip(&["link", "delete", &self.link()]);
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        self.remove();
    }
}

fn free_subnet() -> Result<(u8, Flock<File>)> {
    let dir = std::env::temp_dir().join("orlop-test-subnets");
    std::fs::create_dir_all(&dir)?;
    for subnet in 1..=250 {
        let file =
            File::options().create(true).truncate(false).write(true).open(dir.join(subnet.to_string()))?;
        if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            return Ok((subnet, lock));
        }
    }
    bail!("all test subnets are taken: {}", dir.display());
}

fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(args).output().context("cannot run ip: install iproute2")?;
    if !out.status.success() {
        bail!("`ip {}` failed: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
