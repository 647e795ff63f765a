//! Revisions, rollbacks, shadow and canary; the tests report what adapters would.

use super::*;
use crate::plugins::comparison::{Candidate, Example, Mode};
use crate::plugins::manager::revisions::REVISIONS;
use std::time::Duration;

fn inline(wasm: &[u8]) -> Value {
    json!({ "inline": STANDARD.encode(wasm) })
}

impl Cluster {
    fn candidate(&self, name: &str) -> Option<Arc<Candidate>> {
        self.manager.sets().borrow().candidates.get(name).cloned()
    }

    async fn candidate_in(&self, name: &str, mode: Mode) -> Arc<Candidate> {
        eventually("there is a candidate", || self.candidate(name).is_some_and(|c| c.mode == mode))
            .await
            .unwrap();
        self.candidate(name).unwrap()
    }

    fn revision(&self, name: &str) -> Value {
        self.api.peek(&REVISIONS, "", name).map(|o| o.to_value()).unwrap_or_default()
    }

    async fn active_revision(&self, name: &str, number: u64) {
        let reached = eventually(&format!("{name}-{number} is active"), || {
            self.status(name, "activeRevision") == number && self.status(name, "state") == "Active"
        })
        .await;
        assert!(reached.is_ok(), "{:?}", self.api.peek(&PLUGINS, "", name).map(|o| o.to_value()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_a_revision_and_each_can_be_had_back() {
    let api = used_api();
    let cluster = Cluster::start(api.clone()).await;
    let (first, second) = (support::plugin("Mine", support::ALLOW), support::plugin("Mine", support::DENY));
    cluster.put("mine", &first);
    cluster.active_revision("mine", 1).await;
    let recorded = cluster.revision("mine-1");
    assert_eq!(recorded["spec"]["revision"], 1);
    assert_eq!(recorded["spec"]["digest"], orlop_plugin::Digest::of(&first).to_string());
    assert_eq!(recorded["spec"]["source"], json!({ "inline": "" }));
    assert!(recorded["spec"]["module"].is_string());
    assert_eq!(recorded["metadata"]["ownerReferences"][0]["name"], "mine");

    cluster.put("mine", &second);
    cluster.active_revision("mine", 2).await;
    assert_eq!(cluster.status("mine", "standbyRevision"), 1);
    eventually("the first is on standby", || cluster.revision("mine-1")["status"]["stage"] == "Standby")
        .await
        .unwrap();
    // The standby takes over without being staged again.
    cluster.apply("mine", json!({ "source": inline(&second), "revision": 1 }));
    cluster.active_revision("mine", 1).await;
    assert_eq!(cluster.active("mine").unwrap().digest(), orlop_plugin::Digest::of(&first));
    // The same content is the same revision, and configuration counts.
    cluster.apply("mine", json!({ "source": inline(&second), "failurePolicy": "Ignore" }));
    cluster.active_revision("mine", 3).await;
    cluster.apply("mine", json!({ "source": inline(&second) }));
    cluster.active_revision("mine", 2).await;
    cluster.apply("mine", json!({ "source": inline(&second), "revision": 77 }));
    cluster.until("mine", "Refused").await;
    assert!(cluster.status("mine", "message").as_str().unwrap().contains("no PluginRevision \"mine-77\""));
    cluster.apply("mine", json!({ "source": inline(&second), "revision": 1 }));
    cluster.active_revision("mine", 1).await;
    cluster.stop().await;

    // A restart brings back what ran, out of its record.
    let cluster = Cluster::start(api).await;
    let mut complete = cluster.manager.complete();
    complete.wait_for(|c| *c).await.unwrap();
    assert_eq!(cluster.active("mine").unwrap().digest(), orlop_plugin::Digest::of(&first));
    cluster.active_revision("mine", 1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_revisions_go_and_those_in_use_stay() {
    let cluster = Cluster::start(used_api()).await;
    let wasm = support::plugin("Mine", support::ALLOW);
    for n in 1..=6u64 {
        let limits = json!({ "deadlineMilliseconds": 100 + n });
        cluster
            .apply("mine", json!({ "source": inline(&wasm), "limits": limits, "revisionHistoryLimit": 2 }));
        cluster.active_revision("mine", n).await;
    }
    let left = || {
        let mut left: Vec<String> =
            cluster.api.peek_all(&REVISIONS).iter().map(|o| o.name().to_owned()).collect();
        left.retain(|n| n.starts_with("mine-"));
        left
    };
    eventually("only a few are left", || left() == ["mine-3", "mine-4", "mine-5", "mine-6"]).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_goes_through_shadow_and_canary_and_becomes_active() {
    let cluster = Cluster::start(used_api()).await;
    cluster.until("good", "Active").await;
    let before = cluster.active("good").unwrap().digest();
    let wasm = support::plugin("Good", support::DENY);
    let rollout =
        json!({ "shadow": { "minimumRequests": 3 }, "canary": { "percent": 20, "minimumRequests": 2 } });
    cluster.apply("good", json!({ "source": inline(&wasm), "rollout": rollout }));
    let shadow = cluster.candidate_in("good", Mode::Shadow).await;
    cluster.until("good", "Shadow").await;
    assert_eq!(cluster.active("good").unwrap().digest(), before);
    shadow.comparison.same();
    shadow.comparison.same();
    shadow.comparison.differs(|| Example {
        key: "create pods/a/b".into(),
        active: "allowed".into(),
        candidate: "denied".into(),
    });
    let canary = cluster.candidate_in("good", Mode::Canary { percent: 20 }).await;
    cluster.until("good", "Canary").await;
    let figures = cluster.status("good", "shadow");
    assert_eq!((&figures["compared"], &figures["differences"]), (&json!(3), &json!(1)));
    assert_eq!(figures["examples"][0]["key"], "create pods/a/b");
    canary.comparison.candidate.add(Duration::from_micros(50));
    canary.comparison.candidate.add(Duration::from_micros(60));
    cluster.until("good", "Active").await;
    assert_eq!(cluster.active("good").unwrap().digest(), orlop_plugin::Digest::of(&wasm));
    assert!(cluster.candidate("good").is_none());
    assert_eq!(cluster.status("good", "canary")["requests"], 2);
    let conditions = cluster.status("good", "conditions");
    let of = |name: &str| conditions.as_array().unwrap().iter().find(|c| c["type"] == name).cloned().unwrap();
    for name in [
        "Ready",
        "Fetched",
        "Verified",
        "Compiled",
        "Linked",
        "SelfTested",
        "Warmed",
        "Shadowed",
        "CanaryPassed",
    ] {
        assert_eq!(of(name)["status"], "True", "{name}: {conditions}");
    }
    let events = cluster.events();
    for reason in ["PluginShadow", "PluginCanary", "PluginActivated"] {
        assert!(events.iter().any(|r| r == reason), "{reason}: {events:?}");
    }
    let metrics = cluster.manager.metrics();
    assert!(
        metrics.contains("orlop_plugin_stage{plugin=\"good\",stage=\"Active\",state=\"Active\"} 1"),
        "{metrics}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_overdraws_a_budget_is_given_up() {
    let api = used_api();
    let cluster = Cluster::start(api.clone()).await;
    cluster.until("good", "Active").await;
    let wasm = support::plugin("Good", support::DENY);
    let rollout =
        json!({ "shadow": { "minimumRequests": 10, "maximumDifferences": 0.1 }, "maximumFailures": 0 });
    cluster.apply("good", json!({ "source": inline(&wasm), "rollout": rollout }));
    let shadow = cluster.candidate_in("good", Mode::Shadow).await;
    for _ in 0..2 {
        shadow.comparison.differs(|| Example {
            key: "create pods/a/b".into(),
            active: "allowed".into(),
            candidate: "denied".into(),
        });
    }
    cluster.until("good", "RolledBack").await;
    let message = cluster.status("good", "message");
    assert!(message.as_str().unwrap().contains("2 of 2 inputs were decided otherwise"), "{message}");
    assert_eq!(cluster.status("good", "shadow")["examples"][1]["candidate"], "denied");
    assert!(cluster.active("good").unwrap().builtin);
    assert!(cluster.candidate("good").is_none());
    eventually("its record says so", || cluster.revision("good-2")["status"]["stage"] == "RolledBack")
        .await
        .unwrap();
    // It is not tried again until the object changes; then failures count, too.
    cluster.apply("good", json!({ "source": inline(&wasm), "rollout": { "shadow": {}, "paused": true, "maximumFailures": 0 }, "failurePolicy": "Ignore" }));
    let shadow = cluster.candidate_in("good", Mode::Shadow).await;
    shadow.plugin.health.failed(Instant::now(), &PluginError::Trap { message: "unreachable".into() });
    cluster.until("good", "RolledBack").await;
    assert!(cluster.status("good", "message").as_str().unwrap().contains("last: trapped: unreachable"));
    cluster.stop().await;

    let cluster = Cluster::start(api).await;
    let mut complete = cluster.manager.complete();
    complete.wait_for(|c| *c).await.unwrap();
    assert!(cluster.active("good").unwrap().builtin);
    assert!(cluster.candidate("good").is_none());
    assert_eq!(cluster.status("good", "state"), "RolledBack");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_candidate_waits_and_goes_on() {
    let cluster = Cluster::start(used_api()).await;
    let wasm = support::plugin("Mine", support::ALLOW);
    let rollout =
        |paused: bool| json!({ "source": inline(&wasm), "rollout": { "shadow": {}, "paused": paused } });
    cluster.apply("mine", rollout(true));
    let candidate = cluster.candidate_in("mine", Mode::Shadow).await;
    assert!(cluster.active("mine").is_none(), "a new plugin may begin in shadow");
    let said = || cluster.status("mine", "message").as_str().is_some_and(|m| m.ends_with(": paused"));
    eventually("it says that it is paused", said).await.unwrap();
    cluster.apply("mine", rollout(false));
    cluster.until("mine", "Active").await;
    assert_eq!(
        cluster.active("mine").unwrap().revision,
        candidate.plugin.revision,
        "nothing was staged again"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_is_wanted_where_the_policy_says_so() {
    use ed25519_dalek::{Signer, SigningKey};
    let cluster = Cluster::start(used_api()).await;
    let key = SigningKey::from_bytes(&[7; 32]);
    let policy = format!(
        "apiVersion: orlop.dev/v1\nkind: PluginPolicy\nsignatures: {{keys: [{{name: release, publicKey: \"{}\"}}], rules: [{{requireSignature: true}}]}}",
        STANDARD.encode(key.verifying_key().as_bytes())
    );
    cluster._policy.send_replace(Arc::new(PluginPolicy::parse(&policy).unwrap()));
    let wasm = support::plugin("Mine", support::ALLOW);
    cluster.put("mine", &wasm);
    cluster.until("mine", "Refused").await;
    let reason = |cluster: &Cluster| cluster.status("mine", "conditions")[0]["reason"].clone();
    assert_eq!(reason(&cluster), "SignatureRefused");
    let message = policy::signature::message(orlop_plugin::Digest::of(&wasm));
    let signature = STANDARD.encode(key.sign(&message).to_bytes());
    cluster.apply("mine", json!({ "source": inline(&wasm), "signature": signature }));
    cluster.active_revision("mine", 1).await;
    assert_eq!(cluster.revision("mine-1")["spec"]["signature"]["signedBy"], "release");
    // Built-in plugins need none.
    assert_eq!(cluster.status("good", "state"), "Active");
    cluster.stop().await;
}
