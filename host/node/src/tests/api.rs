//! The in-memory API, taught the strategic merge of pods' and nodes' status.

use async_trait::async_trait;
use bytes::Bytes;
use orlop_apimachinery::{Gvr, Object};
use orlop_client::{
    ApiClient, ApiError, DeleteOptions, ListOptions, ObjectList, PatchType, ResourceRef, WatchOptions,
    WatchStream, WriteOptions,
};
use orlop_testkit::MemoryApi;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) struct StrategicApi(pub(crate) MemoryApi);

fn merge_list(old: &Value, patch: &[Value], key: &str) -> Value {
    let mut list = old.as_array().cloned().unwrap_or_default();
    for item in patch {
        let at = list.iter().position(|o| o[key] == item[key]);
        match (at, item["$patch"] == "delete") {
            (Some(at), true) => {
                list.remove(at);
            }
            (None, true) => {}
            (Some(at), false) => {
                for (k, v) in item.as_object().unwrap() {
                    if v.is_null() {
                        list[at].as_object_mut().unwrap().remove(k);
                    } else {
                        list[at][k] = v.clone();
                    }
                }
            }
            (None, false) => {
                let mut item = item.clone();
                item.as_object_mut().unwrap().retain(|_, v| !v.is_null());
                list.push(item);
            }
        }
    }
    Value::Array(list)
}

#[async_trait]
impl ApiClient for StrategicApi {
    async fn get(&self, at: ResourceRef<'_>) -> Result<Arc<Object>, ApiError> {
        self.0.get(at).await
    }

    async fn list(&self, gvr: &Gvr, options: &ListOptions) -> Result<ObjectList, ApiError> {
        self.0.list(gvr, options).await
    }

    async fn watch(&self, gvr: &Gvr, options: &WatchOptions) -> Result<WatchStream, ApiError> {
        self.0.watch(gvr, options).await
    }

    async fn create(
        &self,
        at: ResourceRef<'_>,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        if at.subresource == "token" {
            let answer = json!({"metadata": {"name": at.name, "namespace": at.namespace}, "status":
                {"token": format!("token-of-{}", at.name), "expirationTimestamp": "2999-01-01T00:00:00Z"}});
            return Ok(Arc::new(Object::from_value(&answer).unwrap()));
        }
        self.0.create(at, body, options).await
    }

    async fn update(
        &self,
        at: ResourceRef<'_>,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        self.0.update(at, body, options).await
    }

    async fn patch(
        &self,
        at: ResourceRef<'_>,
        patch: PatchType,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        if patch != PatchType::StrategicMerge {
            return self.0.patch(at, patch, body, options).await;
        }
        let old = self.0.get(ResourceRef::new(at.gvr, at.namespace, at.name)).await?.to_value();
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        for (field, key) in
            [("conditions", "type"), ("podIPs", "ip"), ("hostIPs", "ip"), ("addresses", "type")]
        {
            if let Some(list) = body["status"][field].as_array().cloned() {
                body["status"][field] = merge_list(&old["status"][field], &list, key);
            }
        }
        if body["status"].is_null() {
            body.as_object_mut().unwrap().remove("status");
        }
        self.0.patch(at, PatchType::Merge, Bytes::from(body.to_string()), options).await
    }

    async fn delete(&self, at: ResourceRef<'_>, options: &DeleteOptions) -> Result<(), ApiError> {
        self.0.delete(at, options).await
    }
}
