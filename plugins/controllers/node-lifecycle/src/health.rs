//! Whether a node lives, what its status says otherwise, and what becomes of its pods' readiness.

use crate::NodeLifecycle;
use crate::taints::{self, Taint};
use orlop_sdk::controller::{Condition, Event, Item, Meta, Plan, Write, now_text};
use serde::Deserialize;
use serde_json::{Value, json};

/// Conditions that become Unknown together.
const MONITORED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) metadata: Meta,
    pub(crate) spec: NodeSpec,
    pub(crate) status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeSpec {
    pub(crate) unschedulable: bool,
    pub(crate) taints: Option<Vec<Taint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lease {
    spec: LeaseSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeaseSpec {
    renew_time: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pod {
    metadata: Meta,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
    conditions: Vec<Condition>,
}

impl Node {
    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|c| c.kind == kind)
    }
}

/// The plan for one node.
pub(crate) fn reconcile(plugin: &NodeLifecycle, item: &Item<'_>, now: i64) -> Result<Plan, String> {
    let Some(node) = item.object::<Node>()? else { return Ok(gone(item)) };
    let lease: Option<Lease> = item.first("lease")?;
    let ready = node.condition("Ready");
    let sign_of_life = json!({
        "lease": lease.and_then(|l| l.spec.renew_time),
        "heartbeat": ready.and_then(|c| c.last_heartbeat_time.clone()),
    });
    let known = &item.memo;
    let seen = match known["seen"].as_i64() {
        Some(seen) if known["life"] == sign_of_life => seen,
        _ => now,
    };
    let mut plan = Plan::default();
    if known.is_null() {
        plan.writes.push(Write::event(Event::normal(
            "RegisteredNode",
            format!("Node {0} event: Registered Node {0} in Controller", node.metadata.name),
        )));
    }
    // Before the first report, silence counts from the node's creation.
    let (since, grace) = if ready.is_some() {
        (seen, plugin.node_monitor_grace_period_seconds)
    } else {
        (
            node.metadata.created().max(known["seen"].as_i64().map_or(0, |_| seen)),
            plugin.node_startup_grace_period_seconds,
        )
    };
    let silent_at = since + grace * 1000;
    let is_silent = now >= silent_at;
    let was_ready = known["ready"].as_bool().unwrap_or(false);
    let is_ready = ready.is_some_and(|c| c.status == "True") && !is_silent;
    let mut memo = json!({"life": sign_of_life, "seen": seen, "ready": is_ready});

    let mut conditions = node.status.conditions.clone();
    if is_silent && silence(&mut conditions, &node, now) {
        let body = json!({"status": {"conditions": conditions}});
        plan.writes.push(
            Write::patch("v1", "nodes", &node.metadata, body)
                .subresource("status")
                .at_revision(&node.metadata),
        );
    } else if let Some(taints) = taints::wanted(&node, now) {
        // In a plan of its own, because each write names the revision that it was decided on.
        let body = json!({"spec": {"taints": if taints.is_empty() { Value::Null } else { json!(taints) }}});
        plan.writes.push(Write::patch("v1", "nodes", &node.metadata, body).at_revision(&node.metadata));
    }
    if was_ready && !is_ready {
        plan.writes.push(Write::event(Event::normal(
            "NodeNotReady",
            format!("Node {} status is now: NodeNotReady", node.metadata.name),
        )));
    }
    // Its pods are asked for only when their readiness has to follow.
    let asked = known["want"].is_array();
    if asked {
        let pods: Vec<Pod> = item.input("pods")?;
        if !is_ready {
            plan.writes.extend(pods.iter().filter_map(|p| not_ready(p, now)));
        }
    } else if !is_ready && ready.is_some() && (was_ready || known.is_null()) {
        memo["want"] = json!(["pods"]);
        plan.look_again(1);
    }
    plan.memo = memo;
    if !is_silent {
        plan.look_again(silent_at - now);
    }
    Ok(plan)
}

fn gone(item: &Item<'_>) -> Plan {
    if item.memo.is_null() {
        return Plan::default();
    }
    let meta = Meta { name: item.key.name.clone(), uid: item.key.name.clone(), ..Meta::default() };
    let event = Event::normal(
        "RemovingNode",
        format!("Node {0} event: Removing Node {0} from Controller", item.key.name),
    );
    Plan::write(Write::event(event.about("v1", "Node", &meta)))
}

/// Makes the monitored conditions Unknown; whether anything changed.
fn silence(conditions: &mut Vec<Condition>, node: &Node, now: i64) -> bool {
    let mut changed = false;
    for kind in MONITORED {
        match conditions.iter_mut().find(|c| c.kind == kind) {
            Some(c) if c.status == "Unknown" => {}
            Some(c) => {
                c.status = "Unknown".into();
                c.reason = "NodeStatusUnknown".into();
                c.message = "Kubelet stopped posting node status.".into();
                c.last_transition_time = Some(now_text(now));
                changed = true;
            }
            None => {
                conditions.push(Condition {
                    kind: kind.into(),
                    status: "Unknown".into(),
                    reason: "NodeStatusNeverUpdated".into(),
                    message: "Kubelet never posted node status.".into(),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(now_text(now)),
                    ..Condition::default()
                });
                changed = true;
            }
        }
    }
    changed
}

/// A pod on a node that is not ready is not ready either.
fn not_ready(pod: &Pod, now: i64) -> Option<Write> {
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        return None;
    }
    let mut conditions = pod.status.conditions.clone();
    let ready = conditions.iter_mut().find(|c| c.kind == "Ready" && c.status == "True")?;
    ready.status = "False".into();
    ready.last_transition_time = Some(now_text(now));
    let event = Event::warning("NodeNotReady", "Node is not ready").about("v1", "Pod", &pod.metadata);
    Some(
        Write::patch("v1", "pods", &pod.metadata, json!({"status": {"conditions": conditions}}))
            .subresource("status")
            .at_revision(&pod.metadata)
            .ignoring("NotFound")
            .in_parallel()
            .then(event),
    )
}

#[cfg(test)]
mod tests;
