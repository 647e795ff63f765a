//! Bindings: what they change of a pod, what not, and when they are refused.

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"a": "1"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn binding(name: &str, node: &str, more: Value) -> Value {
    let mut metadata = json!({"name": name});
    metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata,
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}})
}

async fn bind(f: &Fixture, body: &Value) -> Answer {
    let name = body["metadata"]["name"].as_str().unwrap();
    f.post(&format!("{PODS}/{name}/binding"), body).await
}

#[test]
fn a_binding_gives_a_node_and_nobody_owns_it() {
    run(async {
        let f = start().await;
        let made = f.post(PODS, &pod("p")).await.ok();
        let uid = made["metadata"]["uid"].clone();
        let more =
            json!({"uid": uid, "annotations": {"x": "y"}, "labels": {"topology.kubernetes.io/zone": "z"}});
        let done = bind(&f, &binding("p", "n", more)).await;
        assert_eq!(done.code, 201);
        assert_eq!(done.ok()["status"], "Success");
        let bound = f.get(&format!("{PODS}/p")).await.ok();
        assert_eq!(bound["spec"]["nodeName"], "n");
        assert_eq!(bound["metadata"]["annotations"], json!({"x": "y"}));
        assert_eq!(bound["metadata"]["labels"], json!({"a": "1", "topology.kubernetes.io/zone": "z"}));
        for same in ["managedFields", "generation", "uid"] {
            assert_eq!(bound["metadata"][same], made["metadata"][same], "{same}");
        }
        let conditions = bound["status"]["conditions"].as_array().unwrap();
        let scheduled = conditions.iter().find(|c| c["type"] == "PodScheduled").unwrap();
        assert_eq!(scheduled["status"], "True");
        assert_ne!(bound["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    });
}

#[test]
fn a_binding_replaces_what_was_said_of_waiting() {
    run(async {
        let f = start().await;
        f.post(PODS, &pod("p")).await.ok();
        let waiting = json!({"status": {"nominatedNodeName": "m", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no"}]}});
        let headers = [("content-type", "application/merge-patch+json")];
        let path = format!("{PODS}/p/status");
        f.call(Caller::Admin, "PATCH", &path, &headers, waiting.to_string()).await.ok();
        bind(&f, &binding("p", "n", json!({}))).await.ok();
        let bound = f.get(&format!("{PODS}/p")).await.ok();
        assert_eq!(bound["status"]["nominatedNodeName"], Value::Null);
        let conditions = bound["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 1);
        assert_eq!((&conditions[0]["status"], &conditions[0]["reason"]), (&json!("True"), &Value::Null));
    });
}

#[test]
fn a_pod_is_bound_once_and_only_as_it_is_meant() {
    run(async {
        let f = start().await;
        let made = f.post(PODS, &pod("p")).await.ok();
        let refused = |body: Value, code: u16| {
            let f = &f;
            async move { bind(f, &body).await.refused(code) }
        };
        let wrong = refused(binding("p", "n", json!({"uid": "other"})), 409).await;
        assert!(wrong.contains("Precondition failed: UID in precondition: other"), "{wrong}");
        refused(binding("p", "n", json!({"resourceVersion": "1"})), 409).await;
        refused(binding("p", "", json!({})), 422).await;
        refused(binding("p", "n", json!({"labels": {"-": "no label"}})), 422).await;
        refused(binding("none", "n", json!({})), 404).await;
        let unbound = f.get(&format!("{PODS}/p")).await.ok();
        assert_eq!(unbound["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);

        let dry = format!("{PODS}/p/binding?dryRun=All");
        f.post(&dry, &binding("p", "n", json!({}))).await.ok();
        let version = made["metadata"]["resourceVersion"].clone();
        bind(&f, &binding("p", "n", json!({"resourceVersion": version}))).await.ok();
        let twice = refused(binding("p", "m", json!({})), 409).await;
        assert_eq!(
            twice,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\""
        );
    });
}

#[test]
fn of_bindings_at_once_one_wins() {
    run(async {
        let f = start().await;
        f.post(PODS, &pod("p")).await.ok();
        let bodies: Vec<Value> = (0..6).map(|i| binding("p", &format!("n{i}"), json!({}))).collect();
        let answers = futures::future::join_all(bodies.iter().map(|body| bind(&f, body))).await;
        let won: Vec<usize> = (0..6).filter(|i| answers[*i].code == 201).collect();
        assert_eq!(won.len(), 1);
        assert!(answers.iter().all(|a| a.code == 201 || a.code == 409));
        let bound = f.get(&format!("{PODS}/p")).await.ok();
        assert_eq!(bound["spec"]["nodeName"], format!("n{}", won[0]));
    });
}
