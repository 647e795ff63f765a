//! Counts worked out by hand, and random clusters against a count from nothing.

mod random;

use super::*;
use orlop_sdk::scheduler::testing::{Bench, Cluster};
use orlop_sdk::serde_json::json;

const MISMATCH: &str = "node(s) didn't match pod topology spread constraints";
const LACKING: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

fn placed(labels: &Value) -> Value {
    json!({"metadata": {"namespace": "default", "labels": labels}})
}

fn foo() -> Value {
    placed(&json!({"foo": ""}))
}

/// Nodes a and b in zone 1, x and y in zone 2, with so many pods labelled `foo`.
fn zones(pods: [usize; 4]) -> Cluster {
    let mut cluster = Cluster::default();
    for ((name, zone), pods) in [("a", "1"), ("b", "1"), ("x", "2"), ("y", "2")].into_iter().zip(pods) {
        let slot = cluster.node(name, &[("zone", zone), ("node", name)]);
        (0..pods).for_each(|_| cluster.place(slot, foo()));
    }
    cluster
}

fn hard(key: &str, max_skew: i64, more: &Value) -> Value {
    let mut constraint = json!({
        "topologyKey": key, "maxSkew": max_skew, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchExpressions": [{"key": "foo", "operator": "Exists"}]},
    });
    for (key, value) in more.as_object().unwrap() {
        constraint[key] = value.clone();
    }
    constraint
}

fn soft(key: &str, max_skew: i64) -> Value {
    hard(key, max_skew, &json!({"whenUnsatisfiable": "ScheduleAnyway"}))
}

fn pod(constraints: &[Value]) -> Value {
    json!({"metadata": {"namespace": "default", "labels": {"foo": ""}},
           "spec": {"topologySpreadConstraints": constraints}})
}

#[track_caller]
fn check(cluster: &mut Cluster, pod: &Value, fits: &[bool]) -> Bench<PodTopologySpread> {
    cluster.start_over();
    let mut bench: Bench<PodTopologySpread> = Bench::in_cluster(&json!({}), cluster, pod).unwrap();
    assert_eq!(bench.fits(fits.len()), fits);
    let rows: Vec<u32> = (0..u32::try_from(fits.len()).unwrap()).rev().collect();
    let by_rows = bench.plugin.filter(1, &rows)[0];
    let by_rows: Vec<bool> = (0..fits.len()).rev().map(|bit| by_rows >> bit & 1 == 1).collect();
    assert_eq!(by_rows, fits, "by rows");
    bench
}

#[test]
fn one_constraint() {
    let none = json!({});
    check(&mut zones([0; 4]), &pod(&[hard("zone", 1, &none)]), &[true; 4]);
    check(&mut zones([2, 1, 0, 3]), &pod(&[hard("zone", 1, &none)]), &[true; 4]);
    check(&mut zones([2, 1, 0, 2]), &pod(&[hard("zone", 1, &none)]), &[false, false, true, true]);
    check(&mut zones([2, 1, 0, 3]), &pod(&[hard("node", 1, &none)]), &[false, false, true, false]);
    check(&mut zones([2, 1, 0, 3]), &pod(&[hard("node", 2, &none)]), &[false, true, true, false]);
    let mut other = pod(&[hard("node", 1, &none)]);
    other["metadata"]["labels"] = json!({"bar": ""});
    check(&mut zones([2, 1, 0, 3]), &other, &[false, true, true, false]);
}

#[test]
fn several_constraints_must_all_hold() {
    let none = json!({});
    let both = pod(&[hard("zone", 1, &none), hard("node", 1, &none)]);
    check(&mut zones([2, 1, 0, 3]), &both, &[false, false, true, false]);
    check(&mut zones([2, 1, 0, 2]), &both, &[false, false, true, false]);
    check(&mut zones([1, 1, 0, 0]), &both, &[false, false, true, true]);
}

#[test]
fn a_missing_label_is_unresolvable_and_takes_the_node_out_of_the_count() {
    let mut cluster = zones([2, 1, 0, 3]);
    cluster.label(2, &[("zone", "2")]);
    let both = pod(&[hard("zone", 1, &json!({})), hard("node", 2, &json!({}))]);
    let mut bench = check(&mut cluster, &both, &[true, true, false, false]);
    assert_eq!(bench.reasons(2), [LACKING]);
    assert!(bench.plugin.explain(1, &[2]).reasons[0].unresolvable);
    assert_eq!(bench.reasons(3), [MISMATCH]);
    assert!(!bench.plugin.explain(1, &[3]).reasons[0].unresolvable);
    assert!(bench.reasons(0).is_empty());
}

#[test]
fn too_few_domains_make_the_least_zero() {
    let of = |domains: i64| pod(&[hard("zone", 2, &json!({"minDomains": domains}))]);
    check(&mut zones([1, 1, 2, 0]), &of(2), &[true; 4]);
    check(&mut zones([1, 1, 2, 0]), &of(3), &[false; 4]);
    check(&mut zones([1, 0, 1, 0]), &of(3), &[true; 4]);
}

#[test]
fn only_pods_of_the_namespace_that_stay_are_counted() {
    let mut cluster = zones([0; 4]);
    let mut elsewhere = foo();
    elsewhere["metadata"]["namespace"] = json!("other");
    let mut going = foo();
    going["computed"] = json!({"terminating": true});
    (0..3).for_each(|_| cluster.place(0, elsewhere.clone()));
    (0..3).for_each(|_| cluster.place(1, going.clone()));
    check(&mut cluster, &pod(&[hard("node", 1, &json!({}))]), &[true; 4]);
}

#[test]
fn match_label_keys_narrow_the_selector() {
    let mut cluster = zones([0; 4]);
    for (slot, revision) in [(0, "1"), (0, "1"), (1, "2"), (2, "2"), (3, "2")] {
        cluster.place(slot, placed(&json!({"foo": "", "rev": revision})));
    }
    let mut of = pod(&[hard("node", 1, &json!({"matchLabelKeys": ["rev", "absent"]}))]);
    of["metadata"]["labels"] = json!({"foo": "", "rev": "2"});
    check(&mut cluster, &of, &[true, false, false, false]);
    of["spec"]["topologySpreadConstraints"][0]["matchLabelKeys"] = json!([]);
    check(&mut cluster, &of, &[false, true, true, true]);
}

#[test]
fn inclusion_policies() {
    let only = |policy: &str| {
        let mut pod = pod(&[hard("node", 1, &json!({"nodeAffinityPolicy": policy}))]);
        pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "node", "operator": "In", "values": ["a", "y"]}]}]}}});
        pod
    };
    // NodeAffinity rejects b and x; here they are just not counted.
    check(&mut zones([2, 1, 0, 3]), &only("Honor"), &[true, true, true, false]);
    check(&mut zones([2, 1, 0, 3]), &only("Ignore"), &[false, false, true, false]);

    let tainted = || {
        let mut cluster = zones([2, 1, 0, 3]);
        cluster.taint(2, json!([{"key": "k", "value": "", "effect": "NoSchedule"}]));
        cluster.taint(1, json!([{"key": "k", "value": "", "effect": "PreferNoSchedule"}]));
        cluster
    };
    let of = |policy: &str| pod(&[hard("node", 1, &json!({"nodeTaintsPolicy": policy}))]);
    check(&mut tainted(), &of("Ignore"), &[false, false, true, false]);
    check(&mut tainted(), &of("Honor"), &[false, true, true, false]);
    let mut tolerant = of("Honor");
    tolerant["spec"]["tolerations"] = json!([{"key": "k", "operator": "Exists"}]);
    check(&mut tainted(), &tolerant, &[false, false, true, false]);
}

#[test]
fn selectors_that_select_nothing_or_everything_count_nothing() {
    let everything = pod(&[hard("node", 1, &json!({"labelSelector": {}}))]);
    check(&mut zones([2, 1, 0, 3]), &everything, &[true; 4]);
    let nothing = pod(&[hard("node", 1, &json!({"labelSelector": null}))]);
    check(&mut zones([2, 1, 0, 3]), &nothing, &[true; 4]);
    let bad = pod(&[hard("node", 1, &json!({"labelSelector": {"matchLabels": {"a b": "c"}}}))]);
    assert!(Bench::<PodTopologySpread>::in_cluster(&json!({}), &mut zones([0; 4]), &bad).is_err());
}

#[test]
fn an_overlay_moves_the_least_and_the_domain() {
    let mut cluster = zones([2, 1, 0, 3]);
    let mut bench = check(&mut cluster, &pod(&[hard("zone", 1, &json!({}))]), &[true; 4]);
    let pods = |n: usize| vec![foo(); n];
    let rows = [(0, pods(3)), (0, pods(1)), (2, pods(1)), (3, pods(0)), (3, pods(3))];
    assert_eq!(bench.would_fit(&mut cluster, &rows), [false, true, false, true, true]);
    assert_eq!(bench.fits(4), [true; 4], "the counts stay as they are");
}

#[test]
fn pods_that_are_alike_share_a_group_and_leave_nothing_behind() {
    let mut cluster = zones([2, 1, 0, 3]);
    let spread = pod(&[hard("zone", 1, &json!({})), soft("node", 1)]);
    let mut bench = check(&mut cluster, &spread, &[true; 4]);
    bench.plugin.prepare(2, &spread).unwrap();
    assert_eq!(bench.plugin.groups.iter().flatten().count(), 1);
    assert_eq!(bench.plugin.filter(2, &[]), bench.plugin.filter(1, &[]));
    // Zone 1 has three and may take one; then it may not.
    cluster.place(1, foo());
    assert_eq!(bench.sync(&mut cluster).stale, Stale::Classes(vec![1, 2]));
    bench.plugin.release(1);
    bench.plugin.release(2);
    assert_eq!(bench.plugin.groups.iter().flatten().count(), 0);
    cluster.place(1, foo());
    assert_eq!(bench.sync(&mut cluster).stale, Stale::Nothing);
}

#[test]
fn only_answers_that_may_have_changed_elsewhere_are_stale() {
    let mut cluster = zones([0, 0, 0, 0]);
    let mut zone = check(&mut cluster, &pod(&[hard("zone", 2, &json!({}))]), &[true; 4]);
    cluster.place(0, foo());
    assert_eq!(zone.sync(&mut cluster).stale, Stale::Nothing, "zone 1 may take another");
    cluster.place(0, foo());
    assert_eq!(zone.sync(&mut cluster).stale, Stale::Classes(vec![1]), "zone 1 is full");
    cluster.place(1, placed(&json!({"bar": ""})));
    assert_eq!(zone.sync(&mut cluster).stale, Stale::Nothing, "the pod does not count");

    let mut cluster = zones([0, 0, 0, 0]);
    let mut node = check(&mut cluster, &pod(&[hard("node", 1, &json!({}))]), &[true; 4]);
    for slot in 0..3 {
        cluster.place(slot, foo());
        assert_eq!(node.sync(&mut cluster).stale, Stale::Nothing, "the node was in the delta");
    }
    cluster.place(3, foo());
    assert_eq!(node.sync(&mut cluster).stale, Stale::Classes(vec![1]), "the least rose");
    assert_eq!(node.fits(4), [true; 4]);
}

#[test]
fn scores_prefer_the_emptier_domain() {
    // Four nodes, each its own domain: round(count * ln 6) is 4, 2, 0, 5.
    let mut cluster = zones([2, 1, 0, 3]);
    let per_label = pod(&[soft("node", 1)]);
    let mut bench: Bench<PodTopologySpread> =
        Bench::in_cluster(&json!({}), &mut cluster, &per_label).unwrap();
    assert!(bench.prepared.skip_filter && !bench.prepared.skip_score);
    assert_eq!(bench.normalized(4, &[true; 4]), [20, 60, 100, 0]);
    // Three are left: round(count * ln 5) is 3, 2, 5; 100 * (5 + 2 - s) / 5.
    assert_eq!(bench.normalized(4, &[true, true, false, true]), [80, 100, 0, 40]);
}

#[test]
fn nodes_without_a_label_are_left_out_unless_the_constraints_are_the_systems() {
    let mut cluster = Cluster::default();
    for (name, zone) in [("a", Some("1")), ("b", Some("2")), ("c", None)] {
        let zone = zone.map(|zone| ("topology.kubernetes.io/zone", zone));
        let labels: Vec<(&str, &str)> = [("kubernetes.io/hostname", name)].into_iter().chain(zone).collect();
        cluster.node(name, &labels);
    }
    (0..4).for_each(|_| cluster.place(0, foo()));
    cluster.place(2, foo());
    let own = pod(&[soft("kubernetes.io/hostname", 1), soft("topology.kubernetes.io/zone", 1)]);
    let mut bench: Bench<PodTopologySpread> = Bench::in_cluster(&json!({}), &mut cluster, &own).unwrap();
    // Two domains each: 4 ln 4 + 4 ln 4 is 11, and 0.
    assert_eq!(bench.normalized(3, &[true; 3]), [0, 100, 0]);

    let mut default = json!({"metadata": {"namespace": "default", "labels": {"foo": ""}}});
    default["computed"] = json!({"defaultSelector": {"matchLabels": {"foo": ""}}});
    cluster.start_over();
    let mut bench: Bench<PodTopologySpread> = Bench::in_cluster(&json!({}), &mut cluster, &default).unwrap();
    // 4 ln 5 + 2 + 4 ln 5 + 4 is 19; 2 + 4 is 6; ln 5 + 2 is 4.
    assert_eq!(bench.normalized(3, &[true; 3]), [21, 89, 100]);

    default["computed"]["defaultSelector"] = Value::Null;
    bench.plugin.prepare(1, &default).unwrap();
    cluster.start_over();
    let bench: Bench<PodTopologySpread> = Bench::in_cluster(&json!({}), &mut cluster, &default).unwrap();
    assert!(bench.prepared.skip_filter && bench.prepared.skip_score, "nothing selects the pod");
}

#[test]
fn a_list_of_defaults_may_be_hard() {
    let args = json!({"defaultingType": "List", "defaultConstraints": [
        {"topologyKey": "node", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]});
    let mut pod = json!({"metadata": {"namespace": "default", "labels": {"foo": ""}},
                         "computed": {"defaultSelector": {"matchLabels": {"foo": ""}}}});
    let mut bench: Bench<PodTopologySpread> =
        Bench::in_cluster(&args, &mut zones([2, 1, 0, 3]), &pod).unwrap();
    assert_eq!(bench.fits(4), [false, false, true, false]);
    pod["spec"] = json!({"topologySpreadConstraints": [hard("zone", 9, &json!({}))]});
    bench.plugin.prepare(1, &pod).unwrap();
    assert_eq!(bench.fits(4), [true; 4], "the pod's own constraints count instead");
}
