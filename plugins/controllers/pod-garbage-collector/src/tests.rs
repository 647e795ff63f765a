//! Tables of pods.

use super::*;
use orlop_sdk::controller::serve;
use orlop_sdk::serde_json::{self, Value};

fn call(key: Value, object: Value, inputs: Value, memo: Value, seconds: i64) -> Value {
    let request = json!({"now": seconds * 1000,
        "items": [{"key": key, "object": object, "inputs": inputs, "memo": memo}]});
    let answer = serve(&PodGarbageCollector, request.to_string().as_bytes()).unwrap();
    serde_json::from_slice::<Value>(&answer).unwrap()["plans"][0].clone()
}

fn pod(node: &str, phase: &str, deleting: bool) -> Value {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": "3"},
        "spec": {"nodeName": node}, "status": {"phase": phase}});
    if deleting {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    pod
}

fn ops(plan: &Value) -> Vec<String> {
    let writes = plan["writes"].as_array().cloned().unwrap_or_default();
    writes.iter().map(|w| w["op"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn single_pods() {
    let key = json!({"namespace": "d", "name": "p"});
    let node = json!({"node": [{"status": {"conditions": [{"type": "Ready", "status": "False"}]}}]});
    let none = json!({"node": []});
    let ask =
        |object: Value, inputs: &Value, memo: Value, at| call(key.clone(), object, inputs.clone(), memo, at);
    assert_eq!(ops(&ask(pod("n", "Running", true), &node, Value::Null, 0)), Vec::<String>::new());
    assert_eq!(ops(&ask(pod("", "Pending", false), &none, Value::Null, 0)), Vec::<String>::new());
    assert_eq!(ops(&ask(pod("", "Pending", true), &none, Value::Null, 0)), ["patch", "delete"]);
    let first = ask(pod("n", "Running", false), &none, Value::Null, 10);
    assert_eq!((ops(&first).len(), first["afterMilliseconds"].as_i64()), (0, Some(40_000)));
    let then = ask(pod("n", "Running", false), &none, first["memo"].clone(), 50);
    assert_eq!(ops(&then), ["patch", "delete"]);
    assert_eq!(
        then["writes"][0]["body"]["status"]["conditions"][0]["message"],
        "PodGC: node no longer exists"
    );
    assert_eq!(then["writes"][1]["gracePeriodSeconds"], 0);
    assert_eq!(ops(&ask(pod("n", "Succeeded", false), &none, first["memo"].clone(), 50)), ["delete"]);
    let mut out = node.clone();
    out["node"][0]["spec"] = json!({"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]});
    assert_eq!(ops(&ask(pod("n", "Running", true), &out, Value::Null, 0)), ["patch", "delete"]);
    assert_eq!(ops(&ask(pod("n", "Running", false), &out, Value::Null, 0)), Vec::<String>::new());
}

#[test]
fn the_oldest_of_too_many_go() {
    let over = |i: usize| {
        json!({"metadata": {"name": format!("p{i:05}"), "namespace": "d",
        "creationTimestamp": now_text(i64::try_from(i).unwrap() * 1000)}, "status": {"phase": "Succeeded"}})
    };
    let pods: Vec<Value> = (0..KEPT + 2).rev().map(over).collect();
    let plan = call(json!({"name": "terminated"}), Value::Null, json!({"terminated": pods}), Value::Null, 0);
    let names: Vec<&str> =
        plan["writes"].as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["p00000", "p00001"]);
}
