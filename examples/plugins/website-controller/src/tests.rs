use super::*;
use orlop_sdk::serde_json::{from_slice, from_str};

/// The plan for a Website and what there is of it.
fn plan(website: Value, inputs: Value) -> Value {
    let plugin = WebsiteController::new(b"{}").unwrap();
    let item = json!({"key": {"namespace": "shop", "name": "home"}, "object": website, "inputs": inputs});
    let request = json!({"now": 0, "items": [item]}).to_string();
    let answer = orlop_sdk::controller::serve(&plugin, request.as_bytes()).unwrap();
    from_slice::<Value>(&answer).unwrap()["plans"][0].clone()
}

fn website() -> Value {
    json!({
        "metadata": {"name": "home", "namespace": "shop", "uid": "u1", "generation": 1},
        "spec": {"page": "hello", "replicas": 2},
    })
}

/// Plays the cluster: does what the plan says, until it says nothing.
fn settle(website: &mut Value, inputs: &mut Value) -> usize {
    for round in 0..10 {
        let plan = plan(website.clone(), inputs.clone());
        let Some(writes) = plan["writes"].as_array() else { return round };
        for write in writes {
            match write["op"].as_str().unwrap() {
                "create" => inputs[write["resource"].as_str().unwrap()] = json!([write["body"]]),
                "patch" if write["subresource"] == "status" => {
                    website["status"] = write["body"]["status"].clone()
                }
                "patch" => {
                    let there = &mut inputs[write["resource"].as_str().unwrap()][0];
                    for (key, value) in write["body"].as_object().unwrap() {
                        let name = there["metadata"]["name"].clone();
                        there[key] = value.clone();
                        there["metadata"]["name"] = name;
                    }
                }
                other => panic!("unexpected {other}"),
            }
        }
    }
    panic!("the controller does not come to rest")
}

#[test]
fn it_makes_what_is_missing_and_comes_to_rest() {
    let (mut website, mut inputs) = (website(), json!({}));
    settle(&mut website, &mut inputs);
    assert_eq!(inputs["configmaps"][0]["data"]["index.html"], "hello");
    assert_eq!(inputs["deployments"][0]["spec"]["replicas"], 2);
    assert_eq!(inputs["deployments"][0]["metadata"]["ownerReferences"][0]["uid"], "u1");
    assert_eq!(website["status"]["observedGeneration"], 1);
    // What the cluster fills in is no reason to write.
    inputs["services"][0]["spec"]["clusterIP"] = json!("10.96.0.7");
    inputs["services"][0]["spec"]["type"] = json!("ClusterIP");
    inputs["deployments"][0]["status"] = json!({"readyReplicas": 2});
    assert_eq!(settle(&mut website, &mut inputs), 1, "only the status changes");
    assert_eq!(website["status"]["address"], "10.96.0.7");
    assert_eq!(website["status"]["readyReplicas"], 2);
}

#[test]
fn what_somebody_changed_is_put_right() {
    let (mut website, mut inputs) = (website(), json!({}));
    settle(&mut website, &mut inputs);
    inputs["deployments"][0]["spec"]["replicas"] = json!(9);
    inputs["configmaps"] = json!([]);
    settle(&mut website, &mut inputs);
    assert_eq!(inputs["deployments"][0]["spec"]["replicas"], 2);
    assert_eq!(inputs["configmaps"][0]["data"]["index.html"], "hello");
}

#[test]
fn a_new_page_makes_new_pods() {
    let (mut website, mut inputs) = (website(), json!({}));
    settle(&mut website, &mut inputs);
    let before = inputs["deployments"][0]["spec"]["template"].clone();
    website["spec"]["page"] = json!("good bye");
    settle(&mut website, &mut inputs);
    assert_ne!(inputs["deployments"][0]["spec"]["template"], before);
    assert_eq!(inputs["configmaps"][0]["data"]["index.html"], "good bye");
}

#[test]
fn a_website_on_its_way_out_is_left_alone() {
    let mut website = website();
    website["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(plan(website, json!({})), json!({}));
    assert_eq!(plan(Value::Null, json!({})), json!({}));
}

#[test]
fn the_manifest_asks_for_what_the_plans_need() {
    let manifest: Value = from_str(MANIFEST).unwrap();
    let may = |resource: &str| {
        manifest["permissions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["resources"].as_array().unwrap().contains(&json!(resource)))
    };
    let first = plan(website(), json!({}));
    for write in first["writes"].as_array().unwrap() {
        let resource = write["resource"].as_str().unwrap();
        let full = write["subresource"].as_str().map_or(resource.to_owned(), |s| format!("{resource}/{s}"));
        assert!(may(&full), "{full}");
    }
}
