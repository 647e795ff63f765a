//! The door, with small plugins of WebAssembly text.

mod candidates;

use super::*;
use crate::plugins::manager::tests::support;
use crate::plugins::policy;
use orlop_apimachinery::Gvk;
use orlop_apiserver::UserInfo;
use orlop_plugin::{Kind, RuntimeOptions};
use orlop_testkit::MemoryApi;
use serde_json::json;

async fn door(
    wasm: Vec<u8>,
    policy: &str,
) -> (PluginAdmission, watch::Sender<Arc<PluginPolicy>>, CancellationToken) {
    let runtime = Arc::new(Runtime::new(&RuntimeOptions::default()).unwrap());
    let policy = watch::Sender::new(Arc::new(PluginPolicy::parse(policy).unwrap()));
    let bytes: &'static [u8] = Box::leak(wasm.into_boxed_slice());
    let manager = Arc::new(PluginManager::new(
        runtime.clone(),
        Box::leak(Box::new([("it", bytes)])),
        policy.subscribe(),
    ));
    manager.load_builtins(Kind::Admission).await;
    let api = Arc::new(MemoryApi::new());
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(manager.clone().run(api.client(), cancel.clone()));
    let door =
        PluginAdmission::start(runtime, &manager, policy.subscribe(), api.client(), tasks, cancel.clone())
            .unwrap();
    manager.users_loaded().wait_for(|loaded| *loaded).await.unwrap();
    (door, policy, cancel)
}

fn with(order: &str, plugins: &str) -> String {
    format!(
        "apiVersion: orlop.dev/v1\nkind: PluginPolicy\nadmission: {{order: [{order}]}}\nplugins: {plugins}\n"
    )
}

fn create(namespace: &str, user: UserInfo) -> AdmissionRequest {
    AdmissionRequest {
        uid: "7c0cb6a8".into(),
        operation: Operation::Create,
        gvr: Gvr::new("", "v1", "pods"),
        gvk: Gvk::new("", "v1", "Pod"),
        subresource: String::new(),
        namespace: namespace.into(),
        name: "web".into(),
        object: Some(json!({ "metadata": { "name": "web" } })),
        old_object: None,
        user,
        options: json!({}),
        dry_run: false,
    }
}

fn anybody() -> UserInfo {
    UserInfo::new("jane", Vec::<String>::new())
}

fn denied(verdict: &Verdict) -> &str {
    verdict.denied.as_ref().map_or("", |s| s.message.as_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verdicts_come_back_in_order_and_objects_too() {
    let (door, _policy, cancel) = door(support::plugin("It", support::ALLOW), &with("It", "{}")).await;
    assert!(door.handles(Operation::Create, &Gvr::new("", "v1", "pods"), ""));
    assert!(!door.handles(Operation::Delete, &Gvr::new("", "v1", "pods"), ""));
    assert!(!door.handles(Operation::Create, &Gvr::new("", "v1", "services"), ""));
    let mut requests: Vec<AdmissionRequest> = (0..100)
        .map(|i| AdmissionRequest { object: Some(json!({ "n": i })), ..create("shop", anybody()) })
        .collect();
    let verdicts = door.mutate(&mut requests).await;
    assert_eq!(verdicts.len(), 100);
    assert!(verdicts.iter().all(|v| v.denied.is_none() && !v.changed));
    for (i, request) in requests.iter().enumerate() {
        assert_eq!(request.object, Some(json!({ "n": i })));
    }
    cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_without_words_is_forbidden() {
    let (door, policy, cancel) = door(support::plugin("It", support::DENY), &with("It", "{}")).await;
    let verdicts = door.mutate(&mut [create("shop", anybody())]).await;
    assert_eq!(denied(&verdicts[0]), "pods \"web\" is forbidden: an admission plugin refused it");
    // Off the list means off.
    policy.send_replace(Arc::new(PluginPolicy::parse(&with("", "{}")).unwrap()));
    assert!(!door.handles(Operation::Create, &Gvr::new("", "v1", "pods"), ""));
    cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_close_the_door_but_for_those_who_repair_it() {
    for (what, body, reason) in support::BAD {
        let (door, _policy, cancel) = door(support::plugin("It", body), &with("It", "{}")).await;
        let verdicts = door.mutate(&mut [create("shop", anybody())]).await;
        assert!(
            denied(&verdicts[0])
                .starts_with("Internal error occurred: failed calling admission plugin \"It\": "),
            "{what}: {verdicts:?}"
        );
        let verdicts = door.mutate(&mut [create("kube-system", UserInfo::master("admin"))]).await;
        assert!(verdicts[0].denied.is_none(), "{what}");
        assert_eq!(verdicts[0].warnings.len(), 1, "{what}");
        assert_eq!(verdicts[0].audit_annotations[0].1, *reason, "{what}");
        cancel.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_optional_plugin_that_fails_is_passed_over() {
    let policy = with("It", "{It: {failurePolicy: Ignore}}");
    let (door, _policy, cancel) = door(support::plugin("It", "unreachable"), &policy).await;
    for _ in 0..5 {
        let verdicts = door.mutate(&mut [create("shop", anybody())]).await;
        assert!(verdicts[0].denied.is_none());
        assert!(verdicts[0].warnings[0].starts_with("failed calling admission plugin \"It\": "));
    }
    let suspended = door.mutate(&mut [create("shop", anybody())]).await;
    assert!(suspended[0].warnings[0].contains("suspended after repeated failures"), "{suspended:?}");
    cancel.cancel();
}

#[test]
fn the_default_policy_is_the_file_in_the_tree() {
    assert!(PluginPolicy::parse(policy::DEFAULT).is_ok());
}

/// The embedded plugins, in WebAssembly, over an API with one namespace of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_built_in_plugins_decide_as_kubernetes_does() {
    let builtins = crate::embedded::plugins().expect("run `cargo xtask plugins` first");
    let runtime = Arc::new(Runtime::new(&RuntimeOptions::default()).unwrap());
    let mut rules = PluginPolicy::parse(policy::DEFAULT).unwrap();
    // As the server does: this one cannot work without the cluster's certificate.
    rules.default_config(
        "root-ca-certificate-publisher-controller",
        &json!({ "rootCA": "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n" }),
    );
    let policy = watch::Sender::new(Arc::new(rules));
    let manager = Arc::new(PluginManager::new(runtime.clone(), builtins, policy.subscribe()));
    let begin = std::time::Instant::now();
    manager.load_builtins(Kind::Admission).await;
    println!("admission plugins compiled in {:?}", begin.elapsed());
    assert_eq!(manager.sets().borrow().of_kind(Kind::Admission).count(), 5);

    let api = Arc::new(MemoryApi::new());
    let put = |resource: &'static str, object: serde_json::Value| {
        api.put(&Gvr::new("", "v1", resource), object).unwrap();
    };
    put("namespaces", json!({ "metadata": { "name": "shop" }, "status": { "phase": "Active" } }));
    put("namespaces", json!({ "metadata": { "name": "going" } }));
    api.modify(&Gvr::new("", "v1", "namespaces"), "", "going", |namespace| {
        namespace["status"]["phase"] = json!("Terminating");
    });
    put("serviceaccounts", json!({ "metadata": { "name": "default", "namespace": "shop" } }));
    put(
        "limitranges",
        json!({ "metadata": { "name": "l", "namespace": "shop" }, "spec": { "limits": [
            { "type": "Container", "max": { "memory": "1Gi" }, "default": { "memory": "64Mi" } }
        ] } }),
    );
    let classes = Gvr::new("scheduling.k8s.io", "v1", "priorityclasses");
    for (name, value, default) in [("usual", 7, true), ("high", 9, false)] {
        let class = json!({ "metadata": { "name": name }, "value": value, "globalDefault": default });
        api.put(&classes, class).unwrap();
    }
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(manager.clone().run(api.client(), cancel.clone()));
    let door =
        PluginAdmission::start(runtime, &manager, policy.subscribe(), api.client(), tasks, cancel.clone())
            .unwrap();

    let pod = |limit: Option<&str>| {
        let resources = limit.map_or(json!({}), |l| json!({ "limits": { "memory": l } }));
        Some(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "containers": [{ "name": "c", "image": "i", "resources": resources }] } }))
    };
    let mut requests = [AdmissionRequest { object: pod(None), ..create("shop", anybody()) }];
    let verdicts = door.mutate(&mut requests).await;
    assert_eq!(denied(&verdicts[0]), "");
    assert!(verdicts[0].changed);
    let object = requests[0].object.clone().unwrap();
    assert_eq!(object["spec"]["serviceAccountName"], "default");
    assert_eq!(object["spec"]["tolerations"][1]["key"], "node.kubernetes.io/unreachable");
    assert_eq!(object["spec"]["containers"][0]["resources"]["limits"]["memory"], "64Mi");
    assert_eq!(
        (&object["spec"]["priorityClassName"], &object["spec"]["priority"]),
        (&json!("usual"), &json!(7))
    );
    let volume = object["spec"]["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"));
    assert_eq!(object["spec"]["containers"][0]["volumeMounts"][0]["name"], volume);
    assert_eq!(denied(&door.validate(&requests).await[0]), "");

    let classed = |class: &str| {
        let mut pod = pod(None);
        if let Some(pod) = &mut pod {
            pod["spec"]["priorityClassName"] = json!(class);
        }
        AdmissionRequest { object: pod, ..create("shop", anybody()) }
    };
    let mut requests = [classed("high"), classed("nope")];
    let verdicts = door.mutate(&mut requests).await;
    assert_eq!(requests[0].object.as_ref().unwrap()["spec"]["priority"], 9);
    assert_eq!(denied(&verdicts[1]), "pods \"web\" is forbidden: no PriorityClass with name nope was found");

    let mut large = [AdmissionRequest { object: pod(Some("2Gi")), ..create("shop", anybody()) }];
    assert_eq!(denied(&door.mutate(&mut large).await[0]), "");
    assert_eq!(
        denied(&door.validate(&large).await[0]),
        "pods \"web\" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi"
    );
    let verdicts = door
        .mutate(&mut [
            AdmissionRequest { object: pod(None), ..create("nowhere", anybody()) },
            AdmissionRequest { object: pod(None), ..create("going", anybody()) },
        ])
        .await;
    assert_eq!(denied(&verdicts[0]), "namespaces \"nowhere\" not found");
    assert_eq!(
        denied(&verdicts[1]),
        "pods \"web\" is forbidden: unable to create new content in namespace going because it is being terminated"
    );

    let begin = std::time::Instant::now();
    let count = 200;
    for _ in 0..count {
        let mut one = [AdmissionRequest { object: pod(None), ..create("shop", anybody()) }];
        door.mutate(&mut one).await;
    }
    println!("{:?} for one pod through the mutating phase", begin.elapsed() / count);

    let mut complete = manager.complete();
    complete.wait_for(|c| *c).await.unwrap();
    let active: Vec<String> = manager.sets().borrow().plugins.keys().cloned().collect();
    assert_eq!(active.len(), builtins.len(), "{active:?}");
    cancel.cancel();
}
