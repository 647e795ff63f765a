//! Tables of a node's life.

use super::*;
use orlop_sdk::controller::{Controller, serve};

fn call(node: &Value, lease: Option<&str>, pods: Value, memo: &Value, seconds: i64) -> Value {
    let leases = lease.map_or(json!([]), |t| json!([{"spec": {"renewTime": t}}]));
    let request = json!({"now": seconds * 1000, "items": [{"key": {"name": "n1"}, "object": node,
        "inputs": {"lease": leases, "pods": pods}, "memo": memo}]});
    let plugin = NodeLifecycle::new(b"{}").unwrap();
    let answer: Value =
        serde_json::from_slice(&serve(&plugin, request.to_string().as_bytes()).unwrap()).unwrap();
    answer["plans"][0].clone()
}

fn node(ready: &str, taints: Value) -> Value {
    let kinds = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].iter();
    let reported = kinds.filter(|kind| ready == "Unknown" || matches!(**kind, "Ready" | "MemoryPressure"));
    let conditions: Vec<Value> = reported
        .map(|kind| {
            let status = if *kind == "Ready" || ready == "Unknown" { ready } else { "False" };
            json!({"type": kind, "status": status, "lastHeartbeatTime": "1970-01-01T00:00:00Z"})
        })
        .collect();
    json!({"metadata": {"name": "n1", "uid": "u", "resourceVersion": "7", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"taints": taints}, "status": {"conditions": conditions}})
}

fn writes(plan: &Value) -> Vec<Value> {
    let all = plan["writes"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|w| w["op"] != "event").collect()
}

#[test]
fn silence_is_noticed_after_50_seconds_and_not_while_the_lease_moves() {
    let n = node("True", Value::Null);
    let first = call(&n, Some("a"), json!([]), &Value::Null, 100);
    assert_eq!(first["writes"][0]["event"]["reason"], "RegisteredNode");
    assert_eq!(first["afterMilliseconds"], 50_000);
    let renewed = call(&n, Some("b"), json!([]), &first["memo"], 149);
    assert_eq!(renewed["afterMilliseconds"], 50_000);
    let still = call(&n, Some("b"), json!([]), &renewed["memo"], 198);
    assert_eq!((still["afterMilliseconds"].as_i64(), writes(&still).len()), (Some(1000), 0));
    let silent = call(&n, Some("b"), json!([]), &still["memo"], 199);
    let patch = &writes(&silent)[0];
    assert_eq!(
        (patch["subresource"].as_str(), patch["resourceVersion"].as_str()),
        (Some("status"), Some("7"))
    );
    let conditions = patch["body"]["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!(ready["status"], "Unknown");
    assert_eq!(ready["reason"], "NodeStatusUnknown");
    assert_eq!(ready["message"], "Kubelet stopped posting node status.");
    let disk = conditions.iter().find(|c| c["type"] == "DiskPressure").unwrap();
    assert_eq!(disk["reason"], "NodeStatusNeverUpdated");
    assert!(silent["writes"].as_array().unwrap().iter().any(|w| w["event"]["reason"] == "NodeNotReady"));
    assert_eq!(silent["memo"]["want"], json!(["pods"]));
}

#[test]
fn an_unknown_node_is_tainted_and_its_pods_are_not_ready() {
    let n = node("Unknown", Value::Null);
    let memo = json!({"life": {"lease": "b", "heartbeat": "1970-01-01T00:00:00Z"}, "seen": 0,
                      "ready": false, "want": ["pods"]});
    let pod = |name: &str, ready: &str| {
        json!({"metadata": {"name": name, "namespace": "d", "uid": name},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
    };
    let plan = call(&n, Some("b"), json!([pod("a", "True"), pod("b", "False")]), &memo, 200);
    let writes = writes(&plan);
    let taints: Vec<String> = writes[0]["body"]["spec"]["taints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| {
            format!("{}:{}@{}", t["key"].as_str().unwrap(), t["effect"].as_str().unwrap(), t["timeAdded"])
        })
        .collect();
    assert_eq!(
        taints,
        [
            "node.kubernetes.io/unreachable:NoSchedule@\"1970-01-01T00:03:20Z\"",
            "node.kubernetes.io/unreachable:NoExecute@\"1970-01-01T00:03:20Z\""
        ]
    );
    assert_eq!(writes.len(), 2);
    assert_eq!(writes[1]["name"], "a");
    assert_eq!(writes[1]["body"]["status"]["conditions"][0]["status"], "False");
    assert!(plan["memo"]["want"].is_null());
}

#[test]
fn a_node_that_comes_back_loses_its_taints_but_not_those_of_others() {
    let taints = json!([{"key": "mine", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:00Z"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]);
    let plan = call(&node("True", taints), Some("c"), json!([]), &json!({"seen": 0, "life": {}}), 300);
    assert_eq!(writes(&plan)[0]["body"]["spec"]["taints"], json!([{"key": "mine", "effect": "NoExecute"}]));
    let mut cordoned = node("True", Value::Null);
    cordoned["spec"]["unschedulable"] = json!(true);
    let plan = call(&cordoned, Some("c"), json!([]), &json!({"seen": 0, "life": {}}), 300);
    assert_eq!(writes(&plan)[0]["body"]["spec"]["taints"][0]["key"], "node.kubernetes.io/unschedulable");
}

#[test]
fn a_new_node_has_a_minute_for_its_first_report() {
    let new = json!({"metadata": {"name": "n1", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}});
    let plan = call(&new, None, json!([]), &Value::Null, 59);
    assert_eq!((writes(&plan).len(), plan["afterMilliseconds"].as_i64()), (0, Some(1000)));
    let plan = call(&new, None, json!([]), &plan["memo"], 130);
    let conditions = &writes(&plan)[0]["body"]["status"]["conditions"];
    assert_eq!(conditions[0]["message"], "Kubelet never posted node status.");
}
