//! NodeName: a pod that names its node fits only there.

use orlop_sdk::scheduler::{Node, NodePlugin, Preparation, Reason};
use orlop_sdk::serde_json::Value;

/// The plugin; it has no arguments.
#[derive(Debug)]
pub struct NodeName;

impl NodePlugin for NodeName {
    type Prepared = String;

    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn prepare(&self, pod: &Value) -> Result<Preparation<String>, String> {
        let name = pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|n| !n.is_empty());
        Ok(name.map_or(Preparation::Skip, |name| Preparation::FilterOnly(name.to_owned())))
    }

    fn filter(&self, wanted: &String, node: &Node<'_>) -> Result<(), Reason> {
        if node.name() == wanted {
            return Ok(());
        }
        Err(Reason::unresolvable("node(s) didn't match the requested node name"))
    }
}

orlop_sdk::export_scheduler!(per_node NodeName);

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::scheduler::testing::{Bench, Nodes};
    use orlop_sdk::scheduler::{PerNode, column, dictionary};
    use orlop_sdk::serde_json::json;

    fn bench(pod: &Value) -> Bench<PerNode<NodeName>> {
        let nodes =
            Nodes::new(3).dictionary(dictionary::NAMES, &["a", "b", "c"]).u32(column::NAME, &[0, 1, 2]);
        Bench::new(&json!({}), nodes, pod).unwrap()
    }

    #[test]
    fn only_the_named_node() {
        let mut bench = bench(&json!({"spec": {"nodeName": "b"}}));
        assert_eq!(bench.fits(3), [false, true, false]);
        assert_eq!(bench.reasons(0), ["node(s) didn't match the requested node name"]);
    }

    #[test]
    fn nothing_to_do_without_a_name() {
        assert!(bench(&json!({})).prepared.skip_filter);
    }
}
