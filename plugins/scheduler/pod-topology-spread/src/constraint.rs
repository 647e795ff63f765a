//! What a pod wants of its spreading.
//!
//! Source: `pkg/scheduler/framework/plugins/podtopologyspread/common.go`.

use crate::args::Defaults;
use orlop_sdk::apimachinery::selector::Selector;
use orlop_sdk::scheduler::node_selector::RequiredNodeAffinity;
use orlop_sdk::serde_json::{Value, json};

/// One constraint.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) topology_key: String,
    pub(crate) max_skew: i32,
    pub(crate) min_domains: usize,
    pub(crate) honours_affinity: bool,
    pub(crate) honours_taints: bool,
    pub(crate) selector: Selector,
    /// Whether the pod itself will count.
    pub(crate) self_match: bool,
}

/// The constraints of a pod, and what they depend on. Pods for which this is equal share all counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) namespace: String,
    /// `DoNotSchedule`
    pub(crate) hard: Vec<Spec>,
    /// `ScheduleAnyway`
    pub(crate) soft: Vec<Spec>,
    /// Nodes that miss a label of a soft constraint are scored all the same.
    pub(crate) lenient: bool,
    pub(crate) required: RequiredNodeAffinity,
    pub(crate) tolerations: Value,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

/// The constraint's selector, narrowed by `matchLabelKeys`.
fn selector_of(constraint: &Value, labels: &Value) -> Result<Selector, String> {
    let null = Value::Null;
    let selector = constraint.get("labelSelector").unwrap_or(&null);
    let keys = constraint.get("matchLabelKeys").and_then(Value::as_array).into_iter().flatten();
    let pairs = keys.filter_map(|key| {
        let key = key.as_str()?;
        Some((key, labels.get(key)?.as_str()?))
    });
    let added: Vec<Value> =
        pairs.map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]})).collect();
    if added.is_empty() || !selector.is_object() {
        return Selector::from_label_selector(selector).map_err(|e| e.to_string());
    }
    let mut narrowed = selector.clone();
    let mut expressions =
        selector.get("matchExpressions").and_then(Value::as_array).cloned().unwrap_or_default();
    expressions.extend(added);
    narrowed["matchExpressions"] = Value::Array(expressions);
    Selector::from_label_selector(&narrowed).map_err(|e| e.to_string())
}

fn spec(constraint: &Value, labels: &Value, default: Option<&Selector>) -> Result<Spec, String> {
    let selector = match default {
        Some(selector) => selector.clone(),
        None => selector_of(constraint, labels)?,
    };
    let number = |key: &str| constraint.get(key).and_then(Value::as_i64);
    Ok(Spec {
        topology_key: text(constraint, "topologyKey").to_owned(),
        max_skew: number("maxSkew").and_then(|n| i32::try_from(n).ok()).unwrap_or(1),
        min_domains: number("minDomains").and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
        honours_affinity: text(constraint, "nodeAffinityPolicy") != "Ignore",
        honours_taints: text(constraint, "nodeTaintsPolicy") == "Honor",
        self_match: selector.matches_value(labels),
        selector,
    })
}

impl Wanted {
    /// Reads a pod.
    pub(crate) fn read(pod: &Value, defaults: &Defaults) -> Result<Self, String> {
        let null = Value::Null;
        let labels = pod.pointer("/metadata/labels").unwrap_or(&null);
        let own = pod.pointer("/spec/topologySpreadConstraints").and_then(Value::as_array);
        let own = own.filter(|constraints| !constraints.is_empty());
        let mut wanted = Self { lenient: own.is_none() && defaults.lenient, ..Self::default() };
        let default = match own {
            Some(_) => None,
            None => {
                let selector = pod.pointer("/computed/defaultSelector").unwrap_or(&null);
                let selector = Selector::from_label_selector(selector).map_err(|e| e.to_string())?;
                if selector.is_nothing() || selector.is_everything() {
                    return Ok(Self::default());
                }
                Some(selector)
            }
        };
        for constraint in own.unwrap_or(&defaults.constraints) {
            let spec = spec(constraint, labels, default.as_ref())?;
            match text(constraint, "whenUnsatisfiable") {
                "DoNotSchedule" => wanted.hard.push(spec),
                "ScheduleAnyway" => wanted.soft.push(spec),
                _ => {}
            }
        }
        let mut all = wanted.hard.iter().chain(&wanted.soft);
        if all.clone().any(|c| c.honours_affinity) {
            wanted.required = RequiredNodeAffinity::read(pod);
        }
        if all.any(|c| c.honours_taints) {
            wanted.tolerations = pod.pointer("/spec/tolerations").cloned().unwrap_or_default();
        }
        wanted.namespace =
            pod.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("").to_owned();
        Ok(wanted)
    }
}
