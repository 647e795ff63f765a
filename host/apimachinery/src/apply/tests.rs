use super::*;
use crate::managed_fields::track_update;
use crate::schema::tests::{id, set};
use proptest::prelude::*;
use serde_json::json;

const DEPLOYMENT: &str = "api.apps.v1.Deployment";

fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager, subresource: "", api_version: "apps/v1", now }
}

fn applied(live: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, ApplyError> {
    apply(set(), id(DEPLOYMENT), live, config, &writer(manager, "2026-01-01T00:00:00Z"), force, None)
}

fn updated(live: Option<&Value>, mut new: Value, manager: &str) -> Value {
    track_update(set(), id(DEPLOYMENT), live, &mut new, &writer(manager, "2026-01-01T00:00:00Z"), None);
    new
}

fn deployment(replicas: i32, containers: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": containers}}}})
}

fn fields_of(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries.iter().find(|e| e["manager"] == manager).map_or(Value::Null, |e| e["fieldsV1"].clone())
}

#[test]
fn apply_records_its_fields() {
    let config = deployment(
        1,
        json!([{"name": "a", "image": "x", "ports": [{"containerPort": 80}], "command": ["s"]}]),
    );
    let object = applied(None, &config, "kubectl", false).unwrap();
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
                    "k:{\"name\":\"a\"}": {".": {}, "f:command": {}, "f:image": {}, "f:name": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}}}])
    );
    let managed = Managed::decode(&object).unwrap();
    assert_eq!(managed.entries[0].fields.to_value(), fields_of(&object, "kubectl"));
}

#[test]
fn update_records_what_changed() {
    let created = updated(None, deployment(1, json!([{"name": "a", "image": "x"}])), "kubectl-create");
    assert_eq!(
        fields_of(&created, "kubectl-create"),
        json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
                ".": {}, "k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
    );
    let mut scaled = created.clone();
    scaled["spec"]["replicas"] = 3.into();
    let scaled = updated(Some(&created), scaled, "scaler");
    assert_eq!(fields_of(&scaled, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(fields_of(&scaled, "kubectl-create")["f:spec"].get("f:replicas"), None);
    // Nothing changes: nothing is recorded.
    assert_eq!(updated(Some(&scaled), scaled.clone(), "idle"), scaled);
    // A client without managed fields does not lose them; one that resets does.
    let mut bare = scaled.clone();
    bare["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(updated(Some(&scaled), bare, "idle"), scaled);
    let mut reset = scaled.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(updated(Some(&scaled), reset, "idle")["metadata"].get("managedFields"), None);
}

#[test]
fn conflicts_have_upstreams_words() {
    let live = updated(None, deployment(1, json!([{"name": "a", "image": "x"}])), "kubectl");
    let config = deployment(2, json!([{"name": "a", "image": "x"}]));
    let error = applied(Some(&live), &config, "tool", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
    );
    let status = error.to_status(&Gvr::new("apps", "v1", "deployments"), "web");
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let details = status.details.unwrap();
    assert_eq!(details.causes[0].reason, "FieldManagerConflict");
    assert_eq!(details.causes[0].message, "conflict with \"kubectl\" using apps/v1");
    assert_eq!(details.causes[0].field, ".spec.replicas");

    let config = deployment(2, json!([{"name": "a", "image": "y"}]));
    assert_eq!(
        applied(Some(&live), &config, "tool", false).unwrap_err().to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl\" using apps/v1:\n- .spec.replicas\n\
         - .spec.template.spec.containers[name=\"a\"].image"
    );
    let forced = applied(Some(&live), &config, "tool", true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(fields_of(&forced, "kubectl")["f:spec"].get("f:replicas"), None);
    // Equal values are shared, not fought for.
    let shared =
        applied(Some(&live), &deployment(1, json!([{"name": "a", "image": "x"}])), "tool", false).unwrap();
    assert_eq!(fields_of(&shared, "tool")["f:spec"]["f:replicas"], json!({}));
    assert_eq!(fields_of(&shared, "kubectl")["f:spec"]["f:replicas"], json!({}));
}

#[test]
fn what_a_manager_gives_up_is_removed_unless_shared() {
    let two = json!([{"name": "a", "image": "x", "command": ["s"]}, {"name": "b", "image": "y"}]);
    let first = applied(None, &deployment(1, two), "one", false).unwrap();
    let mut config = deployment(1, json!([{"name": "b", "image": "y"}]));
    config["metadata"].as_object_mut().unwrap().remove("labels");
    let second = applied(Some(&first), &config, "one", false).unwrap();
    assert_eq!(second["spec"]["template"]["spec"]["containers"], json!([{"name": "b", "image": "y"}]));
    assert_eq!(second["metadata"].get("labels"), None);

    // Another applier of the same item keeps it, without what was given up.
    let theirs = deployment(1, json!([{"name": "a", "tty": true}]));
    let other = applied(Some(&first), &theirs, "other", false).unwrap();
    let third = applied(Some(&other), &config, "one", false).unwrap();
    assert_eq!(
        third["spec"]["template"]["spec"]["containers"],
        json!([{"name": "a", "tty": true}, {"name": "b", "image": "y"}])
    );
    assert_eq!(third["metadata"]["labels"], json!({"app": "web"}));
}

#[test]
fn server_side_defaults_survive_a_second_apply() {
    let config = deployment(1, json!([{"name": "a", "image": "x"}]));
    let mut live = applied(None, &config, "kubectl", false).unwrap();
    live["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst".into();
    live["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
    live["spec"]["revisionHistoryLimit"] = 10.into();
    let again = applied(Some(&live), &config, "kubectl", false).unwrap();
    assert_eq!(again, live);
    let changed =
        applied(Some(&live), &deployment(1, json!([{"name": "a", "image": "z"}])), "kubectl", false).unwrap();
    assert_eq!(
        changed["spec"]["template"]["spec"]["containers"][0],
        json!({"name": "a", "image": "z", "imagePullPolicy": "Always"})
    );
    assert_eq!(changed["spec"]["revisionHistoryLimit"], 10);
}

#[test]
fn kubectl_takes_over_from_its_client_side_apply() {
    let config = deployment(1, json!([{"name": "a", "image": "x"}]));
    let mut created = config.clone();
    created["metadata"]["annotations"] = json!({LAST_APPLIED: config.to_string()});
    let live = updated(None, created, "kubectl-client-side-apply");
    let next = deployment(1, json!([{"name": "a", "image": "y"}]));
    assert!(matches!(applied(Some(&live), &next, "tool", false), Err(ApplyError::Conflicts(_))));
    let result = applied(Some(&live), &next, "kubectl", false).unwrap();
    assert_eq!(result["spec"]["template"]["spec"]["containers"][0]["image"], "y");
    assert_eq!(result["metadata"]["annotations"][LAST_APPLIED], format!("{next}\n"));
    // What somebody else changed meanwhile is a conflict all the same.
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 5.into();
    let scaled = updated(Some(&live), scaled, "scaler");
    assert_eq!(
        applied(Some(&scaled), &next, "kubectl", false).unwrap_err().to_string(),
        "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn reset_fields_are_not_owned() {
    let mut config = deployment(1, json!([{"name": "a"}]));
    config["status"] = json!({"replicas": 3});
    let reset = fields(&[&["status"]]);
    let object = apply(
        set(),
        id(DEPLOYMENT),
        None,
        &config,
        &writer("k", "2026-01-01T00:00:00Z"),
        false,
        Some(&reset),
    )
    .unwrap();
    assert_eq!(fields_of(&object, "k").get("f:status"), None);
}

#[test]
fn many_update_managers_are_summed_up() {
    let mut live = updated(None, deployment(0, json!([{"name": "a"}])), "m00");
    for at in 1..15 {
        let mut new = live.clone();
        new["metadata"]["annotations"][format!("k{at}")] = "v".into();
        live = updated(Some(&live), new, &format!("m{at:02}"));
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert!(entries.iter().any(|e| e["manager"] == "ancient-changes"));
}

#[test]
fn list_order_follows_the_applier() {
    let names = |object: &Value| -> Vec<String> {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let list = |names: &[&str]| Value::from(names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>());
    let live = updated(None, deployment(1, list(&["a", "b", "c", "d"])), "m");
    assert_eq!(
        names(&applied(Some(&live), &deployment(1, list(&["c", "a"])), "n", false).unwrap()),
        ["b", "c", "d", "a"]
    );
    assert_eq!(
        names(&applied(Some(&live), &deployment(1, list(&["x", "b"])), "n", false).unwrap()),
        ["a", "x", "b", "c", "d"]
    );
    assert_eq!(names(&applied(None, &deployment(1, list(&["x", "b"])), "n", false).unwrap()), ["x", "b"]);
}

fn config() -> impl Strategy<Value = Value> {
    let container = ("[a-c]", proptest::option::of("[x-z]"), proptest::option::of(1..3u16)).prop_map(
        |(name, image, port)| {
            let mut c = json!({"name": name});
            if let Some(image) = image {
                c["image"] = image.into();
            }
            if let Some(port) = port {
                c["ports"] = json!([{"containerPort": port}]);
            }
            c
        },
    );
    (proptest::collection::vec(container, 1..4), 0..3i32).prop_map(|(list, replicas)| {
        let mut seen = std::collections::BTreeSet::new();
        let list: Vec<Value> = list.into_iter().filter(|c| seen.insert(c["name"].to_string())).collect();
        deployment(replicas, list.into())
    })
}

proptest! {
    #[test]
    fn a_lone_applier_gets_exactly_what_it_applies(first in config(), second in config()) {
        let live = applied(None, &first, "m", false).unwrap();
        let result = applied(Some(&live), &second, "m", false).unwrap();
        prop_assert_eq!(without_managed(&result), second.clone());
        prop_assert_eq!(applied(Some(&result), &second, "m", false).unwrap(), result);
    }

    #[test]
    fn field_sets_survive_their_json(config in config()) {
        let set = typed::field_set(set(), id(DEPLOYMENT), &config);
        prop_assert_eq!(FieldSet::from_value(&set.to_value()).unwrap(), set);
    }

    #[test]
    fn set_algebra(a in config(), b in config()) {
        let a = typed::field_set(set(), id(DEPLOYMENT), &a);
        let b = typed::field_set(set(), id(DEPLOYMENT), &b);
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert!(a.difference(&b).intersection(&b).is_empty());
        prop_assert_eq!(a.union(&b), b.union(&a));
    }
}
