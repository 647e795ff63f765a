//! Which pods go first when there are too many.
//!
//! Source of the order: `k8s.io/kubernetes/pkg/controller`, `ActivePodsWithRanks`.

use super::replicas::Pod;
use orlop_sdk::controller::parse_time;
use std::cmp::Ordering;
use std::collections::BTreeMap;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods of `active` that are deleted first. `related` are the pods of the ReplicaSets
/// with the same owner, which count for how crowded a node is.
pub(crate) fn to_delete<'p>(active: &[&'p Pod], related: &[Pod], count: usize, now: i64) -> Vec<&'p Pod> {
    if count >= active.len() {
        return active.to_vec();
    }
    let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in related.iter().filter(|p| p.is_active()).chain(active.iter().copied()) {
        *crowd.entry(&pod.spec.node_name).or_default() += 1;
    }
    let mut ranked: Vec<&Pod> = active.to_vec();
    ranked.sort_by(|a, b| {
        let rank = |p: &Pod| crowd.get(p.spec.node_name.as_str()).copied().unwrap_or(0);
        before(a, rank(a), b, rank(b), now)
    });
    ranked.truncate(count);
    ranked
}

fn before(a: &Pod, rank_a: usize, b: &Pod, rank_b: usize, now: i64) -> Ordering {
    let assigned = |p: &Pod| !p.spec.node_name.is_empty();
    let phase = |p: &Pod| match p.status.phase.as_str() {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost =
        |p: &Pod| p.metadata.annotations.get(DELETION_COST).and_then(|c| c.parse::<i32>().ok()).unwrap_or(0);
    let restarts = |p: &Pod| p.status.container_statuses.iter().map(|c| c.restart_count).max().unwrap_or(0);
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| {
            if a.is_ready() && b.is_ready() {
                younger(ready_since(a), ready_since(b), a, b, now)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger(Some(a.metadata.created()), Some(b.metadata.created()), a, b, now))
}

fn ready_since(pod: &Pod) -> Option<i64> {
    pod.ready_condition().and_then(|c| c.last_transition_time.as_deref()).and_then(parse_time)
}

/// The younger goes first. Ages are compared by powers of two, and equal ones by uid, so that which
/// pod goes is spread evenly over a set that was created at once.
fn younger(a: Option<i64>, b: Option<i64>, pod_a: &Pod, pod_b: &Pod, now: i64) -> Ordering {
    let (Some(a), Some(b)) = (a, b) else { return b.is_some().cmp(&a.is_some()).reverse() };
    if a == b {
        return Ordering::Equal;
    }
    let bucket = |at: i64| (now - at).max(0).checked_ilog2().map_or(-1, i64::from);
    bucket(a).cmp(&bucket(b)).then_with(|| pod_a.metadata.uid.cmp(&pod_b.metadata.uid))
}
