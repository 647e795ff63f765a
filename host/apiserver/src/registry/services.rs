//! Services.
//!
//! Source: `pkg/apis/core/v1/defaults.go`, `ValidateService`, `printService`. Addresses and node
//! ports are allocated by the machine.

use super::json::{items, number, object, objects, or_none, set_default, text};
use super::{
    AGE_COLUMN, Column, Context, NAME_COLUMN, NameRule, SelectableField, Strategy, age_cell, at, name_cell,
};
use orlop_apimachinery::field::{Path, duplicate, forbidden, invalid, not_supported, required};
use orlop_apimachinery::names;
use orlop_apimachinery::selector::format_label_selector;
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The strategy of services.
#[derive(Debug)]
pub(super) struct Services;

const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Type", "Type determines how the Service is exposed."),
    Column::new("Cluster-IP", "The address of the service inside the cluster."),
    Column::new("External-IP", "Addresses by which the service is reached from outside."),
    Column::new("Port(s)", "The list of ports that are exposed by this service."),
    AGE_COLUMN,
    Column::new(
        "Selector",
        "Route service traffic to pods with label keys and values matching this selector.",
    )
    .wide(),
];

const FIELDS: &[SelectableField] = &[
    SelectableField::new("spec.clusterIP", &[&["spec", "clusterIP"]]),
    SelectableField::new("spec.type", &[&["spec", "type"]]),
];

/// Seconds for which a client keeps its endpoint.
const AFFINITY_SECONDS: i64 = 10_800;

impl Strategy for Services {
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1035Label
    }

    fn default(&self, service: &mut Value) {
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
        set_default(spec, "sessionAffinity", "None");
        set_default(spec, "type", "ClusterIP");
        match spec.get("sessionAffinity").and_then(Value::as_str) {
            Some("ClientIP") => {
                if let Some(config) = object(spec, "sessionAffinityConfig")
                    && let Some(client) = object(config, "clientIP")
                {
                    set_default(client, "timeoutSeconds", AFFINITY_SECONDS);
                }
            }
            Some("None") => {
                spec.remove("sessionAffinityConfig");
            }
            _ => {}
        }
        for port in objects(spec, "ports") {
            set_default(port, "protocol", "TCP");
            let unset = matches!(port.get("targetPort"), None | Some(Value::Null))
                || port.get("targetPort").and_then(Value::as_i64) == Some(0)
                || port.get("targetPort").and_then(Value::as_str) == Some("");
            if unset && let Some(number) = port.get("port").cloned() {
                port.insert("targetPort".into(), number);
            }
        }
        let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            set_default(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
        if kind != "ExternalName" {
            set_default(spec, "internalTrafficPolicy", "Cluster");
            set_default(spec, "ipFamilyPolicy", "SingleStack");
            set_default(spec, "ipFamilies", json!(["IPv4"]));
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({ "loadBalancer": {} });
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, new: &mut Value, old: &Value) {
        super::copy_field(new, old, "status");
        keep_what_was_allocated(new, old);
        forget_what_the_type_lost(new, old);
    }

    fn validate(&self, _cx: &Context<'_>, service: &Value) -> Vec<Cause> {
        let path = Path::new("spec");
        let spec = service.get("spec").unwrap_or(&Value::Null);
        let mut faults = Vec::new();
        let kind = text(spec, &["type"]);
        let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        if !types.contains(&kind) {
            faults.push(not_supported(&path.child("type"), kind, &types));
        }
        let headless = text(spec, &["clusterIP"]) == "None";
        if items(spec, &["ports"]).is_empty() && !headless && kind != "ExternalName" {
            faults.push(required(&path.child("ports"), ""));
        }
        if headless && matches!(kind, "NodePort" | "LoadBalancer") {
            let detail = format!("may not be set to 'None' for {kind} services");
            faults.push(invalid(&path.child("clusterIPs").index(0), "None", &detail));
        }
        if kind == "ExternalName" {
            let name = text(spec, &["externalName"]).trim_end_matches('.');
            if name.is_empty() {
                faults.push(required(&path.child("externalName"), ""));
            } else {
                let why = names::dns1123_subdomain(&name.to_ascii_lowercase());
                faults.extend(why.iter().map(|why| invalid(&path.child("externalName"), name, why)));
            }
            if !text(spec, &["clusterIP"]).is_empty() {
                faults.push(forbidden(&path.child("clusterIPs"), "may not be set for ExternalName services"));
            }
        }
        if let Some(selector) = spec.get("selector").and_then(Value::as_object) {
            names::check_labels(selector, &path.child("selector"), &mut faults);
        }
        affinity_faults(spec, &path, &mut faults);
        port_faults(spec, kind, &path, &mut faults);
        for (i, address) in items(spec, &["externalIPs"]).iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            let at = path.child("externalIPs").index(i);
            faults.extend(names::ip(address).iter().map(|why| invalid(&at, address, why)));
        }
        for (key, applies) in [
            ("internalTrafficPolicy", true),
            ("externalTrafficPolicy", matches!(kind, "NodePort" | "LoadBalancer")),
        ] {
            let policy = text(spec, &[key]);
            if !applies && !policy.is_empty() && items(spec, &["externalIPs"]).is_empty() {
                faults.push(invalid(
                    &path.child(key),
                    policy,
                    "may only be set for externally-accessible services",
                ));
            } else if !policy.is_empty() && !["Cluster", "Local"].contains(&policy) {
                faults.push(not_supported(&path.child(key), policy, &["Cluster", "Local"]));
            }
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        let (now, before) = (text(new, &["spec", "clusterIP"]), text(old, &["spec", "clusterIP"]));
        let external = |s: &Value| text(s, &["spec", "type"]) == "ExternalName";
        if now != before && !before.is_empty() && !external(new) && !external(old) {
            let at = Path::new("spec").child("clusterIPs").index(0);
            faults.push(invalid(&at, now, "may not change once set"));
        }
        faults
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, service: &Value) -> Vec<Value> {
        let kind = text(service, &["spec", "type"]);
        let address = match text(service, &["spec", "clusterIP"]) {
            "" => "<none>",
            address => address,
        };
        let selector = at(service, &["spec", "selector"]).cloned().unwrap_or_default();
        vec![
            name_cell(service),
            kind.into(),
            address.into(),
            external_ip(service, kind).into(),
            ports_cell(service).into(),
            age_cell(cx, service),
            format_label_selector(&json!({ "matchLabels": selector })).into(),
        ]
    }
}

/// A writer that does not name the addresses and node ports keeps those that were allocated.
/// Source: `patchAllocatedValues`.
fn keep_what_was_allocated(new: &mut Value, old: &Value) {
    let kind = text(new, &["spec", "type"]).to_owned();
    let before = text(old, &["spec", "type"]);
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if kind != "ExternalName" && before != "ExternalName" {
        for key in ["clusterIP", "clusterIPs"] {
            let unset = spec.get(key).is_none_or(|v| v.is_null() || v == "" || *v == json!([]));
            if unset && let Some(value) = at(old, &["spec", key]) {
                spec.insert(key.to_owned(), value.clone());
            }
        }
    }
    let has_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if !has_ports(&kind) || !has_ports(before) {
        return;
    }
    let key = |port: &Map<String, Value>| (port.get("protocol").cloned(), port.get("port").cloned());
    let node_port =
        |port: &Map<String, Value>| port.get("nodePort").and_then(Value::as_i64).filter(|p| *p != 0);
    let mut used: BTreeSet<i64> = objects(spec, "ports").filter_map(|p| node_port(p)).collect();
    for port in objects(spec, "ports") {
        if node_port(port).is_some() {
            continue;
        }
        let mut candidates = items(old, &["spec", "ports"]).iter().filter_map(Value::as_object);
        if let Some(number) = candidates.find(|o| key(o) == key(port)).and_then(node_port)
            && used.insert(number)
        {
            port.insert("nodePort".into(), number.into());
        }
    }
    let health = spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0);
    let local = |policy: Option<&Value>| policy.and_then(Value::as_str) == Some("Local");
    if health == 0
        && local(spec.get("externalTrafficPolicy"))
        && local(at(old, &["spec", "externalTrafficPolicy"]))
        && let Some(port) = at(old, &["spec", "healthCheckNodePort"])
    {
        spec.insert("healthCheckNodePort".into(), port.clone());
    }
}

/// Fields of a type that the service no longer has go, where the writer left them as they were.
/// Source: `dropTypeDependentFields`.
fn forget_what_the_type_lost(new: &mut Value, old: &Value) {
    let (kind, before) = (text(new, &["spec", "type"]).to_owned(), text(old, &["spec", "type"]).to_owned());
    if kind == before {
        return;
    }
    let had_ports = matches!(before.as_str(), "NodePort" | "LoadBalancer");
    let has_ports = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    let old_ports = items(old, &["spec", "ports"]);
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if had_ports && !has_ports {
        for (port, old_port) in objects(spec, "ports").zip(old_ports) {
            if port.get("nodePort") == old_port.get("nodePort") {
                port.remove("nodePort");
            }
        }
        for key in ["externalTrafficPolicy", "allocateLoadBalancerNodePorts", "healthCheckNodePort"] {
            spec.remove(key);
        }
    }
    if kind == "ExternalName" {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if spec.get(key) == at(old, &["spec", key]) {
                spec.remove(key);
            }
        }
    }
}

fn affinity_faults(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let affinity = text(spec, &["sessionAffinity"]);
    if !["None", "ClientIP"].contains(&affinity) {
        faults.push(not_supported(&path.child("sessionAffinity"), affinity, &["ClientIP", "None"]));
    }
    if affinity == "ClientIP" {
        let seconds = number(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
        if !(1..=86_400).contains(&seconds) {
            let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
            faults.push(invalid(&at, seconds, "must be greater than 0 and less than 86400"));
        }
    }
}

fn port_faults(spec: &Value, kind: &str, path: &Path, faults: &mut Vec<Cause>) {
    let ports = items(spec, &["ports"]);
    let mut known_names = BTreeSet::new();
    let mut known = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.child("ports").index(i);
        let name = text(port, &["name"]);
        if name.is_empty() {
            if ports.len() > 1 {
                faults.push(required(&at.child("name"), ""));
            }
        } else {
            faults.extend(names::dns1123_label(name).iter().map(|why| invalid(&at.child("name"), name, why)));
            if !known_names.insert(name) {
                faults.push(duplicate(&at.child("name"), name));
            }
        }
        let value = number(port, &["port"]);
        faults.extend(names::port_number(value).iter().map(|why| invalid(&at.child("port"), value, why)));
        let protocol = text(port, &["protocol"]);
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            faults.push(not_supported(&at.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]));
        }
        match port.get("targetPort") {
            Some(Value::String(target)) => {
                let why = names::port_name(target);
                faults.extend(why.iter().map(|why| invalid(&at.child("targetPort"), target.as_str(), why)));
            }
            Some(Value::Number(target)) => {
                let target = target.as_i64().unwrap_or_default();
                let why = names::port_number(target);
                faults.extend(why.iter().map(|why| invalid(&at.child("targetPort"), target, why)));
            }
            _ => {}
        }
        if !known.insert((protocol, value)) {
            let mut key = Map::new();
            key.insert("port".into(), value.into());
            key.insert("protocol".into(), protocol.into());
            faults.push(duplicate(&at, Value::Object(key)));
        }
        let node_port = number(port, &["nodePort"]);
        if node_port != 0 {
            if matches!(kind, "ClusterIP" | "ExternalName") {
                let detail = format!("may not be used when `type` is '{kind}'");
                faults.push(forbidden(&at.child("nodePort"), &detail));
            } else if !node_ports.insert((protocol, node_port)) {
                faults.push(duplicate(&at.child("nodePort"), node_port));
            }
        }
    }
}

fn external_ip(service: &Value, kind: &str) -> String {
    let listed: Vec<&str> =
        items(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match kind {
        "ExternalName" => text(service, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let ingress = items(service, &["status", "loadBalancer", "ingress"]).iter();
            let mut all: Vec<&str> = ingress
                .map(|i| if text(i, &["ip"]).is_empty() { text(i, &["hostname"]) } else { text(i, &["ip"]) })
                .collect();
            all.extend(listed);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ => or_none(listed.join(",")),
    }
}

fn ports_cell(service: &Value) -> String {
    let ports = items(service, &["spec", "ports"]).iter().map(|p| {
        let (port, node, protocol) = (number(p, &["port"]), number(p, &["nodePort"]), text(p, &["protocol"]));
        if node > 0 { format!("{port}:{node}/{protocol}") } else { format!("{port}/{protocol}") }
    });
    or_none(ports.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests;
