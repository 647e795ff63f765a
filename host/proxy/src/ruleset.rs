//! All Services' rules together, and the input of `iptables-restore` that leads from what is
//! applied to what should be.
//!
//! Pure. A change costs its own Services, and the shared chains only where a Service's part of
//! them changed.

use crate::model::{Family, ServiceKey};
use crate::render::Fragment;
use std::collections::{BTreeMap, BTreeSet};

/// The chains that all Services share: table, name.
pub(crate) const SHARED: [(&str, &str); 10] = [
    ("filter", "KUBE-NODEPORTS"),
    ("filter", "KUBE-SERVICES"),
    ("filter", "KUBE-EXTERNAL-SERVICES"),
    ("filter", "KUBE-FIREWALL"),
    ("filter", "KUBE-FORWARD"),
    ("filter", "KUBE-PROXY-FIREWALL"),
    ("nat", "KUBE-NODEPORTS"),
    ("nat", "KUBE-SERVICES"),
    ("nat", "KUBE-MARK-MASQ"),
    ("nat", "KUBE-POSTROUTING"),
];

/// Rules of shared chains that do not depend on Services.
fn fixed(family: Family, table: &str, chain: &str) -> &'static str {
    match (table, chain) {
        // Packets to 127.0.0.0/8 from elsewhere: route_localnet lets them in, see CVE-2020-8558.
        ("filter", "KUBE-FIREWALL") if family == Family::V4 => {
            "-A KUBE-FIREWALL -m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 \
             ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n"
        }
        ("filter", "KUBE-FORWARD") => {
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
             -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
             -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
        }
        ("nat", "KUBE-MARK-MASQ") => "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
        ("nat", "KUBE-POSTROUTING") => {
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
             -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n"
        }
        ("nat", "KUBE-SERVICES") => {
            "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" \
             -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n"
        }
        _ => "",
    }
}

/// A Service's part of a shared chain.
fn part<'a>(fragment: &'a Fragment, table: &str, chain: &str) -> &'a str {
    match (table, chain) {
        ("filter", "KUBE-SERVICES") => &fragment.filter_services,
        ("filter", "KUBE-EXTERNAL-SERVICES") => &fragment.filter_external,
        ("filter", "KUBE-PROXY-FIREWALL") => &fragment.filter_firewall,
        ("nat", "KUBE-NODEPORTS") => &fragment.nat_node_ports,
        ("nat", "KUBE-SERVICES") => &fragment.nat_services,
        _ => "",
    }
}

/// The rules of all Services of one family.
#[derive(Clone, Debug)]
pub struct Ruleset {
    family: Family,
    fragments: BTreeMap<ServiceKey, Fragment>,
}

/// One table's part of the input.
#[derive(Default)]
struct TableText {
    declared: String,
    rules: String,
    removed: String,
}

impl TableText {
    fn chain(&mut self, name: &str, rules: impl IntoIterator<Item = impl AsRef<str>>) {
        self.declared.push_str(&format!(":{name} - [0:0]\n"));
        for part in rules {
            self.rules.push_str(part.as_ref());
        }
    }

    /// A chain can go once it is empty and nothing leads to it.
    fn remove(&mut self, name: &str) {
        self.declared.push_str(&format!(":{name} - [0:0]\n"));
        self.removed.push_str(&format!("-X {name}\n"));
    }

    fn finish(self, table: &str) -> String {
        if self.declared.is_empty() {
            return String::new();
        }
        format!("*{table}\n{}{}{}COMMIT\n", self.declared, self.rules, self.removed)
    }
}

impl Ruleset {
    /// No Services.
    #[must_use]
    pub const fn new(family: Family) -> Self {
        Self { family, fragments: BTreeMap::new() }
    }

    /// Whether no Service has rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }

    /// The rules of one Service.
    #[must_use]
    pub fn get(&self, key: &ServiceKey) -> Option<&Fragment> {
        self.fragments.get(key)
    }

    fn shared(&self, table: &str, chain: &str, text: &mut TableText) {
        let parts = self.fragments.values().map(|f| part(f, table, chain));
        text.chain(chain, parts.chain([fixed(self.family, table, chain)]));
    }

    /// Everything, whatever is there now; `stale` are chains of the nat table to remove.
    #[must_use]
    pub fn full(&self, stale: &BTreeSet<String>) -> String {
        let (mut filter, mut nat) = (TableText::default(), TableText::default());
        for (table, chain) in SHARED {
            self.shared(table, chain, if table == "nat" { &mut nat } else { &mut filter });
        }
        let mut ours = BTreeSet::new();
        for (name, rules) in self.fragments.values().flat_map(|f| &f.chains) {
            ours.insert(name);
            nat.chain(name, [rules]);
        }
        for name in stale.iter().filter(|name| !ours.contains(name)) {
            nat.remove(name);
        }
        filter.finish("filter") + &nat.finish("nat")
    }

    /// Takes in new rules of some Services (an empty fragment for one that has gone) and returns
    /// the input that makes the difference; empty for none.
    pub fn update(&mut self, changes: Vec<(ServiceKey, Fragment)>) -> String {
        let (mut filter, mut nat) = (TableText::default(), TableText::default());
        let mut touched = BTreeSet::new();
        let mut removed = BTreeSet::new();
        let mut written = BTreeSet::new();
        for (key, new) in changes {
            let old = self.fragments.remove(&key).unwrap_or_default();
            for (table, chain) in SHARED {
                if part(&old, table, chain) != part(&new, table, chain) {
                    touched.insert((table, chain));
                }
            }
            for (name, rules) in &new.chains {
                if old.chains.get(name) != Some(rules) {
                    nat.chain(name, [rules]);
                    written.insert(name.clone());
                }
            }
            removed.extend(old.chains.into_keys().filter(|name| !new.chains.contains_key(name)));
            if new != Fragment::default() {
                self.fragments.insert(key, new);
            }
        }
        for (table, chain) in touched {
            self.shared(table, chain, if table == "nat" { &mut nat } else { &mut filter });
        }
        for name in removed.difference(&written) {
            nat.remove(name);
        }
        filter.finish("filter") + &nat.finish("nat")
    }
}
