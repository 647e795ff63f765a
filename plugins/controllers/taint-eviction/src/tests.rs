//! Tables of taints and tolerations.

use super::*;
use orlop_sdk::controller::serve;
use orlop_sdk::serde_json::{self, Value};

fn call(tolerations: Value, taints: Value, memo: Value, seconds: i64) -> Value {
    let request = json!({"now": seconds * 1000, "items": [{"key": {"namespace": "d", "name": "p"},
        "object": {"metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": "3"},
                   "spec": {"nodeName": "n", "tolerations": tolerations}},
        "inputs": {"node": [{"spec": {"taints": taints}}]}, "memo": memo}]});
    let answer = serve(&TaintEviction, request.to_string().as_bytes()).unwrap();
    serde_json::from_slice::<Value>(&answer).unwrap()["plans"][0].clone()
}

fn is_evicted(plan: &Value) -> bool {
    plan["writes"].as_array().is_some_and(|w| w.iter().any(|w| w["op"] == "delete" && w["uid"] == "u"))
}

#[test]
fn tolerations_decide_whether_and_when() {
    let unreachable = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute",
                              "timeAdded": "1970-01-01T00:01:40Z"}]);
    let five = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                       "tolerationSeconds": 300}]);
    assert_eq!(call(five.clone(), Value::Null, Value::Null, 100), json!({}));
    assert!(is_evicted(&call(Value::Null, unreachable.clone(), Value::Null, 100)));
    assert!(!is_evicted(&call(json!([{"operator": "Exists"}]), unreachable.clone(), Value::Null, 10_000)));
    let waits = call(five.clone(), unreachable.clone(), Value::Null, 150);
    assert_eq!((is_evicted(&waits), waits["afterMilliseconds"].as_i64()), (false, Some(250_000)));
    assert!(is_evicted(&call(five.clone(), unreachable, waits["memo"].clone(), 400)));
    let back = call(five.clone(), json!([]), waits["memo"].clone(), 200);
    assert_eq!(back["writes"][0]["event"]["message"], "Cancelling deletion of Pod d/p");
    let soft = json!([{"key": "x", "effect": "NoSchedule"}]);
    assert!(!is_evicted(&call(Value::Null, soft, Value::Null, 100)));
    let equal = json!([{"key": "x", "operator": "Equal", "value": "1"}]);
    assert!(!is_evicted(&call(
        equal.clone(),
        json!([{"key": "x", "value": "1", "effect": "NoExecute"}]),
        Value::Null,
        1
    )));
    assert!(is_evicted(&call(
        equal,
        json!([{"key": "x", "value": "2", "effect": "NoExecute"}]),
        Value::Null,
        1
    )));
    let no_time = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
    let plan = call(five, no_time, Value::Null, 150);
    assert_eq!(plan["memo"]["since"], 150_000);
}
