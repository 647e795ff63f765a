//! What of two lists of permissions is common.

use super::*;
use crate::plugins::comparison::Mode;

fn permission(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Permission {
    let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect();
    Permission { api_groups: texts(groups), resources: texts(resources), verbs: texts(verbs) }
}

#[test]
fn what_both_lists_allow_and_nothing_else() {
    let asked = [
        permission(&[""], &["pods", "pods/status", "secrets"], &["create", "delete", "patch"]),
        permission(&["apps"], &["*"], &["*"]),
    ];
    let given = [
        permission(&["*"], &["pods", "*/status"], &["create", "patch", "update"]),
        permission(&["apps"], &["deployments"], &["delete"]),
    ];
    let common = both(&asked, &given);
    let allows = |verb, group, resource, sub| common.iter().any(|g| g.allows(verb, group, resource, sub));
    assert!(allows("create", "", "pods", ""));
    assert!(allows("patch", "", "pods", "status"));
    assert!(allows("delete", "apps", "deployments", ""));
    assert!(
        allows("update", "apps", "pods", ""),
        "both allow it, though by different rules of the first list"
    );
    for (verb, group, resource, sub) in [
        ("delete", "", "pods", ""),
        ("update", "", "pods", ""),
        ("create", "", "secrets", ""),
        ("delete", "apps", "replicasets", ""),
        ("create", "batch", "pods", ""),
    ] {
        assert!(!allows(verb, group, resource, sub), "{verb} {group} {resource} {sub}");
    }
    assert!(both(&asked, &[]).is_empty());
    assert_eq!(both(&asked, &asked).iter().filter(|g| g.allows("create", "", "secrets", "")).count(), 1);
}

/// What the active revision publishes, and what the candidate would.
const OLD: &str = "b2xk";
const NEW: &str = "bmV3";

/// An earlier build of a built-in controller, which writes its configuration into every namespace.
fn publisher(runtime: &Runtime, authority: &str) -> Arc<ActivePlugin> {
    use crate::plugins::object::{PluginSpec, unpack};
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/frozen/root-ca-certificate-publisher.wasm.gz"
    );
    let module = unpack(std::fs::read(file).unwrap()).unwrap();
    let compiled = runtime.compile(&module).unwrap();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{authority}\n-----END CERTIFICATE-----\n");
    let config = serde_json::json!({ "rootCA": pem }).to_string().into_bytes();
    let facts = crate::plugins::set::Facts {
        spec: PluginSpec::default(),
        digest: compiled.digest(),
        kind: Kind::Controller,
        world: compiled.manifest().world.clone(),
        signature: None,
        signed_by: None,
        packed: None,
    };
    let options = orlop_plugin::PluginOptions::from_manifest(compiled.manifest());
    Arc::new(ActivePlugin {
        object: "publisher".into(),
        revision: 1,
        options: orlop_plugin::PluginOptions { config, ..options },
        failure_policy: crate::plugins::set::FailurePolicy::Fail,
        health: Arc::new(Health::new(Arc::default())),
        builtin: false,
        facts: Arc::new(facts),
        grants: compiled.manifest().permissions.clone(),
        number: std::sync::atomic::AtomicU64::new(1),
        compiled,
    })
}

/// A controller with a candidate, and an instance of it.
struct Bench {
    candidate: Arc<Candidate>,
    instance: Box<dyn ControllerInstance>,
}

impl Bench {
    fn new(active: bool, mode: Mode) -> Self {
        let runtime = Runtime::new(&orlop_plugin::RuntimeOptions::default()).unwrap();
        let old = publisher(&runtime, OLD);
        let candidate =
            Arc::new(Candidate { plugin: publisher(&runtime, NEW), mode, comparison: Arc::default() });
        let trial = Arc::default();
        let spec =
            spec(&runtime, active.then_some(&*old), &old, Arc::clone(&trial)).map_err(|e| e.clone()).unwrap();
        assert_eq!(spec.user, "system:plugin:publisher");
        let running = Running { revision: 1, name: "publisher".into(), trial };
        running.try_out(&runtime, "publisher", Some(&candidate));
        Self { candidate, instance: spec.plugin.instantiate().unwrap() }
    }

    /// Asks about so many namespaces; the certificate that each would get, empty for none.
    fn ask(&mut self, count: usize) -> Vec<String> {
        let item = |i: usize| {
            serde_json::json!({
                "key": { "namespace": "", "name": format!("ns-{i}") },
                "object": { "apiVersion": "v1", "kind": "Namespace",
                    "metadata": { "name": format!("ns-{i}"), "uid": "u" }, "status": { "phase": "Active" } },
                "inputs": { "published": [] }, "attempt": 0, "memo": null,
            })
        };
        let items: Vec<_> = (0..count).map(item).collect();
        let request = serde_json::json!({ "now": 1, "items": items }).to_string();
        let answer = self.instance.reconcile(request.as_bytes()).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        let plans = answer["plans"].as_array().unwrap().iter();
        let certificate = |plan: &serde_json::Value| {
            let pem = plan["writes"][0]["body"]["data"]["ca.crt"].as_str().unwrap_or("").to_owned();
            pem.lines().nth(1).unwrap_or("").to_owned()
        };
        plans.map(certificate).collect()
    }
}

#[tokio::test]
async fn a_shadow_of_a_controller_changes_no_plan_and_is_compared() {
    for active in [true, false] {
        let mut bench = Bench::new(active, Mode::Shadow);
        let expected = if active { OLD } else { "" };
        assert_eq!(bench.ask(3), [expected; 3]);
        let comparison = bench.candidate.comparison.clone();
        orlop_testkit::eventually("all are compared", || comparison.numbers().compared == 3).await.unwrap();
        assert_eq!(comparison.numbers().different, 3);
        let example = comparison.examples().remove(0);
        assert_eq!(example.key, "ns-0");
        assert!(example.candidate.contains(NEW), "{example:?}");
        assert_eq!(example.active.contains(OLD), active, "{example:?}");
    }
}

#[test]
fn a_canary_of_a_controller_decides_its_share() {
    let mut bench = Bench::new(true, Mode::Canary { percent: 50 });
    let plans = bench.ask(20);
    for (i, plan) in plans.iter().enumerate() {
        let mine = bench.candidate.decides(&format!("ns-{i}"));
        assert_eq!(plan, if mine { NEW } else { OLD }, "ns-{i}");
    }
    assert!(plans.iter().any(|p| p == NEW) && plans.iter().any(|p| p == OLD));
    assert!(bench.candidate.comparison.numbers().candidate.count > 0);
}
