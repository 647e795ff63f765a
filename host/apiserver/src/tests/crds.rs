//! CustomResourceDefinitions: what clients and custom controllers do with them.

use super::*;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    let schema = json!({"type":"object","properties":{
        "spec":{"type":"object","required":["size"],"properties":{
            "size":{"type":"integer","minimum":1,"maximum":10},
            "color":{"type":"string","default":"red","enum":["red","blue"]},
            "name":{"type":"string","pattern":"^[a-z]+$"},
            "replicas":{"type":"integer"},
            "port":{"x-kubernetes-int-or-string":true},
            "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true},
            "parts":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["id"],
                "items":{"type":"object","required":["id"],"properties":{
                    "id":{"type":"string"},"n":{"type":"integer"}}}}}},
        "status":{"type":"object","properties":{
            "replicas":{"type":"integer"},"selector":{"type":"string"},"phase":{"type":"string"}}}}});
    let version = |name: &str, storage: bool| {
        json!({
        "name":name,"served":true,"storage":storage,"schema":{"openAPIV3Schema":schema},
        "subresources":{"status":{},"scale":{"specReplicasPath":".spec.replicas",
            "statusReplicasPath":".status.replicas","labelSelectorPath":".status.selector"}},
        "selectableFields":[{"jsonPath":".spec.color"}],
        "additionalPrinterColumns":[{"name":"Size","type":"integer","jsonPath":".spec.size"}]})
    };
    json!({"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
        "metadata":{"name":"widgets.example.com"},
        "spec":{"group":"example.com","scope":"Namespaced",
            "names":{"plural":"widgets","kind":"Widget","shortNames":["wd"],"categories":["all"]},
            "versions":[version("v1beta1", false), version("v1", true)]}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":name},"spec":spec})
}

/// Waits until a request is answered with the code.
async fn until(f: &Fixture, path: &str, code: u16) -> Value {
    let polling = async {
        loop {
            let answer = f.get(path).await;
            if answer.code == code {
                return answer.body;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.expect(path)
}

async fn defined() -> Fixture {
    let f = start().await;
    f.post(CRDS, &definition()).await.ok();
    until(&f, WIDGETS, 200).await;
    f
}

#[test]
fn a_definition_is_accepted_and_its_objects_are_stored_checked_and_pruned() {
    run(async {
        let f = defined().await;
        let crd = f.get(&format!("{CRDS}/widgets.example.com")).await.ok();
        assert_eq!(crd["status"]["acceptedNames"]["listKind"], "WidgetList");
        assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(crd["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
        let conditions = crd["status"]["conditions"].as_array().unwrap();
        for kind in ["NamesAccepted", "Established"] {
            assert!(conditions.iter().any(|c| c["type"] == kind && c["status"] == "True"), "{conditions:?}");
        }
        let made = f
            .post(WIDGETS, &widget("a", json!({"size":2,"junk":1,"free":{"x":{"y":1}},"port":"http"})))
            .await;
        assert!(made.headers["warning"].to_str().unwrap().contains("unknown field \\\"spec.junk\\\""));
        let made = made.ok();
        assert_eq!(made["spec"], json!({"size":2,"color":"red","free":{"x":{"y":1}},"port":"http"}));
        assert_eq!(made["metadata"]["generation"], 1);
        assert!(made["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:size"].is_object());
        let strict = format!("{WIDGETS}?fieldValidation=Strict");
        let refusal = f.post(&strict, &widget("b", json!({"size":2,"junk":1}))).await.refused(400);
        assert!(refusal.contains("unknown field \"spec.junk\""), "{refusal}");
        for (spec, word) in [
            (json!({}), "spec.size: Required value"),
            (json!({"size":0}), "should be greater than or equal to 1"),
            (json!({"size":11}), "should be less than or equal to 10"),
            (json!({"size":"x"}), "must be of type integer: \"string\""),
            (json!({"size":1,"color":"green"}), "supported values: \"red\", \"blue\""),
            (json!({"size":1,"name":"A"}), "should match '^[a-z]+$'"),
            (json!({"size":1,"port":1.5}), "must be of type integer,string"),
            (json!({"size":1,"parts":[{"id":"a"},{"id":"a"}]}), "Duplicate value"),
        ] {
            let refusal = f.post(WIDGETS, &widget("b", spec)).await.refused(422);
            assert!(refusal.contains(word), "{refusal}");
        }
        let listed = f.get("/apis/example.com/v1beta1/widgets?fieldSelector=spec.color%3Dred").await.ok();
        assert_eq!(listed["kind"], "WidgetList");
        assert_eq!(listed["items"][0]["apiVersion"], "example.com/v1beta1");
        let none = f.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await.ok();
        assert_eq!(none["items"], json!([]));
    });
}

#[test]
fn objects_are_watched_patched_scaled_and_their_status_is_apart() {
    run(async {
        let f = defined().await;
        let mut events = f.watch(&format!("{WIDGETS}?watch=true"), &[]).await;
        f.post(WIDGETS, &widget("a", json!({"size":2}))).await.ok();
        assert_eq!(events.brief().await, ("ADDED".into(), "a".into()));
        let path = format!("{WIDGETS}/a");
        let change = json!({"spec":{"size":3},"status":{"phase":"x"}});
        let merged = f.patch(&path, "merge-patch+json", &change).await.ok();
        assert_eq!((&merged["metadata"]["generation"], &merged["status"]), (&json!(2), &Value::Null));
        assert_eq!(events.brief().await, ("MODIFIED".into(), "a".into()));
        f.patch(&path, "strategic-merge-patch+json", &json!({"spec":{"size":3}})).await.refused(415);
        let status = json!({"status":{"phase":"up","replicas":4,"selector":"a=b"},"spec":{"size":9}});
        let status = f.patch(&format!("{path}/status"), "merge-patch+json", &status).await.ok();
        assert_eq!((&status["status"]["phase"], &status["spec"]["size"]), (&json!("up"), &json!(3)));
        assert_eq!(status["metadata"]["generation"], 2);
        let mut whole = f.get(&path).await.ok();
        whole["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        f.put(&path, &whole).await.refused(422);
        let change = json!({"spec":{"replicas":5}});
        let scale = f.patch(&format!("{path}/scale"), "merge-patch+json", &change).await.ok();
        assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(5)));
        assert_eq!(scale["status"], json!({"replicas":4,"selector":"a=b"}));
        assert_eq!(f.get(&path).await.ok()["spec"]["replicas"], 5);
        let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        let table = f.call(Caller::Admin, "GET", WIDGETS, &table, "").await.ok();
        assert_eq!(table["columnDefinitions"][1]["name"], "Size");
        assert_eq!(table["rows"][0]["cells"], json!(["a", 3]));
        f.delete(WIDGETS, None).await.ok();
        assert_eq!(f.get(&path).await.code, 404);
    });
}

#[test]
fn server_side_apply_merges_lists_by_their_keys() {
    run(async {
        let f = defined().await;
        let apply = |who: &str, parts: Value| {
            let body = widget("a", json!({"size":1,"parts":parts}));
            let path = format!("{WIDGETS}/a?fieldManager={who}");
            let f = &f;
            async move { f.patch(&path, "apply-patch+yaml", &body).await }
        };
        assert_eq!(apply("me", json!([{"id":"a","n":1}])).await.code, 201);
        let both = apply("you", json!([{"id":"b","n":2}])).await.ok();
        assert_eq!(both["spec"]["parts"], json!([{"id":"a","n":1},{"id":"b","n":2}]));
        let conflict = apply("you", json!([{"id":"a","n":2}])).await.refused(409);
        assert!(conflict.contains(".spec.parts[id=\"a\"].n"), "{conflict}");
        let less = apply("me", json!([])).await.ok();
        assert_eq!(less["spec"]["parts"], json!([{"id":"b","n":2}]));
    });
}

#[test]
fn discovery_and_openapi_tell_of_the_type() {
    run(async {
        let f = defined().await;
        let list = f.get("/apis/example.com/v1").await.ok();
        let names: Vec<&str> =
            list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
        assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));
        let group = f.get("/apis/example.com").await.ok();
        assert_eq!(group["preferredVersion"]["version"], "v1");
        let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
        let all = f.call(Caller::Admin, "GET", "/apis", &accept, "").await.ok();
        assert!(all["items"].as_array().unwrap().iter().any(|g| g["metadata"]["name"] == "example.com"));
        let v3 = f.get("/openapi/v3/apis/example.com/v1").await.ok();
        let schema = &v3["components"]["schemas"]["com.example.v1.Widget"];
        assert_eq!(schema["properties"]["spec"]["properties"]["size"]["maximum"], 10.0);
        assert!(v3["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].is_object());
        let v2 = f.get("/openapi/v2").await.ok();
        assert!(v2["definitions"]["com.example.v1.WidgetList"].is_object());
        assert!(v2["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"].is_object());
    });
}

#[test]
fn a_changed_definition_counts_at_once_and_a_restart_forgets_nothing() {
    run(async {
        let f = defined().await;
        f.post(WIDGETS, &widget("a", json!({"size":2}))).await.ok();
        let mut events = f.watch(&format!("{WIDGETS}?watch=true"), &[]).await;
        events.brief().await;
        let change = json!([
            {"op":"replace","path":"/spec/versions/1/schema/openAPIV3Schema/properties/spec/properties/size/maximum","value":20},
            {"op":"add","path":"/spec/versions/1/schema/openAPIV3Schema/properties/spec/properties/more","value":{"type":"string","default":"m"}},
        ]);
        f.patch(&format!("{CRDS}/widgets.example.com"), "json-patch+json", &change).await.ok();
        assert!(events.next().await.is_none(), "a watch of the old form goes on");
        f.post(WIDGETS, &widget("b", json!({"size":15}))).await.ok();
        assert_eq!(f.get(&format!("{WIDGETS}/a")).await.ok()["spec"]["more"], "m");
        let second = f.second().await;
        let client = second.loopback(crate::UserInfo::master("test"));
        let gvr = orlop_apimachinery::Gvr::from_api_version("example.com/v1", "widgets");
        let listed = client.list(&gvr, &orlop_client::ListOptions::default()).await.unwrap();
        assert_eq!(listed.items.len(), 2);
    });
}

#[test]
fn a_deleted_definition_takes_its_objects_with_it_and_waits_for_their_finalizers() {
    run(async {
        let f = defined().await;
        let mut held = widget("a", json!({"size":2}));
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        f.post(WIDGETS, &held).await.ok();
        f.post(WIDGETS, &widget("b", json!({"size":2}))).await.ok();
        let path = format!("{CRDS}/widgets.example.com");
        f.delete(&path, None).await.ok();
        until(&f, &format!("{WIDGETS}/b"), 404).await;
        assert!(f.get(&format!("{WIDGETS}/a")).await.ok()["metadata"]["deletionTimestamp"].is_string());
        f.post(WIDGETS, &widget("c", json!({"size":2}))).await.refused(405);
        f.patch(&format!("{WIDGETS}/a"), "merge-patch+json", &json!({"metadata":{"finalizers":null}}))
            .await
            .ok();
        until(&f, &path, 404).await;
        until(&f, WIDGETS, 404).await;
        f.post(CRDS, &definition()).await.ok();
        assert_eq!(until(&f, WIDGETS, 200).await["items"], json!([]));
    });
}

#[test]
fn what_is_not_supported_or_wrong_is_refused_by_name() {
    run(async {
        let f = start().await;
        let schema = "/spec/versions/1/schema/openAPIV3Schema/properties/spec";
        let cases = [
            (
                json!([{"op":"add","path":format!("{schema}/x-kubernetes-validations"),"value":[{"rule":"self.size>1"}]}]),
                "CEL are not supported yet",
            ),
            (
                json!([{"op":"add","path":"/spec/conversion","value":{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v1"]}}}]),
                "webhook is not supported yet",
            ),
            (json!([{"op":"replace","path":"/spec/versions/0/storage","value":true}]), "exactly one version"),
            (
                json!([{"op":"replace","path":"/metadata/name","value":"x.example.com"}]),
                "must be spec.names.plural",
            ),
            (
                json!([{"op":"replace","path":"/spec/scope","value":"World"}]),
                "supported values: \"Cluster\", \"Namespaced\"",
            ),
            (
                json!([{"op":"remove","path":format!("{schema}/properties/size/type")}]),
                "must not be empty for specified object fields",
            ),
            (
                json!([{"op":"replace","path":format!("{schema}/properties/name/pattern"),"value":"("}]),
                "valid regular expression",
            ),
            (
                json!([{"op":"replace","path":format!("{schema}/properties/color/default"),"value":"green"}]),
                "properties[color].default: Unsupported value",
            ),
            (
                json!([{"op":"remove","path":format!("{schema}/properties/parts/items/required")}]),
                "must be required or have a default in items",
            ),
            (
                json!([{"op":"replace","path":format!("{schema}/properties/parts/x-kubernetes-list-map-keys/0"),"value":"no"}]),
                "must be a property of items",
            ),
            (
                json!([{"op":"add","path":format!("{schema}/anyOf"),"value":[{"properties":{"size":{"default":1}}}]}]),
                "must not be used in allOf, anyOf, oneOf or not",
            ),
        ];
        for (change, word) in cases {
            let mut body = definition();
            orlop_apimachinery::patch::json_patch(&mut body, &change).unwrap();
            let refusal = f.post(CRDS, &body).await.refused(422);
            assert!(refusal.contains(word), "{refusal}");
        }
    });
}

#[test]
fn names_that_are_taken_are_not_accepted() {
    run(async {
        let f = defined().await;
        let mut other = definition();
        other["metadata"]["name"] = "gadgets.example.com".into();
        other["spec"]["names"] = json!({"plural":"gadgets","singular":"gadget","kind":"Widget"});
        f.post(CRDS, &other).await.ok();
        let path = format!("{CRDS}/gadgets.example.com");
        let settled = async {
            loop {
                let crd = f.get(&path).await.ok();
                let conditions = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
                if let Some(c) = conditions.iter().find(|c| c["type"] == "NamesAccepted") {
                    return c.clone();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let condition = tokio::time::timeout(PATIENCE, settled).await.unwrap();
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("KindConflict")));
        assert_eq!(f.get("/apis/example.com/v1/gadgets").await.code, 404);
    });
}

/// A definition of one version, without defaults.
fn plain(properties: Value) -> Value {
    let mut body = definition();
    let schema = json!({"type":"object","properties":{"spec":{"type":"object","properties":properties}}});
    body["spec"]["versions"] =
        json!([{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":schema}}]);
    body
}

#[test]
fn what_a_new_schema_does_not_know_is_not_shown_any_more() {
    run(async {
        let f = start().await;
        let field = json!({"type":"integer"});
        f.post(CRDS, &plain(json!({"size":field,"old":field}))).await.ok();
        until(&f, WIDGETS, 200).await;
        f.post(WIDGETS, &widget("a", json!({"size":1,"old":2}))).await.ok();
        let path = format!("{WIDGETS}/a");
        assert_eq!(f.get(&path).await.ok()["spec"], json!({"size":1,"old":2}));
        let change = json!([{"op":"remove",
            "path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/old"}]);
        f.patch(&format!("{CRDS}/widgets.example.com"), "json-patch+json", &change).await.ok();
        assert_eq!(f.get(&path).await.ok()["spec"], json!({"size":1}));
        assert_eq!(f.get(WIDGETS).await.ok()["items"][0]["spec"], json!({"size":1}));
        // Without a subresource, the status is a field as any other, and grows the generation.
        let change = json!({"spec":{"size":2}});
        assert_eq!(f.patch(&path, "merge-patch+json", &change).await.ok()["metadata"]["generation"], 2);
        assert_eq!(f.get(&format!("{path}/status")).await.code, 404);
        assert_eq!(f.get(&format!("{path}/scale")).await.code, 404);
    });
}

#[test]
fn versions_come_and_go_while_objects_are_stored() {
    run(async {
        let f = defined().await;
        let path = format!("{CRDS}/widgets.example.com");
        f.post(WIDGETS, &widget("a", json!({"size":2}))).await.ok();
        let other = "/apis/example.com/v1beta1/namespaces/default/widgets/a";
        assert_eq!(f.get(other).await.ok()["apiVersion"], "example.com/v1beta1");
        // v1beta1 becomes the form that is stored; both remain stored until somebody says otherwise.
        let change = json!([{"op":"replace","path":"/spec/versions/0/storage","value":true},
            {"op":"replace","path":"/spec/versions/1/storage","value":false}]);
        let crd = f.patch(&path, "json-patch+json", &change).await.ok();
        assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v1beta1"]));
        assert_eq!(f.get(&format!("{WIDGETS}/a")).await.ok()["apiVersion"], "example.com/v1");
        let change = json!([{"op":"remove","path":"/spec/versions/1"}]);
        let refusal = f.patch(&path, "json-patch+json", &change).await.refused(422);
        assert!(refusal.contains("v1 must remain a version"), "{refusal}");
        let stored = |list: Value| json!({"status":{"storedVersions":list}});
        let status = format!("{path}/status");
        let refusal = f.patch(&status, "merge-patch+json", &stored(json!(["v1"]))).await.refused(422);
        assert!(refusal.contains("must have the storage version v1beta1"), "{refusal}");
        let size = json!({"spec":{"size":3}});
        f.patch(&format!("{WIDGETS}/a"), "merge-patch+json", &size).await.ok();
        f.patch(&status, "merge-patch+json", &stored(json!(["v1beta1"]))).await.ok();
        f.patch(&path, "json-patch+json", &change).await.ok();
        assert_eq!(f.get(WIDGETS).await.code, 404);
        assert_eq!(f.get(other).await.ok()["spec"]["size"], 3);
        // A version that is not served is not there.
        let change = json!([{"op":"replace","path":"/spec/versions/0/served","value":false}]);
        f.patch(&path, "json-patch+json", &change).await.ok();
        assert_eq!(f.get(other).await.code, 404);
        assert_eq!(f.get("/apis/example.com").await.code, 404);
    });
}

#[test]
fn a_deprecated_version_warns_whoever_uses_it() {
    run(async {
        let f = start().await;
        let mut body = definition();
        body["spec"]["versions"][0]["deprecated"] = true.into();
        f.post(CRDS, &body).await.ok();
        until(&f, WIDGETS, 200).await;
        let answer = f.get("/apis/example.com/v1beta1/widgets").await;
        let warning = answer.headers["warning"].to_str().unwrap();
        assert!(warning.contains("example.com/v1beta1 Widget is deprecated"), "{warning}");
        assert!(!f.get(WIDGETS).await.headers.contains_key("warning"));
        let body = [("content-type", "application/vnd.kubernetes.protobuf")];
        assert_eq!(f.call(Caller::Admin, "POST", WIDGETS, &body, "k8s\0").await.code, 415);
    });
}
