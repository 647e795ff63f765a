//! Terms worked out by hand, and random clusters against a look at every pod.

mod random;

use super::*;
use orlop_sdk::scheduler::testing::{Bench, Cluster};
use orlop_sdk::serde_json::json;

const AFFINITY: &str = "node(s) didn't match pod affinity rules";
const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// A pod of namespace `default` with a label `app`; `affinity` is its `spec.affinity`.
fn pod(app: &str, affinity: &Value) -> Value {
    json!({"metadata": {"namespace": "default", "labels": {"app": app}},
           "computed": {"namespaceLabels": {"team": "one"}},
           "spec": {"affinity": affinity}})
}

fn plain(app: &str) -> Value {
    pod(app, &json!({}))
}

fn elsewhere(namespace: &str, team: &str, pod: Value) -> Value {
    let mut pod = pod;
    pod["metadata"]["namespace"] = json!(namespace);
    pod["computed"]["namespaceLabels"] = json!({"team": team});
    pod
}

fn term(key: &str, app: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

/// `kind` is `podAffinity` or `podAntiAffinity`.
fn required(kind: &str, terms: &[Value]) -> Value {
    json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}})
}

fn preferred(kind: &str, weight: i64, term: &Value) -> Value {
    json!({kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": weight, "podAffinityTerm": term}]}})
}

/// Nodes a and b in zone 1, c in zone 2, d in none.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for (name, zone) in [("a", "1"), ("b", "1"), ("c", "2")] {
        cluster.node(name, &[("zone", zone), ("host", name)]);
    }
    cluster.node("d", &[("host", "d")]);
    cluster
}

fn with(pods: &[(u32, Value)]) -> Cluster {
    let mut cluster = cluster();
    pods.iter().for_each(|(slot, pod)| cluster.place(*slot, pod.clone()));
    cluster
}

#[track_caller]
fn check(cluster: &mut Cluster, pod: &Value, fits: [bool; 4]) -> Bench<InterPodAffinity> {
    cluster.start_over();
    let mut bench: Bench<InterPodAffinity> = Bench::in_cluster(&json!({}), cluster, pod).unwrap();
    assert_eq!(bench.fits(4), fits);
    let by_rows = bench.plugin.filter(1, &[3, 2, 1, 0])[0];
    assert_eq!([3, 2, 1, 0].map(|bit| by_rows >> bit & 1 == 1), fits, "by rows");
    bench
}

#[test]
fn affinity_wants_the_pod_in_the_domain() {
    let near_db = pod("web", &required("podAffinity", &[term("zone", "db")]));
    let mut bench = check(&mut with(&[(1, plain("db"))]), &near_db, [true, true, false, false]);
    assert_eq!(bench.reasons(2), [AFFINITY]);
    assert!(bench.plugin.explain(1, &[2]).reasons[0].unresolvable);
    check(&mut with(&[(3, plain("db"))]), &near_db, [false; 4]);
    check(&mut cluster(), &near_db, [false; 4]);
    let on_host = pod("web", &required("podAffinity", &[term("host", "db")]));
    check(&mut with(&[(1, plain("db"))]), &on_host, [false, true, false, false]);
}

#[test]
fn one_pod_must_match_all_affinity_terms() {
    let labelled = |labels: &Value| json!({"metadata": {"namespace": "default", "labels": labels}});
    let both = pod(
        "web",
        &required(
            "podAffinity",
            &[
                term("zone", "db"),
                json!({"topologyKey": "host", "labelSelector": {"matchLabels": {"tier": "1"}}}),
            ],
        ),
    );
    let mut cluster = with(&[(0, labelled(&json!({"app": "db"}))), (0, labelled(&json!({"tier": "1"})))]);
    check(&mut cluster, &both, [false; 4]);
    cluster.place(1, labelled(&json!({"app": "db", "tier": "1"})));
    check(&mut cluster, &both, [false, true, false, false]);
}

#[test]
fn the_first_of_a_group_may_go_anywhere_with_the_label() {
    let together = pod("web", &required("podAffinity", &[term("zone", "web")]));
    let mut bench = check(&mut cluster(), &together, [true, true, true, false]);
    let mut cluster = cluster();
    cluster.place(2, together.clone());
    assert_eq!(bench.plugin.sync(cluster.delta()).stale, Stale::Everything);
    assert_eq!(bench.fits(4), [false, false, true, false]);
    cluster.take(2, &together);
    assert_eq!(bench.sync(&mut cluster).stale, Stale::Classes(vec![1]));
    assert_eq!(bench.fits(4), [true, true, true, false]);
}

#[test]
fn anti_affinity_keeps_away_from_the_domain() {
    let alone = pod("web", &required("podAntiAffinity", &[term("zone", "web")]));
    let mut bench = check(&mut with(&[(0, plain("web"))]), &alone, [false, false, true, true]);
    assert_eq!(bench.reasons(1), [ANTI_AFFINITY]);
    assert!(!bench.plugin.explain(1, &[1]).reasons[0].unresolvable);
    let either = pod("web", &required("podAntiAffinity", &[term("zone", "db"), term("host", "web")]));
    check(&mut with(&[(0, plain("db")), (3, plain("web"))]), &either, [false, false, true, false]);
}

#[test]
fn anti_affinity_of_placed_pods_holds_against_others() {
    let alone = pod("web", &required("podAntiAffinity", &[term("zone", "db")]));
    let mut bench = check(&mut with(&[(0, alone.clone())]), &plain("db"), [false, false, true, true]);
    assert_eq!(bench.reasons(0), [EXISTING]);
    check(&mut with(&[(0, alone)]), &plain("web"), [true; 4]);
}

#[test]
fn namespaces_by_name_and_by_label() {
    let near = |more: &Value| {
        let mut term = term("host", "db");
        more.as_object().unwrap().iter().for_each(|(key, value)| term[key] = value.clone());
        pod("web", &required("podAffinity", &[term]))
    };
    let mut cluster = with(&[(0, plain("db")), (1, elsewhere("other", "two", plain("db")))]);
    check(&mut cluster, &near(&json!({})), [true, false, false, false]);
    check(&mut cluster, &near(&json!({"namespaces": ["other"]})), [false, true, false, false]);
    check(&mut cluster, &near(&json!({"namespaceSelector": {}})), [true, true, false, false]);
    let two = json!({"namespaceSelector": {"matchLabels": {"team": "two"}}});
    check(&mut cluster, &near(&two), [false, true, false, false]);
    let both = json!({"namespaces": ["default"], "namespaceSelector": {"matchLabels": {"team": "two"}}});
    check(&mut cluster, &near(&both), [true, true, false, false]);

    let mut away = term("host", "db");
    away["namespaceSelector"] = json!({"matchLabels": {"team": "two"}});
    let away = pod("web", &required("podAntiAffinity", &[away]));
    check(&mut with(&[(0, away.clone())]), &plain("db"), [true; 4]);
    check(&mut with(&[(0, away)]), &elsewhere("other", "two", plain("db")), [false, true, true, true]);
}

#[test]
fn label_keys_narrow_the_selector() {
    let revision = |revision: &str, affinity: &Value| {
        let mut pod = pod("web", affinity);
        pod["metadata"]["labels"]["rev"] = json!(revision);
        pod
    };
    let by = |field: &str| {
        let mut term = term("host", "web");
        term[field] = json!(["rev", "absent"]);
        revision("2", &required("podAntiAffinity", &[term]))
    };
    let pods = [(0, revision("1", &json!({}))), (1, revision("2", &json!({})))];
    check(&mut with(&pods), &by("matchLabelKeys"), [true, false, true, true]);
    check(&mut with(&pods), &by("mismatchLabelKeys"), [false, true, true, true]);
}

#[track_caller]
fn scores(args: &Value, cluster: &mut Cluster, pod: &Value, expected: [u8; 4]) {
    cluster.start_over();
    let mut bench: Bench<InterPodAffinity> = Bench::in_cluster(args, cluster, pod).unwrap();
    assert_eq!(bench.normalized(4, &[true; 4]), expected);
}

#[test]
fn preferred_terms_of_both_sides_are_weighed() {
    let none = json!({});
    let near = pod("web", &preferred("podAffinity", 10, &term("zone", "db")));
    scores(&none, &mut with(&[(0, plain("db"))]), &near, [100, 100, 0, 0]);
    scores(
        &none,
        &mut with(&[(0, plain("db")), (1, plain("db")), (2, plain("db"))]),
        &near,
        [100, 100, 50, 0],
    );
    let away = pod("web", &preferred("podAntiAffinity", 10, &term("host", "db")));
    scores(&none, &mut with(&[(0, plain("db"))]), &away, [0, 100, 100, 100]);
    scores(&none, &mut with(&[(2, near.clone())]), &plain("db"), [0, 0, 100, 0]);
    scores(&none, &mut with(&[(2, away), (0, near.clone())]), &plain("db"), [100, 100, 0, 50]);
    scores(&none, &mut cluster(), &near, [0; 4]);
    scores(&none, &mut with(&[(0, near)]), &plain("web"), [0; 4]);
}

#[test]
fn required_affinity_of_placed_pods_attracts() {
    let near = pod("web", &required("podAffinity", &[term("zone", "db")]));
    scores(&json!({}), &mut with(&[(0, near.clone())]), &plain("db"), [100, 100, 0, 0]);
    scores(&json!({"hardPodAffinityWeight": 0}), &mut with(&[(0, near.clone())]), &plain("db"), [0; 4]);
    let near_c = pod("web", &preferred("podAffinity", 5, &term("host", "db")));
    let args = json!({"hardPodAffinityWeight": 10});
    scores(&args, &mut with(&[(0, near), (2, near_c)]), &plain("db"), [100, 100, 50, 0]);
}

#[test]
fn existing_terms_may_be_left_out_for_pods_without_preferences() {
    let args = json!({"ignorePreferredTermsOfExistingPods": true});
    let near = pod("web", &preferred("podAffinity", 10, &term("zone", "db")));
    let bench = |pod: &Value| {
        Bench::<InterPodAffinity>::in_cluster(&args, &mut with(&[(0, near.clone())]), pod).unwrap()
    };
    assert!(bench(&plain("db")).prepared.skip_score);
    let mut both = bench(&pod("db", &preferred("podAffinity", 10, &term("host", "nobody"))));
    assert!(!both.prepared.skip_score);
    assert_eq!(both.normalized(4, &[true; 4]), [100, 100, 0, 0]);
}

#[test]
fn only_feasible_nodes_are_compared() {
    let near = pod("web", &preferred("podAffinity", 10, &term("host", "db")));
    let mut cluster = with(&[(0, plain("db")), (0, plain("db")), (1, plain("db"))]);
    let mut bench: Bench<InterPodAffinity> = Bench::in_cluster(&json!({}), &mut cluster, &near).unwrap();
    assert_eq!(bench.normalized(4, &[true; 4]), [100, 50, 0, 0]);
    assert_eq!(bench.normalized(4, &[false, true, true, true])[1..], [100, 0, 0]);
}

#[test]
fn for_hosts_only_the_row_itself_changes() {
    let alone = pod("web", &required("podAntiAffinity", &[term("host", "web")]));
    let mut cluster = cluster();
    let mut bench = check(&mut cluster, &alone, [true; 4]);
    for slot in 0..4 {
        cluster.place(slot, alone.clone());
        assert_eq!(bench.sync(&mut cluster).stale, Stale::Nothing);
        assert!(!bench.fits(4)[slot as usize]);
    }
    let zone = pod("web", &required("podAntiAffinity", &[term("zone", "web")]));
    let mut cluster = super::tests::cluster();
    let mut bench = check(&mut cluster, &zone, [true; 4]);
    cluster.place(0, zone.clone());
    assert_eq!(bench.sync(&mut cluster).stale, Stale::Classes(vec![1]), "the zone has another node");
    cluster.place(1, zone.clone());
    assert_eq!(bench.sync(&mut cluster).stale, Stale::Nothing, "the zone was closed already");
    cluster.place(2, zone);
    assert_eq!(bench.sync(&mut cluster).stale, Stale::Nothing, "the zone has no other node");
}

#[test]
fn an_overlay_adds_and_takes_pods() {
    let alone = pod("web", &required("podAntiAffinity", &[term("zone", "web")]));
    let mut cluster = with(&[(0, plain("web"))]);
    let mut bench = check(&mut cluster, &alone, [false, false, true, true]);
    let rows = [(0, vec![]), (0, vec![plain("db")]), (1, vec![]), (2, vec![plain("web")]), (3, vec![alone])];
    assert_eq!(bench.would_fit(&mut cluster, &rows), [true, true, false, false, true]);
    assert_eq!(bench.fits(4), [false, false, true, true], "the sums stay as they are");
}

#[test]
fn classes_that_are_alike_share_a_group_and_leave_nothing_behind() {
    let alone = pod("web", &required("podAntiAffinity", &[term("zone", "web")]));
    let mut cluster = with(&[(0, alone.clone())]);
    let mut bench = check(&mut cluster, &alone, [false, false, true, true]);
    bench.plugin.prepare(2, &alone).unwrap();
    assert_eq!(bench.plugin.groups.iter().flatten().count(), 1);
    assert_eq!(bench.plugin.filter(2, &[]), bench.plugin.filter(1, &[]));
    bench.plugin.release(1);
    bench.plugin.release(2);
    assert_eq!(bench.plugin.groups.iter().flatten().count(), 0);
    assert!(bench.plugin.mattering.iter().all(Vec::is_empty));
    let bad = pod("web", &required("podAffinity", &[json!({"labelSelector": {"matchLabels": {"a b": ""}}})]));
    assert!(bench.plugin.prepare(3, &bad).is_err());
    assert!(InterPodAffinity::new(br#"{"hardPodAffinityWeight": 101}"#).is_err());
}
