//! Lists: pages, revisions, selectors, tables.

use super::*;

async fn fill(f: &Fixture, count: usize) {
    for i in 0..count {
        let label = if i % 2 == 0 { "even" } else { "odd" };
        f.post(MAPS, &config_map(&format!("m{i}"), json!({"is":label}), "v")).await.ok();
    }
}

fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn pages_show_one_revision_whatever_happens_meanwhile() {
    run(async {
        let f = start().await;
        fill(&f, 5).await;
        let first = f.get(&format!("{MAPS}?limit=2")).await.ok();
        assert_eq!(names(&first), ["m0", "m1"]);
        assert_eq!(first["metadata"]["remainingItemCount"], 3);
        let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
        f.delete(&format!("{MAPS}/m2"), None).await.ok();
        f.post(MAPS, &config_map("m9", json!({}), "v")).await.ok();
        let rest = f.get(&format!("{MAPS}?limit=10&continue={token}")).await.ok();
        assert_eq!(names(&rest), ["m2", "m3", "m4"]);
        assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        assert_eq!(rest["metadata"]["continue"], Value::Null);
        assert_eq!(names(&f.get(MAPS).await.ok()), ["m0", "m1", "m3", "m4", "m9"]);
        let refused = f.get(&format!("{MAPS}?limit=2&continue={token}&resourceVersion=3")).await.refused(400);
        assert_eq!(refused, "specifying resource version is not allowed when using continue");
        f.store.compact(f.store.revision()).await.unwrap();
        let expired = f.get(&format!("{MAPS}?limit=2&continue={token}")).await;
        assert_eq!(expired.body["reason"], "Expired");
        assert!(expired.refused(410).starts_with("The provided continue parameter is too old"));
    });
}

#[test]
fn every_page_is_reached_with_any_page_size() {
    run(async {
        let f = start().await;
        fill(&f, 7).await;
        for limit in 1..=8 {
            let mut seen = Vec::new();
            let mut token = String::new();
            loop {
                let page =
                    f.get(&format!("{MAPS}?limit={limit}&continue={token}&labelSelector=is")).await.ok();
                seen.extend(names(&page));
                match page["metadata"]["continue"].as_str() {
                    Some(next) => token = next.to_owned(),
                    None => break,
                }
            }
            assert_eq!(seen.len(), 7, "limit {limit}");
        }
    });
}

#[test]
fn revisions_are_read_as_asked() {
    run(async {
        let f = start().await;
        fill(&f, 2).await;
        let then = f.get(MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        f.delete(&format!("{MAPS}/m0"), None).await.ok();
        let exact = f.get(&format!("{MAPS}?resourceVersion={then}&resourceVersionMatch=Exact")).await.ok();
        assert_eq!(names(&exact), ["m0", "m1"]);
        assert_eq!(exact["metadata"]["resourceVersion"], then.as_str());
        let newer = f.get(&format!("{MAPS}?resourceVersion={then}")).await.ok();
        assert!(
            newer["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
                >= then.parse().unwrap()
        );
        f.get(&format!("{MAPS}?resourceVersion=0")).await.ok();
        let future =
            f.get(&format!("{MAPS}?resourceVersion=1000000&resourceVersionMatch=NotOlderThan")).await;
        assert_eq!(future.body["reason"], "Timeout");
        assert!(future.refused(504).starts_with("Too large resource version: 1000000, current: "));
        f.store.compact(f.store.revision()).await.unwrap();
        f.get(&format!("{MAPS}?resourceVersion={then}&resourceVersionMatch=Exact")).await.refused(410);
    });
}

#[test]
fn selectors_select() {
    run(async {
        let f = start().await;
        fill(&f, 4).await;
        for (query, expected) in [
            ("labelSelector=is%3Deven", vec!["m0", "m2"]),
            ("labelSelector=is%20in%20(odd)", vec!["m1", "m3"]),
            ("labelSelector=is!%3Dodd", vec!["m0", "m2"]),
            ("fieldSelector=metadata.name%3Dm3", vec!["m3"]),
            ("fieldSelector=metadata.name!%3Dm3", vec!["m0", "m1", "m2"]),
            ("fieldSelector=metadata.namespace%3Dx", vec![]),
        ] {
            assert_eq!(names(&f.get(&format!("{MAPS}?{query}")).await.ok()), expected, "{query}");
        }
        let unknown = f.get(&format!("{MAPS}?fieldSelector=spec.x%3D1")).await.refused(400);
        assert_eq!(unknown, "field label not supported: spec.x");
        f.get(&format!("{MAPS}?labelSelector=a%20in%20(b")).await.refused(400);
        f.post(PODS, &pod("p")).await.ok();
        assert_eq!(
            names(&f.get("/api/v1/pods?fieldSelector=status.phase%3DPending,spec.nodeName%3D").await.ok()),
            ["p"]
        );
        assert!(names(&f.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn").await.ok()).is_empty());
    });
}

#[test]
fn tables_and_partial_objects_are_rendered() {
    run(async {
        let f = start().await;
        f.post(PODS, &pod("p")).await.ok();
        let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        let list = f.call(Caller::Admin, "GET", PODS, &table, "").await.ok();
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        let heads: Vec<_> = list["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(heads.first(), Some(&"Name"));
        assert_eq!(list["rows"][0]["cells"].as_array().unwrap().len(), heads.len());
        assert_eq!(list["rows"][0]["cells"][0], "p");
        assert_eq!(list["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(list["rows"][0]["object"]["spec"], Value::Null);
        let one =
            f.call(Caller::Admin, "GET", &format!("{PODS}/p?includeObject=Object"), &table, "").await.ok();
        assert_eq!(one["rows"][0]["object"]["spec"]["containers"][0]["name"], "c");
        let partial = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
        let list = f.call(Caller::Admin, "GET", PODS, &partial, "").await.ok();
        assert_eq!(list["kind"], "PartialObjectMetadataList");
        assert_eq!(list["items"][0]["metadata"]["name"], "p");
        assert_eq!(list["items"][0]["spec"], Value::Null);
        let yaml =
            f.call(Caller::Admin, "GET", &format!("{PODS}/p"), &[("accept", "application/yaml")], "").await;
        assert!(yaml.text.contains("kind: Pod\n"), "{}", yaml.text);
        f.call(Caller::Admin, "GET", &format!("{PODS}?includeObject=x"), &table, "").await.refused(400);
    });
}

#[test]
fn discovery_and_openapi_are_served_and_cached() {
    run(async {
        let f = start().await;
        assert_eq!(f.get("/api").await.ok()["versions"], json!(["v1"]));
        assert_eq!(f.get("/apis/apps").await.ok()["preferredVersion"]["groupVersion"], "apps/v1");
        let accept = [("accept", crate::discovery::AGGREGATED)];
        let all = f.call(Caller::Admin, "GET", "/apis", &accept, "").await;
        assert_eq!(all.headers["content-type"], crate::discovery::AGGREGATED);
        let etag = all.headers["etag"].to_str().unwrap().to_owned();
        let again = [accept[0], ("if-none-match", etag.as_str())];
        assert_eq!(f.call(Caller::Admin, "GET", "/apis", &again, "").await.code, 304);
        let index = f.get("/openapi/v3").await.ok();
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        let document = f.get(url).await.ok();
        assert_eq!(document["openapi"], "3.0.0");
        let deployment = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
        let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert!(path["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
        let plain = f.get("/openapi/v2").await;
        let packed = f.call(Caller::Admin, "GET", "/openapi/v2", &[("accept-encoding", "gzip")], "").await;
        assert_eq!(packed.headers["content-encoding"], "gzip");
        assert_eq!(plain.headers["etag"], packed.headers["etag"]);
        assert!(plain.ok()["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
        f.get("/openapi/v3/apis/nope/v1").await.refused(404);
    });
}
