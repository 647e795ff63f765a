//! Patches of all four kinds, and who owns what afterwards.

use super::*;

#[test]
fn the_three_plain_patches_change_what_they_say() {
    run(async {
        let f = start().await;
        f.post(DEPLOYMENTS, &deployment("d")).await.ok();
        let path = format!("{DEPLOYMENTS}/d");
        let json_patch = json!([{"op":"replace","path":"/spec/replicas","value":4}]);
        assert_eq!(f.patch(&path, "json-patch+json", &json_patch).await.ok()["spec"]["replicas"], 4);
        let strategic = json!({"spec":{"template":{"spec":{"containers":[{"name":"side","image":"b"}]}}}});
        let two = f.patch(&path, "strategic-merge-patch+json", &strategic).await.ok();
        assert_eq!(two["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
        let merge = json!({"spec":{"template":{"spec":{"containers":[{"name":"c","image":"b"}]}}}});
        let one = f.patch(&path, "merge-patch+json", &merge).await.ok();
        assert_eq!(one["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
        let missing = json!([{"op":"replace","path":"/spec/nope","value":4}]);
        assert_eq!(f.patch(&path, "json-patch+json", &missing).await.code, 422);
        f.patch(&path, "json-patch+json", &json!({"a":1})).await.refused(400);
        f.patch(&path, "x+json", &json!({})).await.refused(415);
        f.patch(&format!("{DEPLOYMENTS}/none"), "merge-patch+json", &json!({})).await.refused(404);
        let stale = json!({"metadata":{"resourceVersion":"1"},"spec":{"replicas":9}});
        f.patch(&path, "merge-patch+json", &stale).await.refused(409);
    });
}

#[test]
fn apply_creates_owns_conflicts_and_gives_up() {
    run(async {
        let f = start().await;
        let path = format!("{MAPS}/a");
        let config =
            |data: Value| json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":data});
        let unnamed = f.patch(&path, "apply-patch+yaml", &config(json!({"k":"1"}))).await.refused(422);
        assert!(unnamed.contains("fieldManager"), "{unnamed}");
        let mine = format!("{path}?fieldManager=me");
        let made = f.patch(&mine, "apply-patch+yaml", &config(json!({"k":"1","l":"1"}))).await;
        assert_eq!(made.code, 201);
        let other = format!("{path}?fieldManager=you");
        let conflict = f.patch(&other, "apply-patch+yaml", &config(json!({"k":"2"}))).await;
        assert_eq!(conflict.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
        assert!(
            conflict.refused(409).contains("Apply failed with 1 conflict: conflict with \"me\": .data.k")
        );
        let forced =
            f.patch(&format!("{other}&force=true"), "apply-patch+yaml", &config(json!({"k":"2"}))).await.ok();
        assert_eq!(forced["data"], json!({"k":"2","l":"1"}));
        let given_up = f.patch(&mine, "apply-patch+yaml", &config(json!({}))).await.ok();
        assert_eq!(given_up["data"], json!({"k":"2"}));
        let same = f.patch(&other, "apply-patch+yaml", &config(json!({"k":"2"}))).await.ok();
        assert_eq!(same["metadata"]["resourceVersion"], given_up["metadata"]["resourceVersion"]);
        let forced =
            f.patch(&format!("{path}?force=true"), "merge-patch+json", &json!({})).await.refused(422);
        assert!(forced.contains("may not be specified for non-apply patch"), "{forced}");
    });
}
