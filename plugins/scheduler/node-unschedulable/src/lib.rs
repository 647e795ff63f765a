//! NodeUnschedulable: a cordoned node takes no pods but those that tolerate it.

use orlop_sdk::scheduler::{Node, NodePlugin, Preparation, Reason, Taint, tolerates};
use orlop_sdk::serde_json::Value;

/// The plugin; it has no arguments.
#[derive(Debug)]
pub struct NodeUnschedulable;

impl NodePlugin for NodeUnschedulable {
    type Prepared = ();

    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn prepare(&self, pod: &Value) -> Result<Preparation<()>, String> {
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        };
        let tolerations = pod.pointer("/spec/tolerations").unwrap_or(&Value::Null);
        Ok(if tolerates(tolerations, &cordon) { Preparation::Skip } else { Preparation::FilterOnly(()) })
    }

    fn filter(&self, (): &(), node: &Node<'_>) -> Result<(), Reason> {
        if node.unschedulable() { Err(Reason::unresolvable("node(s) were unschedulable")) } else { Ok(()) }
    }
}

orlop_sdk::export_scheduler!(per_node NodeUnschedulable);

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::scheduler::testing::{Bench, Nodes};
    use orlop_sdk::scheduler::{PerNode, column};
    use orlop_sdk::serde_json::json;

    #[test]
    fn cordoned_nodes_are_left_out_unless_tolerated() {
        let bench = |pod: Value| -> Bench<PerNode<NodeUnschedulable>> {
            Bench::new(&json!({}), Nodes::new(2).u32(column::UNSCHEDULABLE, &[1, 0]), &pod).unwrap()
        };
        let mut plain = bench(json!({}));
        assert_eq!(plain.fits(2), [false, true]);
        assert_eq!(plain.reasons(0), ["node(s) were unschedulable"]);
        let toleration = json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"});
        assert!(bench(json!({"spec": {"tolerations": [toleration]}})).prepared.skip_filter);
    }
}
