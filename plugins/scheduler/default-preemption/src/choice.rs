//! Which candidate is best.
//!
//! Source: `pickOneNodeForPreemption` of `k8s.io/kubernetes/pkg/scheduler/framework/preemption`.

use orlop_sdk::scheduler::CandidatePods;
use std::cmp::Reverse;
use std::ops::Range;

/// What is compared, the lowest first: violations, highest priority, sum of priorities, number of
/// victims, and the start of the one that has run longest among those of the highest priority, latest
/// first.
type Cost = (u64, i64, i64, usize, Reverse<i64>);

/// So that a sum of negative priorities does not fall with their number.
const OFFSET: i64 = 1 << 31;

fn cost(pods: &CandidatePods, range: Range<usize>) -> Cost {
    let violations =
        pods.violating.get(range.clone()).unwrap_or(&[]).iter().map(|v| u64::from(*v != 0)).sum();
    let priorities = pods.priorities.get(range.clone()).unwrap_or(&[]);
    let started = pods.started.get(range).unwrap_or(&[]);
    let highest = priorities.iter().copied().max();
    let sum = priorities.iter().map(|p| i64::from(*p) + OFFSET).sum();
    let longest = priorities.iter().zip(started).filter(|(p, _)| Some(**p) == highest).map(|(_, s)| *s).min();
    // A candidate without victims costs least of all.
    (violations, highest.map_or(i64::MIN, i64::from), sum, priorities.len(), Reverse(longest.unwrap_or(0)))
}

/// The position of the best candidate; the first among equals.
pub(crate) fn best(victims: &CandidatePods) -> u32 {
    let costs = victims.candidates().map(|range| cost(victims, range));
    costs.zip(0_u32..).min().map_or(0, |(_, position)| position)
}
