//! The taints that a node has because of its conditions.

use crate::health::Node;
use orlop_sdk::controller::now_text;
use serde::{Deserialize, Serialize};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Taint {
    pub(crate) key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) value: String,
    pub(crate) effect: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) time_added: Option<String>,
}

/// Condition, status and the taint that follows from it.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The node's taints as they shall be; `None` where they are so.
pub(crate) fn wanted(node: &Node, now: i64) -> Option<Vec<Taint>> {
    let holds = |kind: &str, status: &str| node.condition(kind).is_some_and(|c| c.status == status);
    let mut due: Vec<(&str, &str)> = BY_CONDITION
        .iter()
        .filter(|(kind, status, _)| holds(kind, status))
        .map(|(_, _, key)| (*key, "NoSchedule"))
        .collect();
    if node.spec.unschedulable {
        due.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if holds("Ready", "False") {
        due.push((NOT_READY, "NoExecute"));
    } else if holds("Ready", "Unknown") {
        due.push((UNREACHABLE, "NoExecute"));
    }
    let reported = node.condition("Ready").is_some();
    let ours = |t: &Taint| match t.effect.as_str() {
        // The API server taints new nodes not-ready; that stands until the first report.
        "NoSchedule" if t.key == NOT_READY => reported,
        "NoSchedule" => t.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| *key == t.key),
        "NoExecute" => reported && (t.key == NOT_READY || t.key == UNREACHABLE),
        _ => false,
    };
    let existing = node.spec.taints.clone().unwrap_or_default();
    let is_due = |t: &Taint| due.iter().any(|(key, effect)| t.key == *key && t.effect == *effect);
    let mut taints: Vec<Taint> = existing.iter().filter(|t| !ours(t) || is_due(t)).cloned().collect();
    for (key, effect) in due {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                time_added: Some(now_text(now)),
                ..Taint::default()
            });
        }
    }
    (taints != existing).then_some(taints)
}
