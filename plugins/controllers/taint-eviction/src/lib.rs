//! Evicts pods that do not tolerate a NoExecute taint of their node, or no longer: the
//! `taint-eviction-controller`.
//!
//! The time that a toleration grants runs from when the taint was added, where the taint says so,
//! else from when it was first seen here: the memo.
//!
//! Source of the behaviour and the words: `k8s.io/kubernetes/pkg/controller/tainteviction`.

use orlop_sdk::controller::{Condition, Controller, Event, Item, Meta, Plan, Write, now_text, parse_time};
use orlop_sdk::serde_json::json;
use serde::Deserialize;

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct TaintEviction;

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
    tolerations: Option<Vec<Toleration>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Toleration {
    key: String,
    operator: String,
    value: String,
    effect: String,
    toleration_seconds: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Node {
    spec: NodeSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    taints: Option<Vec<Taint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Taint {
    key: String,
    value: String,
    effect: String,
    time_added: Option<String>,
}

impl Toleration {
    fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        let key = self.key.is_empty() || self.key == taint.key;
        let value = match self.operator.as_str() {
            "Exists" => true,
            "" | "Equal" => !self.key.is_empty() && self.value == taint.value,
            _ => false,
        };
        effect && key && value
    }
}

/// What tolerations grant against a set of taints.
enum Grant {
    Nothing,
    Forever,
    Milliseconds(i64),
}

fn grant(tolerations: &[Toleration], taints: &[&Taint]) -> Grant {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let mut used = tolerations.iter().filter(|t| t.tolerates(taint)).peekable();
        if used.peek().is_none() {
            return Grant::Nothing;
        }
        for seconds in used.filter_map(|t| t.toleration_seconds) {
            let seconds = seconds.max(0);
            shortest = Some(shortest.map_or(seconds, |s| s.min(seconds)));
        }
    }
    shortest.map_or(Grant::Forever, |s| Grant::Milliseconds(s * 1000))
}

impl Controller for TaintEviction {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, now: i64) -> Plan {
        plan(item, now).unwrap_or_else(Plan::error)
    }
}

fn plan(item: &Item<'_>, now: i64) -> Result<Plan, String> {
    let Some(pod) = item.object::<Pod>()? else { return Ok(Plan::default()) };
    if pod.spec.node_name.is_empty() || pod.metadata.is_being_deleted() {
        return Ok(Plan::default());
    }
    let Some(node) = item.first::<Node>("node")? else { return Ok(Plan::default()) };
    let taints = node.spec.taints.unwrap_or_default();
    let taints: Vec<&Taint> = taints.iter().filter(|t| t.effect == "NoExecute").collect();
    let scheduled = item.memo["since"].as_i64();
    let cancel = || {
        let message = format!("Cancelling deletion of Pod {}/{}", pod.metadata.namespace, pod.metadata.name);
        let event = scheduled.map(|_| Write::event(Event::normal("TaintManagerEviction", message)));
        Plan::writes(event.into_iter().collect())
    };
    if taints.is_empty() {
        return Ok(cancel());
    }
    match grant(&pod.spec.tolerations.clone().unwrap_or_default(), &taints) {
        Grant::Forever => Ok(cancel()),
        Grant::Nothing => Ok(evict(&pod, now)),
        Grant::Milliseconds(granted) => {
            let added = taints.iter().filter_map(|t| t.time_added.as_deref().and_then(parse_time)).max();
            let since = scheduled.or(added).unwrap_or(now).min(now);
            if since + granted <= now {
                return Ok(evict(&pod, now));
            }
            let mut plan = Plan { memo: json!({"since": since}), ..Plan::default() };
            plan.look_again(since + granted - now);
            Ok(plan)
        }
    }
}

fn evict(pod: &Pod, now: i64) -> Plan {
    let meta = &pod.metadata;
    let mut conditions: Vec<Condition> =
        pod.status.conditions.iter().filter(|c| c.kind != "DisruptionTarget").cloned().collect();
    conditions.push(Condition {
        kind: "DisruptionTarget".into(),
        status: "True".into(),
        last_transition_time: Some(now_text(now)),
        reason: "DeletionByTaintManager".into(),
        message: "Taint manager: deleting due to NoExecute taint".into(),
        ..Condition::default()
    });
    let mark = Write::patch("v1", "pods", meta, json!({"status": {"conditions": conditions}}))
        .subresource("status")
        .at_revision(meta)
        .ignoring("NotFound");
    let message = format!("Marking for deletion Pod {}/{}", meta.namespace, meta.name);
    let delete = Write::delete("v1", "pods", meta).then(Event::normal("TaintManagerEviction", message));
    Plan::writes(vec![mark, delete])
}

orlop_sdk::export_controller!(TaintEviction);

#[cfg(test)]
mod tests;
