//! The verbs of the API in memory.

use super::rules::{merge_conditions, parse};
use super::watcher::Watcher;
use super::{MemoryApi, Verb};
use crate::selector::Selector;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use orlop_apimachinery::{Gvr, Object, Reason, Status};
use orlop_client::{
    ApiClient, ApiError, DeleteOptions, ListOptions, ObjectList, PatchType, ResourceRef, WatchEvent,
    WatchOptions, WatchStream, WriteOptions,
};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;

#[async_trait]
impl ApiClient for MemoryApi {
    async fn get(&self, at: ResourceRef<'_>) -> Result<Arc<Object>, ApiError> {
        self.intercepted(Verb::Get, at, Value::Null)?;
        self.peek(at.gvr, at.namespace, at.name).ok_or_else(|| Status::not_found(at.gvr, at.name).into())
    }

    async fn list(&self, gvr: &Gvr, options: &ListOptions) -> Result<ObjectList, ApiError> {
        self.intercepted(Verb::List, ResourceRef::new(gvr, &options.namespace, ""), Value::Null)?;
        let selector = Selector::parse(&options.label_selector, &options.field_selector)?;
        let state = self.0.state.lock();
        let items = state
            .objects
            .iter()
            .filter(|((g, ns, _), o)| {
                g == gvr
                    && (options.namespace.is_empty() || *ns == options.namespace)
                    && selector.matches(&o.to_value())
            })
            .map(|(_, o)| o.clone())
            .collect();
        Ok(ObjectList { items, resource_version: state.revision.max(1) })
    }

    async fn watch(&self, gvr: &Gvr, options: &WatchOptions) -> Result<WatchStream, ApiError> {
        self.intercepted(Verb::Watch, ResourceRef::new(gvr, &options.namespace, ""), Value::Null)?;
        let selector = Selector::parse(&options.label_selector, &options.field_selector)?;
        let (epoch, revision, current) = {
            let state = self.0.state.lock();
            let current: Vec<Arc<Object>> =
                state.objects.iter().filter(|((g, _, _), _)| g == gvr).map(|(_, o)| o.clone()).collect();
            (state.epoch, state.revision, current)
        };
        let mut watcher = Watcher {
            shared: self.0.clone(),
            moved: self.0.moved.subscribe(),
            gvr: gvr.clone(),
            namespace: options.namespace.clone(),
            selector,
            epoch,
            revision: options.resource_version.filter(|_| !options.send_initial_events).unwrap_or(revision),
            ready: VecDeque::new(),
            over: false,
        };
        if options.send_initial_events || options.resource_version.is_none() {
            let initial: Vec<_> = current.into_iter().filter(|o| watcher.selects(o)).collect();
            watcher.ready.extend(initial.into_iter().map(|o| Ok(WatchEvent::Added(o))));
        }
        if options.send_initial_events {
            watcher.ready.push_back(Ok(WatchEvent::Bookmark {
                resource_version: revision.max(1),
                initial_events_end: true,
            }));
        }
        Ok(futures::stream::unfold(watcher, Watcher::next).boxed())
    }

    async fn create(
        &self,
        at: ResourceRef<'_>,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        let body = parse(&body)?;
        self.intercepted(Verb::Create, at, body.clone())?;
        self.create_value(at, body, options)
    }

    async fn update(
        &self,
        at: ResourceRef<'_>,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        let body = parse(&body)?;
        self.intercepted(Verb::Update, at, body.clone())?;
        self.change(at, options.dry_run, |_| Ok(body))
    }

    async fn patch(
        &self,
        at: ResourceRef<'_>,
        patch: PatchType,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        let mut body = parse(&body)?;
        self.intercepted(Verb::Patch, at, body.clone())?;
        self.change(at, options.dry_run, |before| {
            let mut after = before.clone();
            match patch {
                PatchType::Merge => json_patch::merge(&mut after, &body),
                PatchType::Json => {
                    let patch: json_patch::Patch =
                        serde_json::from_value(body).map_err(|e| Status::bad_request(e.to_string()))?;
                    json_patch::patch(&mut after, &patch)
                        .map_err(|e| Status::failure(Reason::Invalid, e.to_string()))?;
                }
                PatchType::StrategicMerge => {
                    merge_conditions(before, &mut body);
                    json_patch::merge(&mut after, &body);
                }
                PatchType::Apply => {
                    let why = "the in-memory API knows no server-side apply";
                    return Err(Status::failure(Reason::UnsupportedMediaType, why));
                }
            }
            Ok(after)
        })
    }

    async fn delete(&self, at: ResourceRef<'_>, options: &DeleteOptions) -> Result<(), ApiError> {
        self.intercepted(Verb::Delete, at, Value::Null)?;
        self.remove(at, options)
    }
}
