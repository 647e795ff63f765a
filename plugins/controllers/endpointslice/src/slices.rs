//! Packs endpoints into slices with as few and as small writes as can be.
//!
//! Slices are grouped by address family and by the ports that their endpoints have, because pods may
//! give one named port different numbers. Within a group an endpoint stays in its slice; new ones
//! fill slices that change anyway, then the one with the least room that takes them all, then new slices.
//!
//! Source of the behaviour: `k8s.io/endpointslice`.

use super::service::{Pod, Service};
use orlop_sdk::controller::{Event, Item, Meta, OwnerReference, Plan, Write};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Slice {
    metadata: Meta,
    address_type: String,
    #[serde(deserialize_with = "nullable")]
    endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<Port>,
}

fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: String,
    protocol: String,
    port: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_protocol: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Conditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_ref: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hints: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Target {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
}

impl Endpoint {
    /// What makes it the same endpoint, whatever its state.
    fn identity(&self) -> (&str, &[String]) {
        (self.target_ref.as_ref().map_or("", |t| &t.uid), &self.addresses)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Node {
    metadata: Meta,
}

/// A group of slices: address family and ports.
type Group = (String, Vec<Port>);

/// The plan for one Service.
pub(crate) fn reconcile(item: &Item<'_>, most: usize) -> Result<Plan, String> {
    // The slices of a Service that is gone go with it, as its dependents.
    let Some(service) = item.object::<Service>()? else { return Ok(Plan::default()) };
    if !service.is_managed() || service.metadata.is_being_deleted() {
        return Ok(Plan::default());
    }
    let pods: Vec<Pod> = item.input("pods")?;
    let nodes: BTreeMap<String, Node> =
        item.input::<Node>("nodes")?.into_iter().map(|n| (n.metadata.name.clone(), n)).collect();
    let mut slices: Vec<Slice> = item.input("slices")?;
    slices.retain(|s| {
        s.metadata.labels.get(MANAGED_BY).map(String::as_str) == Some(MANAGER)
            && !s.metadata.is_being_deleted()
    });
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));

    let mut plan = Plan::default();
    let families = families(&service, &pods, &slices);
    let mut wanted: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for family in &families {
        for pod in pods.iter().filter(|p| p.is_reachable()) {
            let node = nodes.get(&pod.spec.node_name);
            if node.is_none() && !pod.spec.node_name.is_empty() && !service.spec.publish_not_ready_addresses {
                plan.error = format!(
                    "skipping Pod {} for Service {}/{}: Node {} Not Found",
                    pod.metadata.name, item.key.namespace, item.key.name, pod.spec.node_name
                );
                continue;
            }
            if let Some(endpoint) = endpoint(&service, pod, node, family) {
                wanted.entry((family.clone(), ports(&service, pod))).or_default().push(endpoint);
            }
        }
    }
    // A Service always has a slice of each family, if an empty one.
    for family in &families {
        if !wanted.keys().any(|(f, _)| f == family) {
            wanted.insert((family.clone(), Vec::new()), Vec::new());
        }
    }
    let mut groups: BTreeMap<Group, Vec<Slice>> = BTreeMap::new();
    for slice in slices {
        let mut ports = slice.ports.clone();
        ports.sort();
        groups.entry((slice.address_type.clone(), ports)).or_default().push(slice);
    }
    let mut changes = Changes::default();
    for (group, endpoints) in wanted {
        let existing = groups.remove(&group).unwrap_or_default();
        pack(&service, &group, existing, endpoints, most, &mut changes);
    }
    changes.deletes.extend(groups.into_values().flatten());
    plan.writes = changes.into_writes(&service);
    Ok(plan)
}

#[derive(Default)]
struct Changes {
    creates: Vec<(Group, Vec<Endpoint>)>,
    updates: Vec<Slice>,
    deletes: Vec<Slice>,
}

impl Changes {
    fn into_writes(self, service: &Service) -> Vec<Write> {
        const API: &str = "discovery.k8s.io/v1";
        const RESOURCE: &str = "endpointslices";
        let failed = |what: &str| {
            let message = format!(
                "Error {what} Endpoint Slices for Service {}/{}: {{error}}",
                service.metadata.namespace, service.metadata.name
            );
            Event::warning("FailedToUpdateEndpointSlices", message)
        };
        let mut writes = Vec::new();
        for ((family, ports), endpoints) in self.creates {
            let body = json!({
                "apiVersion": API, "kind": "EndpointSlice",
                "metadata": {
                    "generateName": format!("{}-", service.metadata.name),
                    "labels": labels(service),
                    "ownerReferences": [OwnerReference::controller_of("v1", "Service", &service.metadata)],
                },
                "addressType": family, "endpoints": endpoints, "ports": ports_value(&ports),
            });
            writes.push(
                Write::create(API, RESOURCE, &service.metadata.namespace, body)
                    .ignoring("NamespaceTerminating")
                    .or_else(failed("creating")),
            );
        }
        for slice in self.updates {
            let mut new_labels: BTreeMap<String, Value> =
                slice.metadata.labels.keys().map(|k| (k.clone(), Value::Null)).collect();
            new_labels.extend(labels(service).into_iter().map(|(k, v)| (k, json!(v))));
            let body = json!({"metadata": {"labels": new_labels}, "endpoints": slice.endpoints});
            writes.push(
                Write::patch(API, RESOURCE, &slice.metadata, body)
                    .at_revision(&slice.metadata)
                    .or_else(failed("updating")),
            );
        }
        for slice in self.deletes {
            writes.push(Write::delete(API, RESOURCE, &slice.metadata).or_else(failed("deleting")));
        }
        writes
    }
}

fn ports_value(ports: &[Port]) -> Value {
    if ports.is_empty() { Value::Null } else { json!(ports) }
}

/// The families of the Service's addresses; as given, else as of its cluster IP, else as of its pods.
fn families(service: &Service, pods: &[Pod], slices: &[Slice]) -> Vec<String> {
    if !service.spec.ip_families.is_empty() {
        return service.spec.ip_families.clone();
    }
    let of = |ip: &str| if ip.contains(':') { "IPv6".to_owned() } else { "IPv4".to_owned() };
    if !service.is_headless() && !service.spec.cluster_ip.is_empty() {
        return vec![of(&service.spec.cluster_ip)];
    }
    let mut found: Vec<String> = pods.iter().flat_map(Pod::addresses).map(of).collect();
    found.extend(slices.iter().map(|s| s.address_type.clone()).filter(|_| pods.is_empty()));
    found.sort();
    found.dedup();
    if found.is_empty() { vec!["IPv4".into()] } else { found }
}

fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let port = |p: &super::service::ServicePort| {
        Some(Port {
            name: p.name.clone(),
            protocol: p.protocol().to_owned(),
            port: Some(pod.target_port(p)?),
            app_protocol: p.app_protocol.clone(),
        })
    };
    let mut ports: Vec<Port> = service.spec.ports.iter().filter_map(port).collect();
    ports.sort();
    ports
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, family: &str) -> Option<Endpoint> {
    let addresses: Vec<String> = pod.addresses_of(family).into_iter().map(str::to_owned).collect();
    if addresses.is_empty() {
        return None;
    }
    let serving = pod.is_ready();
    let terminating = pod.metadata.is_being_deleted();
    let zone = node.and_then(|n| n.metadata.labels.get(ZONE)).cloned();
    let node_name = Some(pod.spec.node_name.clone()).filter(|n| !n.is_empty());
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let hints = match (service.spec.traffic_distribution.as_str(), &zone, &node_name) {
        ("PreferClose" | "PreferSameZone", Some(zone), _) if ready => {
            Some(json!({"forZones": [{"name": zone}]}))
        }
        ("PreferSameNode", Some(zone), Some(node)) if ready => {
            Some(json!({"forNodes": [{"name": node}], "forZones": [{"name": zone}]}))
        }
        ("PreferSameNode", None, Some(node)) if ready => Some(json!({"forNodes": [{"name": node}]})),
        _ => None,
    };
    Some(Endpoint {
        addresses,
        conditions: Conditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) },
        hostname: pod.hostname_in(service).map(str::to_owned),
        target_ref: Some(Target {
            kind: "Pod".into(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        }),
        node_name,
        zone,
        hints,
    })
}

/// The Service's own labels, without those that have a meaning here, and what marks the slice.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.remove(HEADLESS);
    if service.is_headless() {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

/// Brings the slices of one group to hold exactly `wanted`.
fn pack(
    service: &Service,
    group: &Group,
    existing: Vec<Slice>,
    mut wanted: Vec<Endpoint>,
    most: usize,
    changes: &mut Changes,
) {
    let labels = labels(service);
    let mut kept: Vec<(Slice, bool)> = Vec::new();
    for slice in existing {
        let mut endpoints = Vec::with_capacity(slice.endpoints.len());
        for old in &slice.endpoints {
            if let Some(at) = wanted.iter().position(|w| w.identity() == old.identity()) {
                endpoints.push(wanted.swap_remove(at));
            }
        }
        let changed = endpoints != slice.endpoints || slice.metadata.labels != labels;
        kept.push((Slice { endpoints, ..slice }, changed));
    }
    wanted.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    let mut rest = wanted.into_iter().peekable();
    // Slices that are written anyway take new endpoints first.
    for (slice, _) in kept.iter_mut().filter(|(_, changed)| *changed) {
        while slice.endpoints.len() < most
            && let Some(endpoint) = rest.next()
        {
            slice.endpoints.push(endpoint);
        }
    }
    // Then the fullest unchanged slice that takes all of the rest, so that one write does.
    let count = rest.len() % most;
    if rest.peek().is_some() && count > 0 {
        let fits = |s: &Slice| s.endpoints.len() + count <= most;
        let best =
            kept.iter_mut().filter(|(s, changed)| !changed && fits(s)).max_by_key(|(s, _)| s.endpoints.len());
        if let Some((slice, changed)) = best {
            slice.endpoints.extend(rest.by_ref().take(count));
            *changed = true;
        }
    }
    while rest.peek().is_some() {
        changes.creates.push((group.clone(), rest.by_ref().take(most).collect()));
    }
    // Empty slices go, but for the one that stands for a Service without endpoints.
    let mut placeholder = changes.creates.iter().all(|(g, _)| g != group)
        && kept.iter().all(|(s, _)| s.endpoints.is_empty())
        && group.1.is_empty();
    if kept.is_empty() && placeholder {
        changes.creates.push((group.clone(), Vec::new()));
        return;
    }
    for (slice, changed) in kept {
        if slice.endpoints.is_empty() && !std::mem::take(&mut placeholder) {
            changes.deletes.push(slice);
        } else if changed {
            changes.updates.push(slice);
        }
    }
}

#[cfg(test)]
mod tests;
