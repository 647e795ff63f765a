//! NodePorts: a host port is given to one pod of a node.
//!
//! `0.0.0.0` (entry 0 of the dictionary of IPs) stands for every address, as in Kubernetes.

use orlop_sdk::scheduler::{Mirror, Node, NodePlugin, Preparation, Reason, column, dictionary};
use orlop_sdk::serde_json::Value;

/// The plugin; it has no arguments.
#[derive(Debug)]
pub struct NodePorts;

/// A wanted port.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    ip: String,
    /// Protocol and port as they are packed.
    low: u64,
}

impl Wanted {
    fn read(port: &Value) -> Option<Self> {
        let text = |key: &str| port.get(key).and_then(Value::as_str).unwrap_or("");
        let protocol = match text("protocol") {
            "UDP" => 1,
            "SCTP" => 2,
            _ => 0,
        };
        let port = port.get("port").and_then(Value::as_u64)?;
        Some(Self { ip: text("ip").to_owned(), low: protocol << 16 | port })
    }

    fn conflicts(&self, used: u64, mirror: &Mirror) -> bool {
        if used & 0xFFFF_FFFF != self.low {
            return false;
        }
        let ip = u32::try_from(used >> 32).unwrap_or(0);
        ip == 0 || self.ip == "0.0.0.0" || mirror.entry(dictionary::HOST_IPS, ip) == self.ip
    }
}

impl NodePlugin for NodePorts {
    type Prepared = Vec<Wanted>;

    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn prepare(&self, pod: &Value) -> Result<Preparation<Vec<Wanted>>, String> {
        let ports = pod.pointer("/computed/hostPorts").and_then(Value::as_array);
        let wanted: Vec<Wanted> = ports.into_iter().flatten().filter_map(Wanted::read).collect();
        Ok(if wanted.is_empty() { Preparation::Skip } else { Preparation::FilterOnly(wanted) })
    }

    fn filter(&self, wanted: &Vec<Wanted>, node: &Node<'_>) -> Result<(), Reason> {
        let used = node.list(column::HOST_PORTS);
        if used.iter().any(|used| wanted.iter().any(|w| w.conflicts(*used, node.mirror()))) {
            return Err(Reason::new("node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    }
}

orlop_sdk::export_scheduler!(per_node NodePorts);

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::scheduler::PerNode;
    use orlop_sdk::scheduler::testing::{Bench, Nodes};
    use orlop_sdk::serde_json::json;

    fn fits(ip: &str, protocol: &str, port: u16) -> Vec<bool> {
        // 80/TCP everywhere; 80/TCP on 10.0.0.1; 80/UDP everywhere; nothing.
        let cells: [&[u64]; 4] = [&[80], &[1 << 32 | 80], &[1 << 16 | 80], &[]];
        let nodes = Nodes::new(4)
            .dictionary(dictionary::HOST_IPS, &["0.0.0.0", "10.0.0.1"])
            .lists(column::HOST_PORTS, &cells);
        let pod = json!({"computed": {"hostPorts": [{"ip": ip, "protocol": protocol, "port": port}]}});
        let mut bench: Bench<PerNode<NodePorts>> = Bench::new(&json!({}), nodes, &pod).unwrap();
        bench.fits(4)
    }

    #[test]
    fn address_protocol_and_port_make_a_conflict() {
        assert_eq!(fits("0.0.0.0", "TCP", 80), [false, false, true, true]);
        assert_eq!(fits("10.0.0.1", "TCP", 80), [false, false, true, true]);
        assert_eq!(fits("10.0.0.2", "TCP", 80), [false, true, true, true]);
        assert_eq!(fits("0.0.0.0", "UDP", 80), [true, true, false, true]);
        assert_eq!(fits("0.0.0.0", "TCP", 81), [true; 4]);
    }

    #[test]
    fn pods_without_host_ports_are_not_looked_at() {
        let bench: Bench<PerNode<NodePorts>> = Bench::new(&json!({}), Nodes::new(1), &json!({})).unwrap();
        assert!(bench.prepared.skip_filter && bench.prepared.skip_score);
    }
}
