//! Create and update: names, conflicts, validation, dry runs, bodies.

use super::*;

#[test]
fn created_objects_get_what_the_server_sets() {
    run(async {
        let f = start().await;
        let made = f.post(MAPS, &json!({"metadata":{"generateName":"a-"},"data":{"k":"v"}})).await;
        assert_eq!(made.code, 201);
        let made = made.ok();
        let meta = &made["metadata"];
        let name = meta["name"].as_str().unwrap();
        assert!(name.starts_with("a-") && name.len() == 7, "{name}");
        assert_eq!(meta["namespace"], "default");
        assert!(meta["uid"].as_str().unwrap().len() == 36);
        assert!(meta["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
        assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(meta["managedFields"][0]["operation"], "Update");
        assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
        assert_eq!(f.get(&format!("{MAPS}/{name}")).await.ok(), made);
        let again = f.post(MAPS, &json!({"metadata":{"name":name}})).await.refused(409);
        assert_eq!(again, format!("configmaps \"{name}\" already exists"));
        let unnamed = f.post(MAPS, &json!({"data":{}})).await.refused(422);
        assert!(unnamed.contains("name or generateName is required"), "{unnamed}");
    });
}

#[test]
fn writers_who_saw_an_old_state_are_told() {
    run(async {
        let f = start().await;
        let mut first = f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
        first["data"]["k"] = json!("2");
        let second = f.put(&format!("{MAPS}/a"), &first).await.ok();
        assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
        first["data"]["k"] = json!("3");
        let stale = f.put(&format!("{MAPS}/a"), &first).await.refused(409);
        assert_eq!(
            stale,
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
        );
        let same = f.put(&format!("{MAPS}/a"), &second).await.ok();
        assert_eq!(same["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
        let forced = f.put(&format!("{MAPS}/a"), &config_map("a", json!({}), "4")).await.ok();
        assert_eq!(forced["data"]["k"], "4");
        let missing = f.put(&format!("{MAPS}/b"), &config_map("b", json!({}), "4")).await.refused(404);
        assert_eq!(missing, "configmaps \"b\" not found");
        let other = f.put(&format!("{MAPS}/a"), &config_map("x", json!({}), "4")).await.refused(400);
        assert_eq!(other, "the name of the object (x) does not match the name on the URL (a)");
    });
}

#[test]
fn concurrent_patches_are_all_applied() {
    run(async {
        let f = Arc::new(start().await);
        f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
        let writers: Vec<_> = (0..8)
            .map(|i| {
                let f = f.clone();
                tokio::task::spawn_local(async move {
                    let patch = json!({"data":{format!("key{i}"):"x"}});
                    f.patch(&format!("{MAPS}/a"), "merge-patch+json", &patch).await.ok();
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let all = f.get(&format!("{MAPS}/a")).await.ok();
        assert_eq!(all["data"].as_object().unwrap().len(), 9);
    });
}

#[test]
fn bad_bodies_are_refused_with_the_reason() {
    run(async {
        let f = start().await;
        let send = |kind: &'static str, body: &'static str, query: &'static str| {
            let path = format!("{MAPS}{query}");
            let f = &f;
            async move { f.call(Caller::Admin, "POST", &path, &[("content-type", kind)], body).await }
        };
        let json_error = send("application/json", "{\"metadata\":", "").await.refused(400);
        assert!(json_error.contains("json parse error") && json_error.contains("line 1"), "{json_error}");
        let yaml_error = send("application/yaml", "metadata:\n  name: a\n b: c\n", "").await.refused(400);
        assert!(yaml_error.contains("yaml") && yaml_error.contains("line 3"), "{yaml_error}");
        let kind =
            send("application/json", "{\"apiVersion\":\"v1\",\"kind\":\"Pod\"}", "").await.refused(400);
        assert!(kind.contains("cannot be handled as a ConfigMap"), "{kind}");
        let media = send("application/vnd.kubernetes.protobuf", "k8s", "").await.refused(400);
        assert!(media.contains("does not appear to be a protobuf message"), "{media}");
        let media = send("application/cbor", "k8s", "").await.refused(415);
        assert!(media.contains("accepted media types include"), "{media}");
        let typed = send("application/json", "{\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":1}}", "")
            .await
            .refused(400);
        assert!(typed.contains("cannot be handled as a ConfigMap"), "{typed}");
        let body = "{\"metadata\":{\"name\":\"a\",\"nmae\":\"b\"},\"datas\":{}}";
        let strict = send("application/json", body, "?fieldValidation=Strict").await.refused(400);
        assert!(
            strict.contains("strict decoding error") && strict.contains("unknown field \"datas\""),
            "{strict}"
        );
        let warned = send("application/json", body, "").await;
        assert_eq!(warned.code, 201);
        let warnings: Vec<_> =
            warned.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
        assert!(warnings.iter().any(|w| w.contains("unknown field \\\"datas\\\"")), "{warnings:?}");
        let yaml = send("application/yaml", "metadata: {name: y}\ndata:\n  k: v\n", "").await.ok();
        assert_eq!(yaml["data"]["k"], "v");
        let name = send("application/json", "{\"metadata\":{\"name\":\"A_b\"}}", "").await.refused(422);
        assert!(
            name.starts_with("ConfigMap \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\""),
            "{name}"
        );
        let space = send("application/json", "{\"metadata\":{\"name\":\"a\",\"namespace\":\"x\"}}", "")
            .await
            .refused(400);
        assert!(space.contains("does not match the namespace sent on the request"), "{space}");
    });
}

#[test]
fn large_bodies_are_refused() {
    run(async {
        let f = start_with(|c| c.max_body = 2000).await;
        let large = config_map("a", json!({}), &"x".repeat(3000));
        f.post(MAPS, &large).await.refused(413);
        f.post(MAPS, &config_map("a", json!({}), "x")).await.ok();
    });
}

#[test]
fn dry_runs_answer_and_store_nothing() {
    run(async {
        let f = start().await;
        let made = f.post(&format!("{MAPS}?dryRun=All"), &config_map("a", json!({}), "1")).await;
        assert_eq!(made.code, 201);
        assert_eq!(made.ok()["data"]["k"], "1");
        f.get(&format!("{MAPS}/a")).await.refused(404);
        f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
        let patch = json!({"data":{"k":"2"}});
        f.patch(&format!("{MAPS}/a?dryRun=All"), "merge-patch+json", &patch).await.ok();
        f.delete(&format!("{MAPS}/a?dryRun=All"), None).await.ok();
        assert_eq!(f.get(&format!("{MAPS}/a")).await.ok()["data"]["k"], "1");
        let bad = f.post(&format!("{MAPS}?dryRun=Some"), &config_map("b", json!({}), "1")).await.refused(422);
        assert!(bad.contains("Unsupported value: \"Some\""), "{bad}");
    });
}

#[test]
fn spec_and_status_are_written_apart() {
    run(async {
        let f = start().await;
        let mut made = f.post(DEPLOYMENTS, &deployment("d")).await.ok();
        assert_eq!(made["metadata"]["generation"], 1);
        made["status"] = json!({"replicas": 7});
        made["spec"]["replicas"] = json!(3);
        let mut written = f.put(&format!("{DEPLOYMENTS}/d"), &made).await.ok();
        assert_eq!(written["metadata"]["generation"], 2);
        assert_eq!(written["status"]["replicas"], Value::Null);
        written["status"] = json!({"replicas": 7, "observedGeneration": 2});
        written["spec"]["replicas"] = json!(9);
        let status = f.put(&format!("{DEPLOYMENTS}/d/status"), &written).await.ok();
        assert_eq!(status["metadata"]["generation"], 2);
        assert_eq!((&status["status"]["replicas"], &status["spec"]["replicas"]), (&json!(7), &json!(3)));
        let scale = f.get(&format!("{DEPLOYMENTS}/d/scale")).await.ok();
        assert_eq!(scale["kind"], "Scale");
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(3), &json!(7)));
        assert_eq!(scale["status"]["selector"], "app=d");
        let patch = json!({"spec":{"replicas":5}});
        let scaled = f.patch(&format!("{DEPLOYMENTS}/d/scale"), "merge-patch+json", &patch).await.ok();
        assert_eq!(scaled["spec"]["replicas"], 5);
        let whole = f.get(&format!("{DEPLOYMENTS}/d")).await.ok();
        assert_eq!((&whole["spec"]["replicas"], &whole["metadata"]["generation"]), (&json!(5), &json!(3)));
        f.patch(&format!("{DEPLOYMENTS}/d/scale"), "merge-patch+json", &json!({"spec":{"replicas":-1}}))
            .await
            .refused(422);
    });
}

#[test]
fn pods_are_bound_once() {
    run(async {
        let f = start().await;
        f.post(PODS, &pod("p")).await.ok();
        let binding = json!({"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"n1"}});
        let bound = f.post(&format!("{PODS}/p/binding"), &binding).await;
        assert_eq!((bound.code, &bound.body["status"]), (201, &json!("Success")));
        let pod = f.get(&format!("{PODS}/p")).await.ok();
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
        let again = f.post(&format!("{PODS}/p/binding"), &binding).await.refused(409);
        assert!(again.contains("pod p is already assigned to node \"n1\""), "{again}");
        let missing = json!({"metadata":{"name":"q"},"target":{"name":"n1"}});
        let missing = f.post("/api/v1/namespaces/default/bindings", &missing).await;
        assert_eq!(missing.refused(404), "pods \"q\" not found");
    });
}

#[test]
fn both_event_apis_show_the_same_events() {
    run(async {
        let f = start().await;
        let event = json!({"apiVersion":"v1","kind":"Event","metadata":{"name":"e"},"reason":"Started","type":"Normal",
            "message":"hello","involvedObject":{"kind":"Pod","name":"p","namespace":"default"},
            "source":{"component":"kubelet"},"firstTimestamp":"2026-01-01T00:00:00Z","lastTimestamp":"2026-01-01T00:00:00Z"});
        f.post("/api/v1/namespaces/default/events", &event).await.ok();
        let modern = f.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok();
        assert_eq!(modern["apiVersion"], "events.k8s.io/v1");
        assert_eq!((&modern["note"], &modern["regarding"]["name"]), (&json!("hello"), &json!("p")));
        let list = f.get("/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Dp").await.ok();
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        let list = f.get("/api/v1/events?fieldSelector=involvedObject.name%3Dq").await.ok();
        assert_eq!(list["items"].as_array().unwrap().len(), 0);
    });
}

#[test]
fn unknown_paths_and_methods_are_told_apart() {
    run(async {
        let f = start().await;
        for path in [
            "/api/v2/pods",
            "/apis/nope/v1/things",
            "/nope",
            "/api/v1/nope",
            "/api/v1/namespaces/default/pods/p/nope",
        ] {
            let message = f.get(path).await.refused(404);
            assert_eq!(message, "the server could not find the requested resource", "{path}");
        }
        f.post(&format!("{PODS}/p"), &json!({})).await.refused(405);
        f.delete("/api/v1/namespaces", None).await.refused(405);
        f.put("/api/v1/namespaces/default/pods", &json!({})).await.refused(405);
        let accept = f
            .call(Caller::Admin, "GET", PODS, &[("accept", "application/vnd.kubernetes.protobuf")], "")
            .await;
        accept.refused(406);
    });
}
