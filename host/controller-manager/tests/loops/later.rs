//! Resources that are served only later, and those that go again.

use crate::broken::{declared, plans};
use crate::cleaning::collector;
use crate::harness::{Cluster, PODS, resources};
use orlop_apimachinery::{Gvk, Gvr, Reason, Status};
use orlop_client::{ApiClient, DeleteOptions, ResourceRef};
use orlop_controller_manager::ApiResource;
use orlop_testkit::{MemoryApi, Verb};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

static WIDGETS: Gvr = Gvr::new("example.com", "v1", "widgets");
static CONFIGMAPS: Gvr = Gvr::new("", "v1", "configmaps");
static DEFINITIONS: Gvr = Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");

fn resource(gvr: &Gvr, kind: &'static str, namespaced: bool) -> ApiResource {
    let gvk = Gvk { group: gvr.group.clone(), version: gvr.version.clone(), kind: kind.into() };
    ApiResource { gvr: gvr.clone(), gvk, namespaced, deletable: true }
}

/// Uid of no object.
const NOBODY: &str = "00000000-0000-4000-8000-00000000dead";

/// What a server says of a path that it does not know.
fn not_served() -> Status {
    Status::failure(Reason::NotFound, "the server could not find the requested resource")
}

fn widget(name: &str) -> Value {
    json!({"kind": "Widget", "metadata": {"name": name, "namespace": "default"}})
}

fn owned(name: &str, owner: &str, uid: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "ownerReferences": [
        {"apiVersion": "example.com/v1", "kind": "Widget", "name": owner, "uid": uid}]}})
}

#[tokio::test]
async fn a_controller_starts_when_what_it_watches_is_served() {
    let api = MemoryApi::new();
    let served = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicBool::new(false));
    {
        let (served, asked) = (served.clone(), asked.clone());
        api.intercept(move |call| {
            if call.gvr == WIDGETS && !served.load(Ordering::SeqCst) {
                asked.store(true, Ordering::SeqCst);
                return Err(not_served().into());
            }
            Ok(())
        });
    }
    let declaration = json!({"name": "widgets",
        "primary": {"apiVersion": "example.com/v1", "resource": "widgets"},
        "watches": [{"apiVersion": "example.com/v1", "resource": "widgets", "keys": [{"by": "self"}]},
            {"apiVersion": "v1", "resource": "pods", "keys": [{"by": "self"}]}]});
    let spec = declared(&declaration, Vec::new(), |request| Ok(plans(request, &json!({}))));
    let cluster = Cluster::over(api, vec![spec], false);
    cluster.api.put(&PODS, json!({"metadata": {"name": "a", "namespace": "default"}})).unwrap();
    cluster.until("it was asked for", || asked.load(Ordering::SeqCst)).await;
    let reconciles = || cluster.manager.status().get("widgets").map_or(0, |s| s.reconciles);
    assert_eq!(reconciles(), 0, "it waits for all that it watches");
    served.store(true, Ordering::SeqCst);
    cluster.api.put(&WIDGETS, widget("w")).unwrap();
    cluster.until("both are reconciled", || reconciles() >= 2).await;
    cluster.stop().await;
}

#[tokio::test]
async fn the_collector_learns_of_types_as_they_come_and_go() {
    let api = MemoryApi::new();
    let (watched, unserved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    {
        let (watched, unserved) = (watched.clone(), unserved.clone());
        api.intercept(move |call| {
            if call.gvr != WIDGETS {
                return Ok(());
            }
            if call.verb == Verb::Watch {
                watched.store(true, Ordering::SeqCst);
            }
            let refused = call.verb == Verb::Get && unserved.load(Ordering::SeqCst);
            if refused { Err(not_served().into()) } else { Ok(()) }
        });
    }
    let mut list = resources();
    list.push(resource(&DEFINITIONS, "CustomResourceDefinition", false));
    let list = Arc::new(Mutex::new(list));
    let now = list.clone();
    let cluster = Cluster::serving(api, vec![collector()], false, Arc::new(move || now.lock().clone()));
    let exists = |name: &str| cluster.api.peek(&CONFIGMAPS, "default", name).is_some();
    let stray = |name: &str| {
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": NOBODY});
        let meta = json!({"name": name, "namespace": "default", "ownerReferences": [owner]});
        cluster.api.put(&CONFIGMAPS, json!({"metadata": meta})).unwrap();
    };
    stray("one");
    cluster.until("the collector runs", || !exists("one")).await;
    assert!(!watched.load(Ordering::SeqCst));

    list.lock().push(resource(&WIDGETS, "Widget", true));
    cluster.api.put(&DEFINITIONS, json!({"metadata": {"name": "widgets.example.com"}})).unwrap();
    cluster.until("the type is watched", || watched.load(Ordering::SeqCst)).await;
    let first = cluster.api.put(&WIDGETS, widget("first")).unwrap();
    cluster.api.put(&CONFIGMAPS, owned("of-first", "first", first.uid())).unwrap();
    let delete = async |name: &str| {
        let at = ResourceRef::new(&WIDGETS, "default", name);
        cluster.api.delete(at, &DeleteOptions::default()).await.unwrap();
    };
    delete("first").await;
    cluster.until("its dependent goes", || !exists("of-first")).await;

    // The type goes: its objects are seen to go, and from here on nobody can be asked.
    let second = cluster.api.put(&WIDGETS, widget("second")).unwrap();
    cluster.api.put(&CONFIGMAPS, owned("of-second", "second", second.uid())).unwrap();
    unserved.store(true, Ordering::SeqCst);
    cluster.api.put(&CONFIGMAPS, owned("of-unknown", "unknown", NOBODY)).unwrap();
    stray("three");
    cluster.until("the collector has seen the ConfigMaps", || !exists("three")).await;
    delete("second").await;
    cluster.until("what was seen to go counts", || !exists("of-second")).await;
    list.lock().pop();
    let relabel = |d: &mut Value| d["metadata"]["labels"] = json!({"a": "b"});
    cluster.api.modify(&DEFINITIONS, "", "widgets.example.com", relabel).unwrap();
    stray("two");
    cluster.until("the collector still runs", || !exists("two")).await;
    assert!(exists("of-unknown"), "what nobody knows may be there");
    cluster.stop().await;
}
