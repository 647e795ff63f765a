//! What the scheduler keeps of a pod.

use crate::columns::dictionary;
use crate::projection::{HostPort, add_claims, computed, host_ports};
use crate::resources::{Requests, pod_requests};
use crate::table::{Footprint, NodeTable};
use orlop_apimachinery::Object;
use serde_json::Value;
use std::sync::Arc;

/// Uid of a pod.
pub type Uid = Arc<str>;

/// A pod object, parsed as far as scheduling goes.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// The whole object with `computed` added; dropped as soon as its class is known.
    pub value: Value,
    /// `spec.nodeName`, empty while it has none.
    pub node: String,
    /// `spec.schedulerName`
    pub scheduler: String,
    /// `spec.priority`
    pub priority: i32,
    /// Names of scheduling gates that are still there.
    pub gates: Vec<String>,
    /// Whether `spec.preemptionPolicy` is Never.
    pub never_preempts: bool,
    /// Whether `status.phase` is Succeeded or Failed.
    pub ended: bool,
    /// What it asks for.
    pub requests: Requests,
    /// Host ports, sorted.
    pub ports: Vec<HostPort>,
    /// The condition PodScheduled.
    pub scheduled: Option<ScheduledCondition>,
}

/// The condition PodScheduled as the API server has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduledCondition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// `Unschedulable`, `SchedulingGated`, `SchedulerError` or empty.
    pub reason: String,
    /// For the user.
    pub message: String,
}

impl PodFacts {
    /// Reads a Pod object.
    #[must_use]
    pub fn from_object(object: &Object) -> Self {
        Self::from_value(object.to_value())
    }

    /// Reads a parsed Pod.
    #[must_use]
    pub fn from_value(mut value: Value) -> Self {
        let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or("").to_owned();
        let spec = value.get("spec").unwrap_or(&Value::Null);
        let requests = pod_requests(spec);
        let ports = host_ports(spec);
        let gates = spec.get("schedulingGates").and_then(Value::as_array).into_iter().flatten();
        let conditions = value.pointer("/status/conditions").and_then(Value::as_array);
        let scheduled = conditions
            .into_iter()
            .flatten()
            .find(|c| c.get("type").and_then(Value::as_str) == Some("PodScheduled"))
            .map(|c| ScheduledCondition {
                status: text(c.get("status")),
                reason: text(c.get("reason")),
                message: text(c.get("message")),
            });
        let phase = value.pointer("/status/phase").and_then(Value::as_str);
        let scheduler = spec.get("schedulerName").and_then(Value::as_str).filter(|s| !s.is_empty());
        let mut facts = Self {
            node: text(spec.get("nodeName")),
            scheduler: scheduler.unwrap_or("default-scheduler").to_owned(),
            priority: spec
                .get("priority")
                .and_then(Value::as_i64)
                .and_then(|p| p.try_into().ok())
                .unwrap_or(0),
            gates: gates.map(|g| text(g.get("name"))).collect(),
            never_preempts: spec.get("preemptionPolicy").and_then(Value::as_str) == Some("Never"),
            ended: matches!(phase, Some("Succeeded" | "Failed")),
            scheduled,
            requests,
            ports,
            value: Value::Null,
        };
        let mut computed = computed(&facts.requests, &facts.ports);
        if let Value::Object(computed) = &mut computed {
            add_claims(computed, &value);
            computed.insert("priority".to_owned(), facts.priority.into());
            let terminating = value.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
            computed.insert("terminating".to_owned(), terminating.into());
        }
        if let Value::Object(map) = &mut value {
            map.insert("computed".to_owned(), computed);
        }
        facts.value = value;
        facts
    }

    /// What it takes from a node, numbered by `table`.
    pub fn footprint(&self, table: &mut NodeTable) -> Footprint {
        let mut footprint = Footprint {
            nonzero_cpu: self.requests.nonzero_cpu,
            nonzero_memory: self.requests.nonzero_memory,
            ..Footprint::default()
        };
        let mut extended = Vec::new();
        for (name, units) in &self.requests.exact {
            match name.as_str() {
                "cpu" => footprint.cpu = *units,
                "memory" => footprint.memory = *units,
                "ephemeral-storage" => footprint.ephemeral_storage = *units,
                "pods" => {}
                _ => extended.push((table.intern(dictionary::EXTENDED, name), *units)),
            }
        }
        footprint.extended = extended.into();
        let mut ports: Vec<u64> =
            self.ports.iter().map(|p| p.pack(table.intern(dictionary::HOST_IPS, &p.ip))).collect();
        ports.sort_unstable();
        footprint.host_ports = ports.into();
        footprint.placed = table.placed_mut().intern(&self.value);
        footprint
    }
}
