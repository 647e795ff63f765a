//! The garbage collector: background, foreground, orphan, and what it must not touch.

use crate::harness::{Cluster, DEPLOYMENTS, PODS, REPLICASETS, plugin, value};
use crate::workloads::{deployment, is_rolled_out, workloads};
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, DeleteOptions, Propagation, ResourceRef};
use orlop_controller_manager::ControllerSpec;
use orlop_plugin_garbage_collector::GarbageCollector;
use serde_json::{Value, json};

static CONFIGMAPS: Gvr = Gvr::new("", "v1", "configmaps");

pub(crate) fn collector() -> ControllerSpec {
    plugin::<GarbageCollector>(orlop_plugin_garbage_collector::MANIFEST, "{}")
}

async fn delete(cluster: &Cluster, gvr: &Gvr, name: &str, propagation: Option<Propagation>) {
    let options = DeleteOptions { propagation, ..DeleteOptions::default() };
    cluster.api.delete(ResourceRef::new(gvr, "default", name), &options).await.unwrap();
}

async fn rolled_out() -> Cluster {
    let mut specs = workloads();
    specs.push(collector());
    let cluster = Cluster::start(specs);
    cluster.api.put(&DEPLOYMENTS, deployment("web", 3, "a")).unwrap();
    cluster.until("3 pods are ready", || is_rolled_out(&cluster, "web", 3)).await;
    cluster
}

#[tokio::test]
async fn background_deletion_cascades() {
    let cluster = rolled_out().await;
    delete(&cluster, &DEPLOYMENTS, "web", None).await;
    cluster
        .until("nothing is left", || {
            cluster.api.peek_all(&REPLICASETS).is_empty() && cluster.pods().is_empty()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn foreground_deletion_goes_from_the_leaves() {
    let cluster = rolled_out().await;
    cluster.api.modify(&PODS, "default", cluster.pods()[0]["metadata"]["name"].as_str().unwrap(), |p| {
        p["metadata"]["finalizers"] = json!(["example.com/held"]);
    });
    let held = cluster.pods()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    delete(&cluster, &DEPLOYMENTS, "web", Some(Propagation::Foreground)).await;
    cluster.until("only the held pod is left", || cluster.pods().len() == 1).await;
    let set = cluster.api.peek_all(&REPLICASETS).remove(0);
    assert!(set.is_being_deleted(), "the set waits for its pod");
    assert!(cluster.api.peek(&DEPLOYMENTS, "default", "web").unwrap().is_being_deleted());
    cluster.api.modify(&PODS, "default", &held, |p| p["metadata"]["finalizers"] = json!([]));
    cluster
        .until("nothing is left", || {
            cluster.api.peek_all(&DEPLOYMENTS).is_empty()
                && cluster.api.peek_all(&REPLICASETS).is_empty()
                && cluster.pods().is_empty()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn orphans_stay_and_are_adopted_again() {
    let cluster = rolled_out().await;
    let set = cluster.api.peek_all(&REPLICASETS).remove(0);
    let before: Vec<Value> = cluster.pods().iter().map(|p| p["metadata"]["uid"].clone()).collect();
    delete(&cluster, &DEPLOYMENTS, "web", Some(Propagation::Orphan)).await;
    cluster.until("the deployment is gone", || cluster.api.peek_all(&DEPLOYMENTS).is_empty()).await;
    let free = value(cluster.api.peek(&REPLICASETS, "default", set.name()));
    assert_eq!(free["metadata"]["ownerReferences"], Value::Null);
    cluster.api.put(&DEPLOYMENTS, deployment("web", 3, "a")).unwrap();
    cluster.until("it is complete", || is_rolled_out(&cluster, "web", 3)).await;
    let adopted = value(cluster.api.peek(&REPLICASETS, "default", set.name()));
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["name"], "web");
    let after: Vec<Value> = cluster.pods().iter().map(|p| p["metadata"]["uid"].clone()).collect();
    assert_eq!(before, after, "no pod was replaced");
    cluster.stop().await;
}

#[tokio::test]
async fn only_what_has_lost_all_owners_goes() {
    let cluster = Cluster::start(vec![collector()]);
    let owner = |name: &str| {
        let body = json!({"metadata": {"name": name, "namespace": "default"}});
        cluster.api.put(&CONFIGMAPS, body).unwrap()
    };
    let (a, b) = (owner("a"), owner("b"));
    let reference = |name: &str, uid: &str, kind: &str| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid});
    let child = |name: &str, owners: Value| {
        let body = json!({"metadata": {"name": name, "namespace": "default", "ownerReferences": owners}});
        cluster.api.put(&CONFIGMAPS, body).unwrap();
    };
    child("both", json!([reference("a", a.uid(), "ConfigMap"), reference("b", b.uid(), "ConfigMap")]));
    child("one", json!([reference("a", a.uid(), "ConfigMap")]));
    child("strange", json!([reference("a", a.uid(), "Unheard"), reference("a", a.uid(), "ConfigMap")]));
    child("never", json!([reference("a", "00000000-0000-4000-8000-00000000dead", "ConfigMap")]));
    let exists = |name: &str| cluster.api.peek(&CONFIGMAPS, "default", name).is_some();
    cluster.until("an owner of another uid is none", || !exists("never")).await;
    assert!(exists("both") && exists("one") && exists("strange"));
    delete(&cluster, &CONFIGMAPS, "a", None).await;
    cluster
        .until("the reference to a is dropped", || {
            let both = value(cluster.api.peek(&CONFIGMAPS, "default", "both"));
            !exists("one")
                && both["metadata"]["ownerReferences"]
                    .as_array()
                    .is_some_and(|r| r.len() == 1 && r[0]["name"] == "b")
        })
        .await;
    assert!(exists("strange"), "a kind that is not known may exist");
    delete(&cluster, &CONFIGMAPS, "b", None).await;
    cluster.until("it goes with its last owner", || !exists("both")).await;
    cluster.stop().await;
}
