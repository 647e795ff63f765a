//! The rules of one family of addresses in the kernel: `iptables` or `ip6tables`, with their `-save` and `-restore`.

use crate::chains::SERVICE_CHAINS;
use crate::model::Family;
use crate::ruleset::SHARED;
use orlop_netfilter::{NetfilterError, run};
use std::collections::BTreeSet;

/// Exists in each table that we use for as long as nobody flushes the rules behind our back.
const CANARY: &str = "KUBE-PROXY-CANARY";
const CANARY_TABLES: [&str; 3] = ["mangle", "nat", "filter"];

/// A rule of a built-in chain that leads to one of ours: table, chain, match, comment, target.
type Jump = (&'static str, &'static str, &'static [&'static str], &'static str, &'static str);

const NEW: &[&str] = &["-m", "conntrack", "--ctstate", "NEW"];

/// Those that come last here come first in their chain.
const JUMPS: [Jump; 14] = [
    ("filter", "INPUT", NEW, "kubernetes externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
    ("filter", "FORWARD", NEW, "kubernetes externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
    ("filter", "INPUT", &[], "kubernetes health check service ports", "KUBE-NODEPORTS"),
    ("filter", "FORWARD", NEW, "kubernetes service portals", "KUBE-SERVICES"),
    ("filter", "OUTPUT", NEW, "kubernetes service portals", "KUBE-SERVICES"),
    ("filter", "FORWARD", &[], "kubernetes forwarding rules", "KUBE-FORWARD"),
    ("filter", "INPUT", NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("filter", "OUTPUT", NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("filter", "FORWARD", NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("filter", "INPUT", &[], "", "KUBE-FIREWALL"),
    ("filter", "OUTPUT", &[], "", "KUBE-FIREWALL"),
    ("nat", "OUTPUT", &[], "kubernetes service portals", "KUBE-SERVICES"),
    ("nat", "PREROUTING", &[], "kubernetes service portals", "KUBE-SERVICES"),
    ("nat", "POSTROUTING", &[], "kubernetes postrouting rules", "KUBE-POSTROUTING"),
];

/// The programs of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iptables(pub(crate) Family);

impl Iptables {
    fn program(self, suffix: &str) -> String {
        let name = match self.0 {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        format!("{name}{suffix}")
    }

    async fn run(self, suffix: &str, args: &[&str], input: Option<&str>) -> Result<String, NetfilterError> {
        run(&self.program(suffix), args, input).await
    }

    /// Whether a rule or chain is there, as the exit status of `args` says.
    async fn has(self, args: &[&str]) -> Result<bool, NetfilterError> {
        match self.run("", args, None).await {
            Ok(_) => Ok(true),
            Err(NetfilterError::Failed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Executes the output of a [`crate::Ruleset`]: per table all of it or nothing.
    pub(crate) async fn restore(self, text: &str) -> Result<(), NetfilterError> {
        self.run("-restore", &["-w", "5", "--noflush"], Some(text)).await.map(|_| ())
    }

    /// Chains of a table.
    async fn chains(self, table: &str) -> Result<BTreeSet<String>, NetfilterError> {
        let saved = self.run("-save", &["-t", table], None).await?;
        let name = |line: &str| Some(line.strip_prefix(':')?.split_whitespace().next()?.to_owned());
        Ok(saved.lines().filter_map(name).collect())
    }

    /// Chains of the nat table that belong to Services, whoever made them.
    pub(crate) async fn service_chains(self) -> Result<BTreeSet<String>, NetfilterError> {
        let chains = self.chains("nat").await?;
        Ok(chains.into_iter().filter(|c| SERVICE_CHAINS.iter().any(|p| c.starts_with(p))).collect())
    }

    fn jump((table, chain, matches, comment, target): &Jump, verb: &'static str) -> Vec<&'static str> {
        let mut args = vec!["-w", "5", "-t", table, verb, chain];
        args.extend_from_slice(matches);
        if !comment.is_empty() {
            args.extend_from_slice(&["-m", "comment", "--comment", comment]);
        }
        args.extend_from_slice(&["-j", target]);
        args
    }

    /// Makes the canaries. Before all else: a flush while the rules are written must be noticed too.
    pub(crate) async fn make_canaries(self) -> Result<(), NetfilterError> {
        for table in CANARY_TABLES {
            self.restore(&format!("*{table}\n:{CANARY} - [0:0]\nCOMMIT\n")).await?;
        }
        Ok(())
    }

    /// Makes the rules that lead to our chains, which must exist.
    pub(crate) async fn ensure_jumps(self) -> Result<(), NetfilterError> {
        for jump in &JUMPS {
            if !self.has(&Self::jump(jump, "-C")).await? {
                self.run("", &Self::jump(jump, "-I"), None).await?;
            }
        }
        Ok(())
    }

    /// Whether nobody has flushed a table since [`Iptables::make_canaries`].
    pub(crate) async fn canaries_live(self) -> Result<bool, NetfilterError> {
        for table in CANARY_TABLES {
            if !self.has(&["-w", "5", "-t", table, "-n", "-L", CANARY]).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes all that the proxy ever made. Twice changes nothing.
    pub(crate) async fn clean_up(self) -> Result<(), NetfilterError> {
        for jump in &JUMPS {
            while self.has(&Self::jump(jump, "-D")).await? {}
        }
        for table in CANARY_TABLES {
            let ours = |chain: &String| {
                chain == CANARY
                    || SHARED.iter().any(|(t, c)| *t == table && c == chain)
                    || (table == "nat" && SERVICE_CHAINS.iter().any(|p| chain.starts_with(p)))
            };
            let chains: Vec<String> = self.chains(table).await?.into_iter().filter(ours).collect();
            if chains.is_empty() {
                continue;
            }
            let mut text = format!("*{table}\n");
            for chain in &chains {
                text.push_str(&format!(":{chain} - [0:0]\n"));
            }
            for chain in &chains {
                text.push_str(&format!("-X {chain}\n"));
            }
            text.push_str("COMMIT\n");
            self.restore(&text).await?;
        }
        Ok(())
    }
}
