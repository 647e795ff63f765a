//! The manager against an API in memory, with small plugins of WebAssembly text.

mod rollouts;

use super::*;
use crate::plugins::policy;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orlop_plugin::RuntimeOptions;
use orlop_plugin::admission::AdmissionWorld;
use orlop_testkit::{MemoryApi, eventually};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../../../../../runtime/plugin/tests/fixtures/support.rs"]
pub(crate) mod support;

struct Cluster {
    api: Arc<MemoryApi>,
    manager: Arc<PluginManager>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    _policy: watch::Sender<Arc<PluginPolicy>>,
}

fn leak(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

fn builtins() -> Builtins {
    Box::leak(Box::new([("good", leak(support::plugin("Good", support::ALLOW)))]))
}

/// An API that has seen a write, as every real one has before plugins are managed.
fn used_api() -> Arc<MemoryApi> {
    let api = MemoryApi::new();
    let namespaces = orlop_apimachinery::Gvr::new("", "v1", "namespaces");
    api.put(
        &namespaces,
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "default" } }),
    )
    .unwrap();
    Arc::new(api)
}

impl Cluster {
    async fn start(api: Arc<MemoryApi>) -> Self {
        let runtime = Arc::new(Runtime::new(&RuntimeOptions::default()).unwrap());
        let policy = watch::Sender::new(Arc::new(PluginPolicy::parse(policy::DEFAULT).unwrap()));
        let manager = Arc::new(PluginManager::new(runtime, builtins(), policy.subscribe()));
        manager.load_builtins(Kind::Admission).await;
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(manager.clone().run(api.client(), cancel.clone()));
        Self { api, manager, cancel, tasks, _policy: policy }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn status(&self, name: &str, field: &str) -> Value {
        let object = self.api.peek(&PLUGINS, "", name).map(|o| o.to_value()).unwrap_or_default();
        object.pointer("/status").and_then(|s| s.get(field)).cloned().unwrap_or_default()
    }

    async fn until(&self, name: &str, state: &str) {
        let reached = eventually(&format!("{name} is {state}"), || self.status(name, "state") == state).await;
        assert!(reached.is_ok(), "{:?}", self.api.peek(&PLUGINS, "", name).map(|o| o.to_value()));
    }

    fn put(&self, name: &str, wasm: &[u8]) {
        self.apply(name, json!({ "source": { "inline": STANDARD.encode(wasm) } }));
    }

    fn apply(&self, name: &str, spec: Value) {
        let done = self.api.modify(&PLUGINS, "", name, |plugin| {
            plugin["spec"] = spec.clone();
            let next = plugin["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            plugin["metadata"]["generation"] = json!(next);
        });
        if done.is_none() {
            let object = json!({ "apiVersion": "orlop.dev/v1", "kind": "Plugin",
                "metadata": { "name": name, "generation": 1 }, "spec": spec });
            self.api.put(&PLUGINS, object).unwrap();
        }
    }

    fn active(&self, name: &str) -> Option<Arc<ActivePlugin>> {
        self.manager.sets().borrow().plugins.get(name).cloned()
    }

    /// Calls the active plugin as an adapter would.
    fn call(&self, name: &str) -> Result<(), PluginError> {
        let active = self.active(name).unwrap();
        let plugin = self
            .manager
            .stager
            .runtime
            .link::<AdmissionWorld>(&active.compiled, active.options.clone())
            .unwrap();
        let request = orlop_plugin::admission::Request {
            operation: 1,
            group: String::new(),
            version: "v1".into(),
            resource: "pods".into(),
            subresource: String::new(),
            kind: "Pod".into(),
            namespace: "default".into(),
            name: "p".into(),
            dry_run: false,
            object: b"{}".to_vec(),
            old_object: Vec::new(),
            context: Vec::new(),
            attributes: b"{}".to_vec(),
            seed: 0,
        };
        let result = orlop_plugin::Slot::new(Arc::new(plugin)).mutate(&[request]).map(drop);
        record(&active.health, &result);
        result
    }

    fn events(&self) -> Vec<String> {
        let events = self.api.peek_all(&orlop_apimachinery::Gvr::new("", "v1", "events"));
        events.iter().filter_map(|e| e.to_value()["reason"].as_str().map(ToOwned::to_owned)).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_plugin_replaces_a_builtin_until_its_object_goes() {
    let cluster = Cluster::start(used_api()).await;
    cluster.until("good", "Active").await;
    assert!(cluster.active("good").unwrap().builtin);

    let wasm = support::plugin("Good", support::DENY);
    cluster.put("good", &wasm);
    let digest = orlop_plugin::Digest::of(&wasm).to_string();
    eventually("the user's is active", || cluster.status("good", "activeDigest") == digest.as_str())
        .await
        .unwrap();
    assert!(!cluster.active("good").unwrap().builtin);

    let client = cluster.api.client();
    client
        .delete(ResourceRef::new(&PLUGINS, "", "good"), &orlop_client::DeleteOptions::default())
        .await
        .unwrap();
    eventually("the built-in one is back", || cluster.active("good").is_some_and(|p| p.builtin))
        .await
        .unwrap();
    cluster.until("good", "Active").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_leaves_what_ran_before() {
    let cluster = Cluster::start(used_api()).await;
    cluster.until("good", "Active").await;
    let before = cluster.active("good").unwrap().digest();
    let other = support::manifest("Good").replace("admission@1.0.0", "admission@9.0.0");
    for (wasm, words) in [
        (b"junk".to_vec(), "not a loadable WebAssembly plugin"),
        (support::importing("Good", "other:io/streams@0.2.0"), "it imports \"other:io/streams@0.2.0\""),
        (support::refusing("Good"), "init failed: no!!"),
        (support::build(&other, "", "(i32.const 32)", support::ALLOW), "was built for world"),
        (
            support::build(&support::manifest("Good"), "", "(loop $l (br $l)) unreachable", support::ALLOW),
            "missed its deadline",
        ),
    ] {
        cluster.put("good", &wasm);
        let said = || cluster.status("good", "message").as_str().is_some_and(|m| m.contains(words));
        eventually(words, said).await.unwrap();
        assert_eq!(cluster.status("good", "state"), "Refused");
        assert!(cluster.status("good", "message").as_str().unwrap().contains("stays active"));
        assert_eq!(cluster.active("good").unwrap().digest(), before);
        assert!(cluster.call("good").is_ok());
    }
    assert!(cluster.events().iter().any(|r| r == "PluginRefused"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_failing_is_rolled_back_and_stays_so_over_a_restart() {
    let api = used_api();
    let cluster = Cluster::start(api.clone()).await;
    cluster.until("good", "Active").await;
    let wasm = support::plugin("Good", "unreachable");
    cluster.put("good", &wasm);
    let digest = orlop_plugin::Digest::of(&wasm);
    eventually("the bad one is active", || cluster.active("good").unwrap().digest() == digest).await.unwrap();
    for _ in 0..3 {
        assert!(cluster.call("good").is_err());
    }
    cluster.until("good", "RolledBack").await;
    assert!(cluster.active("good").unwrap().builtin);
    assert!(cluster.call("good").is_ok());
    let message = cluster.status("good", "message");
    assert!(message.as_str().unwrap().contains("failed 3 times, last: trapped"), "{message}");
    assert_eq!(cluster.status("good", "failures"), 3);
    assert!(cluster.events().iter().any(|r| r == "PluginRolledBack"));
    cluster.stop().await;

    let cluster = Cluster::start(api).await;
    let mut complete = cluster.manager.complete();
    complete.wait_for(|c| *c).await.unwrap();
    assert!(cluster.active("good").unwrap().builtin);
    assert_eq!(cluster.status("good", "state"), "RolledBack");
    // A repaired one is taken.
    cluster.put("good", &support::plugin("Good", support::DENY));
    cluster.until("good", "Active").await;
    assert!(!cluster.active("good").unwrap().builtin);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anything_to_go_back_to_it_is_suspended() {
    let cluster = Cluster::start(used_api()).await;
    cluster.put("mine", &support::plugin("Mine", "unreachable"));
    cluster.until("mine", "Active").await;
    for _ in 0..3 {
        assert!(cluster.call("mine").is_err());
    }
    cluster.until("mine", "Suspended").await;
    assert!(!cluster.active("mine").unwrap().health.admits(Instant::now()));
    let message = cluster.status("mine", "message");
    assert!(
        message.as_str().unwrap().contains("suspended after repeated failures, last: trapped"),
        "{message}"
    );
    // Its name belongs to it alone.
    cluster.put("other", &support::plugin("Mine", support::ALLOW));
    cluster.until("other", "Refused").await;
    assert!(
        cluster
            .status("other", "message")
            .as_str()
            .unwrap()
            .contains("is taken by the active plugin \"mine\"")
    );
    cluster.stop().await;
}
