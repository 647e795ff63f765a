//! Nodes and pods as the load generator of the project's benchmarks makes them.

use orlop_apimachinery::Object;
use orlop_scheduler::pod::PodFacts;
use orlop_scheduler::profile::Profile;
use orlop_scheduler::table::{NodeFacts, NodeTable};
use serde_json::{Value, json};
use std::sync::Arc;

/// What pods want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    Spread,
    Affinity,
    AntiAffinity,
}

impl Shape {
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Spread, Self::Affinity, Self::AntiAffinity];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Spread => "zone spread",
            Self::Affinity => "pod affinity",
            Self::AntiAffinity => "host anti-affinity",
        }
    }

    /// A pod of an app; `variant` makes classes differ that are of the same app.
    pub(crate) fn pod(self, app: u32, variant: u32) -> Value {
        let labels = json!({"app": format!("kload-{app}")});
        let selector = json!({"matchLabels": labels});
        let mut spec = json!({
            "schedulerName": "default-scheduler", "nodeSelector": {"kload": "1"},
            "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10", "resources": {"requests": {
                "cpu": format!("{}m", 100 + variant), "memory": "500Mi",
            }}}],
        });
        let term = |key: &str| json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": selector, "topologyKey": key}]});
        match self {
            Self::Plain => {}
            Self::Spread => {
                spec["topologySpreadConstraints"] = json!([{
                    "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector,
                }]);
            }
            Self::Affinity => spec["affinity"]["podAffinity"] = term("topology.kubernetes.io/zone"),
            Self::AntiAffinity => spec["affinity"]["podAntiAffinity"] = term("kubernetes.io/hostname"),
        }
        json!({"metadata": {"namespace": "kload", "labels": labels}, "spec": spec})
    }
}

/// A pod that gives every plugin something to do.
pub(crate) fn busy_pod() -> Value {
    let mut pod = Shape::Spread.pod(0, 0);
    let app = json!({"matchLabels": {"app": "kload-0"}});
    let spec = &mut pod["spec"];
    spec["tolerations"] = json!([{"key": "t", "operator": "Exists"}]);
    spec["containers"][0]["ports"] = json!([{"hostPort": 1000}]);
    spec["affinity"]["nodeAffinity"] = json!({
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kload", "operator": "NotIn", "values": ["v"]}]},
        ]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {
            "matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-3"]}],
        }}],
    });
    spec["affinity"]["podAntiAffinity"] = json!({
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "other"}}},
        ],
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "podAffinityTerm":
            {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": app},
        }],
    });
    spec["volumes"] = json!([{"name": "v", "gcePersistentDisk": {"pdName": "disk"}}]);
    pod
}

pub(crate) fn node(i: u32) -> Value {
    let name = format!("fake-{i:05}");
    json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kload": "1",
            "topology.kubernetes.io/zone": format!("zone-{}", i % 10),
        }},
        "status": {
            "allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "500Gi"},
            "images": [{"names": [format!("registry.k8s.io/pause:3.{}", i % 12)], "sizeBytes": 300_000_000}],
        },
    })
}

/// So many nodes with so many pods on each, of ten apps.
pub(crate) fn table(nodes: u32, pods: u32, profile: &Profile) -> NodeTable {
    let mut table = NodeTable::new();
    table.placed_mut().read(profile.placed_pod_fields().map(str::to_owned).collect());
    for i in 0..nodes {
        table.set_node(&format!("fake-{i:05}"), &NodeFacts::from_value(&node(i)));
    }
    let apps: Vec<_> = (100..110).map(|app| PodFacts::from_value(Shape::Plain.pod(app, 0))).collect();
    let apps: Vec<_> = apps.iter().map(|facts| facts.footprint(&mut table)).collect();
    for (i, app) in (0..nodes * pods).zip(apps.iter().cycle()) {
        table.add_pod_at(i % nodes, app);
    }
    table
}

pub(crate) fn object(value: &Value) -> Arc<Object> {
    Arc::new(Object::from_value(value).expect("an object"))
}
