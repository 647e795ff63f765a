//! Deletion: grace, finalizers, propagation, preconditions, collections, namespaces.

use super::*;

#[test]
fn plain_objects_go_at_once_and_answer_with_a_status() {
    run(async {
        let f = start().await;
        let made = f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
        let status = f.delete(&format!("{MAPS}/a"), None).await.ok();
        assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
        assert_eq!(status["details"]["uid"], made["metadata"]["uid"]);
        assert_eq!(f.delete(&format!("{MAPS}/a"), None).await.refused(404), "configmaps \"a\" not found");
    });
}

#[test]
fn finalizers_hold_an_object_until_the_last_is_gone() {
    run(async {
        let f = start().await;
        let mut map = config_map("a", json!({}), "1");
        map["metadata"]["finalizers"] = json!(["x.io/a", "x.io/b"]);
        f.post(MAPS, &map).await.ok();
        let pending = f.delete(&format!("{MAPS}/a"), None).await.ok();
        assert_eq!(pending["kind"], "ConfigMap");
        assert!(pending["metadata"]["deletionTimestamp"].is_string());
        assert_eq!(pending["metadata"]["deletionGracePeriodSeconds"], 0);
        let patch = |list: Value| json!({"metadata":{"finalizers":list}});
        let path = format!("{MAPS}/a");
        f.patch(&path, "merge-patch+json", &patch(json!(["x.io/b"]))).await.ok();
        let added =
            f.patch(&path, "merge-patch+json", &patch(json!(["x.io/b", "x.io/c"]))).await.refused(422);
        assert!(added.contains("no new finalizers can be added if the object is being deleted"), "{added}");
        f.delete(&path, None).await.ok();
        f.get(&path).await.ok();
        f.patch(&path, "merge-patch+json", &patch(json!(null))).await.ok();
        f.get(&path).await.refused(404);
    });
}

#[test]
fn pods_get_their_grace_and_a_second_delete_shortens_it() {
    run(async {
        let f = start().await;
        f.post(PODS, &pod("p")).await.ok();
        f.delete(&format!("{PODS}/p"), None).await.ok();
        f.get(&format!("{PODS}/p")).await.refused(404);
        let mut bound = pod("p");
        bound["spec"]["nodeName"] = json!("n1");
        f.post(PODS, &bound).await.ok();
        let pending = f.delete(&format!("{PODS}/p"), None).await.ok();
        assert_eq!(pending["metadata"]["deletionGracePeriodSeconds"], 30);
        let longer = f.delete(&format!("{PODS}/p"), Some(json!({"gracePeriodSeconds":60}))).await.ok();
        assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 30);
        let shorter = f.delete(&format!("{PODS}/p"), Some(json!({"gracePeriodSeconds":5}))).await.ok();
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
        assert!(
            shorter["metadata"]["deletionTimestamp"].as_str()
                < pending["metadata"]["deletionTimestamp"].as_str()
        );
        f.delete(&format!("{PODS}/p"), Some(json!({"gracePeriodSeconds":0}))).await.ok();
        f.get(&format!("{PODS}/p")).await.refused(404);
    });
}

#[test]
fn propagation_becomes_finalizers_and_preconditions_are_kept() {
    run(async {
        let f = start().await;
        let made = f.post(DEPLOYMENTS, &deployment("d")).await.ok();
        let wrong = json!({"preconditions":{"uid":"other"}});
        let words = f.delete(&format!("{DEPLOYMENTS}/d"), Some(wrong)).await.refused(409);
        assert!(words.contains("Precondition failed: UID in precondition: other"), "{words}");
        let stale = json!({"preconditions":{"resourceVersion":"1"}});
        f.delete(&format!("{DEPLOYMENTS}/d"), Some(stale)).await.refused(409);
        let right = json!({"preconditions":{"uid":made["metadata"]["uid"]},"propagationPolicy":"Foreground"});
        let pending = f.delete(&format!("{DEPLOYMENTS}/d"), Some(right)).await.ok();
        assert_eq!(pending["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        assert_eq!(pending["metadata"]["generation"], 2);
        f.post(DEPLOYMENTS, &deployment("e")).await.ok();
        let orphan = f.delete(&format!("{DEPLOYMENTS}/e?propagationPolicy=Orphan"), None).await.ok();
        assert_eq!(orphan["metadata"]["finalizers"], json!(["orphan"]));
        let bad = f.delete(&format!("{DEPLOYMENTS}/e?propagationPolicy=Up"), None).await.refused(422);
        assert!(bad.contains("Unsupported value: \"Up\""), "{bad}");
    });
}

#[test]
fn collections_are_deleted_by_selector() {
    run(async {
        let f = start().await;
        for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
            f.post(MAPS, &config_map(name, json!({"l":label}), "1")).await.ok();
        }
        let gone = f.delete(&format!("{MAPS}?labelSelector=l%3Dx"), None).await.ok();
        assert_eq!(gone["items"].as_array().unwrap().len(), 2);
        let left = f.get(MAPS).await.ok();
        assert_eq!(left["items"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn namespaces_terminate_and_go_when_finalized() {
    run(async {
        let f = start().await;
        let space = json!({"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}});
        let made = f.post("/api/v1/namespaces", &space).await.ok();
        assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(made["status"]["phase"], "Active");
        let pending = f.delete("/api/v1/namespaces/x", None).await.ok();
        assert_eq!(pending["status"]["phase"], "Terminating");
        let mut finalized = f.get("/api/v1/namespaces/x").await.ok();
        finalized["spec"]["finalizers"] = json!([]);
        f.put("/api/v1/namespaces/x/finalize", &finalized).await.ok();
        f.get("/api/v1/namespaces/x").await.refused(404);
    });
}

#[test]
fn evictions_delete_pods() {
    run(async {
        let f = start().await;
        f.post(PODS, &pod("p")).await.ok();
        let eviction = json!({"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}});
        let done = f.post(&format!("{PODS}/p/eviction"), &eviction).await;
        assert_eq!((done.code, &done.body["status"]), (201, &json!("Success")));
        f.get(&format!("{PODS}/p")).await.refused(404);
    });
}

#[test]
fn events_vanish_after_their_time() {
    run(async {
        let f = start_with(|c| c.event_ttl = Duration::ZERO).await;
        let event =
            json!({"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"}});
        let events = "/api/v1/namespaces/default/events";
        f.post(events, &event).await.ok();
        let live = json!({"metadata":{"name":"l"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"},
            "lastTimestamp":"2999-01-01T00:00:00Z"});
        f.post(events, &live).await.ok();
        crate::maintenance::expire(&f.server.core).await;
        f.get(&format!("{events}/e")).await.refused(404);
        f.get(&format!("{events}/l")).await.ok();
    });
}
