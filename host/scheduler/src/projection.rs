//! Cuts out of a pod what plugins declared to read.
//!
//! Pods whose cuts are equal are one class.

mod claims;

pub use claims::add_claims;

use crate::resources::{DEFAULT_MEMORY, DEFAULT_MILLI_CPU, Requests};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Path {
    /// Take everything below.
    whole: bool,
    /// Go through the items of an array.
    items: Option<Box<Path>>,
    /// Go on at these keys.
    keys: BTreeMap<String, Path>,
}

/// A set of paths, compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projection {
    root: Path,
}

impl Projection {
    /// Compiles paths such as `spec.containers[].image`.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        let mut root = Path::default();
        for path in paths {
            let mut at = &mut root;
            for segment in path.split('.') {
                let key = segment.trim_end_matches("[]");
                at = at.keys.entry(key.to_owned()).or_default();
                for _ in 0..(segment.len() - key.len()) / 2 {
                    at = at.items.get_or_insert_default();
                }
            }
            at.whole = true;
        }
        Self { root }
    }

    /// What `pod` holds at the paths; computed fields must be there already.
    #[must_use]
    pub fn apply(&self, pod: &Value) -> Value {
        cut(&self.root, pod).unwrap_or_else(|| Value::Object(Map::new()))
    }
}

fn cut(path: &Path, value: &Value) -> Option<Value> {
    if path.whole {
        return Some(value.clone());
    }
    match value {
        Value::Object(map) => {
            let kept: Map<String, Value> = path
                .keys
                .iter()
                .filter_map(|(key, below)| Some((key.clone(), cut(below, map.get(key)?)?)))
                .collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            let below = path.items.as_deref()?;
            let kept: Vec<Option<Value>> = items.iter().map(|v| cut(below, v)).collect();
            // Positions carry meaning, so an item without any of the paths stays as {} beside others.
            kept.iter()
                .any(Option::is_some)
                .then(|| kept.into_iter().map(|v| v.unwrap_or_else(|| Value::Object(Map::new()))).collect())
        }
        _ => None,
    }
}

/// A used host port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// `0.0.0.0` where the pod names none.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// 1 to 65535.
    pub port: u16,
}

impl HostPort {
    /// As in column `node.host-ports`, given the entry of the IP.
    #[must_use]
    pub fn pack(&self, ip: u32) -> u64 {
        let protocol = match self.protocol.as_str() {
            "UDP" => 1,
            "SCTP" => 2,
            _ => 0,
        };
        u64::from(ip) << 32 | protocol << 16 | u64::from(self.port)
    }
}

/// The host ports of a pod's containers and sidecars, each once.
#[must_use]
pub fn host_ports(spec: &Value) -> Vec<HostPort> {
    let list = |holder: &str| spec.get(holder).and_then(Value::as_array).into_iter().flatten();
    let sidecars =
        list("initContainers").filter(|c| c.get("restartPolicy").and_then(Value::as_str) == Some("Always"));
    let mut ports: Vec<HostPort> = list("containers")
        .chain(sidecars)
        .flat_map(|c| c.get("ports").and_then(Value::as_array).into_iter().flatten())
        .filter_map(|port| {
            let text = |key: &str, default: &str| {
                let value = port.get(key).and_then(Value::as_str).filter(|v| !v.is_empty());
                value.unwrap_or(default).to_owned()
            };
            let number = port.get("hostPort").and_then(Value::as_u64)?;
            Some(HostPort {
                ip: text("hostIP", "0.0.0.0"),
                protocol: text("protocol", "TCP"),
                port: u16::try_from(number).ok().filter(|p| *p > 0)?,
            })
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The value of the pod's `computed` fields.
#[must_use]
pub fn computed(requests: &Requests, ports: &[HostPort]) -> Value {
    let ports: Vec<Value> =
        ports.iter().map(|p| json!({"ip": p.ip, "protocol": p.protocol, "port": p.port})).collect();
    json!({
        "requests": requests.exact,
        "nonZeroRequests": {"cpu": requests.nonzero_cpu, "memory": requests.nonzero_memory},
        "hostPorts": ports,
    })
}

const _: () = assert!(DEFAULT_MILLI_CPU == 100 && DEFAULT_MEMORY == 200 << 20, "the WIT names these figures");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_what_is_declared_and_nothing_else() {
        let projection = Projection::new(["spec.nodeSelector", "spec.containers[].image", "metadata.labels"]);
        let pod = json!({
            "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"containers": [{"image": "i", "name": "c"}, {"name": "d"}], "nodeSelector": {"k": "v"}},
        });
        assert_eq!(
            projection.apply(&pod),
            json!({
                "metadata": {"labels": {"x": "y"}},
                "spec": {"containers": [{"image": "i"}, {}], "nodeSelector": {"k": "v"}},
            })
        );
        assert_eq!(projection.apply(&json!({"spec": {"nodeName": "n"}})), json!({}));
    }

    #[test]
    fn host_ports_with_defaults() {
        let spec = json!({
            "containers": [{"ports": [{"hostPort": 80}, {"containerPort": 8080}, {"hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"}]}],
            "initContainers": [
                {"ports": [{"hostPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"hostPort": 80}]},
            ],
        });
        let ports = host_ports(&spec);
        let port =
            |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port };
        assert_eq!(ports, [port("0.0.0.0", "TCP", 80), port("10.0.0.1", "UDP", 53)]);
    }
}
