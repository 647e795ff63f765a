//! The semantics that other suites rely on.

use super::*;
use bytes::Bytes;
use futures::StreamExt;
use orlop_apimachinery::Reason;
use orlop_client::{PatchType, WatchEvent, WatchOptions};

static PODS: Gvr = Gvr::new("", "v1", "pods");

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d", "labels": {"app": name}},
           "spec": {"containers": []}})
}

fn merge(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

#[tokio::test]
async fn writes_are_optimistic_and_status_is_separate() {
    let api = MemoryApi::new();
    let one = api.put(&PODS, pod("a")).unwrap();
    assert!(api.put(&PODS, pod("a")).is_err());
    let at = ResourceRef::new(&PODS, "d", "a");
    let mut body = one.to_value();
    body["spec"]["nodeName"] = json!("n");
    body["status"]["phase"] = json!("Running");
    let two = api.update(at, merge(&body), &WriteOptions::default()).await.unwrap();
    assert_eq!(two.to_value()["status"]["phase"], "Pending");
    assert_eq!(two.meta().generation, 2);
    assert!(two.meta().resource_version > one.meta().resource_version);
    let stale = api.update(at, merge(&body), &WriteOptions::default()).await.unwrap_err();
    assert!(stale.is_conflict());
    let patch = merge(&json!({"status": {"phase": "Running"}, "spec": {"nodeName": "other"}}));
    let three =
        api.patch(at.subresource("status"), PatchType::Merge, patch, &WriteOptions::default()).await.unwrap();
    assert_eq!(three.to_value()["status"]["phase"], "Running");
    assert_eq!(three.to_value()["spec"]["nodeName"], "n");
    assert_eq!(three.meta().generation, 2);
}

#[tokio::test]
async fn deletion_honours_finalizers_and_grace() {
    let api = MemoryApi::new();
    api.put(&PODS, pod("a")).unwrap();
    api.modify(&PODS, "d", "a", |p| p["metadata"]["finalizers"] = json!(["x/y"]));
    let at = ResourceRef::new(&PODS, "d", "a");
    let wrong = DeleteOptions { uid: "other".into(), ..DeleteOptions::default() };
    assert!(api.delete(at, &wrong).await.unwrap_err().is_conflict());
    api.delete(at, &DeleteOptions::default()).await.unwrap();
    assert!(api.peek(&PODS, "d", "a").unwrap().is_being_deleted());
    api.modify(&PODS, "d", "a", |p| p["metadata"]["finalizers"] = json!([]));
    assert!(api.peek(&PODS, "d", "a").is_none());

    api.put(&PODS, pod("b")).unwrap();
    let at = ResourceRef::new(&PODS, "d", "b");
    let binding = merge(&json!({"target": {"name": "n1"}}));
    api.create(at.subresource("binding"), binding.clone(), &WriteOptions::default()).await.unwrap();
    assert!(
        api.create(at.subresource("binding"), binding, &WriteOptions::default())
            .await
            .unwrap_err()
            .is_conflict()
    );
    api.delete(at, &DeleteOptions::default()).await.unwrap();
    assert_eq!(api.peek(&PODS, "d", "b").unwrap().to_value()["metadata"]["deletionGracePeriodSeconds"], 30);
    api.delete(at, &DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() })
        .await
        .unwrap();
    assert!(api.peek(&PODS, "d", "b").is_none());
}

#[tokio::test]
async fn watches_follow_selectors_from_any_revision() {
    let api = MemoryApi::new();
    let first = api.put(&PODS, pod("a")).unwrap().meta().resource_version;
    api.put(&PODS, pod("b")).unwrap();
    api.modify(&PODS, "d", "b", |p| p["metadata"]["labels"]["app"] = json!("a"));
    api.modify(&PODS, "d", "b", |p| p["metadata"]["labels"]["app"] = json!("c"));
    let options = WatchOptions {
        label_selector: "app=a".into(),
        resource_version: Some(first),
        ..WatchOptions::default()
    };
    let mut stream = api.watch(&PODS, &options).await.unwrap();
    assert!(matches!(stream.next().await, Some(Ok(WatchEvent::Added(o))) if o.name() == "b"));
    assert!(matches!(stream.next().await, Some(Ok(WatchEvent::Deleted(o))) if o.name() == "b"));
    api.disconnect();
    assert!(stream.next().await.is_none());
    api.compact(api.revision());
    let mut late = api.watch(&PODS, &options).await.unwrap();
    assert!(matches!(late.next().await, Some(Err(e)) if e.is(Reason::Expired)));
    let all = WatchOptions { send_initial_events: true, ..WatchOptions::default() };
    let mut stream = api.watch(&PODS, &all).await.unwrap();
    assert!(matches!(stream.next().await, Some(Ok(WatchEvent::Added(_)))));
    assert!(matches!(stream.next().await, Some(Ok(WatchEvent::Added(_)))));
    assert!(matches!(stream.next().await, Some(Ok(WatchEvent::Bookmark { initial_events_end: true, .. }))));
}
