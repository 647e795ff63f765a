use super::*;
use orlop_sdk::scheduler::testing::{Bench, Cluster};
use orlop_sdk::serde_json::json;

fn pod(gang: &str) -> Value {
    json!({"metadata": {"namespace": "lab", "labels": {"gang": gang}, "annotations": {"gang-size": "3"}}})
}

/// A pod of the gang is placed, as the host does it, and asks for permission.
fn place(bench: &mut Bench<Gang>, cluster: &mut Cluster, number: u64) -> (Verdict, Vec<Decision>) {
    cluster.place(0, json!({"metadata": {"namespace": "lab", "labels": {"gang": "a"}}}));
    bench.sync(cluster);
    bench.plugin.permit(placement(number))
}

fn placement(number: u64) -> Placement {
    Placement { pod: number, name: format!("p{number}"), fields: pod("a"), ..Placement::default() }
}

fn bench(cluster: &mut Cluster) -> Bench<Gang> {
    cluster.node("n", &[]);
    Bench::in_cluster(&json!({"timeoutSeconds": 5}), cluster, &pod("a")).unwrap()
}

#[test]
fn the_last_pod_lets_all_go() {
    let mut cluster = Cluster::default();
    let mut bench = bench(&mut cluster);
    let five = Duration::from_secs(5);
    let (first, others) = place(&mut bench, &mut cluster, 1);
    assert_eq!(first, Verdict::wait(five, "waits for its gang a: 1 of 3 pods have a node"));
    assert_eq!(others, []);
    assert!(matches!(place(&mut bench, &mut cluster, 2).0, Verdict::Wait { .. }));
    let (last, others) = place(&mut bench, &mut cluster, 3);
    assert_eq!(last, Verdict::Allow);
    assert_eq!(others, [Decision::allow(1), Decision::allow(2)]);
    // One that is made anew joins those that run.
    assert_eq!(place(&mut bench, &mut cluster, 4), (Verdict::Allow, vec![]));
}

#[test]
fn one_that_gives_up_takes_the_others_along() {
    let mut cluster = Cluster::default();
    let mut bench = bench(&mut cluster);
    place(&mut bench, &mut cluster, 1);
    place(&mut bench, &mut cluster, 2);
    let others = bench.plugin.unreserve(placement(1));
    assert_eq!(others, [Decision::reject(2, "its gang a did not get together: p1 gave up")]);
    assert_eq!(bench.plugin.unreserve(placement(2)), [], "nobody waits any more");
}

#[test]
fn pods_that_leave_and_gangs_of_other_namespaces_do_not_count() {
    let mut cluster = Cluster::default();
    let mut bench = bench(&mut cluster);
    cluster.place(0, json!({"metadata": {"namespace": "other", "labels": {"gang": "a"}}}));
    let leaves =
        json!({"metadata": {"namespace": "lab", "labels": {"gang": "a"}}, "computed": {"terminating": true}});
    cluster.place(0, leaves);
    let (verdict, _) = place(&mut bench, &mut cluster, 1);
    assert!(matches!(verdict, Verdict::Wait { message, .. } if message.contains("1 of 3")));
}

#[test]
fn a_size_is_needed_and_other_pods_are_left_alone() {
    let mut cluster = Cluster::default();
    let mut bench = bench(&mut cluster);
    for (size, why) in [
        (Value::Null, "it has the label gang, but no annotation gang-size"),
        (json!("many"), "annotation gang-size: `many` is no number above 0"),
        (json!("0"), "annotation gang-size: `0` is no number above 0"),
    ] {
        let pod = json!({"metadata": {"labels": {"gang": "a"}, "annotations": {"gang-size": size}}});
        let rejected = bench.plugin.prepare(2, &pod).unwrap().rejected;
        assert_eq!(rejected, Some(Reason::unresolvable(why)));
    }
    assert_eq!(bench.plugin.prepare(3, &json!({"metadata": {}})).unwrap(), Prepared::skip());
}
