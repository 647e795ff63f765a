//! Endpoints and EndpointSlices follow Services and pods.

use crate::harness::{Cluster, DEPLOYMENTS, PODS, plugin, value};
use crate::workloads::{deployment, is_rolled_out, workloads};
use orlop_apimachinery::Gvr;
use orlop_controller_manager::ControllerSpec;
use orlop_plugin_endpoints::Endpoints;
use orlop_plugin_endpointslice::EndpointSlice;
use serde_json::{Value, json};
use std::collections::BTreeSet;

static SERVICES: Gvr = Gvr::new("", "v1", "services");
static ENDPOINTS: Gvr = Gvr::new("", "v1", "endpoints");
static NODES: Gvr = Gvr::new("", "v1", "nodes");
static SLICES: Gvr = Gvr::new("discovery.k8s.io", "v1", "endpointslices");

fn specs(config: &str) -> Vec<ControllerSpec> {
    let mut specs = workloads();
    specs.push(plugin::<Endpoints>(orlop_plugin_endpoints::MANIFEST, "{}"));
    specs.push(plugin::<EndpointSlice>(orlop_plugin_endpointslice::MANIFEST, config));
    specs
}

fn service(selector: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default", "labels": {"team": "a"}},
        "spec": {"clusterIP": "10.96.0.10", "ipFamilies": ["IPv4"], "selector": selector,
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}})
}

fn slices(cluster: &Cluster) -> Vec<Value> {
    cluster.api.peek_all(&SLICES).iter().map(|s| s.to_value()).collect()
}

/// Addresses of the slices that are ready.
fn ready(cluster: &Cluster) -> BTreeSet<String> {
    slices(cluster)
        .iter()
        .flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default())
        .filter(|e| e["conditions"]["ready"] == true)
        .map(|e| e["addresses"][0].as_str().unwrap().to_owned())
        .collect()
}

fn addresses(cluster: &Cluster, list: &str) -> BTreeSet<String> {
    value(cluster.api.peek(&ENDPOINTS, "default", "web"))["subsets"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|s| s[list].as_array().cloned().unwrap_or_default())
        .map(|a| a["ip"].as_str().unwrap().to_owned())
        .collect()
}

fn pod_ips(cluster: &Cluster) -> BTreeSet<String> {
    cluster.pods().iter().filter_map(|p| p["status"]["podIP"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn endpoints_come_and_go() {
    let cluster = Cluster::start(specs(r#"{"maxEndpointsPerSlice": 2}"#));
    let node = json!({"metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "z1"}}});
    cluster.api.put(&NODES, node).unwrap();
    cluster.api.put(&SERVICES, service(json!({"app": "web"}))).unwrap();
    cluster
        .until("a service without pods has an empty slice", || {
            let all = slices(&cluster);
            all.len() == 1
                && all[0]["endpoints"] == json!([])
                && cluster.api.peek(&ENDPOINTS, "default", "web").is_some()
        })
        .await;
    cluster.api.put(&DEPLOYMENTS, deployment("web", 5, "a")).unwrap();
    cluster.until("5 pods are ready", || is_rolled_out(&cluster, "web", 5)).await;
    let follows = || {
        let ips = pod_ips(&cluster);
        ready(&cluster) == ips && addresses(&cluster, "addresses") == ips
    };
    cluster.until("all 5 are endpoints", follows).await;
    cluster.until("3 slices hold them", || slices(&cluster).len() == 3).await;
    let one = slices(&cluster).into_iter().find(|s| !s["endpoints"][0].is_null()).unwrap();
    assert_eq!(one["addressType"], "IPv4");
    assert_eq!(one["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(one["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    assert_eq!(
        one["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    assert_eq!(one["metadata"]["labels"]["team"], "a");
    assert_eq!(one["metadata"]["ownerReferences"][0]["kind"], "Service");
    let endpoint = &one["endpoints"][0];
    assert_eq!(endpoint["nodeName"], "node-1");
    assert_eq!(endpoint["zone"], "z1");
    assert_eq!(endpoint["conditions"], json!({"ready": true, "serving": true, "terminating": false}));
    assert_eq!(endpoint["targetRef"]["kind"], "Pod");

    let victim = cluster.pods()[0].clone();
    let ip = victim["status"]["podIP"].as_str().unwrap().to_owned();
    let name = victim["metadata"]["name"].as_str().unwrap();
    cluster.api.modify(&PODS, "default", name, |p| p["status"]["conditions"][0]["status"] = json!("False"));
    cluster
        .until("a pod that is not ready is none", || {
            !ready(&cluster).contains(&ip) && addresses(&cluster, "notReadyAddresses").contains(&ip)
        })
        .await;
    cluster.api.modify(&PODS, "default", name, |p| p["status"]["conditions"][0]["status"] = json!("True"));
    cluster.until("until it is ready again", follows).await;
    cluster.api.modify(&DEPLOYMENTS, "default", "web", |d| d["spec"]["replicas"] = json!(1));
    cluster
        .until("one is left", || {
            is_rolled_out(&cluster, "web", 1) && follows() && slices(&cluster).len() == 1
        })
        .await;
    cluster.api.modify(&SERVICES, "default", "web", |s| s["spec"]["selector"] = json!({"app": "other"}));
    cluster
        .until("another selector selects none", || {
            ready(&cluster).is_empty() && addresses(&cluster, "addresses").is_empty()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_service_without_selector_is_left_alone() {
    let cluster = Cluster::start(specs("{}"));
    cluster.api.put(&SERVICES, service(Value::Null)).unwrap();
    let body = json!({"metadata": {"name": "web", "namespace": "default"}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}]}]});
    cluster.api.put(&ENDPOINTS, body).unwrap();
    cluster
        .until("both controllers looked", || {
            let status = cluster.manager.status();
            ["endpoints-controller", "endpointslice-controller"]
                .iter()
                .all(|c| status.get(*c).is_some_and(|s| s.reconciles > 0))
        })
        .await;
    assert_eq!(addresses(&cluster, "addresses").len(), 1);
    assert!(slices(&cluster).is_empty());
    cluster.stop().await;
}
