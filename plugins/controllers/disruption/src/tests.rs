//! Tables of budgets.

use crate::Disruption;
use orlop_sdk::controller::serve;
use orlop_sdk::serde_json::{self, Value, json};

/// 1970-01-01T00:10:00Z
const NOW: i64 = 600_000;

fn plan(spec: Value, status: Value, inputs: Value) -> Value {
    let budget = json!({"metadata": {"name": "b", "namespace": "d", "uid": "u", "generation": 2, "resourceVersion": "9"},
        "spec": spec, "status": status});
    let request = json!({"now": NOW, "items": [{"key": {"namespace": "d", "name": "b"}, "object": budget, "inputs": inputs}]});
    let answer = serve(&Disruption, request.to_string().as_bytes()).unwrap();
    serde_json::from_slice::<Value>(&answer).unwrap()["plans"][0].clone()
}

fn pod(name: &str, owner: Value, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    let owners = if owner.is_null() { json!([]) } else { json!([owner]) };
    json!({"metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": owners},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

fn owner(api_version: &str, kind: &str, uid: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": uid, "uid": uid, "controller": true})
}

/// Two pods of one ReplicaSet of a Deployment that wants four.
fn deployment() -> Value {
    let set = owner("apps/v1", "ReplicaSet", "rs");
    json!({
        "pods": [pod("a", set.clone(), true), pod("b", set, true)],
        "replicaSets": [{"metadata": {"uid": "rs", "ownerReferences": [owner("apps/v1", "Deployment", "dep")]}, "spec": {"replicas": 2}}],
        "deployments": [{"metadata": {"uid": "dep"}, "spec": {"replicas": 4}}],
    })
}

fn counts(plan: &Value) -> [i64; 4] {
    let write = &plan["writes"][0];
    assert_eq!((&write["op"], &write["subresource"]), (&json!("update"), &json!("status")), "{plan}");
    let status = &write["body"]["status"];
    ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"]
        .map(|k| status[k].as_i64().unwrap())
}

#[test]
fn the_owner_of_the_owner_says_how_many_there_shall_be() {
    assert_eq!(counts(&plan(json!({"maxUnavailable": 3}), json!({}), deployment())), [4, 1, 2, 1]);
    assert_eq!(counts(&plan(json!({"maxUnavailable": "30%"}), json!({}), deployment())), [4, 2, 2, 0]);
    assert_eq!(counts(&plan(json!({"maxUnavailable": 9}), json!({}), deployment())), [4, 0, 2, 2]);
    assert_eq!(counts(&plan(json!({"minAvailable": "50%"}), json!({}), deployment())), [4, 2, 2, 0]);
    assert_eq!(counts(&plan(json!({"minAvailable": 1}), json!({}), deployment())), [2, 1, 2, 1]);
    assert_eq!(counts(&plan(json!({}), json!({}), deployment())), [0, 0, 2, 0]);
}

#[test]
fn only_pods_that_are_ready_and_stay_are_healthy() {
    let mut inputs = deployment();
    inputs["pods"][0]["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:09:59Z");
    assert_eq!(counts(&plan(json!({"minAvailable": 0}), json!({}), inputs))[2], 1);
    let mut inputs = deployment();
    inputs["pods"][1]["status"]["conditions"][0]["status"] = json!("False");
    assert_eq!(counts(&plan(json!({"minAvailable": 1}), json!({}), inputs)), [2, 1, 1, 0]);
}

#[test]
fn an_eviction_that_does_not_show_yet_counts_for_two_minutes() {
    let status = json!({"disruptedPods": {"a": "1970-01-01T00:09:00Z", "b": "1970-01-01T00:07:00Z", "gone": "1970-01-01T00:09:00Z"}});
    let plan = plan(json!({"minAvailable": 1}), status, deployment());
    assert_eq!(counts(&plan), [2, 1, 1, 0]);
    assert_eq!(plan["writes"][0]["body"]["status"]["disruptedPods"], json!({"a": "1970-01-01T00:09:00Z"}));
    assert_eq!(plan["afterMilliseconds"], 60_001);
    assert_eq!(plan["writes"][1]["event"]["reason"], "NotDeleted");
    assert_eq!(plan["writes"][1]["event"]["about"]["name"], "b");
}

#[test]
fn what_is_right_already_is_not_written_again() {
    let first = plan(json!({"minAvailable": 1}), json!({}), deployment());
    let status = first["writes"][0]["body"]["status"].clone();
    assert_eq!(status["observedGeneration"], 2);
    assert_eq!(status["conditions"][0]["reason"], "SufficientPods");
    assert_eq!(status["conditions"][0]["lastTransitionTime"], "1970-01-01T00:10:00Z");
    assert_eq!(first["writes"][0]["body"]["metadata"]["resourceVersion"], "9");
    let second = plan(json!({"minAvailable": 1}), status, deployment());
    assert_eq!(second, json!({}));
}

#[test]
fn owners_that_say_no_number_fail_and_spare_nothing() {
    let daemon = pod("a", owner("apps/v1", "DaemonSet", "ds"), true);
    let found =
        plan(json!({"maxUnavailable": 1}), json!({"disruptionsAllowed": 3}), json!({"pods": [daemon]}));
    let status = &found["writes"][0]["body"]["status"];
    assert_eq!(status["disruptionsAllowed"], 0);
    assert_eq!(status["conditions"][0]["reason"], "SyncFailed");
    assert_eq!(
        status["conditions"][0]["message"],
        "daemonsets.apps does not implement the scale subresource"
    );
    assert_eq!(found["writes"][1]["event"]["reason"], "CalculateExpectedPodCountFailed");
    let alone = plan(json!({"maxUnavailable": 1}), json!({}), json!({"pods": [pod("a", Value::Null, true)]}));
    assert_eq!(counts(&alone), [0, 0, 1, 0]);
    assert_eq!(alone["writes"][1]["event"]["reason"], "UnmanagedPods");
}
