//! The pod network's own iptables rules: masquerade and host ports. Those of Services are
//! `host/proxy`'s.
//!
//! Pure text first, then one `iptables-restore`: applying twice changes nothing.

use crate::{Ipv4Cidr, Lease, NetworkError};
use std::fmt::Write;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const POSTROUTING: &str = "ORLOP-POSTROUTING";
const HOSTPORTS: &str = "ORLOP-HOSTPORTS";
const FORWARD: &str = "ORLOP-FORWARD";

/// Table, built-in chain, and the rule that leads from it to ours.
const JUMPS: &[(&str, &str, &str)] = &[
    ("nat", "POSTROUTING", "-j ORLOP-POSTROUTING"),
    ("nat", "PREROUTING", "-m addrtype --dst-type LOCAL -j ORLOP-HOSTPORTS"),
    ("nat", "OUTPUT", "-m addrtype --dst-type LOCAL -j ORLOP-HOSTPORTS"),
    ("filter", "FORWARD", "-j ORLOP-FORWARD"),
];

/// The content of our chains, for `iptables-restore --noflush`.
pub(crate) fn render(bridge: &str, range: Ipv4Cidr, leases: &[Lease]) -> String {
    let mut nat = format!("*nat\n:{POSTROUTING} - [0:0]\n:{HOSTPORTS} - [0:0]\n");
    // Declaring a chain under --noflush empties it, where it exists.
    let mut masquerade = String::new();
    for lease in leases {
        for port in &lease.ports {
            let (protocol, address) = (port.protocol.as_str(), lease.address);
            let to = port.host_ip.map(|ip| format!(" -d {ip}/32")).unwrap_or_default();
            let (from, target) = (port.host_port, port.container_port);
            // The formatter of a String cannot fail.
            let _ = writeln!(
                nat,
                "-A {HOSTPORTS}{to} -p {protocol} -m {protocol} --dport {from} -j DNAT --to-destination {address}:{target}"
            );
            let _ = writeln!(
                masquerade,
                "-A {POSTROUTING} -s {address}/32 -d {address}/32 -p {protocol} -m {protocol} --dport {target} -j MASQUERADE"
            );
        }
    }
    nat.push_str(&masquerade);
    let _ = writeln!(nat, "-A {POSTROUTING} -s 127.0.0.0/8 -o {bridge} -j MASQUERADE");
    let _ = writeln!(nat, "-A {POSTROUTING} -s {range} ! -d {range} ! -o {bridge} -j MASQUERADE");
    nat.push_str("COMMIT\n");
    format!(
        "{nat}*filter\n:{FORWARD} - [0:0]\n-A {FORWARD} -s {range} -j ACCEPT\n-A {FORWARD} -d {range} -j ACCEPT\nCOMMIT\n"
    )
}

/// Writes the chains, and the jumps to them where they are missing.
pub(crate) async fn apply(text: String) -> Result<(), NetworkError> {
    run("iptables-restore", &["-w", "5", "--noflush"], Some(text)).await?;
    for (table, chain, rule) in JUMPS {
        if run("iptables", &words(table, "-C", chain, rule), None).await.is_err() {
            run("iptables", &words(table, "-A", chain, rule), None).await?;
        }
    }
    Ok(())
}

/// Removes jumps and chains. Idempotent.
pub(crate) async fn remove() -> Result<(), NetworkError> {
    for (table, chain, rule) in JUMPS {
        while run("iptables", &words(table, "-C", chain, rule), None).await.is_ok() {
            run("iptables", &words(table, "-D", chain, rule), None).await?;
        }
    }
    for (table, chain) in [("nat", POSTROUTING), ("nat", HOSTPORTS), ("filter", FORWARD)] {
        if run("iptables", &["-w", "5", "-t", table, "-F", chain], None).await.is_ok() {
            run("iptables", &["-w", "5", "-t", table, "-X", chain], None).await?;
        }
    }
    Ok(())
}

fn words<'a>(table: &'a str, command: &'a str, chain: &'a str, rule: &'a str) -> Vec<&'a str> {
    let mut words = vec!["-w", "5", "-t", table, command, chain];
    words.extend(rule.split(' '));
    words
}

async fn run(program: &str, args: &[&str], stdin: Option<String>) -> Result<(), NetworkError> {
    let failed = |message: String| NetworkError::Rules { message };
    let mut child = Command::new(program)
        .args(args)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(format!("cannot run {program} ({e}); `apt-get install iptables` brings it")))?;
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // Where it ended early, its own words below say why.
        let _ = pipe.write_all(text.as_bytes()).await;
    }
    let out = child.wait_with_output().await.map_err(|e| failed(e.to_string()))?;
    if out.status.success() {
        return Ok(());
    }
    Err(failed(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim())))
}
