//! Many nodes out of few.

use serde_json::{Value, json};

/// The nodes of `input`, over and over with other names, until there are `count`. What a real node has and the input
/// leaves out is added: capacity, a host name, one of three zones.
pub(super) fn multiply(input: &Value, count: u32) -> Value {
    let empty = Vec::new();
    let models = input.get("nodes").and_then(Value::as_array).unwrap_or(&empty);
    let plain = json!({ "metadata": {} });
    let node = |i: u32| {
        let at = (i as usize).checked_rem(models.len()).unwrap_or(0);
        let mut node = models.get(at).unwrap_or(&plain).clone();
        let name = format!("node-{i:05}");
        node["metadata"]["name"] = name.as_str().into();
        let labels = &mut node["metadata"]["labels"];
        labels["kubernetes.io/hostname"] = name.into();
        for (key, value) in [
            ("topology.kubernetes.io/region", "r1"),
            ("topology.kubernetes.io/zone", ["z1", "z2", "z3"][(i % 3) as usize]),
        ] {
            if labels[key].is_null() {
                labels[key] = value.into();
            }
        }
        if node["status"]["allocatable"].is_null() {
            node["status"]["allocatable"] =
                json!({ "cpu": "32", "memory": "128Gi", "ephemeral-storage": "500Gi", "pods": "110" });
        }
        node
    };
    let mut out = input.clone();
    out["nodes"] = (0..count).map(node).collect();
    // Placed pods go round, so that every node has as many as the models have.
    if let Some(placed) = input.get("placed").and_then(Value::as_array).filter(|p| !p.is_empty()) {
        let each = |i: u32| {
            let at = (i as usize).checked_rem(placed.len()).unwrap_or(0);
            let mut pod = placed.get(at).cloned().unwrap_or(Value::Null);
            pod["metadata"]["name"] = format!("placed-{i:05}").into();
            pod["spec"]["nodeName"] = format!("node-{i:05}").into();
            pod
        };
        out["placed"] = (0..count).map(each).collect();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_keep_what_makes_them_special() {
        let input = json!({ "nodes": [{ "metadata": { "name": "a", "labels": { "x": "1" } } }, { "metadata": { "name": "b" } }],
            "placed": [{ "metadata": { "name": "p" }, "spec": { "nodeName": "a" } }] });
        let many = multiply(&input, 5);
        assert_eq!(many["nodes"].as_array().unwrap().len(), 5);
        assert_eq!(many["nodes"][4]["metadata"]["name"], "node-00004");
        assert_eq!(many["nodes"][4]["metadata"]["labels"]["x"], "1");
        assert_eq!(many["nodes"][3]["metadata"]["labels"]["x"], Value::Null);
        assert_eq!(many["placed"][3]["spec"]["nodeName"], "node-00003");
        assert_eq!(multiply(&json!({}), 2)["nodes"][1]["metadata"]["name"], "node-00001");
    }
}
