//! Pods from creation to removal, through faults and restarts of the agent.

use super::*;

#[tokio::test]
async fn a_pod_lives_and_goes() {
    let mut c = Cluster::new();
    c.start();
    let uid = c.create("web", one());
    let pod = c.until_ready("web").await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.0.0.7");
    assert_eq!(pod["status"]["containerStatuses"][0]["containerID"], "runc://container-2");
    let id = c.runtime.running("c").remove(0);
    let config = c.runtime.config_of(&id);
    let env: Vec<String> = config.envs.iter().map(|e| format!("{}={}", e.key, e.value)).collect();
    assert!(env.contains(&"KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned()), "{env:?}");
    let hosts = config.mounts.iter().find(|m| m.container_path == "/etc/hosts").unwrap();
    assert!(std::fs::read_to_string(&hosts.host_path).unwrap().contains("10.0.0.7\tweb\n"));
    for (reason, message) in
        [("Pulled", "busybox:1"), ("Created", "Container created"), ("Started", "Container started")]
    {
        c.until_event(reason, message).await;
    }
    c.delete("web").await;
    c.until_gone("web").await;
    c.until_event("Killing", "Stopping container c").await;
    eventually("nothing is left", || c.runtime.is_empty() && !c.config.pod_dir(&uid).exists()).await.unwrap();
    assert!(!c.config.pod_log_dir("default", "web", &uid).exists());
    c.stop().await;
}

#[tokio::test]
async fn a_killed_container_comes_back() {
    let mut c = Cluster::new();
    c.start();
    c.create("web", one());
    c.until_ready("web").await;
    let first = c.runtime.running("c").remove(0);
    c.runtime.exit(&first, 137);
    let pod = c
        .until("web", "it was restarted", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1 && ready(p)
        })
        .await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["containerID"]), (&json!(137), &json!(format!("runc://{first}"))));
    let second = c.runtime.running("c").remove(0);
    c.runtime.exit(&second, 1);
    let pod = c
        .until("web", "it waits", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let message = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
    assert!(
        message.as_str().unwrap().starts_with("back-off 10s restarting failed container=c pod=web_default(")
    );
    c.until_event("BackOff", "Back-off restarting failed container c in pod web_default(").await;
    assert_eq!(c.runtime.most_live(), 1);
    c.stop().await;
}

#[tokio::test]
async fn a_lost_sandbox_is_made_anew() {
    let mut c = Cluster::new();
    c.start();
    c.create("web", one());
    c.until_ready("web").await;
    c.runtime.kill_sandboxes();
    c.until("web", "it runs again", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1 && ready(p))
        .await;
    c.until_event("SandboxChanged", "Pod sandbox changed").await;
    assert_eq!(c.runtime.count("run_pod_sandbox web 1"), 1);
    assert_eq!(c.runtime.most_live(), 1);
    c.stop().await;
}

#[tokio::test]
async fn a_new_agent_adopts_what_runs() {
    let mut c = Cluster::new();
    c.start();
    let probe = json!({"exec": {"command": ["check"]}});
    c.create("web", json!({"containers": [{"name": "c", "image": "busybox:1", "readinessProbe": probe}]}));
    c.create("going", one());
    c.until_ready("web").await;
    c.until_ready("going").await;
    c.stop().await;
    let before = c.pod("web").unwrap();
    let calls = c.runtime.calls().len();
    // While the agent is away, one pod vanishes from the API.
    c.api
        .delete(
            ResourceRef::new(&PODS, "default", "going"),
            &DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() },
        )
        .await
        .unwrap();
    // A probe that would fail at once must not take Ready away before it has failed for real.
    c.start();
    eventually("the orphan is ended", || c.runtime.running("c").len() == 1).await.unwrap();
    c.until_ready("web").await;
    let again: Vec<String> = c.runtime.calls().split_off(calls);
    assert!(
        !again.iter().any(|call| call.starts_with("run_pod") || call.starts_with("create")),
        "{again:#?}"
    );
    let after = c.pod("web").unwrap();
    assert_eq!(before["status"]["conditions"], after["status"]["conditions"], "Ready did not flap");
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    c.stop().await;
}

#[tokio::test]
async fn init_containers_jobs_and_start_errors() {
    let mut c = Cluster::new();
    c.start();
    c.create(
        "job",
        json!({"restartPolicy": "Never",
            "initContainers": [{"name": "i", "image": "busybox:1", "command": ["0"]}],
            "containers": [{"name": "c", "image": "busybox:1", "command": ["3"]}]}),
    );
    let pod = c.until("job", "it failed", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    c.create("bad", json!({"containers": [{"name": "c", "image": "busybox:1", "command": ["fails"]}]}));
    c.until_event("Failed", "Error: start: no such file").await;
    c.until("bad", "it waits", |p| {
        let s = &p["status"]["containerStatuses"][0];
        s["lastState"]["terminated"]["reason"] == "StartError"
            || s["state"]["terminated"]["reason"] == "StartError"
    })
    .await;
    c.delete("bad").await;
    c.until_gone("bad").await;
    c.delete("job").await;
    c.until_gone("job").await;
    eventually("nothing is left", || c.runtime.is_empty()).await.unwrap();
    c.stop().await;
}

#[tokio::test]
async fn what_is_missing_is_named_and_waited_for() {
    let mut c = Cluster::new();
    c.start();
    let maps = Gvr::new("", "v1", "configmaps");
    c.create(
        "env",
        json!({"containers": [{"name": "c", "image": "busybox:1",
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}}]}]}),
    );
    c.create(
        "vol",
        json!({"volumes": [{"name": "v", "configMap": {"name": "m"}}],
            "containers": [{"name": "c", "image": "busybox:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
    );
    let pod = c
        .until("env", "its config is missing", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        })
        .await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
        "configmap \"m\" not found"
    );
    c.until_event("FailedMount", "MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found")
        .await;
    let map = |text: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}, "data": {"a": text}});
    c.api.put(&maps, map("1")).unwrap();
    c.until_ready("env").await;
    let vol = c.until_ready("vol").await;
    let uid = vol["metadata"]["uid"].as_str().unwrap();
    let file = c.config.pod_dir(uid).join("volumes/kubernetes.io~configmap/v/a");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    c.api.modify(&maps, "default", "m", |m| m["data"]["a"] = json!("2"));
    eventually("the volume follows", || std::fs::read_to_string(&file).is_ok_and(|t| t == "2"))
        .await
        .unwrap();
    c.create("img", json!({"containers": [{"name": "c", "image": "missing:1"}]}));
    c.until("img", "it backs off", |p| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
    })
    .await;
    c.until_event("Failed", "Error: ErrImagePull").await;
    c.create("name", json!({"containers": [{"name": "c", "image": "not a name"}]}));
    c.until("name", "the name is bad", |p| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "InvalidImageName"
    })
    .await;
    for name in ["env", "vol", "img", "name"] {
        c.delete(name).await;
    }
    for name in ["env", "vol", "img", "name"] {
        c.until_gone(name).await;
    }
    c.stop().await;
}

#[tokio::test]
async fn probes_rule() {
    let mut c = Cluster::new();
    c.start();
    c.runtime.exec_exits("ready", 1);
    let probe =
        |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1});
    c.create(
        "web",
        json!({"containers": [{"name": "c", "image": "busybox:1", "readinessProbe": probe("ready"), "livenessProbe": probe("alive")}]}),
    );
    c.until("web", "it runs", |p| p["status"]["phase"] == "Running" && !ready(p)).await;
    c.until_event("Unhealthy", "Readiness probe failed: ready").await;
    c.runtime.exec_exits("ready", 0);
    c.until_ready("web").await;
    c.runtime.exec_exits("alive", 1);
    c.until_event("Killing", "Container c failed liveness probe, will be restarted").await;
    c.runtime.exec_exits("alive", 0);
    c.until("web", "it was restarted", |p| {
        p["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1) && ready(p)
    })
    .await;
    c.stop().await;
}

#[tokio::test]
async fn static_pods_and_their_mirrors() {
    let mut c = Cluster::new();
    let manifest = c.dir.path().join("manifests/s.yaml");
    let write = |image: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: s}}\nspec: {{containers: [{{name: st, image: {image}}}]}}\n"
        );
        std::fs::write(&manifest, text).unwrap();
    };
    write("busybox:1");
    // The API is away at first: static pods do not need it.
    c.api.intercept(|_| Err(orlop_client::ApiError::Transport { message: "away".into() }));
    c.start();
    eventually("it runs without the API", || c.runtime.running("st").len() == 1).await.unwrap();
    c.api.pass();
    let mirror = c.until_ready("s-node-a").await;
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    let hash = mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].clone();
    let first = c.runtime.running("st").remove(0);
    c.delete("s-node-a").await;
    let uid = mirror["metadata"]["uid"].clone();
    c.until("s-node-a", "the mirror is back", |p| p["metadata"]["uid"] != uid && ready(p)).await;
    assert_eq!(
        c.runtime.running("st"),
        std::slice::from_ref(&first),
        "deleting a mirror does not touch the pod"
    );
    write("busybox:2");
    c.until("s-node-a", "the new version runs", |p| {
        p["metadata"]["annotations"]["kubernetes.io/config.mirror"] != hash && ready(p)
    })
    .await;
    assert_ne!(c.runtime.running("st"), [first]);
    std::fs::remove_file(&manifest).unwrap();
    c.until_gone("s-node-a").await;
    eventually("it is gone", || c.runtime.is_empty()).await.unwrap();
    assert_eq!(c.runtime.most_live(), 1);
    c.stop().await;
}

#[tokio::test]
async fn many_at_once_and_too_many() {
    let mut c = Cluster::new();
    c.config.max_pods = 50;
    c.start();
    for i in 0..50 {
        c.create(&format!("p{i}"), one());
    }
    for i in 0..50 {
        c.until_ready(&format!("p{i}")).await;
    }
    c.create("late", one());
    let late = c.until("late", "it is refused", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(late["status"]["reason"], "OutOfpods");
    for i in 0..50 {
        c.delete(&format!("p{i}")).await;
    }
    for i in 0..50 {
        c.until_gone(&format!("p{i}")).await;
    }
    c.stop().await;
}

#[tokio::test]
async fn the_node_reports_itself() {
    let mut c = Cluster::new();
    c.start();
    let nodes = Gvr::new("", "v1", "nodes");
    let leases = Gvr::new("coordination.k8s.io", "v1", "leases");
    eventually("it has a Lease", || c.api.peek(&leases, "kube-node-lease", "node-a").is_some())
        .await
        .unwrap();
    let node = c.api.peek(&nodes, "", "node-a").unwrap().to_value();
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "node-a");
    let ready =
        node["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("True"), &json!("KubeletReady")));
    assert_eq!(node["status"]["capacity"]["pods"], "110");
    assert_eq!(node["status"]["images"][0]["names"], json!(["busybox:1"]));
    let lease = c.api.peek(&leases, "kube-node-lease", "node-a").unwrap().to_value();
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    c.stop().await;
}

#[tokio::test]
async fn hooks_deadlines_and_tokens() {
    let mut c = Cluster::new();
    c.start();
    c.create(
        "web",
        json!({"serviceAccountName": "robot",
            "volumes": [{"name": "t", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}],
            "containers": [{"name": "c", "image": "busybox:1", "volumeMounts": [{"name": "t", "mountPath": "/t"}],
                "lifecycle": {"postStart": {"exec": {"command": ["hello"]}}, "preStop": {"exec": {"command": ["bye"]}}}}]}),
    );
    let pod = c.until_ready("web").await;
    let dir =
        c.config.pod_dir(pod["metadata"]["uid"].as_str().unwrap()).join("volumes/kubernetes.io~projected/t");
    assert_eq!(std::fs::read_to_string(dir.join("token")).unwrap(), "token-of-robot");
    assert_eq!(std::fs::read_to_string(dir.join("ns")).unwrap(), "default");
    let id = c.runtime.running("c").remove(0);
    c.delete("web").await;
    c.until_gone("web").await;
    let calls = c.runtime.calls();
    let at = |what: String| calls.iter().position(|c| c.starts_with(&what)).unwrap();
    assert!(at(format!("exec {id} hello")) < at(format!("exec {id} bye")));
    assert!(at(format!("exec {id} bye")) < at(format!("stop_container {id}")));
    c.create(
        "short",
        json!({"activeDeadlineSeconds": 1, "containers": [{"name": "c", "image": "busybox:1"}]}),
    );
    let pod = c.until("short", "its time is over", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    c.stop().await;
}
