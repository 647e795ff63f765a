//! Forgets UDP flows that lead to endpoints which are gone.
//!
//! A UDP client that goes on sending keeps its conntrack entry alive, and with it the translation
//! to an endpoint that no longer exists, or none at all where there was no endpoint when it began.

use crate::model::Family;
use crate::render::{Fragment, UdpEntry};
use orlop_netfilter::{NetfilterError, run};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What to forget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stale {
    /// Flows that came in here and were led to an endpoint.
    Endpoint(UdpEntry, IpAddr),
    /// All flows that came in here: there were no endpoints, now there are.
    Entry(UdpEntry),
}

/// The flows that a change of a Service's rules makes stale.
pub(crate) fn stale(old: &Fragment, new: &Fragment) -> BTreeSet<Stale> {
    let mut out = BTreeSet::new();
    let none = BTreeSet::new();
    for (entry, before) in &old.udp {
        let after = new.udp.get(entry).unwrap_or(&none);
        out.extend(before.difference(after).map(|ip| Stale::Endpoint(entry.clone(), *ip)));
    }
    for (entry, after) in &new.udp {
        if !after.is_empty() && old.udp.get(entry).is_none_or(BTreeSet::is_empty) {
            out.insert(Stale::Entry(entry.clone()));
        }
    }
    out
}

/// Forgets a flow. That there is none is no error.
pub(crate) async fn forget(stale: &Stale, family: Family) -> Result<(), NetfilterError> {
    let mut args: Vec<String> = ["-D", "-p", "udp"].map(str::to_owned).to_vec();
    if family == Family::V6 {
        args.extend(["-f", "ipv6"].map(str::to_owned));
    }
    let (Stale::Endpoint(entry, _) | Stale::Entry(entry)) = stale;
    match entry {
        UdpEntry::Address(ip) => args.extend(["--orig-dst".to_owned(), ip.to_string()]),
        UdpEntry::NodePort(port) => args.extend(["--dport".to_owned(), port.to_string()]),
    }
    if let Stale::Endpoint(_, ip) = stale {
        args.extend(["--dst-nat".to_owned(), ip.to_string()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run("conntrack", &args, None).await {
        Err(NetfilterError::Failed { message, .. })
            if message.contains("0 flow entries have been deleted") =>
        {
            Ok(())
        }
        Err(NetfilterError::Missing { program, .. }) => {
            tracing::warn!(
                program,
                "UDP clients of endpoints that went may see no answer; install the package conntrack"
            );
            Ok(())
        }
        other => other.map(|_| ()),
    }
}
