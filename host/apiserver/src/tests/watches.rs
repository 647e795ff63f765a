//! Watches: order, starts, bookmarks, selectors, ends.

use super::*;

#[test]
fn a_watch_goes_on_where_a_list_ended() {
    run(async {
        let f = start().await;
        f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
        let list = f.get(MAPS).await.ok();
        let since = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        f.post(MAPS, &config_map("b", json!({}), "1")).await.ok();
        let mut events = f.watch(&format!("{MAPS}?watch=1&resourceVersion={since}"), &[]).await;
        assert_eq!(events.brief().await, ("ADDED".into(), "b".into()));
        f.patch(&format!("{MAPS}/a"), "merge-patch+json", &json!({"data":{"k":"2"}})).await.ok();
        let changed = events.next().await.unwrap();
        assert_eq!((&changed["type"], &changed["object"]["data"]["k"]), (&json!("MODIFIED"), &json!("2")));
        f.delete(&format!("{MAPS}/b"), None).await.ok();
        let gone = events.next().await.unwrap();
        assert_eq!(gone["type"], "DELETED");
        let revision =
            |e: &Value| e["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        assert!(revision(&gone) > revision(&changed));
    });
}

#[test]
fn a_watch_list_ends_its_beginning_with_a_marked_bookmark() {
    run(async {
        let f = start().await;
        for name in ["a", "b"] {
            f.post(MAPS, &config_map(name, json!({}), "1")).await.ok();
        }
        let query =
            "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let mut events = f.watch(&format!("{MAPS}?{query}"), &[]).await;
        assert_eq!(events.brief().await, ("ADDED".into(), "a".into()));
        assert_eq!(events.brief().await, ("ADDED".into(), "b".into()));
        let end = events.next().await.unwrap();
        assert_eq!((&end["type"], &end["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
        assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        let since = end["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        f.post(MAPS, &config_map("c", json!({}), "1")).await.ok();
        assert_eq!(events.brief().await, ("ADDED".into(), "c".into()));
        let mut later = f.watch(&format!("{MAPS}?watch=1&resourceVersion={since}"), &[]).await;
        assert_eq!(later.brief().await, ("ADDED".into(), "c".into()));
    });
}

#[test]
fn a_watch_without_revision_begins_with_the_state() {
    run(async {
        let f = start().await;
        f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
        for version in ["", "&resourceVersion=0"] {
            let mut events = f.watch(&format!("{MAPS}?watch=true{version}"), &[]).await;
            assert_eq!(events.brief().await, ("ADDED".into(), "a".into()));
        }
    });
}

#[test]
fn objects_enter_and_leave_a_selection() {
    run(async {
        let f = start().await;
        let mut odd = f.watch(&format!("{MAPS}?watch=1&labelSelector=is%3Dodd"), &[]).await;
        let mut bound = f.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1", &[]).await;
        f.post(MAPS, &config_map("a", json!({"is":"even"}), "1")).await.ok();
        let label = |to: &'static str| json!({"metadata":{"labels":{"is":to}}});
        let path = format!("{MAPS}/a");
        f.patch(&path, "merge-patch+json", &label("odd")).await.ok();
        f.patch(&path, "merge-patch+json", &json!({"data":{"k":"2"}})).await.ok();
        let left = f.patch(&path, "merge-patch+json", &label("even")).await.ok();
        f.delete(&path, None).await.ok();
        f.post(MAPS, &config_map("z", json!({"is":"odd"}), "1")).await.ok();
        assert_eq!(odd.brief().await, ("ADDED".into(), "a".into()));
        assert_eq!(odd.brief().await, ("MODIFIED".into(), "a".into()));
        let gone = odd.next().await.unwrap();
        assert_eq!(gone["type"], "DELETED");
        assert_eq!(gone["object"]["metadata"]["labels"]["is"], "odd");
        assert_eq!(gone["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
        assert_eq!(odd.brief().await, ("ADDED".into(), "z".into()));
        f.post(PODS, &pod("p")).await.ok();
        let binding = json!({"metadata":{"name":"p"},"target":{"name":"n1"}});
        f.post(&format!("{PODS}/p/binding"), &binding).await.ok();
        assert_eq!(bound.brief().await, ("ADDED".into(), "p".into()));
    });
}

#[test]
fn a_watch_sees_its_namespace_or_object_alone() {
    run(async {
        let f = start().await;
        let mut space = f.watch("/api/v1/namespaces/kube-system/configmaps?watch=1", &[]).await;
        let mut one = f.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db"), &[]).await;
        let mut all = f.watch("/api/v1/configmaps?watch=1", &[]).await;
        f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
        f.post(MAPS, &config_map("b", json!({}), "1")).await.ok();
        f.post("/api/v1/namespaces/kube-system/configmaps", &config_map("c", json!({}), "1")).await.ok();
        assert_eq!(space.brief().await.1, "c");
        assert_eq!(one.brief().await.1, "b");
        for name in ["a", "b", "c"] {
            assert_eq!(all.brief().await.1, name);
        }
    });
}

#[test]
fn a_watch_ends_at_its_timeout_and_too_old_ones_are_refused() {
    run(async {
        let f = start().await;
        let mut events = f.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1"), &[]).await;
        assert!(events.next().await.is_none());
        f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
        let second = f.second().await;
        let client = second.loopback(crate::UserInfo::master("test"));
        let gvr = orlop_apimachinery::Gvr::new("", "v1", "configmaps");
        let options = orlop_client::WatchOptions { resource_version: Some(1), ..Default::default() };
        let old = client.watch(&gvr, &options).await.err().expect("a watch from before the start");
        assert!(old.is(orlop_apimachinery::Reason::Expired), "{old}");
        assert!(old.to_string().starts_with("too old resource version: 1 ("), "{old}");
        let words = f.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.refused(422);
        assert!(
            words.contains("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
            "{words}"
        );
    });
}

#[test]
fn watches_come_as_tables_and_partial_objects() {
    run(async {
        let f = start().await;
        f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
        f.post(MAPS, &config_map("b", json!({}), "1")).await.ok();
        let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        let mut events = f.watch(&format!("{MAPS}?watch=1"), &table).await;
        assert_eq!(events.code, 200);
        let first = events.next().await.unwrap();
        assert_eq!(first["object"]["kind"], "Table");
        assert!(first["object"]["columnDefinitions"].is_array());
        let second = events.next().await.unwrap();
        assert_eq!(second["object"]["columnDefinitions"], Value::Null);
        assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
        let partial = [("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")];
        let mut events = f.watch(&format!("{MAPS}?watch=1"), &partial).await;
        let first = events.next().await.unwrap();
        assert_eq!(first["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(first["object"]["data"], Value::Null);
    });
}
