//! One Service and its endpoints as rules.
//!
//! Pure: same input, same bytes. Applying the rules is `iptables`' job.
//!
//! Invariant: a chain never jumps to a chain of this Service that is not in the same fragment.
//! The rules and their order are kube-proxy's (pkg/proxy/iptables), so that what people know of one
//! holds for the other.

use crate::chains::{PortChains, endpoint_chain};
use crate::model::{Endpoint, Family, Service, ServiceKey, ServicePort, Slice};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// What holds for all Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Traffic from elsewhere than this (the pods' CIDR) to a cluster IP is masqueraded; `None`
    /// masquerades nothing of that kind.
    pub pod_cidr: Option<String>,
    /// The zone of this node, for endpoints with topology hints.
    pub zone: Option<String>,
}

/// The rules of one Service: parts of the chains that all Services share, and chains of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Of nat `KUBE-SERVICES`.
    pub nat_services: String,
    /// Of nat `KUBE-NODEPORTS`.
    pub nat_node_ports: String,
    /// Of filter `KUBE-SERVICES`.
    pub filter_services: String,
    /// Of filter `KUBE-EXTERNAL-SERVICES`.
    pub filter_external: String,
    /// Of filter `KUBE-PROXY-FIREWALL`.
    pub filter_firewall: String,
    /// Chains of the nat table by name: their rules, one per line.
    pub chains: BTreeMap<String, String>,
    /// Where UDP clients may hold on to an endpoint that has gone.
    pub udp: BTreeMap<UdpEntry, BTreeSet<IpAddr>>,
}

/// How clients reach a UDP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UdpEntry {
    /// An address of the Service.
    Address(IpAddr),
    /// A port of the node.
    NodePort(u16),
}

/// The endpoints that a port uses, by policy.
struct Chosen<'a> {
    cluster: Vec<&'a Endpoint>,
    local: Vec<&'a Endpoint>,
}

/// Endpoints of one port of one family, without duplicates, in order.
fn endpoints_of<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    port: &ServicePort,
    family: Family,
) -> BTreeMap<SocketAddr, &'a Endpoint> {
    let key = (port.name.clone(), port.protocol);
    let mut all: BTreeMap<SocketAddr, &Endpoint> = BTreeMap::new();
    for endpoint in slices.filter_map(|s| s.ports.get(&key)).flatten().filter(|e| family.has(e.ip)) {
        // While an endpoint moves between slices it may be in two: the better one counts.
        let rank = |e: &Endpoint| (e.ready, e.serving, !e.terminating);
        let slot = all.entry(SocketAddr::new(endpoint.ip, endpoint.port)).or_insert(endpoint);
        if rank(endpoint) > rank(slot) {
            *slot = endpoint;
        }
    }
    all
}

/// Ready endpoints, or where there are none those that still serve while they terminate.
fn usable<'a>(all: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<&'a Endpoint> {
    let ready: Vec<_> = all.clone().filter(|e| e.ready).collect();
    if ready.is_empty() { all.filter(|e| e.serving && e.terminating).collect() } else { ready }
}

fn choose<'a>(all: &BTreeMap<SocketAddr, &'a Endpoint>, zone: Option<&str>) -> Chosen<'a> {
    let mut cluster = usable(all.values().copied());
    // Hints count only where every endpoint has one and some are for us.
    if let Some(zone) = zone
        && cluster.iter().all(|e| e.ready && !e.zones.is_empty())
    {
        let ours: Vec<_> = cluster.iter().copied().filter(|e| e.zones.iter().any(|z| z == zone)).collect();
        if !ours.is_empty() {
            cluster = ours;
        }
    }
    Chosen { cluster, local: usable(all.values().copied().filter(|e| e.local)) }
}

/// Renders a Service for one family. Empty where it has no address of that family.
#[must_use]
pub fn render<'a>(
    key: &ServiceKey,
    service: &Service,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    family: Family,
    settings: &Settings,
) -> Fragment {
    let mut out = Fragment::default();
    let Some(cluster_ip) = service.cluster_ips.iter().copied().find(|ip| family.has(*ip)) else { return out };
    for port in &service.ports {
        let endpoints = endpoints_of(slices.clone(), port, family);
        let colon = if port.name.is_empty() { "" } else { ":" };
        let name = format!("{}/{}{colon}{}", key.0, key.1, port.name);
        let rules = PortRules {
            chains: PortChains::new(&name, port.protocol),
            chosen: choose(&endpoints, settings.zone.as_deref()),
            name,
            service,
            port,
            cluster_ip,
            family,
            settings,
        };
        rules.render(&mut out);
    }
    out
}

struct PortRules<'a> {
    name: String,
    chains: PortChains,
    service: &'a Service,
    port: &'a ServicePort,
    cluster_ip: IpAddr,
    chosen: Chosen<'a>,
    family: Family,
    settings: &'a Settings,
}

impl PortRules<'_> {
    fn external_ips(&self) -> impl Iterator<Item = IpAddr> {
        self.service.external_ips.iter().copied().filter(|ip| self.family.has(*ip))
    }

    fn load_balancer_ips(&self) -> impl Iterator<Item = IpAddr> {
        self.service.load_balancer_ips.iter().copied().filter(|ip| self.family.has(*ip))
    }

    fn is_external(&self) -> bool {
        self.port.node_port != 0
            || self.external_ips().next().is_some()
            || self.load_balancer_ips().next().is_some()
    }

    fn source_ranges(&self) -> Vec<&str> {
        let ours = |range: &&str| range.contains(':') == (self.family == Family::V6);
        self.service.source_ranges.iter().map(String::as_str).filter(ours).collect()
    }

    /// `-m tcp -p tcp -d 10.0.0.1 --dport 80`
    fn to(&self, ip: IpAddr) -> String {
        let protocol = self.port.protocol.lower();
        format!("-m {protocol} -p {protocol} -d {ip} --dport {}", self.port.port)
    }

    fn render(&self, out: &mut Fragment) {
        let Self { name, chains, service, port, chosen, .. } = self;
        let protocol = port.protocol.lower();
        let uses_cluster = !service.internal_local || self.is_external();
        let uses_local = service.internal_local || (service.external_local && self.is_external());
        let has_endpoints =
            (uses_cluster && !chosen.cluster.is_empty()) || (uses_local && !chosen.local.is_empty());
        let has_internal = has_endpoints && !(service.internal_local && chosen.local.is_empty());
        let has_external = has_endpoints && !(service.external_local && chosen.local.is_empty());
        let (refuse, because) =
            if has_endpoints { ("DROP", "has no local endpoints") } else { ("REJECT", "has no endpoints") };
        let internal_chain = if service.internal_local { &chains.local } else { &chains.cluster };

        let to_cluster_ip = self.to(self.cluster_ip);
        let _ = if has_internal {
            writeln!(
                out.nat_services,
                "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" {to_cluster_ip} -j {internal_chain}"
            )
        } else {
            writeln!(
                out.filter_services,
                "-A KUBE-SERVICES -m comment --comment \"{name} {because}\" {to_cluster_ip} -j {refuse}"
            )
        };
        let external = &chains.external;
        for ip in self.external_ips() {
            let to = self.to(ip);
            if has_endpoints {
                let _ = writeln!(
                    out.nat_services,
                    "-A KUBE-SERVICES -m comment --comment \"{name} external IP\" {to} -j {external}"
                );
            }
            if !has_external {
                self.refuse_external(out, because, &to, refuse);
            }
        }
        let ranges = self.source_ranges();
        let fenced = !service.source_ranges.is_empty();
        let balanced = if fenced { &chains.firewall } else { external };
        for ip in self.load_balancer_ips() {
            let to = self.to(ip);
            if has_endpoints {
                let _ = writeln!(
                    out.nat_services,
                    "-A KUBE-SERVICES -m comment --comment \"{name} loadbalancer IP\" {to} -j {balanced}"
                );
                if fenced {
                    let _ = writeln!(
                        out.filter_firewall,
                        "-A KUBE-PROXY-FIREWALL -m comment --comment \"{name} traffic not accepted by {balanced}\" {to} -j DROP"
                    );
                }
            }
            if !has_external {
                self.refuse_external(out, because, &to, refuse);
            }
        }
        if port.node_port != 0 {
            let to = format!("-m {protocol} -p {protocol} --dport {}", port.node_port);
            if has_endpoints {
                let _ = writeln!(
                    out.nat_node_ports,
                    "-A KUBE-NODEPORTS -m comment --comment {name} {to} -j {external}"
                );
            }
            if !has_external {
                self.refuse_external(out, because, &format!("-m addrtype --dst-type LOCAL {to}"), refuse);
            }
        }
        self.note_udp(out, has_endpoints);
        if !has_endpoints {
            return;
        }
        if fenced && self.load_balancer_ips().next().is_some() {
            let mut rules = String::new();
            for range in ranges {
                let _ = writeln!(
                    rules,
                    "-A {balanced} -m comment --comment \"{name} loadbalancer IP\" -s {range} -j {external}"
                );
            }
            let _ = writeln!(
                rules,
                "-A {balanced} -m comment --comment \"other traffic to {name} will be dropped by KUBE-PROXY-FIREWALL\""
            );
            out.chains.insert(balanced.clone(), rules);
        }
        if self.is_external() {
            out.chains.insert(external.clone(), self.external_chain(has_external));
        }
        if uses_cluster && !chosen.cluster.is_empty() {
            self.policy_chain(out, &chains.cluster, &chosen.cluster, !service.internal_local, &to_cluster_ip);
        }
        if uses_local && !chosen.local.is_empty() {
            self.policy_chain(out, &chains.local, &chosen.local, service.internal_local, &to_cluster_ip);
        }
    }

    fn refuse_external(&self, out: &mut Fragment, because: &str, to: &str, refuse: &str) {
        let name = &self.name;
        let _ = writeln!(
            out.filter_external,
            "-A KUBE-EXTERNAL-SERVICES -m comment --comment \"{name} {because}\" {to} -j {refuse}"
        );
    }

    fn external_chain(&self, has_external: bool) -> String {
        let (name, chain, cluster) = (&self.name, &self.chains.external, &self.chains.cluster);
        let mut rules = String::new();
        if self.service.external_local {
            if let Some(cidr) = &self.settings.pod_cidr {
                let _ = writeln!(
                    rules,
                    "-A {chain} -m comment --comment \"pod traffic for {name} external destinations\" -s {cidr} -j {cluster}"
                );
            }
            let _ = writeln!(
                rules,
                "-A {chain} -m comment --comment \"masquerade LOCAL traffic for {name} external destinations\" \
                 -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ\n\
                 -A {chain} -m comment --comment \"route LOCAL traffic for {name} external destinations\" \
                 -m addrtype --src-type LOCAL -j {cluster}"
            );
        } else {
            let _ = writeln!(
                rules,
                "-A {chain} -m comment --comment \"masquerade traffic for {name} external destinations\" -j KUBE-MARK-MASQ"
            );
        }
        if has_external {
            let to = if self.service.external_local { &self.chains.local } else { cluster };
            let _ = writeln!(rules, "-A {chain} -j {to}");
        }
        rules
    }

    /// A chain that picks one of `endpoints`, and the endpoints' chains.
    fn policy_chain(
        &self,
        out: &mut Fragment,
        chain: &str,
        endpoints: &[&Endpoint],
        internal: bool,
        to: &str,
    ) {
        let (name, protocol) = (&self.name, self.port.protocol);
        let mut rules = String::new();
        if internal && let Some(cidr) = &self.settings.pod_cidr {
            let _ = writeln!(
                rules,
                "-A {chain} -m comment --comment \"{name} cluster IP\" {to} ! -s {cidr} -j KUBE-MARK-MASQ"
            );
        }
        let targets: Vec<(SocketAddr, String)> = endpoints
            .iter()
            .map(|e| {
                let at = SocketAddr::new(e.ip, e.port);
                (at, endpoint_chain(name, protocol, at))
            })
            .collect();
        if let Some(seconds) = self.service.affinity {
            for (at, target) in &targets {
                let _ = writeln!(
                    rules,
                    "-A {chain} -m comment --comment \"{name} -> {at}\" \
                     -m recent --name {target} --rcheck --seconds {seconds} --reap -j {target}"
                );
            }
        }
        for (n, (at, target)) in targets.iter().enumerate() {
            let left = targets.len() - n;
            let chance = if left > 1 {
                format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64)
            } else {
                String::new()
            };
            let _ = writeln!(rules, "-A {chain} -m comment --comment \"{name} -> {at}\"{chance} -j {target}");
        }
        out.chains.insert(chain.to_owned(), rules);
        for (at, target) in targets {
            let protocol = protocol.lower();
            let recent = if self.service.affinity.is_some() {
                format!(" -m recent --name {target} --set")
            } else {
                String::new()
            };
            let rules = format!(
                "-A {target} -m comment --comment {name} -s {} -j KUBE-MARK-MASQ\n\
                 -A {target} -m comment --comment {name}{recent} -m {protocol} -p {protocol} -j DNAT --to-destination {at}\n",
                at.ip()
            );
            out.chains.insert(target, rules);
        }
    }

    /// Notes where UDP clients come in and where they may be led.
    fn note_udp(&self, out: &mut Fragment, has_endpoints: bool) {
        if self.port.protocol != crate::model::Protocol::Udp {
            return;
        }
        let mut targets = BTreeSet::new();
        if has_endpoints {
            targets.extend(self.chosen.cluster.iter().chain(&self.chosen.local).map(|e| e.ip));
        }
        let addresses =
            std::iter::once(self.cluster_ip).chain(self.external_ips()).chain(self.load_balancer_ips());
        let ports = (self.port.node_port != 0).then_some(UdpEntry::NodePort(self.port.node_port));
        for entry in addresses.map(UdpEntry::Address).chain(ports) {
            out.udp.entry(entry).or_default().extend(targets.iter().copied());
        }
    }
}
