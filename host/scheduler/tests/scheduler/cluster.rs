//! Random nodes, pods and changes.

use proptest::prelude::*;
use serde_json::{Value, json};

const GI: i64 = 1 << 30;

/// A node of a small vocabulary, so that pods and nodes meet often.
pub(crate) fn node() -> impl Strategy<Value = Value> {
    let resources = (0..5_i64, 0..5_i64, 0..5_i64, 0..3_i64);
    let labels = (0..3_u8, 0..3_u8, prop::bool::ANY);
    let taint = prop_oneof![
        4 => Just(json!([])),
        1 => Just(json!([{"key": "a", "value": "1", "effect": "NoSchedule"}])),
        2 => Just(json!([{"key": "b", "effect": "PreferNoSchedule"}])),
        1 => Just(json!([{"key": "b", "effect": "PreferNoSchedule"}, {"key": "c", "value": "x", "effect": "PreferNoSchedule"}])),
        1 => Just(json!([{"key": "a", "value": "2", "effect": "NoExecute"}])),
    ];
    let images = prop::sample::subsequence(vec![("i:1", 300), ("j:1", 900), ("k:1", 2000)], 0..=3);
    (resources, labels, taint, prop::bool::weighted(0.1), images).prop_map(
        |(r, l, taints, cordoned, images)| {
            let mut labels = json!({"zone": format!("z{}", l.0), "gen": (l.1 * 4).to_string()});
            if l.2 {
                labels["disk"] = json!("ssd");
            }
            let images: Vec<Value> =
                images.iter().map(|(name, mib)| json!({"names": [name], "sizeBytes": mib << 20})).collect();
            json!({
                "metadata": {"labels": labels},
                "spec": {"taints": taints, "unschedulable": cordoned},
                "status": {
                    "allocatable": {
                        "cpu": format!("{}m", r.0 * 700), "memory": (r.1 * GI).to_string(),
                        "pods": (r.2 + 1).to_string(), "ephemeral-storage": (r.1 * GI).to_string(),
                        "example.com/gpu": r.3.to_string(),
                    },
                    "images": images,
                },
            })
        },
    )
}

/// A pod of the same vocabulary.
pub(crate) fn pod() -> impl Strategy<Value = Value> {
    let cpu = prop_oneof![Just(None), (0..9_i64).prop_map(|n| Some(format!("{}m", n * 100)))];
    let memory = prop_oneof![Just(None), (0..5_i64).prop_map(|n| Some((n * GI / 2).to_string()))];
    let image = prop_oneof![Just("i:1"), Just("j:1"), Just("none:1")];
    let port = prop_oneof![
        5 => Just(None),
        1 => Just(Some(json!({"hostPort": 80}))),
        1 => Just(Some(json!({"hostPort": 80, "hostIP": "10.0.0.1"}))),
        1 => Just(Some(json!({"hostPort": 80, "protocol": "UDP"}))),
    ];
    let container =
        (cpu, memory, image, port, prop::bool::weighted(0.1)).prop_map(|(cpu, memory, image, port, gpu)| {
            let mut container = json!({"image": image, "resources": {"requests": {}}});
            let requests = &mut container["resources"]["requests"];
            if let Some(cpu) = cpu {
                requests["cpu"] = json!(cpu);
            }
            if let Some(memory) = memory {
                requests["memory"] = json!(memory);
            }
            if gpu {
                requests["example.com/gpu"] = json!("1");
            }
            if let Some(port) = port {
                container["ports"] = json!([port]);
            }
            container
        });
    let tolerations = prop_oneof![
        3 => Just(json!([])),
        1 => Just(json!([{"key": "a", "operator": "Exists"}])),
        1 => Just(json!([{"key": "b", "operator": "Exists", "effect": "PreferNoSchedule"}])),
        1 => Just(json!([{"operator": "Exists"}])),
    ];
    let term = prop_oneof![
        Just(json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z0", "z1"]}]})),
        Just(json!({"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]})),
        Just(json!({"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["3"]}]})),
        Just(json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]})),
        Just(json!({})),
    ];
    let selector = prop_oneof![3 => Just(Value::Null), 1 => Just(json!({"disk": "ssd"}))];
    let required = prop::option::weighted(0.3, prop::collection::vec(term.clone(), 1..3));
    let preferred = prop::collection::vec((1..50_i64, term), 0..3);
    (prop::collection::vec(container, 1..3), tolerations, selector, required, preferred).prop_map(
        |(containers, tolerations, selector, required, preferred)| {
            let mut spec = json!({"containers": containers, "tolerations": tolerations});
            if !selector.is_null() {
                spec["nodeSelector"] = selector;
            }
            if let Some(terms) = required {
                spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                    json!({"nodeSelectorTerms": terms});
            }
            if !preferred.is_empty() {
                let terms: Vec<Value> =
                    preferred.into_iter().map(|(w, t)| json!({"weight": w, "preference": t})).collect();
                spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] =
                    json!(terms);
            }
            json!({"spec": spec})
        },
    )
}
