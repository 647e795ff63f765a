//! The pod network's iptables rules: text by a pure function, applied in one `iptables-restore`.

use crate::addresses::Lease;
use crate::cidr::Cidr;
use orlop_netfilter::{NetfilterError, run};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

const MASQUERADE: &str = "ORLOP-MASQUERADE";
const HOST_PORTS: &str = "ORLOP-HOSTPORTS";
const FORWARD: &str = "ORLOP-FORWARD";

/// Rules of the built-in chains that lead to ours: table, chain, rule.
const JUMPS: [(&str, &str, &[&str]); 4] = [
    ("nat", "POSTROUTING", &["-m", "comment", "--comment", "orlop pod network", "-j", MASQUERADE]),
    ("nat", "PREROUTING", &["-m", "addrtype", "--dst-type", "LOCAL", "-j", HOST_PORTS]),
    ("nat", "OUTPUT", &["-m", "addrtype", "--dst-type", "LOCAL", "-j", HOST_PORTS]),
    ("filter", "FORWARD", &["-m", "comment", "--comment", "orlop pod network", "-j", FORWARD]),
];

const CHAINS: [(&str, &str); 3] = [("nat", MASQUERADE), ("nat", HOST_PORTS), ("filter", FORWARD)];

/// Renders our chains. Addresses within `cidr` and `direct` are reached without masquerade.
pub(crate) fn render<'a>(
    bridge: &str,
    cidr: Cidr,
    direct: &[Cidr],
    leases: impl Iterator<Item = (Ipv4Addr, &'a Lease)>,
) -> String {
    let mut masquerade = String::new();
    let mut ports = String::new();
    for (address, lease) in leases {
        if lease.host_ports.is_empty() {
            continue;
        }
        // A pod that reaches itself through the host's port must see an answer from there.
        let _ = writeln!(masquerade, "-A {MASQUERADE} -s {address}/32 -d {address}/32 -j MASQUERADE");
        for port in &lease.host_ports {
            let protocol = port.protocol.lower();
            let to = port
                .host_ip
                .filter(|ip| !ip.is_unspecified())
                .map_or_else(String::new, |ip| format!(" -d {ip}/32"));
            let _ = writeln!(
                ports,
                "-A {HOST_PORTS}{to} -p {protocol} -m {protocol} --dport {} -j DNAT --to-destination {address}:{}",
                port.host_port, port.container_port
            );
        }
    }
    let mut out = format!("*nat\n:{MASQUERADE} - [0:0]\n:{HOST_PORTS} - [0:0]\n");
    out.push_str(&masquerade);
    let _ = writeln!(out, "-A {MASQUERADE} -s 127.0.0.0/8 -o {bridge} -j MASQUERADE");
    for to in std::iter::once(&cidr).chain(direct) {
        let _ = writeln!(out, "-A {MASQUERADE} -s {cidr} -d {to} -j RETURN");
    }
    let _ = writeln!(out, "-A {MASQUERADE} -s {cidr} -d 224.0.0.0/4 -j RETURN");
    let _ = writeln!(out, "-A {MASQUERADE} -s {cidr} ! -o {bridge} -j MASQUERADE --random-fully");
    out.push_str(&ports);
    let _ = writeln!(out, "COMMIT\n*filter\n:{FORWARD} - [0:0]");
    let _ = writeln!(out, "-A {FORWARD} -i {bridge} -j ACCEPT\n-A {FORWARD} -o {bridge} -j ACCEPT\nCOMMIT");
    out
}

/// Puts our chains and the rules that lead to them in place. Twice changes nothing.
pub(crate) async fn apply(rules: &str) -> Result<(), NetfilterError> {
    replace(rules).await?;
    for (table, chain, rule) in JUMPS {
        let with = |verb| [&["-w", "5", "-t", table, verb, chain], rule].concat();
        match run("iptables", &with("-C"), None).await {
            Err(NetfilterError::Failed { .. }) => run("iptables", &with("-A"), None).await?,
            other => other?,
        };
    }
    Ok(())
}

/// Replaces the content of our chains.
pub(crate) async fn replace(rules: &str) -> Result<(), NetfilterError> {
    run("iptables-restore", &["-w", "5", "--noflush"], Some(rules)).await.map(|_| ())
}

/// Removes everything that [`apply`] made.
pub(crate) async fn remove() -> Result<(), NetfilterError> {
    for (table, chain, rule) in JUMPS {
        // Once for each time that it is there; a rule that is not there ends the loop.
        while run("iptables", &[&["-w", "5", "-t", table, "-D", chain], rule].concat(), None).await.is_ok() {}
    }
    for (table, chain) in CHAINS {
        if run("iptables", &["-w", "5", "-t", table, "-n", "-L", chain], None).await.is_ok() {
            run("iptables", &["-w", "5", "-t", table, "-F", chain], None).await?;
            run("iptables", &["-w", "5", "-t", table, "-X", chain], None).await?;
        }
    }
    Ok(())
}
