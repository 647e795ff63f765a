//! A node that falls silent: its state, its taints, its pods.

use crate::harness::{Cluster, PODS, plugin, value};
use orlop_apimachinery::Gvr;
use orlop_plugin_node_lifecycle::NodeLifecycle;
use orlop_plugin_pod_garbage_collector::PodGarbageCollector;
use orlop_plugin_taint_eviction::TaintEviction;
use serde_json::json;

static NODES: Gvr = Gvr::new("", "v1", "nodes");

#[tokio::test]
async fn a_silent_node_loses_its_pods() {
    let cluster = Cluster::start(vec![
        plugin::<NodeLifecycle>(
            orlop_plugin_node_lifecycle::MANIFEST,
            r#"{"nodeMonitorGracePeriodSeconds": 1}"#,
        ),
        plugin::<TaintEviction>(orlop_plugin_taint_eviction::MANIFEST, "{}"),
        plugin::<PodGarbageCollector>(orlop_plugin_pod_garbage_collector::MANIFEST, "{}"),
    ]);
    let conditions: Vec<_> = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
        .iter()
        .map(|kind| json!({"type": kind, "status": if *kind == "Ready" { "True" } else { "False" }}))
        .collect();
    let body = json!({"metadata": {"name": "node-1"}, "status": {"conditions": conditions}});
    cluster.api.put(&NODES, body).unwrap();
    let tolerant = json!([{"operator": "Exists"}]);
    for (name, tolerations) in [("goes", json!([])), ("stays", tolerant)] {
        let body =
            json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"tolerations": tolerations}});
        cluster.api.put(&PODS, body).unwrap();
    }
    cluster
        .until("the node is unknown and tainted", || {
            let node = value(cluster.api.peek(&NODES, "", "node-1"));
            let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
            let has = |effect: &str| {
                taints.iter().any(|t| t["key"] == "node.kubernetes.io/unreachable" && t["effect"] == effect)
            };
            has("NoExecute") && has("NoSchedule")
        })
        .await;
    cluster
        .until("the pod that does not tolerate it is gone", || cluster.api.peek(&PODS, "d", "goes").is_none())
        .await;
    cluster
        .until("the other one is not ready", || {
            value(cluster.api.peek(&PODS, "d", "stays"))["status"]["conditions"][0]["status"] == "False"
        })
        .await;
    cluster
        .until("the events are recorded", || {
            !cluster.events("TaintManagerEviction").is_empty()
                && cluster
                    .events("NodeNotReady")
                    .iter()
                    .any(|e| e["message"] == "Node node-1 status is now: NodeNotReady")
                && cluster.events("NodeNotReady").iter().any(|e| e["message"] == "Node is not ready")
                && !cluster.events("RegisteredNode").is_empty()
        })
        .await;
    cluster.stop().await;
}
