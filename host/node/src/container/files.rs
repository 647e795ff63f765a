//! Files that the node writes for a pod: `/etc/hosts` and `/etc/resolv.conf`; and its host name.

use crate::config::NodeConfig;
use k8s_openapi::api::core::v1::{HostAlias, Pod, PodSpec};
use orlop_container::cri::DnsConfig;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Host name within the pod: `spec.hostname`, else the pod's name, cut to 63 bytes.
pub(crate) fn hostname(pod: &Pod) -> String {
    let spec = super::super::pod::model::spec_of(pod);
    let chosen = spec.hostname_override.as_deref().or(spec.hostname.as_deref()).filter(|h| !h.is_empty());
    let name = chosen.unwrap_or_else(|| pod.metadata.name.as_deref().unwrap_or_default());
    let mut end = name.len().min(63);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

/// `<hostname>.<subdomain>.<namespace>.svc.<domain>` where the pod has a subdomain.
fn fqdn(pod: &Pod, domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{}.{subdomain}.{namespace}.svc.{domain}", hostname(pod)))
}

/// The name that the pod's UTS namespace gets.
pub(crate) fn uts_name(pod: &Pod, domain: &str) -> String {
    let wanted = pod.spec.as_ref().is_some_and(|s| s.set_hostname_as_fqdn == Some(true));
    wanted.then(|| fqdn(pod, domain)).flatten().unwrap_or_else(|| hostname(pod))
}

/// The managed `/etc/hosts` of a pod with its own network.
pub(crate) fn hosts(pod: &Pod, ips: &[IpAddr], domain: &str) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let name = hostname(pod);
    for ip in ips {
        let _ = match fqdn(pod, domain) {
            Some(full) => writeln!(out, "{ip}\t{full}\t{name}"),
            None => writeln!(out, "{ip}\t{name}"),
        };
    }
    out.push_str(&aliases(pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref())));
    out
}

/// The managed `/etc/hosts` of a pod with the host's network: the host's own, and the aliases.
pub(crate) fn host_network_hosts(host: &str, spec: &PodSpec) -> String {
    format!(
        "# Kubernetes-managed hosts file (host network).\n{host}{}",
        aliases(spec.host_aliases.as_deref())
    )
}

fn aliases(aliases: Option<&[HostAlias]>) -> String {
    let Some(aliases) = aliases.filter(|a| !a.is_empty()) else { return String::new() };
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(out, "{}\t{names}", alias.ip);
    }
    out
}

/// Parses a `resolv.conf`.
pub(crate) fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => dns.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect(),
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns
}

/// The resolver configuration of a pod, by `dnsPolicy` and `dnsConfig`.
pub(crate) fn dns(pod: &Pod, config: &NodeConfig, host: &DnsConfig) -> DnsConfig {
    let spec = super::super::pod::model::spec_of(pod);
    let host_network = spec.host_network == Some(true);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut dns = match policy {
        "None" => DnsConfig::default(),
        _ if cluster => {
            let domain = &config.cluster_domain;
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(host.searches.iter().cloned());
            if config.cluster_dns.is_empty() {
                DnsConfig { searches, ..host.clone() }
            } else {
                let servers = config.cluster_dns.iter().map(ToString::to_string).collect();
                DnsConfig { servers, searches, options: vec!["ndots:5".to_owned()] }
            }
        }
        _ => host.clone(),
    };
    if let Some(extra) = &spec.dns_config {
        dns.servers.extend(extra.nameservers.iter().flatten().cloned());
        dns.searches.extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let line = match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            };
            dns.options.retain(|o| o.split(':').next() != Some(name));
            dns.options.push(line);
        }
    }
    dedup(&mut dns.servers);
    dedup(&mut dns.searches);
    // glibc reads three servers and no more.
    dns.servers.truncate(3);
    dns.searches.truncate(32);
    dns
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// `resolv.conf` as text.
#[cfg(test)]
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut out = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(out, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(out, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(out, "options {}", dns.options.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn hosts_file() {
        let pod = pod(json!({"containers": [], "subdomain": "web",
            "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]}));
        let text = hosts(&pod, &["10.0.0.7".parse().unwrap()], "cluster.local");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("\n10.0.0.7\tweb-0.web.shop.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n192.0.2.9\ta\tb\n"));
    }

    #[test]
    fn dns_by_policy() {
        let mut config = NodeConfig::new("n", "192.0.2.1".parse().unwrap(), "/tmp");
        let host = parse_resolv_conf("# x\nsearch example.org.\nnameserver 192.0.2.53\noptions edns0\n");
        let of = |spec, config: &NodeConfig| resolv_conf(&dns(&pod(spec), config, &host));
        assert_eq!(
            of(json!({"containers": []}), &config),
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.org\n\
             nameserver 192.0.2.53\noptions edns0\n"
        );
        config.cluster_dns = vec!["10.96.0.10".parse().unwrap()];
        assert_eq!(
            of(json!({"containers": []}), &config),
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.org\n\
             nameserver 10.96.0.10\noptions ndots:5\n"
        );
        let plain = "search example.org\nnameserver 192.0.2.53\noptions edns0\n";
        assert_eq!(of(json!({"containers": [], "dnsPolicy": "Default"}), &config), plain);
        assert_eq!(of(json!({"containers": [], "hostNetwork": true}), &config), plain);
        assert_eq!(
            of(
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig":
                    {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}}),
                &config
            ),
            "search x\nnameserver 1.1.1.1\noptions ndots:2\n"
        );
    }

    #[test]
    fn long_names_are_cut() {
        let name = format!("{}-x", "a".repeat(62));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        assert_eq!(hostname(&pod), "a".repeat(62));
    }
}
