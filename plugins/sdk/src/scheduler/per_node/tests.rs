//! A plugin per node, asked as the host asks.

use super::*;
use crate::scheduler::testing::{Bench, Cluster};
use serde_json::json;

/// A node takes so many pods with a licence as the ConfigMap `licences` says.
#[derive(Default)]
struct Licences {
    each: usize,
}

impl NodePlugin for Licences {
    type Prepared = ();

    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn prepare(&self, pod: &Value) -> Result<Preparation<()>, String> {
        let wants = pod.pointer("/metadata/labels/licence").is_some();
        Ok(if wants { Preparation::FilterOnly(()) } else { Preparation::Skip })
    }

    fn filter(&self, (): &(), node: &Node<'_>) -> Result<(), Reason> {
        let used = node.pods().filter(|pod| pod.pointer("/metadata/labels/licence").is_some()).count();
        if used < self.each { Ok(()) } else { Err(Reason::new("node(s) had no licence left")) }
    }

    fn objects(&mut self, objects: &Objects) {
        let each = objects.get(0, "kube-system", "licences").and_then(|o| o.pointer("/data/each"));
        self.each = each.and_then(Value::as_str).and_then(|n| n.parse().ok()).unwrap_or(0);
    }

    fn reserve(&mut self, placement: Placement) -> Result<(), String> {
        Err(format!("{} may not run on {}", placement.name, placement.node))
    }
}

fn licensed() -> Value {
    json!({"metadata": {"labels": {"licence": "a"}}})
}

fn licences(each: &str) -> ObjectChange {
    ObjectChange {
        watch: 0,
        namespace: "kube-system".into(),
        name: "licences".into(),
        object: Some(json!({"data": {"each": each}})),
    }
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    let (a, b) = (cluster.node("a", &[]), cluster.node("b", &[]));
    cluster.place(a, licensed());
    cluster.place(b, json!({}));
    cluster
}

#[test]
fn objects_and_placed_pods_decide() {
    let mut bench: Bench<PerNode<Licences>> =
        Bench::in_cluster(&json!({}), &mut cluster(), &licensed()).unwrap();
    assert!(!bench.prepared.reads_objects, "nothing is watched so far");
    assert_eq!(bench.fits(2), [false, false]);
    bench.plugin.objects(true, vec![licences("1")]);
    assert_eq!(bench.fits(2), [false, true]);
    assert_eq!(bench.reasons(0), ["node(s) had no licence left"]);
    let prepared = bench.plugin.prepare(1, &licensed()).unwrap();
    assert!(prepared.reads_objects && prepared.skip_score && !prepared.skip_filter);
    assert_eq!(prepared.flags(), 0b1_0010);
    bench.plugin.objects(false, vec![licences("2")]);
    assert_eq!(bench.fits(2), [true, true]);
}

#[test]
fn overlays_need_nothing_of_the_author() {
    let mut cluster = cluster();
    let mut bench: Bench<PerNode<Licences>> =
        Bench::in_cluster(&json!({}), &mut cluster, &licensed()).unwrap();
    bench.plugin.objects(true, vec![licences("1")]);
    let rows = [(0, vec![]), (1, vec![licensed()]), (1, vec![]), (0, vec![licensed()])];
    assert_eq!(bench.would_fit(&mut cluster, &rows), [true, false, true, false]);
    assert_eq!(bench.fits(2), [false, true], "the mirror stays as it is");
}

#[test]
fn hooks_reach_the_plugin_and_have_harmless_defaults() {
    let mut plugin = PerNode::<Licences>::new(b"{}").unwrap();
    let placement = Placement { name: "p".into(), node: "a".into(), ..Placement::default() };
    assert_eq!(plugin.reserve(placement.clone()), Err("p may not run on a".to_owned()));
    assert_eq!(plugin.permit(placement.clone()), (Verdict::Allow, Vec::new()));
    assert_eq!(plugin.pre_bind(placement.clone()), (Verdict::Allow, Vec::new()));
    assert_eq!(plugin.bind(placement.clone()), Binder::Next);
    assert!(plugin.unreserve(placement).is_empty());
    assert_eq!(plugin.pre_enqueue(&licensed()), None);
    assert!(plugin.eligible(&licensed(), 1, false).is_err());
}
