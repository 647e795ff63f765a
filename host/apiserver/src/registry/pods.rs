//! Pods.
//!
//! Source: `pkg/registry/core/pod/strategy.go`, and `printPod` of `pkg/printers/internalversion`.

use super::json::{items, number, or_none, text};
use super::pod_spec::validation::{Of, pod_spec};
use super::pod_spec::warnings::warnings;
use super::pod_spec::{default_pod_only, default_pod_spec, qos_class};
use super::{AGE_COLUMN, Column, Context, GenerationRule, Grace, NAME_COLUMN, SelectableField, Strategy};
use super::{age_cell, at, copy_field, name_cell, since};
use orlop_apimachinery::field::{Path, forbidden};
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// The strategy of pods.
#[derive(Debug)]
pub(super) struct Pods;

const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    Column::new("Status", "The aggregate status of the containers in this pod."),
    Column::new(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE_COLUMN,
    Column::new("IP", "IP address allocated to the pod. Empty if not yet allocated.").wide(),
    Column::new("Node", "NodeName indicates in which node this pod is scheduled.").wide(),
    Column::new("Nominated Node", "The node that the pod may be moved to by preemption.").wide(),
    Column::new("Readiness Gates", "If specified, all readiness gates will be evaluated for pod readiness.")
        .wide(),
];

const FIELDS: &[SelectableField] = &[
    SelectableField::new("spec.nodeName", &[&["spec", "nodeName"]]),
    SelectableField::new("spec.restartPolicy", &[&["spec", "restartPolicy"]]),
    SelectableField::new("spec.schedulerName", &[&["spec", "schedulerName"]]),
    SelectableField::new("spec.serviceAccountName", &[&["spec", "serviceAccountName"]]),
    SelectableField::new("spec.hostNetwork", &[&["spec", "hostNetwork"]]).or("false"),
    SelectableField::new("status.phase", &[&["status", "phase"]]),
    SelectableField::new("status.podIP", &[&["status", "podIP"]]),
    SelectableField::new("status.nominatedNodeName", &[&["status", "nominatedNodeName"]]),
];

impl Strategy for Pods {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            default_pod_spec(spec);
            default_pod_only(spec);
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        let class = qos_class(object.get("spec").unwrap_or(&Value::Null));
        let gated = !items(object, &["spec", "schedulingGates"]).is_empty();
        let mut status = json!({ "phase": "Pending", "qosClass": class });
        if gated {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        object["status"] = status;
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, new: &mut Value, old: &Value) {
        super::keep_only_status(new, old);
        // What these say is not for the node to change.
        if let Some(metadata) = new.get_mut("metadata") {
            let before = old.get("metadata").unwrap_or(&Value::Null);
            copy_field(metadata, before, "ownerReferences");
            copy_field(metadata, before, "deletionTimestamp");
        }
        let class = at(old, &["status", "qosClass"]).cloned();
        if let (Some(class), Some(status)) = (class, new.get_mut("status").and_then(Value::as_object_mut)) {
            status.insert("qosClass".into(), class);
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let mut faults = pod_spec(spec, Of::Pod, &path);
        if !items(spec, &["ephemeralContainers"]).is_empty() {
            faults.push(forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
        }
        faults
    }

    fn warnings(&self, _cx: &Context<'_>, new: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings(new.get("spec").unwrap_or(&Value::Null), "spec")
    }

    fn validate_update(&self, _cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let spec = new.get("spec").unwrap_or(&Value::Null);
        let mut faults = pod_spec(spec, Of::Pod, &Path::new("spec"));
        faults.extend(immutable_fields(new, old));
        faults
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, pod: &Value) -> Vec<Value> {
        let summary = Summary::of(cx, pod);
        let gates = items(pod, &["spec", "readinessGates"]);
        let gates_met =
            gates.iter().filter(|gate| condition(pod, text(gate, &["conditionType"])) == "True").count();
        vec![
            name_cell(pod),
            format!("{}/{}", summary.ready, summary.total).into(),
            summary.reason.into(),
            summary.restarts.into(),
            age_cell(cx, pod),
            or_none(text(pod, &["status", "podIP"]).to_owned()).into(),
            or_none(text(pod, &["spec", "nodeName"]).to_owned()).into(),
            or_none(text(pod, &["status", "nominatedNodeName"]).to_owned()).into(),
            if gates.is_empty() { "<none>".into() } else { format!("{gates_met}/{}", gates.len()).into() },
        ]
    }

    fn grace(&self, object: &Value, requested: Option<i64>) -> Grace {
        let seconds = requested
            .or_else(|| at(object, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64))
            .unwrap_or(30);
        let finished = matches!(text(object, &["status", "phase"]), "Failed" | "Succeeded");
        // A pod that no node has, or that has ended, has nothing to stop.
        if text(object, &["spec", "nodeName"]).is_empty() || finished || seconds == 0 {
            return Grace::Immediate;
        }
        // A negative value is read as one second, as upstream does.
        Grace::Seconds(seconds.max(1))
    }
}

/// A pod's spec is fixed but for images, the active deadline, added tolerations, gates that go and,
/// while gated, narrower node selection.
fn immutable_fields(new: &Value, old: &Value) -> Vec<Cause> {
    const MESSAGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    let path = Path::new("spec");
    let mut faults = Vec::new();
    let (Some(new_spec), Some(old_spec)) = (new.get("spec"), old.get("spec")) else { return faults };
    let mut munged = new_spec.clone();
    for list in ["containers", "initContainers"] {
        let before = items(old_spec, &[list]);
        let after = munged.get_mut(list).and_then(Value::as_array_mut);
        if before.len() != after.as_ref().map_or(0, |a| a.len()) {
            faults.push(forbidden(&path.child(list), "pod updates may not add or remove containers"));
            return faults;
        }
        for (after, before) in after.into_iter().flatten().zip(before) {
            copy_field(after, before, "image");
            // The policy follows the tag where nobody said it.
            copy_field(after, before, "imagePullPolicy");
        }
    }
    copy_field(&mut munged, old_spec, "activeDeadlineSeconds");
    let kept = items(old_spec, &["tolerations"]);
    if kept.iter().all(|t| items(new_spec, &["tolerations"]).contains(t)) {
        copy_field(&mut munged, old_spec, "tolerations");
    }
    let gates = items(old_spec, &["schedulingGates"]);
    if !gates.is_empty() {
        copy_field(&mut munged, old_spec, "nodeSelector");
        copy_field(&mut munged, old_spec, "affinity");
    }
    if items(new_spec, &["schedulingGates"]).iter().all(|g| gates.contains(g)) {
        copy_field(&mut munged, old_spec, "schedulingGates");
    }
    if number(old_spec, &["terminationGracePeriodSeconds"]) < 0 {
        copy_field(&mut munged, old_spec, "terminationGracePeriodSeconds");
    }
    if munged != *old_spec {
        faults.push(forbidden(&path, MESSAGE));
    }
    faults
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    items(pod, &["status", "conditions"])
        .iter()
        .find(|c| text(c, &["type"]) == kind)
        .map_or("", |c| text(c, &["status"]))
}

/// What `kubectl get pods` says of a pod.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: String,
}

impl Summary {
    fn of(cx: &Context<'_>, pod: &Value) -> Self {
        let mut reason = text(pod, &["status", "reason"]).to_owned();
        if reason.is_empty() {
            reason = text(pod, &["status", "phase"]).to_owned();
        }
        for condition in items(pod, &["status", "conditions"]) {
            if text(condition, &["type"]) == "PodScheduled"
                && text(condition, &["reason"]) == "SchedulingGated"
            {
                reason = "SchedulingGated".into();
            }
        }
        let sidecars: Vec<&str> = items(pod, &["spec", "initContainers"])
            .iter()
            .filter(|c| text(c, &["restartPolicy"]) == "Always")
            .map(|c| text(c, &["name"]))
            .collect();
        let is_sidecar = |status: &Value| sidecars.contains(&text(status, &["name"]));

        let total = items(pod, &["spec", "containers"]).len() + sidecars.len();
        let mut ready = 0;
        let mut restarts = Restarts::default();
        let mut sidecar_restarts = Restarts::default();
        let mut initializing = false;
        let init_total = items(pod, &["spec", "initContainers"]).len();
        for (i, status) in items(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
            restarts.count(status);
            let started = status.get("started").and_then(Value::as_bool) == Some(true);
            if is_sidecar(status) {
                sidecar_restarts.count(status);
                if status.get("ready").and_then(Value::as_bool) == Some(true) {
                    ready += 1;
                }
            }
            let ended = at(status, &["state", "terminated"]).filter(|t| !t.is_null());
            if ended.is_some_and(|t| number(t, &["exitCode"]) == 0) || (is_sidecar(status) && started) {
                continue;
            }
            reason = match ended {
                Some(t) if !text(t, &["reason"]).is_empty() => format!("Init:{}", text(t, &["reason"])),
                Some(t) if number(t, &["signal"]) != 0 => format!("Init:Signal:{}", number(t, &["signal"])),
                Some(t) => format!("Init:ExitCode:{}", number(t, &["exitCode"])),
                None => match text(status, &["state", "waiting", "reason"]) {
                    "" | "PodInitializing" => format!("Init:{i}/{init_total}"),
                    waiting => format!("Init:{waiting}"),
                },
            };
            initializing = true;
            break;
        }
        if !initializing || condition(pod, "Initialized") == "True" {
            restarts = sidecar_restarts;
            let mut running = false;
            for status in items(pod, &["status", "containerStatuses"]).iter().rev() {
                restarts.count(status);
                let waiting = text(status, &["state", "waiting", "reason"]);
                let ended = at(status, &["state", "terminated"]).filter(|t| !t.is_null());
                if !waiting.is_empty() {
                    reason = waiting.to_owned();
                } else if let Some(t) = ended {
                    reason = match (text(t, &["reason"]), number(t, &["signal"])) {
                        ("", 0) => format!("ExitCode:{}", number(t, &["exitCode"])),
                        ("", signal) => format!("Signal:{signal}"),
                        (said, _) => said.to_owned(),
                    };
                } else if status.get("ready").and_then(Value::as_bool) == Some(true)
                    && at(status, &["state", "running"]).is_some_and(|r| !r.is_null())
                {
                    running = true;
                    ready += 1;
                }
            }
            if reason == "Completed" && running {
                reason = if condition(pod, "Ready") == "True" { "Running" } else { "NotReady" }.into();
            }
        }
        if at(pod, &["metadata", "deletionTimestamp"]).is_some_and(|t| !t.is_null()) {
            if text(pod, &["status", "reason"]) == "NodeLost" {
                reason = "Unknown".into();
            } else if !matches!(text(pod, &["status", "phase"]), "Failed" | "Succeeded") {
                reason = "Terminating".into();
            }
        }
        Self { ready, total, reason, restarts: restarts.shown(cx) }
    }
}

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<jiff::Timestamp>,
}

impl Restarts {
    fn count(&mut self, status: &Value) {
        self.count += number(status, &["restartCount"]);
        let finished = text(status, &["lastState", "terminated", "finishedAt"]).parse().ok();
        self.last = self.last.max(finished);
    }

    fn shown(&self, cx: &Context<'_>) -> String {
        match self.last {
            Some(last) if self.count > 0 => {
                format!("{} ({} ago)", self.count, since(cx, Some(&Value::String(last.to_string()))))
            }
            _ => self.count.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
