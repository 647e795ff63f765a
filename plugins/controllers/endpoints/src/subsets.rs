//! The `subsets` of an Endpoints object: addresses that have the same ports.

use super::service::{Pod, Service};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One address with its ports and whether it is ready.
struct Entry {
    address: Value,
    ip: String,
    ready: bool,
    ports: Vec<Value>,
}

/// Ready addresses, others, and the ports that all of them have.
type Group = (Vec<Value>, Vec<Value>, Vec<Value>);

/// Subsets in a fixed order, and whether some addresses were left out because there are more than `capacity`.
pub(crate) fn of(service: &Service, pods: &[Pod], capacity: usize) -> (Vec<Value>, bool) {
    let publish = service.spec.publish_not_ready_addresses;
    let family = service
        .spec
        .ip_families
        .first()
        .map_or_else(|| if service.spec.cluster_ip.contains(':') { "IPv6" } else { "IPv4" }, String::as_str);
    let mut entries: Vec<Entry> = Vec::new();
    for pod in pods.iter().filter(|p| p.is_reachable() && (publish || !p.metadata.is_being_deleted())) {
        let Some(ip) = pod.addresses_of(family).first().map(|ip| (*ip).to_owned()) else { continue };
        let ports = ports(service, pod);
        // A port that the pod does not have says nothing about it; a headless Service may have no ports at all.
        if ports.is_empty() && !(service.is_headless() && service.spec.ports.is_empty()) {
            continue;
        }
        entries.push(Entry {
            address: address(service, pod, &ip),
            ip,
            ready: publish || pod.is_ready(),
            ports,
        });
    }
    // Ready ones are kept first.
    entries.sort_by(|a, b| b.ready.cmp(&a.ready).then_with(|| a.ip.cmp(&b.ip)));
    let truncated = entries.len() > capacity;
    entries.truncate(capacity);

    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for entry in entries {
        let key = Value::Array(entry.ports.clone()).to_string();
        let (ready, waiting, ports) = groups.entry(key).or_default();
        *ports = entry.ports;
        if entry.ready { ready.push(entry.address) } else { waiting.push(entry.address) }
    }
    let subset = |(ready, waiting, ports): Group| {
        let mut subset = json!({});
        for (field, list) in [("addresses", ready), ("notReadyAddresses", waiting), ("ports", ports)] {
            if !list.is_empty() {
                subset[field] = Value::Array(list);
            }
        }
        subset
    };
    (groups.into_values().map(subset).collect(), truncated)
}

fn ports(service: &Service, pod: &Pod) -> Vec<Value> {
    let port = |p: &super::service::ServicePort| {
        let mut port = json!({"port": pod.target_port(p)?, "protocol": p.protocol()});
        if !p.name.is_empty() {
            port["name"] = json!(p.name);
        }
        if let Some(protocol) = &p.app_protocol {
            port["appProtocol"] = json!(protocol);
        }
        Some(port)
    };
    let mut ports: Vec<Value> = service.spec.ports.iter().filter_map(port).collect();
    ports.sort_by_key(Value::to_string);
    ports.dedup();
    ports
}

fn address(service: &Service, pod: &Pod, ip: &str) -> Value {
    let mut address = json!({
        "ip": ip,
        "targetRef": {"kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid},
    });
    if !pod.spec.node_name.is_empty() {
        address["nodeName"] = json!(pod.spec.node_name);
    }
    if let Some(hostname) = pod.hostname_in(service) {
        address["hostname"] = json!(hostname);
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d"}, "spec": spec})).unwrap()
    }

    fn pod(name: &str, ip: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "http", "containerPort": if name == "b" { 81 } else { 80 }}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    #[test]
    fn groups_by_ports_and_readiness() {
        let s = service(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 8080, "targetPort": "http"}]}));
        let pods =
            [pod("a", "10.0.0.1", "True"), pod("b", "10.0.0.2", "True"), pod("c", "10.0.0.3", "False")];
        let (subsets, truncated) = of(&s, &pods, 1000);
        assert!(!truncated);
        assert_eq!(subsets.len(), 2);
        assert_eq!(subsets[0]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        assert_eq!(subsets[0]["addresses"][0]["ip"], "10.0.0.1");
        assert_eq!(subsets[0]["notReadyAddresses"][0]["ip"], "10.0.0.3");
        assert_eq!(subsets[1]["addresses"][0]["targetRef"]["name"], "b");
        assert_eq!(subsets[1]["addresses"][0]["nodeName"], "n1");
        let (again, _) = of(&s, &pods, 1000);
        assert_eq!(again, subsets);
    }

    #[test]
    fn keeps_the_ready_ones_when_there_are_too_many() {
        let s = service(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
        let pods =
            [pod("a", "10.0.0.1", "False"), pod("b", "10.0.0.2", "True"), pod("c", "10.0.0.3", "True")];
        let (subsets, truncated) = of(&s, &pods, 2);
        assert!(truncated);
        assert_eq!(subsets[0]["addresses"].as_array().unwrap().len(), 2);
        assert!(subsets[0].get("notReadyAddresses").is_none());
    }

    #[test]
    fn a_headless_service_may_have_no_ports() {
        let s = service(json!({"clusterIP": "None", "publishNotReadyAddresses": true}));
        let (subsets, _) = of(&s, &[pod("a", "10.0.0.1", "False")], 10);
        assert_eq!(subsets[0]["addresses"][0]["ip"], "10.0.0.1");
        assert!(subsets[0].get("ports").is_none());
        let s = service(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": "none"}]}));
        assert_eq!(of(&s, &[pod("a", "10.0.0.1", "True")], 10).0, Vec::<Value>::new());
    }
}
