//! Random nodes, pods and changes.

use proptest::prelude::*;
use serde_json::{Value, json};

const GI: i64 = 1 << 30;

/// As many cases as `PROPTEST_CASES` says, or else so many.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(cases),
    }
}

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
                labels["topology.kubernetes.io/zone"] = json!(format!("z{}", l.0));
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
    let plain = (prop::collection::vec(container, 1..3), tolerations, selector, required, preferred)
        .prop_map(|(containers, tolerations, selector, required, preferred)| {
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
            spec
        });
    (plain, 0..2_u8, 0..3_u8, spread(), pod_affinity("podAffinity"), pod_affinity("podAntiAffinity"))
        .prop_map(|(mut spec, namespace, app, spread, affinity, anti)| {
            if !spread.is_empty() {
                spec["topologySpreadConstraints"] = json!(spread);
            }
            for (kind, terms) in [("podAffinity", affinity), ("podAntiAffinity", anti)] {
                if !terms.is_null() {
                    spec["affinity"][kind] = terms;
                }
            }
            let labels = if app < 2 { json!({"app": format!("a{app}")}) } else { json!({}) };
            json!({"metadata": {"namespace": format!("ns{namespace}"), "labels": labels}, "spec": spec})
        })
}

fn label_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => Just(json!({"matchLabels": {"app": "a0"}})),
        1 => Just(json!({"matchLabels": {"app": "a1"}})),
        1 => Just(json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]})),
        1 => Just(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a0"]}]})),
    ]
}

fn topology() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("zone"), Just("kubernetes.io/hostname"), Just("disk")]
}

/// Constraints of spreading; no two for the same key and effect.
fn spread() -> impl Strategy<Value = Vec<Value>> {
    let policies = prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!({"nodeTaintsPolicy": "Honor"})),
        1 => Just(json!({"nodeAffinityPolicy": "Ignore"})),
        1 => Just(json!({"minDomains": 3})),
    ];
    let constraint = (1..4_u8, topology(), prop::bool::ANY, label_selector(), policies).prop_map(
        |(skew, key, hard, selector, policies)| {
            let mut constraint = json!({
                "maxSkew": skew, "topologyKey": key, "labelSelector": selector,
                "whenUnsatisfiable": if hard { "DoNotSchedule" } else { "ScheduleAnyway" },
            });
            for (key, value) in policies.as_object().into_iter().flatten() {
                if hard || key != "minDomains" {
                    constraint[key] = value.clone();
                }
            }
            constraint
        },
    );
    let several = prop::collection::vec(constraint, 1..3).prop_map(|mut constraints| {
        let same = |a: &Value, b: &Value| {
            a["topologyKey"] == b["topologyKey"] && a["whenUnsatisfiable"] == b["whenUnsatisfiable"]
        };
        if let [first, second] = &constraints[..]
            && same(first, second)
        {
            constraints.truncate(1);
        }
        constraints
    });
    prop_oneof![3 => Just(Vec::new()), 2 => several]
}

fn pod_affinity(kind: &'static str) -> impl Strategy<Value = Value> {
    let namespaces = prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!({"namespaces": ["ns1"]})),
        1 => Just(json!({"namespaceSelector": {}})),
        1 => Just(json!({"namespaceSelector": {"matchLabels": {"team": "t1"}}})),
    ];
    let term = (topology(), label_selector(), namespaces).prop_map(|(key, selector, namespaces)| {
        let mut term = json!({"topologyKey": key, "labelSelector": selector});
        for (key, value) in namespaces.as_object().into_iter().flatten() {
            term[key] = value.clone();
        }
        term
    });
    let term = term.boxed();
    let required = prop::collection::vec(term.clone(), 0..2);
    let preferred = prop::collection::vec((1..50_i64, term), 0..2);
    let off = if kind == "podAffinity" { 4 } else { 2 };
    prop_oneof![
        off => Just(Value::Null),
        1 => (required, preferred).prop_map(|(required, preferred)| {
            let preferred: Vec<Value> =
                preferred.into_iter().map(|(w, t)| json!({"weight": w, "podAffinityTerm": t})).collect();
            json!({
                "requiredDuringSchedulingIgnoredDuringExecution": required,
                "preferredDuringSchedulingIgnoredDuringExecution": preferred,
            })
        }),
    ]
}
