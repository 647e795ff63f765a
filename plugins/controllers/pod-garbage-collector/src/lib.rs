//! Deletes pods that nobody will finish: the `pod-garbage-collector-controller`.
//!
//! - pods of a node that has been gone for 40 s, as verified at the API by the host;
//! - pods that are terminating and were never given to a node;
//! - terminating pods of a node that is out of service;
//! - the oldest of more than 12,500 pods that are over.
//!
//! Source of the behaviour and the words: `k8s.io/kubernetes/pkg/controller/podgc`.

use orlop_sdk::controller::{Condition, Controller, Item, Meta, Plan, Write, now_text};
use orlop_sdk::serde_json::json;
use serde::Deserialize;

/// A node is missed for so long before its pods go, in milliseconds.
const QUARANTINE: i64 = 40_000;
/// Pods that are over and may stay; the manifest's `moreThan`.
const KEPT: usize = 12_500;
/// Deletions of one plan.
const BURST: usize = 500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct PodGarbageCollector;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pod {
    metadata: Meta,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
    reason: String,
    conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Node {
    spec: NodeSpec,
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    taints: Option<Vec<Taint>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<Condition>,
}

impl Node {
    fn is_out_of_service(&self) -> bool {
        let ready = self.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True");
        !ready && self.spec.taints.iter().flatten().any(|t| t.key == OUT_OF_SERVICE)
    }
}

impl Controller for PodGarbageCollector {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, now: i64) -> Plan {
        plan(item, now).unwrap_or_else(Plan::error)
    }
}

fn plan(item: &Item<'_>, now: i64) -> Result<Plan, String> {
    if item.key.namespace.is_empty() {
        return terminated(item, now);
    }
    let Some(pod) = item.object::<Pod>()? else { return Ok(Plan::default()) };
    if pod.spec.node_name.is_empty() {
        return Ok(if pod.metadata.is_being_deleted() { delete(&pod, None, now) } else { Plan::default() });
    }
    if let Some(node) = item.first::<Node>("node")? {
        let lost = pod.metadata.is_being_deleted() && node.is_out_of_service();
        return Ok(if lost { delete(&pod, None, now) } else { Plan::default() });
    }
    let missed = item.memo["missed"].as_i64().unwrap_or(now);
    if now < missed + QUARANTINE {
        let mut plan = Plan { memo: json!({"missed": missed}), ..Plan::default() };
        plan.look_again(missed + QUARANTINE - now);
        return Ok(plan);
    }
    Ok(delete(&pod, Some("PodGC: node no longer exists"), now))
}

/// The oldest go, evicted ones first.
fn terminated(item: &Item<'_>, now: i64) -> Result<Plan, String> {
    let mut pods: Vec<Pod> = item.input("terminated")?;
    if pods.len() <= KEPT {
        return Ok(Plan::default());
    }
    pods.sort_by(|a, b| {
        let evicted = |p: &Pod| p.status.phase == "Failed" && p.status.reason == "Evicted";
        let age = (a.metadata.created(), &a.metadata.name).cmp(&(b.metadata.created(), &b.metadata.name));
        evicted(b).cmp(&evicted(a)).then(age)
    });
    let surplus = (pods.len() - KEPT).min(BURST);
    let mut plan = Plan::default();
    for pod in pods.iter().take(surplus) {
        plan.writes.extend(delete(pod, None, now).writes.into_iter().map(Write::in_parallel));
    }
    if pods.len() - KEPT > BURST {
        plan.look_again(1);
    }
    Ok(plan)
}

/// Marks a pod as failed where it is not over, then removes it without grace.
fn delete(pod: &Pod, disruption: Option<&str>, now: i64) -> Plan {
    let meta = &pod.metadata;
    let mut writes = Vec::new();
    if !matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        let mut body = json!({"status": {"phase": "Failed"}});
        if let Some(message) = disruption {
            let mut conditions: Vec<Condition> =
                pod.status.conditions.iter().filter(|c| c.kind != "DisruptionTarget").cloned().collect();
            conditions.push(Condition {
                kind: "DisruptionTarget".into(),
                status: "True".into(),
                last_transition_time: Some(now_text(now)),
                reason: "DeletionByPodGC".into(),
                message: message.into(),
                ..Condition::default()
            });
            body["status"]["conditions"] = json!(conditions);
        }
        writes.push(
            Write::patch("v1", "pods", meta, body)
                .subresource("status")
                .at_revision(meta)
                .ignoring("NotFound"),
        );
    }
    let mut delete = Write::delete("v1", "pods", meta);
    delete.grace_period_seconds = Some(0);
    writes.push(delete);
    Plan::writes(writes)
}

orlop_sdk::export_controller!(PodGarbageCollector);

#[cfg(test)]
mod tests;
