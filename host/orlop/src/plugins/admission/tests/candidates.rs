//! Candidates at the door: a shadow sees all and decides nothing, a canary decides its share.

use super::*;
use crate::plugins::comparison::{Candidate, Mode};
use crate::plugins::object::PLUGINS;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orlop_testkit::eventually;
use serde_json::Value;

struct Yard {
    door: PluginAdmission,
    manager: Arc<PluginManager>,
    api: Arc<MemoryApi>,
    cancel: CancellationToken,
    _policy: watch::Sender<Arc<PluginPolicy>>,
}

impl Yard {
    /// A door with the built-in plugin `it`, of this code.
    async fn new(wasm: Vec<u8>) -> Self {
        let runtime = Arc::new(Runtime::new(&RuntimeOptions::default()).unwrap());
        let policy = watch::Sender::new(Arc::new(PluginPolicy::parse(&with("It", "{}")).unwrap()));
        let bytes: &'static [u8] = Box::leak(wasm.into_boxed_slice());
        let builtins = Box::leak(Box::new([("it", bytes)]));
        let manager = Arc::new(PluginManager::new(runtime.clone(), builtins, policy.subscribe()));
        let api = Arc::new(MemoryApi::new());
        api.put(&Gvr::new("", "v1", "namespaces"), json!({ "metadata": { "name": "default" } })).unwrap();
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(manager.clone().run(api.client(), cancel.clone()));
        let door = PluginAdmission::start(
            runtime,
            &manager,
            policy.subscribe(),
            api.client(),
            tasks,
            cancel.clone(),
        )
        .unwrap();
        manager.complete().wait_for(|c| *c).await.unwrap();
        Self { door, manager, api, cancel, _policy: policy }
    }

    async fn propose(&self, name: &str, wasm: &[u8], rollout: Value) -> Arc<Candidate> {
        let object = json!({ "apiVersion": "orlop.dev/v1", "kind": "Plugin",
            "metadata": { "name": name, "generation": 1 },
            "spec": { "source": { "inline": STANDARD.encode(wasm) }, "rollout": rollout } });
        // The object of a built-in plugin is there soon, and then it is this one that counts.
        let spec = object["spec"].clone();
        if self.api.put(&PLUGINS, object).is_err() {
            self.api.modify(&PLUGINS, "", name, |plugin| {
                plugin["spec"] = spec;
                plugin["metadata"]["generation"] = json!(2);
            });
        }
        let candidate = || self.manager.sets().borrow().candidates.get(name).cloned();
        eventually("there is a candidate", || candidate().is_some()).await.unwrap();
        candidate().unwrap()
    }

    async fn ask(&self, name: &str) -> Verdict {
        let request = AdmissionRequest {
            name: name.into(),
            object: Some(json!({ "metadata": { "name": name } })),
            ..create("shop", anybody())
        };
        self.door.mutate(&mut [request]).await.remove(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_decides_nothing_and_is_compared() {
    let yard = Yard::new(support::plugin("It", support::ALLOW)).await;
    let shadow = json!({ "shadow": { "minimumRequests": 1000 } });
    let candidate = yard.propose("it", &support::plugin("It", support::DENY), shadow).await;
    for i in 0..20 {
        assert!(yard.ask(&format!("web-{i}")).await.denied.is_none());
    }
    eventually("all are compared", || {
        let n = candidate.comparison.numbers();
        n.compared + n.dropped == 20
    })
    .await
    .unwrap();
    let numbers = candidate.comparison.numbers();
    assert_eq!(numbers.compared, numbers.different);
    assert!(numbers.candidate.count > 0 && numbers.active.count > 0, "{numbers:?}");
    let example = &candidate.comparison.examples()[0];
    assert_eq!(example.key, "create pods/shop/web-0");
    assert_eq!(example.active, "allowed");
    assert!(example.candidate.starts_with("denied (403): pods \"web-0\" is forbidden"), "{example:?}");
    assert_eq!(candidate.plugin.health.report().failures, 0);
    assert!(candidate.plugin.health.memory_bytes() > 0);
    yard.cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_plugin_in_shadow_is_compared_with_its_absence() {
    let yard = Yard::new(support::plugin("It", support::ALLOW)).await;
    let shadow = json!({ "shadow": { "minimumRequests": 1000 } });
    let candidate = yard.propose("mine", &support::plugin("Mine", support::DENY), shadow).await;
    assert!(yard.ask("web").await.denied.is_none());
    eventually("it is compared", || candidate.comparison.numbers().different == 1).await.unwrap();
    yard.cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_decides_its_share_and_always_the_same() {
    let yard = Yard::new(support::plugin("It", support::ALLOW)).await;
    let canary = json!({ "canary": { "percent": 50, "minimumRequests": 100_000 } });
    let candidate = yard.propose("it", &support::plugin("It", support::DENY), canary).await;
    assert_eq!(candidate.mode, Mode::Canary { percent: 50 });
    let mut denied = 0;
    for i in 0..40 {
        let name = format!("web-{i}");
        let mine = candidate.decides(&format!("pods/shop/{name}"));
        for _ in 0..2 {
            assert_eq!(yard.ask(&name).await.denied.is_some(), mine, "{name}");
        }
        denied += u64::from(mine) * 2;
    }
    assert!((10..70).contains(&denied), "{denied}");
    assert_eq!(candidate.comparison.numbers().candidate.count, denied);
    yard.cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_suffers_from_a_canary_that_fails() {
    for (what, body, reason) in support::BAD.iter().take(3) {
        let yard = Yard::new(support::plugin("It", support::ALLOW)).await;
        let canary = json!({ "canary": { "percent": 100, "minimumRequests": 100_000 } });
        let candidate = yard.propose("it", &support::plugin("It", body), canary).await;
        for i in 0..5 {
            assert!(yard.ask(&format!("web-{i}")).await.denied.is_none(), "{what}");
        }
        assert_eq!(candidate.plugin.health.report().last.unwrap().0, *reason, "{what}");
        let gone = || yard.manager.sets().borrow().candidates.is_empty();
        eventually("it is given up", gone).await.unwrap();
        assert!(yard.manager.sets().borrow().plugins["it"].builtin);
        yard.cancel.cancel();
    }
}
