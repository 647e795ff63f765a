//! {{camel}}: a pod with the annotation `{{name}}: N` fits only nodes whose label `{{name}}` is a number
//! of at least N; the higher the label (up to 100), the better.

use orlop_sdk::scheduler::{Node, NodePlugin, Preparation, Reason};
use orlop_sdk::serde_json::Value;

/// On the pod as annotation, on the node as label.
const KEY: &str = "{{name}}";

/// The plugin; it has no arguments.
pub struct {{camel}};

/// What a node has.
fn level(node: &Node<'_>) -> Option<i64> {
    node.label(KEY)?.parse().ok()
}

impl NodePlugin for {{camel}} {
    /// What a pod asks for.
    type Prepared = i64;

    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn prepare(&self, pod: &Value) -> Result<Preparation<i64>, String> {
        let Some(wanted) = pod.pointer("/metadata/annotations/{{name}}").and_then(Value::as_str) else {
            // Such pods cost nothing: neither filter nor score is called for them.
            return Ok(Preparation::Skip);
        };
        let wanted = wanted.parse().map_err(|_| format!("annotation {KEY}: `{wanted}` is no number"))?;
        Ok(Preparation::Ask(wanted))
    }

    fn filter(&self, wanted: &i64, node: &Node<'_>) -> Result<(), Reason> {
        if level(node).is_some_and(|level| level >= *wanted) {
            return Ok(());
        }
        // Evicting other pods does not change the label.
        Err(Reason::unresolvable(format!("node(s) didn't have {KEY} of {wanted}")))
    }

    fn score(&self, _wanted: &i64, node: &Node<'_>) -> i64 {
        level(node).unwrap_or(0).clamp(0, 100)
    }
}

orlop_sdk::export_scheduler!(per_node {{camel}});

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::scheduler::testing::{Bench, Nodes};
    use orlop_sdk::scheduler::{PerNode, column, dictionary};
    use orlop_sdk::serde_json::json;

    #[test]
    fn only_nodes_with_enough_fit() {
        let nodes = Nodes::new(3)
            .dictionary(dictionary::LABELS, &["{{name}}=3", "{{name}}=80"])
            .lists(column::LABELS, &[&[0], &[1], &[]]);
        let pod = json!({"metadata": {"annotations": {"{{name}}": "10"}}});
        let mut bench = Bench::<PerNode<{{camel}}>>::new(&json!({}), nodes, &pod).unwrap();
        assert_eq!(bench.fits(3), [false, true, false]);
        assert_eq!(bench.reasons(0), ["node(s) didn't have {{name}} of 10"]);
    }
}
