//! One budget: what its status shall say.

use crate::scale;
use orlop_sdk::controller::{Condition, Event, Item, Meta, Plan, Write, now_text, parse_time};
use orlop_sdk::serde_json::{Value, json};
use serde::Deserialize;
use std::collections::BTreeMap;

/// So long an eviction that was let through may take to show, in milliseconds.
const DELETION: i64 = 120_000;
const ALLOWED: &str = "DisruptionAllowed";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Budget {
    metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    min_available: Option<Value>,
    max_unavailable: Option<Value>,
}

#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: i64,
    disrupted_pods: BTreeMap<String, String>,
    disruptions_allowed: i64,
    current_healthy: i64,
    desired_healthy: i64,
    expected_pods: i64,
    conditions: Vec<Condition>,
}

/// What is read of a pod.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Meta,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    conditions: Vec<Condition>,
}

impl Pod {
    fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
    }
}

/// A whole number, or a percentage of `of`, rounded up.
fn scaled(value: &Value, of: i64) -> Result<i64, String> {
    if let Some(number) = value.as_i64() {
        return Ok(number);
    }
    let percent = value.as_str().and_then(|s| s.strip_suffix('%')).and_then(|s| s.parse::<i64>().ok());
    let percent = percent.ok_or_else(|| format!("invalid value for IntOrString: {value}"))?;
    Ok((percent * of + 99).div_euclid(100))
}

/// Expected and desired number of pods, and the names of those without owner.
fn wanted(item: &Item<'_>, spec: &Spec, pods: &[Pod]) -> Result<(i64, i64, Vec<String>), String> {
    if let Some(most) = &spec.max_unavailable {
        let (expected, unmanaged) = scale::expected(item, pods)?;
        return Ok((expected, (expected - scaled(most, expected)?).max(0), unmanaged));
    }
    match &spec.min_available {
        None => Ok((0, 0, Vec::new())),
        Some(least) => match least.as_i64() {
            Some(least) => Ok((i64::try_from(pods.len()).unwrap_or(i64::MAX), least, Vec::new())),
            None => {
                let (expected, unmanaged) = scale::expected(item, pods)?;
                Ok((expected, scaled(least, expected)?, unmanaged))
            }
        },
    }
}

/// The evictions that were let through and do not show yet, the first time at which one of them
/// is overdue, and the pods of those that are.
fn disrupted(budget: &Budget, pods: &[Pod], now: i64) -> (BTreeMap<String, String>, Option<i64>, Vec<Event>) {
    let mut waiting = BTreeMap::new();
    let mut next: Option<i64> = None;
    let mut overdue = Vec::new();
    for pod in pods.iter().filter(|p| !p.metadata.is_being_deleted()) {
        let Some(since) = budget.status.disrupted_pods.get(&pod.metadata.name) else { continue };
        let end = parse_time(since).unwrap_or(0) + DELETION;
        if end < now {
            let Meta { namespace, name, .. } = &budget.metadata;
            let words = format!("Pod was expected by PDB {namespace}/{name} to be deleted but it wasn't");
            overdue.push(Event::warning("NotDeleted", words).about("v1", "Pod", &pod.metadata));
        } else {
            next = Some(next.map_or(end, |known| known.min(end)));
            waiting.insert(pod.metadata.name.clone(), since.clone());
        }
    }
    (waiting, next, overdue)
}

fn condition(
    status: &Status,
    allowed: bool,
    reason: &str,
    message: &str,
    generation: i64,
    now: i64,
) -> Condition {
    let is = if allowed { "True" } else { "False" };
    let old = status.conditions.iter().find(|c| c.kind == ALLOWED && c.status == is);
    Condition {
        kind: ALLOWED.to_owned(),
        status: is.to_owned(),
        last_transition_time: old
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| Some(now_text(now))),
        reason: reason.to_owned(),
        message: message.to_owned(),
        other: BTreeMap::from([("observedGeneration".to_owned(), generation.into())]),
        ..Condition::default()
    }
}

/// Decides about one budget.
pub(crate) fn reconcile(item: &Item<'_>, now: i64) -> Result<Plan, String> {
    let Some(budget) = item.object::<Budget>()? else { return Ok(Plan::default()) };
    let pods: Vec<Pod> = item.input("pods")?;
    let (waiting, next, overdue) = disrupted(&budget, &pods, now);
    let mut events: Vec<Event> = overdue;
    let generation = budget.metadata.generation;
    let mut new =
        Status { observed_generation: generation, disrupted_pods: waiting, ..budget.status.clone() };
    let verdict = match wanted(item, &budget.spec, &pods) {
        Ok((expected, desired, unmanaged)) => {
            let healthy = pods.iter().filter(|p| {
                !p.metadata.is_being_deleted()
                    && !new.disrupted_pods.contains_key(&p.metadata.name)
                    && p.is_ready()
            });
            new.current_healthy = i64::try_from(healthy.count()).unwrap_or(i64::MAX);
            new.desired_healthy = desired;
            new.expected_pods = expected;
            let spare = new.current_healthy - desired;
            new.disruptions_allowed = if expected <= 0 { 0 } else { spare.max(0) };
            if !unmanaged.is_empty() {
                events.push(Event::warning("UnmanagedPods", unmanaged_words(item)));
            }
            let allowed = new.disruptions_allowed > 0;
            let reason = if allowed { "SufficientPods" } else { "InsufficientPods" };
            condition(&budget.status, allowed, reason, "", generation, now)
        }
        Err(why) => {
            new.disruptions_allowed = 0;
            new.observed_generation = budget.status.observed_generation;
            let words = format!("Failed to calculate the number of expected pods: {why}");
            events.push(Event::warning("CalculateExpectedPodCountFailed", words));
            condition(&budget.status, false, "SyncFailed", &why, new.observed_generation, now)
        }
    };
    new.conditions.retain(|c| c.kind != ALLOWED);
    new.conditions.push(verdict);
    let mut plan = Plan::default();
    if let Some(next) = next {
        plan.look_again(next - now + 1);
    }
    if new == budget.status {
        return Ok(plan);
    }
    if pods.is_empty() {
        events.push(Event::normal("NoPods", "No matching pods found"));
    }
    let mut body = item.raw_object();
    body["status"] = to_json(&new);
    let write = Write::update("policy/v1", "poddisruptionbudgets", &budget.metadata, body);
    plan.writes.push(write.subresource("status").ignoring("NotFound"));
    plan.writes.extend(events.into_iter().map(Write::event));
    Ok(plan)
}

fn unmanaged_words(item: &Item<'_>) -> String {
    let selector = item.raw_object().pointer("/spec/selector").cloned().unwrap_or_default();
    let shown = orlop_sdk::apimachinery::Selector::from_label_selector(&selector).map(|s| s.to_string());
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
        shown.unwrap_or_default()
    )
}

fn to_json(status: &Status) -> Value {
    let mut out = json!({
        "observedGeneration": status.observed_generation,
        "disruptionsAllowed": status.disruptions_allowed,
        "currentHealthy": status.current_healthy,
        "desiredHealthy": status.desired_healthy,
        "expectedPods": status.expected_pods,
        "conditions": status.conditions,
    });
    if !status.disrupted_pods.is_empty() {
        out["disruptedPods"] = json!(status.disrupted_pods);
    }
    out
}
