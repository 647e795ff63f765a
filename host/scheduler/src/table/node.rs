//! What the table wants to know of a Node object.

use crate::resources::amounts;
use serde_json::{Value, json};

/// The facts of one node, before they are numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Milli-CPU, bytes of memory, bytes of ephemeral storage, pods.
    pub allocatable: [i64; 4],
    /// Other resources with their units.
    pub extended: Vec<(String, i64)>,
    /// `key=value`
    pub labels: Vec<String>,
    /// JSON array of key, value and effect, sorted.
    pub taints: String,
    /// `region/zone`, empty without either label.
    pub zone: String,
    /// `spec.unschedulable`
    pub unschedulable: bool,
    /// Each name of each image, with its size in bytes.
    pub images: Vec<(String, u64)>,
    /// `status.declaredFeatures`
    pub features: Vec<String>,
}

impl NodeFacts {
    /// Reads a Node object.
    #[must_use]
    pub fn from_value(node: &Value) -> Self {
        let at = |path: &str| node.pointer(path);
        let mut facts = Self::default();
        for (name, units) in amounts(at("/status/allocatable")) {
            match name.as_str() {
                "cpu" => facts.allocatable[0] = units,
                "memory" => facts.allocatable[1] = units,
                "ephemeral-storage" => facts.allocatable[2] = units,
                "pods" => facts.allocatable[3] = units,
                _ => facts.extended.push((name, units)),
            }
        }
        let labels = at("/metadata/labels").and_then(Value::as_object);
        let label = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str).unwrap_or("");
        facts.labels = labels
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
            .collect();
        let (region, zone) = (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
        if !region.is_empty() || !zone.is_empty() {
            facts.zone = format!("{region}/{zone}");
        }
        facts.taints = taint_set(at("/spec/taints"));
        facts.unschedulable = at("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false);
        let features = at("/status/declaredFeatures").and_then(Value::as_array).into_iter().flatten();
        facts.features = features.filter_map(|f| f.as_str().map(ToOwned::to_owned)).collect();
        for image in at("/status/images").and_then(Value::as_array).into_iter().flatten() {
            let size = image.get("sizeBytes").and_then(Value::as_u64).unwrap_or(0);
            for name in image.get("names").and_then(Value::as_array).into_iter().flatten() {
                facts.images.extend(name.as_str().map(|n| (n.to_owned(), size)));
            }
        }
        facts
    }
}

fn taint_set(taints: Option<&Value>) -> String {
    let Some(taints) = taints.and_then(Value::as_array) else { return "[]".to_owned() };
    let text = |taint: &Value, key: &str| taint.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut set: Vec<(String, String, String)> =
        taints.iter().map(|t| (text(t, "key"), text(t, "value"), text(t, "effect"))).collect();
    set.sort();
    let set: Vec<Value> =
        set.into_iter().map(|(k, v, e)| json!({"key": k, "value": v, "effect": e})).collect();
    Value::Array(set).to_string()
}
