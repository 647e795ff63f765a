use super::*;
use orlop_sdk::scheduler::testing::{Bench, Cluster};
use orlop_sdk::serde_json::json;

fn pod(licence: &str) -> Value {
    json!({"metadata": {"annotations": {"licence": licence}}})
}

/// Two nodes, two licences.
fn bench(cluster: &mut Cluster) -> Bench<LicenceCount> {
    cluster.node("a", &[]);
    cluster.node("b", &[]);
    Bench::in_cluster(&json!({"licences": {"cad": 2}}), cluster, &pod("cad")).unwrap()
}

#[test]
fn the_last_licence_closes_every_node_and_one_given_back_opens_them() {
    let mut cluster = Cluster::default();
    let mut bench = bench(&mut cluster);
    assert_eq!(bench.fits(2), [true, true]);
    cluster.place(0, pod("cad"));
    cluster.place(0, pod("other"));
    assert_eq!(bench.sync(&mut cluster).stale, Stale::Nothing);
    assert_eq!(bench.fits(2), [true, true]);
    cluster.place(1, pod("cad"));
    assert_eq!(bench.sync(&mut cluster).stale, Stale::Classes(vec![1]));
    assert_eq!(bench.fits(2), [false, false]);
    assert_eq!(bench.reasons(0), ["no free licence cad"]);
    cluster.remove(1);
    assert_eq!(bench.sync(&mut cluster).stale, Stale::Classes(vec![1]), "the pods of a node go with it");
    assert_eq!(bench.fits(1), [true]);
}

#[test]
fn an_eviction_helps_where_a_licence_is_held() {
    let mut cluster = Cluster::default();
    let mut bench = bench(&mut cluster);
    cluster.place(0, pod("cad"));
    cluster.place(0, pod("cad"));
    bench.sync(&mut cluster);
    let rows = [(0, vec![pod("cad")]), (0, vec![]), (1, vec![]), (0, vec![pod("cad"), pod("cad")])];
    assert_eq!(bench.would_fit(&mut cluster, &rows), [true, true, false, false]);
    assert_eq!(bench.fits(2), [false, false], "nothing was changed by asking");
}

#[test]
fn a_licence_that_nobody_has_is_refused_for_good() {
    let mut cluster = Cluster::default();
    let bench = Bench::<LicenceCount>::in_cluster(&json!({}), &mut cluster, &pod("cad")).unwrap();
    assert_eq!(bench.prepared.rejected, Some(Reason::unresolvable("the cluster has no licence cad")));
}

#[test]
fn other_pods_cost_nothing() {
    let mut cluster = Cluster::default();
    let bench = Bench::<LicenceCount>::in_cluster(&json!({}), &mut cluster, &json!({})).unwrap();
    assert_eq!(bench.prepared, Prepared::skip());
}
