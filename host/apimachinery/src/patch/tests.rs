use super::*;
use crate::schema::tests::{id, set};
use proptest::prelude::*;
use serde_json::json;

#[test]
fn merge_patch_is_rfc_7386() {
    for (target, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        let mut result = target.clone();
        merge_patch(&mut result, &patch);
        assert_eq!(result, expected, "{target} + {patch}");
    }
}

#[test]
fn json_patch_is_atomic() {
    let mut value = json!({"a": [1, 2], "b": 1});
    json_patch(
        &mut value,
        &json!([{"op": "add", "path": "/a/-", "value": 3}, {"op": "remove", "path": "/b"}]),
    )
    .unwrap();
    assert_eq!(value, json!({"a": [1, 2, 3]}));
    let before = value.clone();
    let failing =
        json!([{"op": "add", "path": "/c", "value": 1}, {"op": "replace", "path": "/x/y", "value": 1}]);
    assert!(matches!(json_patch(&mut value, &failing), Err(PatchError::DoesNotApply(_))));
    assert_eq!(value, before);
    let test = json!([{"op": "test", "path": "/a/0", "value": 9}]);
    assert_eq!(
        json_patch(&mut value, &test).unwrap_err().to_string(),
        "testing value /a/0 failed: test failed"
    );
    assert!(matches!(json_patch(&mut value, &json!({"op": "add"})), Err(PatchError::Malformed(_))));
}

fn strategic(target: Value, patch: Value) -> Result<Value, PatchError> {
    let mut result = target;
    strategic_merge_patch(set(), id("api.core.v1.Pod"), &mut result, &patch).map(|()| result)
}

fn containers(list: Value) -> Value {
    json!({"spec": {"containers": list}})
}

#[track_caller]
fn check(target: Value, patch: Value, expected: Value) {
    assert_eq!(strategic(target, patch).unwrap(), expected);
}

#[test]
fn lists_merge_by_key() {
    check(
        containers(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}])),
        containers(json!([{"name": "b", "image": "z", "env": [{"name": "E", "value": "1"}]}])),
        containers(
            json!([{"name": "a", "image": "x"}, {"name": "b", "image": "z", "env": [{"name": "E", "value": "1"}]}]),
        ),
    );
    check(
        containers(json!([{"name": "a"}, {"name": "b"}])),
        containers(json!([{"name": "c"}])),
        // New items come first, as upstream.
        containers(json!([{"name": "c"}, {"name": "a"}, {"name": "b"}])),
    );
    // The order of the patch wins among the items that it names.
    check(
        containers(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}])),
        containers(json!([{"name": "c"}, {"name": "a"}])),
        containers(json!([{"name": "b"}, {"name": "c"}, {"name": "a"}])),
    );
    // Lists without a strategy are replaced.
    check(
        containers(json!([{"name": "a", "command": ["x", "y"]}])),
        containers(json!([{"name": "a", "command": ["z"]}])),
        containers(json!([{"name": "a", "command": ["z"]}])),
    );
}

#[test]
fn directives() {
    check(
        containers(json!([{"name": "a"}, {"name": "b"}])),
        containers(json!([{"name": "a", "$patch": "delete"}])),
        containers(json!([{"name": "b"}])),
    );
    check(
        containers(json!([{"name": "a"}, {"name": "b"}])),
        containers(json!([{"$patch": "replace"}, {"name": "c"}])),
        containers(json!([{"name": "c"}])),
    );
    check(
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
        json!({"metadata": {"labels": {"c": "3"}}}),
    );
    check(
        json!({"metadata": {"labels": {"a": "1"}, "name": "x"}}),
        json!({"metadata": {"labels": {"$patch": "delete"}}}),
        json!({"metadata": {"labels": {}, "name": "x"}}),
    );
    check(
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"]}}),
        json!({"metadata": {"finalizers": ["d", "a", "c"]}}),
    );
    check(
        containers(json!([{"name": "a"}, {"name": "b"}, {"name": "server"}])),
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [{"name": "a", "image": "x"}]}}),
        containers(json!([{"name": "b"}, {"name": "a", "image": "x"}, {"name": "server"}])),
    );
    check(
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
    );
    check(
        json!({"metadata": {"annotations": {"a": "1"}}}),
        json!({"metadata": {"annotations": {"a": null, "b": null}, "labels": {"x": null, "y": "1"}}}),
        json!({"metadata": {"annotations": {}, "labels": {"y": "1"}}}),
    );
}

#[test]
fn kubectl_scale_and_set_image() {
    let deployment =
        json!({"spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}});
    let mut result = deployment.clone();
    let patch = json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "a"}],
        "containers": [{"name": "a", "image": "y"}]}}}});
    strategic_merge_patch(set(), id("api.apps.v1.Deployment"), &mut result, &patch).unwrap();
    assert_eq!(result["spec"]["template"]["spec"]["containers"], json!([{"name": "a", "image": "y"}]));
    assert_eq!(result["spec"]["replicas"], 1);
}

#[test]
fn malformed_patches_are_named() {
    let error =
        strategic(containers(json!([{"name": "a"}])), containers(json!([{"image": "x"}]))).unwrap_err();
    assert_eq!(
        error,
        PatchError::Malformed("map: {\"image\":\"x\"} does not contain declared merge key: name".to_owned())
    );
    let error =
        strategic(containers(json!([{"name": "a"}])), containers(json!([{"name": "a", "$patch": "x"}])));
    assert!(error.unwrap_err().to_string().starts_with("unknown patch type: x in map"));
    let pods = json!({"spec": {"$retainKeys": ["a"], "nodeName": "x"}});
    assert_eq!(
        strategic(json!({"spec": {}}), pods).unwrap_err().to_string(),
        "patch doesn't match retainKeys list"
    );
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![any::<i32>().prop_map(Value::from), "[a-z]{0,3}".prop_map(Value::from)];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-e]", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let container = ("[a-d]", proptest::option::of("[x-z]")).prop_map(|(name, image)| {
        let mut c = json!({"name": name});
        if let Some(image) = image {
            c["image"] = image.into();
        }
        c
    });
    let unique = |list: Vec<Value>| {
        let mut seen = std::collections::BTreeSet::new();
        list.into_iter().filter(|c| seen.insert(c["name"].to_string())).collect::<Vec<_>>()
    };
    (proptest::collection::vec(container, 1..5), proptest::collection::btree_map("[a-c]", "[x-z]", 0..3)).prop_map(
        move |(list, labels)| json!({"metadata": {"labels": labels}, "spec": {"containers": unique(list)}}),
    )
}

proptest! {
    #[test]
    fn merge_diff_is_undone_by_merge_patch(a in tree(), b in tree()) {
        let mut result = a.clone();
        merge_patch(&mut result, &merge_diff(&a, &b));
        prop_assert_eq!(result, b);
    }

    #[test]
    fn strategic_patches_are_idempotent(target in pod(), patch in pod()) {
        let once = strategic(target, patch.clone()).unwrap();
        let twice = strategic(once.clone(), patch.clone()).unwrap();
        prop_assert_eq!(&once, &twice);
        // Whatever the patch names is there.
        for change in patch["spec"]["containers"].as_array().unwrap() {
            let found = once["spec"]["containers"].as_array().unwrap().iter().find(|c| c["name"] == change["name"]);
            prop_assert!(found.is_some_and(|c| change.get("image").is_none_or(|i| &c["image"] == i)));
        }
    }
}
