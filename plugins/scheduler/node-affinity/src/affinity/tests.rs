//! Selectors against three nodes.

use super::*;
use orlop_sdk::scheduler::testing::{Bench, Nodes};
use orlop_sdk::scheduler::{column, dictionary};
use orlop_sdk::serde_json::json;

fn nodes() -> Nodes {
    // a: zone 1, disk ssd, gen 3; b: zone 2, disk hdd, gen 10; c: nothing
    Nodes::new(3)
        .dictionary(dictionary::NAMES, &["a", "b", "c"])
        .u32(column::NAME, &[0, 1, 2])
        .dictionary(dictionary::LABELS, &["zone=1", "disk=ssd", "gen=3", "zone=2", "disk=hdd", "gen=10"])
        .lists(column::LABELS, &[&[0, 1, 2], &[3, 4, 5], &[]])
}

fn bench_with(args: &Value, pod: &Value) -> Bench<NodeAffinity> {
    Bench::new(args, nodes(), pod).unwrap()
}

fn required(term: &Value) -> Value {
    json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}
    }}}})
}

#[track_caller]
fn check(term: &Value, fits: [bool; 3]) {
    let mut bench = bench_with(&json!({}), &required(term));
    assert_eq!(bench.fits(3), fits, "{term}");
    let by_rows = bench.plugin.filter(1, &[2, 1, 0])[0];
    assert_eq!([by_rows >> 2 & 1, by_rows >> 1 & 1, by_rows & 1].map(|b| b == 1), fits, "{term} by rows");
}

#[test]
fn operators() {
    let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    check(&expression("zone", "In", &["1", "3"]), [true, false, false]);
    check(&expression("zone", "NotIn", &["1"]), [false, true, true]);
    check(&expression("disk", "Exists", &[]), [true, true, false]);
    check(&expression("disk", "DoesNotExist", &[]), [false, false, true]);
    check(&expression("gen", "Gt", &["5"]), [false, true, false]);
    check(&expression("gen", "Lt", &["5"]), [true, false, false]);
    check(&expression("gen", "Gt", &["x"]), [false; 3]);
    check(&expression("zone", "Near", &["1"]), [false; 3]);
}

#[test]
fn names_and_empty_terms() {
    let field = |operator: &str| json!({"matchFields": [{"key": "metadata.name", "operator": operator, "values": ["b"]}]});
    check(&field("In"), [false, true, false]);
    check(&field("NotIn"), [true, false, true]);
    check(&json!({}), [false; 3]);
}

#[test]
fn node_selector_and_affinity_both_count() {
    let mut pod = required(&json!({"matchExpressions": [{"key": "gen", "operator": "Exists"}]}));
    pod["spec"]["nodeSelector"] = json!({"disk": "hdd"});
    let mut bench = bench_with(&json!({}), &pod);
    assert_eq!(bench.fits(3), [false, true, false]);
    assert_eq!(bench.reasons(0), ["node(s) didn't match Pod's node affinity/selector"]);
}

#[test]
fn preferences_add_up() {
    let pod = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 5, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}},
        {"weight": 2, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}},
        {"weight": 9, "preference": {}},
    ]}}}});
    let mut bench = bench_with(&json!({}), &pod);
    assert!(bench.prepared.skip_filter && !bench.prepared.skip_score);
    assert_eq!(bench.plugin.score_raw(1, &[]), [7, 5, 0]);
    assert_eq!(bench.plugin.score_raw(1, &[1]), [5]);
}

#[test]
fn conflicting_names_reject_the_pod() {
    let name = |n: &str| json!({"key": "metadata.name", "operator": "In", "values": [n]});
    let bench = bench_with(&json!({}), &required(&json!({"matchFields": [name("a"), name("b")]})));
    assert_eq!(bench.prepared.rejected, Some(Reason::unresolvable("pod affinity terms conflict")));
}

#[test]
fn added_affinity_holds_for_every_pod() {
    let args = json!({"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["2"]}]}
    ]}}});
    let mut bench = bench_with(&args, &json!({}));
    assert_eq!(bench.fits(3), [false, true, false]);
    assert_eq!(bench.reasons(0), ["node(s) didn't match scheduler-enforced node affinity"]);
}

#[test]
fn changed_labels_are_followed() {
    let mut bench = bench_with(&json!({}), &json!({"spec": {"nodeSelector": {"zone": "1"}}}));
    let delta = Delta {
        slots: 3,
        rows: vec![0, 2],
        live: vec![0b11],
        list_columns: vec![(
            column::LABELS,
            orlop_sdk::scheduler::ListCells { offsets: vec![0, 1, 2], values: vec![3, 0] },
        )],
        ..Delta::default()
    };
    bench.plugin.sync(delta);
    assert_eq!(bench.fits(3), [false, false, true]);
}
