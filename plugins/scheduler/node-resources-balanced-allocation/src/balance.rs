//! The logic, natively testable.
//!
//! The score tells how much the pod improves the balance of a node: 75 where it changes nothing.
//! Balance is 1 minus the standard deviation of the requested shares. As in Kubernetes v1.36 the
//! node with the pod is compared to the node without it; that half is kept per node and worked out
//! only when a node changes.

use orlop_sdk::scheduler::{Asked, BatchPlugin, Delta, Mirror, Prepared, Synced, column, dictionary};
use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "orlop_sdk::serde", deny_unknown_fields)]
struct ResourceSpec {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(crate = "orlop_sdk::serde", deny_unknown_fields, default)]
struct Args {
    resources: Vec<ResourceSpec>,
}

/// The plugin.
#[derive(Debug)]
pub struct NodeResourcesBalancedAllocation {
    resources: Vec<String>,
    mirror: Mirror,
    /// Where only CPU and memory count.
    usual: Usual,
    /// By class: what a pod requests, in the order of `resources`.
    classes: HashMap<u32, Vec<i64>>,
}

/// What the usual score is made of, by slot: worked out when a node changes, so that a node costs two
/// divisions when it is asked about.
///
/// Floating numbers are exact up to 2^53, which is 8 PiB of memory.
#[derive(Debug, Default)]
struct Usual {
    /// Allocatable CPU and memory; infinite where a node lacks one of them, which makes it balanced.
    allocatable: [Vec<f64>; 2],
    requested: [Vec<f64>; 2],
    /// The balance without the pod.
    without: Vec<u8>,
}

impl Usual {
    fn resize(&mut self, slots: usize) {
        self.allocatable.iter_mut().for_each(|column| column.resize(slots, f64::INFINITY));
        self.requested.iter_mut().for_each(|column| column.resize(slots, 0.0));
        // A slot that never held a node is in balance.
        self.without.resize(slots, 100);
    }

    #[expect(clippy::cast_precision_loss, reason = "see the type")]
    fn set(&mut self, slot: usize, allocatable: [i64; 2], requested: [i64; 2]) {
        let lacks = allocatable.contains(&0);
        for i in 0..2 {
            let has = if lacks { f64::INFINITY } else { allocatable[i] as f64 };
            if let (Some(a), Some(r)) = (self.allocatable[i].get_mut(slot), self.requested[i].get_mut(slot)) {
                (*a, *r) = (has, requested[i] as f64);
            }
        }
        let one = |i: usize| match (self.allocatable[i].get(slot), self.requested[i].get(slot)) {
            (Some(a), Some(r)) => full_at_most(r / a),
            _ => 0.0,
        };
        let balance = rate_of_two(one(0), one(1));
        if let Some(cell) = self.without.get_mut(slot) {
            *cell = u8::try_from(balance).unwrap_or(100);
        }
    }
}

/// Over-commitment counts as full.
fn full_at_most(share: f64) -> f64 {
    // Not `f64::min`, which is a call of a function on WebAssembly.
    if share > 1.0 { 1.0 } else { share }
}

/// A requested share; over-commitment counts as full.
#[expect(clippy::cast_precision_loss, reason = "as upstream")]
fn share(requested: i64, allocatable: i64) -> f64 {
    full_at_most(requested as f64 / allocatable as f64)
}

/// `(1 - deviation) * 100`, rounded down.
#[expect(clippy::cast_possible_truncation, reason = "0 to 100")]
fn rate(deviation: f64) -> i32 {
    ((1.0 - deviation) * 100.0) as i32
}

fn rate_of_two(a: f64, b: f64) -> i32 {
    rate(((a - b) / 2.0).abs())
}

#[expect(clippy::cast_precision_loss, reason = "as upstream")]
fn rate_of(shares: &[f64]) -> i32 {
    match shares {
        [] | [_] => rate(0.0),
        [a, b] => rate_of_two(*a, *b),
        _ => {
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            let sum: f64 = shares.iter().map(|s| (s - mean) * (s - mean)).sum();
            rate((sum / shares.len() as f64).sqrt())
        }
    }
}

/// From two rates, 50 to 100 each; 75 where nothing changes.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "50 to 100")]
fn improvement(with: i32, without: i32) -> u8 {
    (50 + (50 + with - without) / 2) as u8
}

impl NodeResourcesBalancedAllocation {
    fn columns(&self, resource: &str) -> (&[i64], &[i64]) {
        let (allocatable, requested) = match resource {
            "cpu" => (column::ALLOCATABLE_CPU, column::REQUESTED_CPU),
            "memory" => (column::ALLOCATABLE_MEMORY, column::REQUESTED_MEMORY),
            "ephemeral-storage" => (column::ALLOCATABLE_EPHEMERAL, column::REQUESTED_EPHEMERAL),
            _ => match self.mirror.number(dictionary::EXTENDED, resource) {
                Some(k) => (column::EXTENDED + 2 * k, column::EXTENDED + 2 * k + 1),
                None => return (&[], &[]),
            },
        };
        (self.mirror.s64(allocatable), self.mirror.s64(requested))
    }

    fn is_usual(&self) -> bool {
        matches!(&self.resources[..], [a, b] if a == "cpu" && b == "memory")
    }

    fn remember(&mut self, rows: &[u32]) {
        if !self.is_usual() {
            return;
        }
        let mut usual = std::mem::take(&mut self.usual);
        usual.resize(self.mirror.slots());
        let ((ca, cr), (ma, mr)) = (self.columns("cpu"), self.columns("memory"));
        for slot in rows {
            let at = *slot as usize;
            let cells = (ca.get(at), cr.get(at), ma.get(at), mr.get(at));
            let (Some(ca), Some(cr), Some(ma), Some(mr)) = cells else { continue };
            usual.set(at, [*ca, *ma], [*cr, *mr]);
        }
        self.usual = usual;
    }

    #[expect(clippy::cast_precision_loss, reason = "see `Usual`")]
    fn usual(&self, cpu: i64, memory: i64, asked: Asked<'_>) -> Vec<u8> {
        let (cpu, memory) = (cpu as f64, memory as f64);
        let Usual { allocatable: [ca, ma], requested: [cr, mr], without } = &self.usual;
        let one = |ca: f64, cr: f64, ma: f64, mr: f64, without: u8| {
            let shares = (full_at_most((cr + cpu) / ca), full_at_most((mr + memory) / ma));
            improvement(rate_of_two(shares.0, shares.1), i32::from(without))
        };
        match asked {
            Asked::Rows(_) => asked.map(|at| match (ca.get(at), cr.get(at), ma.get(at), mr.get(at)) {
                (Some(ca), Some(cr), Some(ma), Some(mr)) => {
                    one(*ca, *cr, *ma, *mr, without.get(at).copied().unwrap_or(100))
                }
                _ => 0,
            }),
            Asked::All(slots) => {
                let mut scores = Vec::with_capacity(slots);
                let (ca8, ca1) = ca.as_chunks::<8>();
                let (cr8, cr1) = cr.as_chunks::<8>();
                let (ma8, ma1) = ma.as_chunks::<8>();
                let (mr8, mr1) = mr.as_chunks::<8>();
                let (w8, w1) = without.as_chunks::<8>();
                for ((((ca, cr), ma), mr), w) in ca8.iter().zip(cr8).zip(ma8).zip(mr8).zip(w8) {
                    let mut eight = [0_u8; 8];
                    for i in 0..8 {
                        eight[i] = one(ca[i], cr[i], ma[i], mr[i], w[i]);
                    }
                    scores.extend_from_slice(&eight);
                }
                for ((((ca, cr), ma), mr), w) in ca1.iter().zip(cr1).zip(ma1).zip(mr1).zip(w1) {
                    scores.push(one(*ca, *cr, *ma, *mr, *w));
                }
                scores.resize(slots, 0);
                scores
            }
        }
    }

    fn any(&self, wanted: &[i64], asked: Asked<'_>) -> Vec<u8> {
        let columns: Vec<(i64, &[i64], &[i64])> = self
            .resources
            .iter()
            .zip(wanted)
            // Extended resources that the pod does not request say nothing about it.
            .filter(|(name, wanted)| **wanted != 0 || is_native(name))
            .map(|(name, wanted)| {
                let (allocatable, requested) = self.columns(name);
                (*wanted, allocatable, requested)
            })
            .collect();
        let (mut with, mut without) = (Vec::new(), Vec::new());
        asked.map(|at| {
            with.clear();
            without.clear();
            for (wanted, allocatable, requested) in &columns {
                let cell = |column: &[i64]| column.get(at).copied().unwrap_or(0);
                let (allocatable, requested) = (cell(allocatable), cell(requested));
                if allocatable != 0 {
                    with.push(share(requested + wanted, allocatable));
                    without.push(share(requested, allocatable));
                }
            }
            improvement(rate_of(&with), rate_of(&without))
        })
    }
}

fn is_native(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory" | "ephemeral-storage")
}

impl BatchPlugin for NodeResourcesBalancedAllocation {
    fn new(args: &[u8]) -> Result<Self, String> {
        let args: Args = orlop_sdk::parse_config(args)?;
        if let Some(bad) = args.resources.iter().find(|r| !(0..=1).contains(&r.weight)) {
            return Err(format!("resources: weight of {:?} must be 1", bad.name));
        }
        let mut resources: Vec<String> = args.resources.into_iter().map(|r| r.name).collect();
        if resources.is_empty() {
            resources = vec!["cpu".to_owned(), "memory".to_owned()];
        }
        Ok(Self { resources, mirror: Mirror::default(), usual: Usual::default(), classes: HashMap::new() })
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        let rows = self.mirror.apply(delta);
        self.remember(&rows);
        Synced::rows(self.mirror.checksum())
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        let requests = pod.pointer("/computed/requests");
        let of = |name: &String| requests.and_then(|r| r.get(name)).and_then(Value::as_i64).unwrap_or(0);
        let wanted: Vec<i64> = self.resources.iter().map(of).collect();
        // Pods that request nothing would all go to one node.
        let skip_score = wanted.iter().all(|w| *w == 0);
        self.classes.insert(class, wanted);
        Ok(Prepared { skip_score, ..Prepared::default() })
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn score(&mut self, class: u32, rows: &[u32]) -> Vec<u8> {
        let Some(wanted) = self.classes.get(&class) else { return Vec::new() };
        let asked = Asked::new(rows, self.mirror.slots());
        match &wanted[..] {
            [cpu, memory] if self.is_usual() => self.usual(*cpu, *memory, asked),
            _ => self.any(wanted, asked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::scheduler::testing::{Bench, Nodes};
    use orlop_sdk::serde_json::json;

    fn bench(args: &Value, cpu: i64, memory: i64) -> Bench<NodeResourcesBalancedAllocation> {
        let nodes = Nodes::new(4)
            .s64(column::ALLOCATABLE_CPU, &[1000, 1000, 1000, 0])
            .s64(column::REQUESTED_CPU, &[0, 500, 0, 0])
            .s64(column::ALLOCATABLE_MEMORY, &[1000, 1000, 1000, 1000])
            .s64(column::REQUESTED_MEMORY, &[0, 0, 1000, 0])
            .s64(column::ALLOCATABLE_EPHEMERAL, &[1000; 4])
            .s64(column::REQUESTED_EPHEMERAL, &[0; 4]);
        Bench::new(args, nodes, &json!({"computed": {"requests": {"cpu": cpu, "memory": memory}}})).unwrap()
    }

    #[test]
    fn the_pod_that_evens_out_scores_more_than_fifty() {
        // Node 0: 0/0 -> 0/50 %: 100 -> 75. Node 1: 50/0 -> 50/50: 75 -> 100. Node 2: 0/100 stays,
        // memory is capped: 50 -> 50. Node 3 has one resource: always in balance.
        let scores = bench(&json!({}), 0, 500).plugin.score(1, &[]);
        assert_eq!(scores, [50 + (50 + 75 - 100) / 2, 50 + (50 + 100 - 75) / 2, 75, 75]);
    }

    #[test]
    fn any_set_of_resources_agrees_with_the_usual_one() {
        let args = json!({"resources": [{"name": "memory", "weight": 1}, {"name": "cpu", "weight": 1}]});
        for (cpu, memory) in [(0, 500), (100, 300), (999, 1), (2000, 0)] {
            let usual = bench(&json!({}), cpu, memory).plugin.score(1, &[]);
            assert_eq!(bench(&args, cpu, memory).plugin.score(1, &[]), usual);
            assert_eq!(bench(&json!({}), cpu, memory).plugin.score(1, &[2, 1]), [usual[2], usual[1]]);
        }
    }

    #[test]
    fn three_resources() {
        let resources: Vec<Value> =
            ["cpu", "memory", "ephemeral-storage"].map(|name| json!({"name": name, "weight": 1})).into();
        let scores = bench(&json!({"resources": resources}), 300, 0).plugin.score(1, &[0]);
        // Shares .3, 0, 0: deviation .1414; without the pod 0.
        assert_eq!(scores, [50 + (50 + 85 - 100) / 2]);
    }

    #[test]
    fn best_effort_pods_are_not_scored() {
        assert!(bench(&json!({}), 0, 0).prepared.skip_score);
    }
}
