//! Plugins that fail: the others do not notice.

use crate::harness::{Cluster, DEPLOYMENTS, PODS};
use crate::workloads::{deployment, is_rolled_out, workloads};
use orlop_apimachinery::Gvr;
use orlop_controller_manager::{
    ControllerInstance, ControllerPlugin, ControllerSpec, Declaration, Grant, PluginFailure,
};
use orlop_testkit::Verb;
use serde_json::{Value, json};
use std::sync::Arc;

static CONFIGMAPS: Gvr = Gvr::new("", "v1", "configmaps");

pub(crate) type Answer = fn(&Value) -> Result<Vec<u8>, PluginFailure>;

struct Broken {
    declaration: Declaration,
    answer: Answer,
}

struct Instance(Answer);

impl ControllerPlugin for Broken {
    fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    fn instantiate(&self) -> Result<Box<dyn ControllerInstance>, PluginFailure> {
        Ok(Box::new(Instance(self.answer)))
    }
}

impl ControllerInstance for Instance {
    fn reconcile(&mut self, request: &[u8]) -> Result<Vec<u8>, PluginFailure> {
        (self.0)(&serde_json::from_slice(request).unwrap())
    }
}

fn broken(name: &str, grants: Vec<Grant>, answer: Answer) -> ControllerSpec {
    let declaration = json!({"name": name, "primary": {"apiVersion": "v1", "resource": "pods"},
        "watches": [{"apiVersion": "v1", "resource": "pods", "keys": [{"by": "self"}]}]});
    declared(&declaration, grants, answer)
}

/// A plugin that answers what it is told to.
pub(crate) fn declared(declaration: &Value, grants: Vec<Grant>, answer: Answer) -> ControllerSpec {
    let declaration = Declaration::parse(declaration).unwrap();
    ControllerSpec::new(Arc::new(Broken { declaration, answer }), grants)
}

pub(crate) fn plans(request: &Value, plan: &Value) -> Vec<u8> {
    let plans: Vec<&Value> = request["items"].as_array().unwrap().iter().map(|_| plan).collect();
    json!({"plans": plans}).to_string().into_bytes()
}

#[tokio::test]
async fn traps_and_nonsense_stay_with_their_plugin() {
    let mut specs = workloads();
    specs.push(broken("traps", Vec::new(), |_| Err(PluginFailure::Trap("unreachable".into()))));
    specs.push(broken("babbles", Vec::new(), |_| Ok(b"no plans".to_vec())));
    specs.push(broken("short", Vec::new(), |_| Ok(br#"{"plans":[]}"#.to_vec())));
    let cluster = Cluster::start(specs);
    cluster.api.put(&DEPLOYMENTS, deployment("web", 3, "a")).unwrap();
    cluster.until("3 pods are ready", || is_rolled_out(&cluster, "web", 3)).await;
    cluster
        .until("the failures are counted", || {
            let status = cluster.manager.status();
            ["traps", "babbles", "short"].iter().all(|name| status[*name].failures > 0)
        })
        .await;
    assert_eq!(cluster.manager.status()["traps"].last_failure, "trapped: unreachable");
    assert_eq!(cluster.manager.status()["deployment-controller"].failures, 0);
    cluster.stop().await;
}

#[tokio::test]
async fn one_poisonous_key_does_not_hold_up_the_others() {
    let cluster = Cluster::start(vec![broken(
        "picky",
        vec![Grant {
            api_groups: vec!["".into()],
            resources: vec!["pods".into()],
            verbs: vec!["patch".into()],
        }],
        |request| {
            let items = request["items"].as_array().unwrap();
            if items.iter().any(|i| i["key"]["name"] == "poison") {
                return Err(PluginFailure::Trap("poison".into()));
            }
            let plan = |item: &Value| {
                if item["object"]["metadata"]["labels"]["seen"] == "yes" || item["object"].is_null() {
                    return json!({});
                }
                json!({"writes": [{"op": "patch", "apiVersion": "v1", "resource": "pods",
                    "namespace": "d", "name": item["key"]["name"],
                    "body": {"metadata": {"labels": {"seen": "yes"}}}}]})
            };
            Ok(json!({"plans": items.iter().map(plan).collect::<Vec<_>>()}).to_string().into_bytes())
        },
    )]);
    for name in ["poison", "a", "b", "c"] {
        cluster.api.put(&PODS, json!({"metadata": {"name": name, "namespace": "d"}})).unwrap();
    }
    cluster
        .until("the healthy keys are done", || {
            cluster.pods().iter().filter(|p| p["metadata"]["labels"]["seen"] == "yes").count() == 3
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_not_granted_is_not_written() {
    let write: Answer = |request| {
        Ok(plans(
            request,
            &json!({"writes": [{"op": "delete", "apiVersion": "v1", "resource": "pods", "namespace": "d", "name": "a"}]}),
        ))
    };
    let cluster = Cluster::start(vec![broken("greedy", Vec::new(), write)]);
    cluster.api.intercept(|call| {
        assert!(call.verb != Verb::Delete, "it was written");
        Ok(())
    });
    cluster.api.put(&PODS, json!({"metadata": {"name": "a", "namespace": "d"}})).unwrap();
    cluster
        .until("it was tried", || cluster.manager.status().get("greedy").is_some_and(|s| s.reconciles > 1))
        .await;
    assert!(cluster.api.peek(&PODS, "d", "a").is_some());
    cluster.stop().await;
}

#[tokio::test]
async fn an_object_without_what_a_rule_wants_makes_no_key() {
    let label: Answer = |request| {
        let plan = |item: &Value| {
            json!({"writes": [{"op": "patch", "apiVersion": "v1", "resource": "configmaps", "namespace": "d",
                "name": item["key"]["name"], "body": {"metadata": {"labels": {"seen": "yes"}}}}]})
        };
        let plans: Vec<Value> = request["items"].as_array().unwrap().iter().map(plan).collect();
        Ok(json!({"plans": plans}).to_string().into_bytes())
    };
    let declaration = json!({"name": "colors", "primary": {"apiVersion": "v1", "resource": "configmaps"},
        "watches": [{"apiVersion": "v1", "resource": "configmaps",
                     "keys": [{"by": "self", "having": ["data.color", "data.none"]}]}]});
    let grants =
        vec![Grant { api_groups: vec!["".into()], resources: vec!["*".into()], verbs: vec!["*".into()] }];
    let cluster = Cluster::start(vec![declared(&declaration, grants, label)]);
    let put = |name: &str, data: Value| {
        cluster
            .api
            .put(&CONFIGMAPS, json!({"metadata": {"name": name, "namespace": "d"}, "data": data}))
            .unwrap();
    };
    let seen = |name: &str| {
        let object = cluster.api.peek(&CONFIGMAPS, "d", name).unwrap();
        object.meta().labels.iter().any(|(key, _)| **key == *"seen")
    };
    put("a", json!({"size": "1"}));
    put("b", json!({"color": "red"}));
    cluster.until("the coloured one is looked at", || seen("b")).await;
    assert!(!seen("a"), "it came first, and has no colour");
    cluster.api.modify(&CONFIGMAPS, "d", "a", |object| object["data"]["color"] = json!("red")).unwrap();
    cluster.until("so is the other, when it has one", || seen("a")).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_plugin_is_replaced_and_removed_while_it_runs() {
    let label = |value: &'static str| -> Answer {
        match value {
            "one" => |request| Ok(plans(request, &patch("one"))),
            _ => |request| Ok(plans(request, &patch("two"))),
        }
    };
    fn patch(value: &str) -> Value {
        json!({"writes": [{"op": "patch", "apiVersion": "v1", "resource": "pods", "namespace": "d", "name": "a",
                           "body": {"metadata": {"labels": {"by": value}}}}]})
    }
    let grants =
        vec![Grant { api_groups: vec!["".into()], resources: vec!["*".into()], verbs: vec!["*".into()] }];
    let cluster = Cluster::start(vec![broken("labels", grants.clone(), label("one"))]);
    cluster.api.put(&PODS, json!({"metadata": {"name": "a", "namespace": "d"}})).unwrap();
    let by = |cluster: &Cluster| cluster.pods()[0]["metadata"]["labels"]["by"].clone();
    cluster.until("the first one wrote", || by(&cluster) == "one").await;
    cluster.manager.apply(broken("labels", grants, label("two")));
    cluster.until("the second one wrote", || by(&cluster) == "two").await;
    cluster.manager.remove("labels");
    cluster.until("it is gone", || !cluster.manager.status()["labels"].running).await;
    cluster.stop().await;
}
