//! Endpoints and EndpointSlices.
//!
//! Source: `ValidateEndpoints`, `ValidateEndpointSlice`, `printEndpoints`, `printEndpointSlice`.

use super::json::{items, number, objects, or_none, set_default, text};
use super::{AGE_COLUMN, Column, Context, GenerationRule, NAME_COLUMN, Strategy, age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, invalid, not_supported, required, too_many};
use orlop_apimachinery::names;
use orlop_apimachinery::status::Cause;
use serde_json::Value;

/// The strategy of endpoints.
#[derive(Debug)]
pub(super) struct Endpoints;

/// The strategy of endpointslices.
#[derive(Debug)]
pub(super) struct EndpointSlices;

const MOST_ENDPOINTS: usize = 1000;
const MOST_PORTS: usize = 20_000;
/// So many addresses are printed in a cell.
const SHOWN: usize = 3;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        for subset in objects(map, "subsets") {
            for port in objects(subset, "ports") {
                set_default(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        for (i, subset) in items(object, &["subsets"]).iter().enumerate() {
            let path = Path::new("subsets").index(i);
            if items(subset, &["addresses"]).is_empty() && items(subset, &["notReadyAddresses"]).is_empty() {
                faults.push(required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for key in ["addresses", "notReadyAddresses"] {
                for (j, address) in items(subset, &[key]).iter().enumerate() {
                    let ip = text(address, &["ip"]);
                    let at = path.child(key).index(j).child("ip");
                    faults.extend(names::ip(ip).iter().map(|why| invalid(&at, ip, why)));
                }
            }
            let ports = items(subset, &["ports"]);
            for (j, port) in ports.iter().enumerate() {
                port_faults(port, ports.len() > 1, &path.child("ports").index(j), &mut faults);
            }
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Endpoints", "The set of all endpoints is the union of all subsets."),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let mut all = Vec::new();
        for subset in items(object, &["subsets"]) {
            let ports = items(subset, &["ports"]);
            for address in items(subset, &["addresses"]) {
                let ip = text(address, &["ip"]);
                if ports.is_empty() {
                    all.push(ip.to_owned());
                }
                all.extend(ports.iter().map(|p| host_port(ip, number(p, &["port"]))));
            }
        }
        vec![name_cell(object), shortened(&all).into(), age_cell(cx, object)]
    }
}

impl Strategy for EndpointSlices {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        for port in objects(map, "ports") {
            set_default(port, "name", "");
            set_default(port, "protocol", "TCP");
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let kind = text(object, &["addressType"]);
        let kinds = ["FQDN", "IPv4", "IPv6"];
        if kind.is_empty() {
            faults.push(required(&Path::new("addressType"), ""));
        } else if !kinds.contains(&kind) {
            faults.push(not_supported(&Path::new("addressType"), kind, &kinds));
        }
        let endpoints = items(object, &["endpoints"]);
        if endpoints.len() > MOST_ENDPOINTS {
            faults.push(too_many(&Path::new("endpoints"), endpoints.len(), MOST_ENDPOINTS));
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            let path = Path::new("endpoints").index(i).child("addresses");
            let addresses = items(endpoint, &["addresses"]);
            if addresses.is_empty() {
                faults.push(required(&path, "must contain at least 1 address"));
            }
            for (j, address) in addresses.iter().enumerate() {
                let address = address.as_str().unwrap_or_default();
                let why = if kind == "FQDN" { names::dns1123_subdomain(address) } else { names::ip(address) };
                faults.extend(why.iter().map(|why| invalid(&path.index(j), address, why)));
            }
        }
        let ports = items(object, &["ports"]);
        if ports.len() > MOST_PORTS {
            faults.push(too_many(&Path::new("ports"), ports.len(), MOST_PORTS));
        }
        for (i, port) in ports.iter().enumerate() {
            port_faults(port, false, &Path::new("ports").index(i), &mut faults);
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        if new.get("addressType") != old.get("addressType") {
            faults.push(invalid(
                &Path::new("addressType"),
                text(new, &["addressType"]),
                "field is immutable",
            ));
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("AddressType", "The type of address carried by this EndpointSlice."),
                Column::new("Ports", "The list of network ports exposed by each endpoint in this slice."),
                Column::new("Endpoints", "A list of unique endpoints in this slice."),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let ports: Vec<String> = items(object, &["ports"])
            .iter()
            .map(|p| match at(p, &["port"]).and_then(Value::as_i64) {
                Some(port) => port.to_string(),
                None => "*".into(),
            })
            .collect();
        let addresses: Vec<String> = items(object, &["endpoints"])
            .iter()
            .flat_map(|e| items(e, &["addresses"]))
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        let ports = if ports.is_empty() { "<unset>".to_owned() } else { shortened(&ports) };
        let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { shortened(&addresses) };
        vec![
            name_cell(object),
            text(object, &["addressType"]).into(),
            ports.into(),
            addresses.into(),
            age_cell(cx, object),
        ]
    }
}

fn port_faults(port: &Value, needs_name: bool, path: &Path, faults: &mut Vec<Cause>) {
    let name = text(port, &["name"]);
    if name.is_empty() {
        if needs_name {
            faults.push(required(&path.child("name"), ""));
        }
    } else {
        faults.extend(names::dns1123_label(name).iter().map(|why| invalid(&path.child("name"), name, why)));
    }
    if let Some(value) = at(port, &["port"]).and_then(Value::as_i64) {
        faults.extend(names::port_number(value).iter().map(|why| invalid(&path.child("port"), value, why)));
    }
    let protocol = text(port, &["protocol"]);
    if !PROTOCOLS.contains(&protocol) {
        faults.push(not_supported(&path.child("protocol"), protocol, PROTOCOLS));
    }
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn shortened(all: &[String]) -> String {
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(",");
    if all.len() > SHOWN { format!("{shown} + {} more...", all.len() - SHOWN) } else { or_none(shown) }
}
