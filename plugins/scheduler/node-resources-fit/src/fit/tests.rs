//! Fit and score, with figures worked out by hand.

use super::*;
use orlop_sdk::scheduler::testing::{Bench, Nodes};
use orlop_sdk::serde_json::json;

const GI: i64 = 1 << 30;

fn nodes() -> Nodes {
    Nodes::new(3)
        .s64(column::ALLOCATABLE_CPU, &[4000, 2000, 1000])
        .s64(column::ALLOCATABLE_MEMORY, &[8 * GI, 8 * GI, 8 * GI])
        .s64(column::ALLOCATABLE_PODS, &[110, 1, 110])
        .s64(column::REQUESTED_CPU, &[1000, 0, 500])
        .s64(column::REQUESTED_MEMORY, &[2 * GI, 0, 0])
        .s64(column::REQUESTED_PODS, &[5, 1, 1])
        .s64(column::NONZERO_CPU, &[1000, 0, 500])
        .s64(column::NONZERO_MEMORY, &[2 * GI, 0, 0])
        .s64(column::EXTENDED, &[2, 0, 0])
        .s64(column::EXTENDED + 1, &[1, 0, 0])
        .dictionary(dictionary::EXTENDED, &["example.com/gpu"])
}

fn pod(cpu: i64, memory: i64, more: &[(&str, i64)]) -> Value {
    let mut requests = json!({"cpu": cpu, "memory": memory});
    for (name, units) in more {
        requests[*name] = json!(units);
    }
    json!({"computed": {"requests": requests, "nonZeroRequests": {"cpu": cpu, "memory": memory}}})
}

fn bench(pod: &Value) -> Bench<NodeResourcesFit> {
    Bench::new(&json!({}), nodes(), pod).unwrap()
}

#[test]
fn fits_where_there_is_room_and_says_why_not() {
    let mut bench = bench(&pod(1000, GI, &[]));
    assert_eq!(bench.fits(3), [true, false, false]);
    assert_eq!(bench.reasons(1), ["Too many pods"]);
    assert_eq!(bench.reasons(2), ["Insufficient cpu"]);
}

#[test]
fn rows_are_answered_as_the_whole() {
    let mut bench = bench(&pod(600, GI, &[]));
    assert_eq!(bench.plugin.filter(1, &[])[0] & 0b111, 0b001);
    assert_eq!(bench.plugin.filter(1, &[2, 0]), [0b10]);
    let whole = bench.plugin.score(1, &[]);
    assert_eq!(bench.plugin.score(1, &[2, 0]), [whole[2], whole[0]]);
}

#[test]
fn what_no_eviction_can_free_is_unresolvable() {
    let mut bench = bench(&pod(1500, 9 * GI, &[]));
    let explanation = bench.plugin.explain(1, &[2]);
    let reasons: Vec<(&str, bool)> =
        explanation.reasons.iter().map(|r| (r.text.as_str(), r.unresolvable)).collect();
    assert_eq!(reasons, [("Insufficient cpu", true), ("Insufficient memory", true)]);
}

#[test]
fn extended_resources() {
    assert_eq!(bench(&pod(0, 0, &[("example.com/gpu", 1)])).fits(3), [true, false, false]);
    let mut two = bench(&pod(0, 0, &[("example.com/gpu", 2)]));
    assert_eq!(two.fits(3), [false; 3]);
    assert_eq!(two.reasons(0), ["Insufficient example.com/gpu"]);
    assert_eq!(bench(&pod(0, 0, &[("example.com/tpu", 1)])).fits(3), [false; 3]);
    let args = json!({"ignoredResourceGroups": ["example.com"]});
    let mut ignored: Bench<NodeResourcesFit> =
        Bench::new(&args, nodes(), &pod(0, 0, &[("example.com/gpu", 2)])).unwrap();
    assert_eq!(ignored.fits(3), [true, false, true]);
}

#[test]
fn a_pod_without_requests_still_needs_a_place() {
    assert_eq!(bench(&pod(0, 0, &[])).fits(3), [true, false, true]);
}

#[test]
fn least_allocated() {
    // Node 0: cpu (4000 - 2000) / 4000 = 50, memory (8 - 4) / 8 = 50.
    // Node 2: cpu (1000 - 1500) < 0 counts 0, memory (8 - 2) / 8 = 75, halved and rounded down: 37.
    let scores = bench(&pod(1000, 2 * GI, &[])).plugin.score(1, &[]);
    assert_eq!((scores[0], scores[2]), (50, 37));
}

#[test]
fn most_allocated_with_weights() {
    let args = json!({"scoringStrategy": {"type": "MostAllocated", "resources": [
        {"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}, {"name": "example.com/gpu", "weight": 5},
    ]}});
    let mut bench: Bench<NodeResourcesFit> = Bench::new(&args, nodes(), &pod(1000, 2 * GI, &[])).unwrap();
    // Node 0: cpu 50, memory 50. Node 2: cpu is full, memory 25: (300 + 25) / 4.
    let scores = bench.plugin.score(1, &[]);
    assert_eq!((scores[0], scores[2]), (50, 81));
}

#[test]
fn arguments_are_checked() {
    for (args, says) in [
        (json!({"scoringStrategy": {"type": "RequestedToCapacityRatio"}}), "not supported"),
        (json!({"scoringStrategy": {"resources": [{"name": "cpu", "weight": 101}]}}), "weight"),
        (json!({"nope": 1}), "unknown field"),
    ] {
        let error = NodeResourcesFit::new(args.to_string().as_bytes()).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn an_overlay_is_judged_instead_of_the_row() {
    let mut bench = bench(&pod(1000, GI, &[]));
    let rows = |pods: &[i64], cpu: &[i64]| {
        Nodes::rows(3, &[2, 1, 0])
            .s64(column::ALLOCATABLE_CPU, &[1000, 2000, 4000])
            .s64(column::ALLOCATABLE_MEMORY, &[8 * GI; 3])
            .s64(column::ALLOCATABLE_PODS, &[110, 1, 110])
            .s64(column::REQUESTED_MEMORY, &[0; 3])
            .s64(column::REQUESTED_PODS, pods)
            .s64(column::REQUESTED_CPU, cpu)
            .delta()
    };
    assert_eq!(bench.plugin.overlay(1, rows(&[0, 0, 0], &[0, 0, 0])), [0b111]);
    assert_eq!(bench.plugin.overlay(1, rows(&[0, 1, 5], &[1, 0, 3500])), [0b000]);
    assert_eq!(bench.fits(3), [true, false, false], "the mirror stays as it is");
}

#[test]
fn the_usual_score_is_that_of_integers() {
    let mut x = 0x9E37_79B9_u64;
    let mut next = |max: i64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(x >> 8).unwrap() % max
    };
    for bits in [4, 10, 20, 33, 44, 45, 50] {
        let mut column = |bits: u32| -> Vec<i64> { (0..300).map(|_| 1 + next(1 << bits)).collect() };
        let nodes = Nodes::new(300)
            .s64(column::ALLOCATABLE_CPU, &column(bits.min(30)))
            .s64(column::NONZERO_CPU, &column(bits.min(30) - 1))
            .s64(column::ALLOCATABLE_MEMORY, &column(bits))
            .s64(column::NONZERO_MEMORY, &column(bits - 1));
        let (cpu, memory) = (column(3)[0], column(bits - 2)[0]);
        let mut bench: Bench<NodeResourcesFit> =
            Bench::new(&json!({}), nodes, &pod(cpu, memory, &[])).unwrap();
        let rows: Vec<u32> = (0..300).collect();
        assert_eq!(bench.plugin.score(1, &[]), bench.plugin.score(1, &rows), "{bits} bits");
    }
}

#[test]
fn a_node_that_lacks_a_resource_is_scored_by_the_other() {
    let nodes = Nodes::new(2)
        .s64(column::ALLOCATABLE_CPU, &[4000, 4000])
        .s64(column::ALLOCATABLE_MEMORY, &[0, 8 * GI])
        .s64(column::NONZERO_CPU, &[1000, 1000])
        .s64(column::NONZERO_MEMORY, &[0, 2 * GI]);
    let mut bench: Bench<NodeResourcesFit> = Bench::new(&json!({}), nodes, &pod(1000, 0, &[])).unwrap();
    // CPU: 2000 of 4000 stay free. Memory: 6 of 8.
    assert_eq!(bench.plugin.score(1, &[]), [50, 62]);
    let grown = Nodes::rows(2, &[0])
        .s64(column::ALLOCATABLE_CPU, &[4000])
        .s64(column::ALLOCATABLE_MEMORY, &[8 * GI])
        .s64(column::NONZERO_CPU, &[1000])
        .s64(column::NONZERO_MEMORY, &[4 * GI]);
    bench.plugin.sync(grown.delta());
    assert_eq!(bench.plugin.score(1, &[]), [50, 62]);
}
