//! The logic, natively testable.

use crate::choice::best;
use orlop_sdk::scheduler::{BatchPlugin, CandidatePods, Delta, Prepared, Synced};
use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::Value;
use std::cmp::Reverse;

/// `DefaultPreemptionArgs`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(crate = "orlop_sdk::serde", rename_all = "camelCase", deny_unknown_fields, default)]
struct Args {
    min_candidate_nodes_percentage: u32,
    min_candidate_nodes_absolute: u32,
}

impl Default for Args {
    fn default() -> Self {
        Self { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

impl Args {
    fn check(self) -> Result<Self, String> {
        let percentage = self.min_candidate_nodes_percentage;
        if percentage > 100 {
            return Err(format!(
                "minCandidateNodesPercentage: Invalid value: {percentage}: not in valid range [0, 100]"
            ));
        }
        if percentage == 0 && self.min_candidate_nodes_absolute == 0 {
            return Err(
                "minCandidateNodesPercentage and minCandidateNodesAbsolute cannot both be zero".into()
            );
        }
        Ok(self)
    }
}

/// The plugin.
#[derive(Debug, Default)]
pub struct DefaultPreemption {
    args: Args,
}

fn priority_of(pod: &Value) -> i64 {
    pod.pointer("/computed/priority").and_then(Value::as_i64).unwrap_or(0)
}

impl BatchPlugin for DefaultPreemption {
    fn new(args: &[u8]) -> Result<Self, String> {
        Ok(Self { args: orlop_sdk::parse_config::<Args>(args)?.check()? })
    }

    fn sync(&mut self, _delta: Delta) -> Synced {
        Synced::default()
    }

    fn prepare(&mut self, _class: u32, _pod: &Value) -> Result<Prepared, String> {
        Ok(Prepared::skip())
    }

    fn release(&mut self, _class: u32) {}

    fn eligible(&mut self, pod: &Value, nodes: u32, terminating: bool) -> Result<u32, String> {
        if pod.pointer("/spec/preemptionPolicy").and_then(Value::as_str) == Some("Never") {
            return Err("not eligible due to preemptionPolicy=Never.".to_owned());
        }
        if terminating {
            return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
        }
        let share = u64::from(nodes) * u64::from(self.args.min_candidate_nodes_percentage) / 100;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        Ok(share.max(self.args.min_candidate_nodes_absolute).min(nodes))
    }

    fn victims(&mut self, pod: &Value, pods: &CandidatePods) -> Vec<u32> {
        let priority = priority_of(pod);
        let mut victims = Vec::new();
        for range in pods.candidates() {
            let first = victims.len();
            let lower = |at: &usize| pods.priorities.get(*at).is_some_and(|p| i64::from(*p) < priority);
            victims.extend(range.filter(lower));
            let Some(own) = victims.get_mut(first..) else { continue };
            own.sort_by_key(|at| {
                let violating = pods.violating.get(*at).is_some_and(|v| *v != 0);
                let started = pods.started.get(*at).copied().unwrap_or(i64::MAX);
                (!violating, Reverse(pods.priorities.get(*at).copied()), started)
            });
        }
        victims.into_iter().filter_map(|at| u32::try_from(at).ok()).collect()
    }

    fn choose(&mut self, _pod: &Value, victims: &CandidatePods) -> u32 {
        best(victims)
    }
}

#[cfg(test)]
mod tests;
