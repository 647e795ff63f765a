//! The API in process: the same objects, the same pipeline, the same refusals.

use super::*;
use crate::UserInfo;
use crate::admission::{Admission, AdmissionRequest, Operation, Verdict};
use futures::StreamExt;
use orlop_apimachinery::{Gvr, Reason, Status};
use orlop_client::{
    DeleteOptions, Informer, ListOptions, PatchType, ResourceRef, WatchEvent, WatchOptions, WriteOptions,
};

static CONFIG_MAPS: Gvr = Gvr::new("", "v1", "configmaps");
static POD: Gvr = Gvr::new("", "v1", "pods");

fn body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

#[test]
fn readers_in_process_share_the_caches_objects() {
    run(async {
        let f = start().await;
        let client = f.server.loopback(UserInfo::master("test"));
        let at = ResourceRef::new(&CONFIG_MAPS, "default", "a");
        let options = WriteOptions { field_manager: "me".into(), ..WriteOptions::default() };
        client.create(at, body(&config_map("a", json!({}), "1")), &options).await.unwrap();
        let one = client.get(at).await.unwrap();
        let list = client.list(&CONFIG_MAPS, &ListOptions::default()).await.unwrap();
        assert!(Arc::ptr_eq(&one, &list.items[0]));
        let watch = WatchOptions { send_initial_events: true, ..WatchOptions::default() };
        let refused = client.watch(&CONFIG_MAPS, &watch).await;
        let mut events = refused.unwrap();
        let Some(Ok(WatchEvent::Added(first))) = events.next().await else { panic!("no initial object") };
        assert!(Arc::ptr_eq(&one, &first));
        let Some(Ok(WatchEvent::Bookmark { initial_events_end: true, .. })) = events.next().await else {
            panic!("no end of the initial objects")
        };
        let patched = client
            .patch(at, PatchType::Merge, body(&json!({"data":{"k":"2"}})), &WriteOptions::default())
            .await
            .unwrap();
        assert_eq!(patched.to_value()["metadata"]["managedFields"].as_array().unwrap().len(), 2);
        client.delete(at, &DeleteOptions::default()).await.unwrap();
        assert!(client.get(at).await.unwrap_err().is_not_found());
        let Some(Ok(WatchEvent::Modified(_))) = events.next().await else { panic!("no change") };
        let Some(Ok(WatchEvent::Deleted(_))) = events.next().await else { panic!("no deletion") };
    });
}

#[test]
fn an_informer_follows() {
    run(async {
        let f = start().await;
        let client = f.server.loopback(UserInfo::master("test"));
        let informer = Informer::new(client, CONFIG_MAPS.clone(), ListOptions::default());
        let (cache, task) = informer.start(f.cancel.clone());
        tokio::task::spawn_local(task);
        assert!(cache.synced().await);
        let made = f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
        let revision = made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(tokio::time::timeout(PATIENCE, cache.reached(revision)).await.unwrap());
        assert!(cache.get("default", "a").is_some());
    });
}

#[test]
fn identities_are_authorized_in_process_too() {
    run(async {
        let f = start().await;
        let client = f.server.loopback(UserInfo::new("jane", Vec::<String>::new()));
        let refused = client.list(&POD, &ListOptions::default()).await.unwrap_err();
        assert!(refused.is(Reason::Forbidden));
        assert!(refused.to_string().contains("User \"jane\" cannot list resource \"pods\""), "{refused}");
        let controller = f.server.loopback(UserInfo::service_account("kube-system", "replicaset", ""));
        controller.list(&POD, &ListOptions::default()).await.unwrap();
    });
}

struct Labels;

#[async_trait::async_trait]
impl Admission for Labels {
    fn handles(&self, _operation: Operation, gvr: &Gvr, _subresource: &str) -> bool {
        *gvr == CONFIG_MAPS
    }

    async fn mutate(&self, requests: &mut [AdmissionRequest]) -> Vec<Verdict> {
        let label = |request: &mut AdmissionRequest| match &mut request.object {
            Some(object) => {
                object["metadata"]["labels"]["seen"] = request.user.name.clone().into();
                Verdict { changed: true, warnings: vec!["labelled".into()], ..Verdict::allow() }
            }
            None => Verdict::allow(),
        };
        requests.iter_mut().map(label).collect()
    }

    async fn validate(&self, requests: &[AdmissionRequest]) -> Vec<Verdict> {
        let judge = |request: &AdmissionRequest| {
            let keep = request.old_object.as_ref().and_then(|o| o.label("keep")).is_some();
            if request.operation == Operation::Delete && keep {
                return Verdict::deny(Status::forbidden(&request.gvr, &request.name, "it is kept"));
            }
            assert!(
                request.operation == Operation::Delete
                    || request.object.as_ref().unwrap()["metadata"]["labels"]["seen"].is_string()
            );
            Verdict::allow()
        };
        requests.iter().map(judge).collect()
    }
}

#[test]
fn admission_changes_refuses_and_warns() {
    run(async {
        let f = start().await;
        f.server.set_admission(Arc::new(Labels));
        let made = f.post(MAPS, &config_map("a", json!({"keep":"1"}), "1")).await;
        assert_eq!(made.headers["warning"], "299 - \"labelled\"");
        assert_eq!(made.ok()["metadata"]["labels"]["seen"], "kubernetes-admin");
        let refused = f.delete(&format!("{MAPS}/a"), None).await.refused(403);
        assert_eq!(refused, "configmaps \"a\" is forbidden: it is kept");
        f.get(&format!("{MAPS}/a")).await.ok();
        f.post(PODS, &pod("p")).await.ok();
    });
}
