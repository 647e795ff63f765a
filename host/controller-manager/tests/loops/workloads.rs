//! Deployments, ReplicaSets and ReplicationControllers.

use crate::harness::{CONTROLLERS, Cluster, DEPLOYMENTS, EVENTS, PODS, REPLICASETS, plugin, value};
use orlop_controller_manager::ControllerSpec;
use orlop_plugin_deployment::Deployment;
use orlop_plugin_replicaset::ReplicaSet;
use orlop_plugin_replicationcontroller::ReplicationController;
use serde_json::{Value, json};

pub(crate) fn workloads() -> Vec<ControllerSpec> {
    vec![
        plugin::<Deployment>(orlop_plugin_deployment::MANIFEST, "{}"),
        plugin::<ReplicaSet>(orlop_plugin_replicaset::MANIFEST, "{}"),
        plugin::<ReplicationController>(orlop_plugin_replicationcontroller::MANIFEST, "{}"),
    ]
}

pub(crate) fn deployment(name: &str, replicas: i64, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "annotations": {"kubernetes.io/change-cause": image}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "template": {"metadata": {"labels": {"app": name}},
                         "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

pub(crate) fn is_rolled_out(cluster: &Cluster, name: &str, replicas: i64) -> bool {
    let d = value(cluster.api.peek(&DEPLOYMENTS, "default", name));
    let s = &d["status"];
    s["observedGeneration"] == d["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
            .iter()
            .all(|f| s[*f].as_i64().unwrap_or(0) == replicas)
        && s["unavailableReplicas"].is_null()
        && cluster.pods().len() == usize::try_from(replicas).unwrap()
        && s["conditions"].as_array().unwrap().iter().any(|c| c["reason"] == "NewReplicaSetAvailable")
}

fn set_image(cluster: &Cluster, name: &str, image: &str) {
    cluster
        .api
        .modify(&DEPLOYMENTS, "default", name, |d| {
            d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image)
        })
        .unwrap();
}

fn sets(cluster: &Cluster) -> Vec<Value> {
    cluster.api.peek_all(&REPLICASETS).iter().map(|o| o.to_value()).collect()
}

fn revision(set: &Value) -> &str {
    set["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap()
}

#[tokio::test]
async fn a_deployment_becomes_pods_and_follows_its_size() {
    let cluster = Cluster::start(workloads());
    cluster.api.put(&DEPLOYMENTS, deployment("web", 3, "a")).unwrap();
    cluster.until("3 pods are ready", || is_rolled_out(&cluster, "web", 3)).await;
    let d = value(cluster.api.peek(&DEPLOYMENTS, "default", "web"));
    let reasons: Vec<&str> =
        d["status"]["conditions"].as_array().unwrap().iter().map(|c| c["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.contains(&"MinimumReplicasAvailable"));
    cluster
        .until("the revision is set", || {
            let d = value(cluster.api.peek(&DEPLOYMENTS, "default", "web"));
            d["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
        })
        .await;
    let set = sets(&cluster).remove(0);
    let hash = set["metadata"]["labels"]["pod-template-hash"].as_str().unwrap().to_owned();
    assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
    assert_eq!(set["spec"]["selector"]["matchLabels"]["pod-template-hash"], hash);
    assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/desired-replicas"], "3");
    assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/max-replicas"], "4");
    for pod in cluster.pods() {
        assert_eq!(pod["metadata"]["labels"]["pod-template-hash"], hash);
        assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
    }
    for size in [5, 1, 0, 2] {
        cluster.api.modify(&DEPLOYMENTS, "default", "web", |d| d["spec"]["replicas"] = json!(size));
        cluster.until("it has its size", || is_rolled_out(&cluster, "web", size)).await;
    }
    cluster
        .until("the events are recorded", || {
            cluster.events("ScalingReplicaSet").iter().any(|e| {
                e["message"] == format!("Scaled up replica set web-{hash} from 0 to 3")
                    && e["source"]["component"] == "deployment-controller"
            }) && cluster
                .events("SuccessfulCreate")
                .iter()
                .any(|e| e["message"].as_str().unwrap().starts_with(&format!("Created pod: web-{hash}-")))
                && !cluster.events("SuccessfulDelete").is_empty()
        })
        .await;
    assert_eq!(cluster.events("FailedCreate"), Vec::<Value>::new());
    cluster.stop().await;
}

#[tokio::test]
async fn a_new_template_is_rolled_out_and_back() {
    let cluster = Cluster::start(workloads());
    cluster.api.put(&DEPLOYMENTS, deployment("web", 4, "a")).unwrap();
    cluster.until("a is rolled out", || is_rolled_out(&cluster, "web", 4)).await;
    set_image(&cluster, "web", "b");
    let images = |cluster: &Cluster| -> Vec<String> {
        cluster
            .pods()
            .iter()
            .map(|p| p["spec"]["containers"][0]["image"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = |image: &'static str| {
        let cluster = &cluster;
        move || is_rolled_out(cluster, "web", 4) && images(cluster).iter().all(|i| i == image)
    };
    cluster.until("b is rolled out", all("b")).await;
    let mut both = sets(&cluster);
    both.sort_by_key(|s| revision(s).to_owned());
    assert_eq!(both.iter().map(revision).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(both[0]["spec"]["replicas"], 0);

    set_image(&cluster, "web", "a");
    cluster.until("a is back", all("a")).await;
    let mut both = sets(&cluster);
    assert_eq!(both.len(), 2);
    both.sort_by_key(|s| revision(s).to_owned());
    assert_eq!(both.iter().map(revision).collect::<Vec<_>>(), ["2", "3"]);
    assert_eq!(both[1]["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(both[1]["spec"]["template"]["spec"]["containers"][0]["image"], "a");
    cluster.stop().await;
}

#[tokio::test]
async fn a_rollout_never_goes_below_nor_above_its_bounds() {
    let cluster = Cluster::start(workloads());
    let mut d = deployment("web", 8, "a");
    d["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 2, "maxUnavailable": 1});
    cluster.api.put(&DEPLOYMENTS, d).unwrap();
    cluster.until("a is rolled out", || is_rolled_out(&cluster, "web", 8)).await;
    let api = cluster.api.clone();
    let watcher = tokio::spawn(async move {
        use futures::StreamExt;
        use orlop_client::ApiClient;
        let mut stream = api.watch(&REPLICASETS, &Default::default()).await.unwrap();
        let (mut most, mut least) = (0, i64::MAX);
        while let Some(Ok(_)) = stream.next().await {
            let sets: Vec<Value> = api.peek_all(&REPLICASETS).iter().map(|o| o.to_value()).collect();
            let total: i64 = sets.iter().map(|s| s["spec"]["replicas"].as_i64().unwrap_or(0)).sum();
            most = most.max(total);
            least = least.min(total);
            if sets.len() == 2
                && sets.iter().all(|s| s["status"]["replicas"] == s["spec"]["replicas"])
                && total == 8
                && sets.iter().any(|s| {
                    s["spec"]["replicas"] == 0
                        && s["spec"]["template"]["spec"]["containers"][0]["image"] == "a"
                })
            {
                break;
            }
        }
        (most, least)
    });
    set_image(&cluster, "web", "b");
    cluster.until("b is rolled out", || is_rolled_out(&cluster, "web", 8) && sets(&cluster).len() == 2).await;
    let (most, least) = watcher.await.unwrap();
    assert!(most <= 10 && least >= 7, "between {least} and {most}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_paused_deployment_waits_and_history_is_cleaned_up() {
    let cluster = Cluster::start(workloads());
    let mut d = deployment("web", 2, "a");
    d["spec"]["revisionHistoryLimit"] = json!(1);
    cluster.api.put(&DEPLOYMENTS, d).unwrap();
    cluster.until("a is rolled out", || is_rolled_out(&cluster, "web", 2)).await;
    cluster.api.modify(&DEPLOYMENTS, "default", "web", |d| {
        d["spec"]["paused"] = json!(true);
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("b");
    });
    cluster
        .until("it says that it is paused", || {
            let d = value(cluster.api.peek(&DEPLOYMENTS, "default", "web"));
            d["status"]["observedGeneration"] == d["metadata"]["generation"]
                && d["status"]["conditions"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|c| c["reason"] == "DeploymentPaused")
        })
        .await;
    assert_eq!(sets(&cluster).len(), 1);
    cluster.api.modify(&DEPLOYMENTS, "default", "web", |d| d["spec"]["paused"] = json!(false));
    cluster.until("b is rolled out", || is_rolled_out(&cluster, "web", 2) && sets(&cluster).len() == 2).await;
    for image in ["c", "d"] {
        set_image(&cluster, "web", image);
        cluster
            .until("it is rolled out", || {
                is_rolled_out(&cluster, "web", 2)
                    && cluster.pods().iter().all(|p| p["spec"]["containers"][0]["image"] == image)
            })
            .await;
    }
    cluster.until("one old set is left", || sets(&cluster).len() == 2).await;
    cluster.stop().await;
}

#[tokio::test]
async fn recreate_stops_the_old_pods_first() {
    let cluster = Cluster::start(workloads());
    let mut d = deployment("web", 3, "a");
    d["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.api.put(&DEPLOYMENTS, d).unwrap();
    cluster.until("a is rolled out", || is_rolled_out(&cluster, "web", 3)).await;
    let mixed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (api, seen) = (cluster.api.clone(), mixed.clone());
    let watcher = tokio::spawn(async move {
        use futures::StreamExt;
        use orlop_client::ApiClient;
        let mut stream = api.watch(&PODS, &Default::default()).await.unwrap();
        while let Some(Ok(_)) = stream.next().await {
            let pods = api.peek_all(&PODS);
            let has =
                |image: &str| pods.iter().any(|p| p.to_value()["spec"]["containers"][0]["image"] == image);
            if has("a") && has("b") {
                seen.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
    });
    set_image(&cluster, "web", "b");
    cluster
        .until("b is rolled out", || {
            is_rolled_out(&cluster, "web", 3)
                && cluster.pods().iter().all(|p| p["spec"]["containers"][0]["image"] == "b")
        })
        .await;
    assert!(!mixed.load(std::sync::atomic::Ordering::SeqCst), "old and new pods ran together");
    watcher.abort();
    cluster.stop().await;
}

#[tokio::test]
async fn a_set_adopts_releases_and_reports_what_it_cannot_create() {
    let cluster = Cluster::start(workloads());
    let orphan =
        json!({"metadata": {"name": "orphan", "namespace": "default", "labels": {"app": "rc"}}, "spec": {}});
    cluster.api.put(&PODS, orphan).unwrap();
    let rc = json!({"metadata": {"name": "rc", "namespace": "default"},
        "spec": {"replicas": 2, "selector": {"app": "rc"},
                 "template": {"metadata": {"labels": {"app": "rc"}}, "spec": {"containers": []}}}});
    cluster.api.put(&CONTROLLERS, rc).unwrap();
    let status = |cluster: &Cluster| value(cluster.api.peek(&CONTROLLERS, "default", "rc"))["status"].clone();
    cluster
        .until("it has 2 pods, one adopted", || {
            status(&cluster)["readyReplicas"] == 2 && cluster.pods().len() == 2
        })
        .await;
    let adopted = value(cluster.api.peek(&PODS, "default", "orphan"));
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["name"], "rc");
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["controller"], true);

    cluster.api.modify(&PODS, "default", "orphan", |p| p["metadata"]["labels"]["app"] = json!("other"));
    cluster
        .until("the pod is released and replaced", || {
            cluster.pods().len() == 3
                && value(cluster.api.peek(&PODS, "default", "orphan"))["metadata"]["ownerReferences"]
                    .is_null()
        })
        .await;

    cluster.api.intercept(|call| match call.verb {
        orlop_testkit::Verb::Create if call.gvr == PODS => {
            Err(orlop_apimachinery::Status::forbidden(&PODS, "", "exceeded quota: q").into())
        }
        _ => Ok(()),
    });
    cluster.api.modify(&CONTROLLERS, "default", "rc", |p| p["spec"]["replicas"] = json!(4));
    cluster
        .until("the failure is reported", || {
            let s = status(&cluster);
            let c = &s["conditions"][0];
            c["type"] == "ReplicaFailure"
                && c["reason"] == "FailedCreate"
                && s["observedGeneration"] == 2
                && c["message"] == "pods is forbidden: exceeded quota: q"
        })
        .await;
    cluster
        .until("the event is recorded", || {
            cluster.events("FailedCreate").iter().any(|e| {
                e["message"] == "Error creating: pods is forbidden: exceeded quota: q"
                    && e["type"] == "Warning"
                    && e["involvedObject"]["kind"] == "ReplicationController"
            })
        })
        .await;
    cluster.api.pass();
    cluster
        .until("it recovers", || {
            status(&cluster)["readyReplicas"] == 4 && status(&cluster)["conditions"].is_null()
        })
        .await;
    assert!(cluster.api.peek_all(&EVENTS).len() < 40, "equal events are counted");
    cluster.stop().await;
}

#[tokio::test]
async fn many_pods_are_created_and_deleted() {
    let cluster = Cluster::start(workloads());
    cluster.api.put(&DEPLOYMENTS, deployment("web", 700, "a")).unwrap();
    cluster.until("700 pods are ready", || is_rolled_out(&cluster, "web", 700)).await;
    cluster.api.modify(&DEPLOYMENTS, "default", "web", |d| d["spec"]["replicas"] = json!(0));
    cluster.until("none is left", || cluster.pods().is_empty()).await;
    cluster.stop().await;
}
