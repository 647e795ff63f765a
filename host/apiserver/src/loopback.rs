//! The API without HTTP, for the parts of the same process: the whole pipeline with a given
//! identity, on the very objects of the watch cache.

use crate::authz::Attributes;
use crate::core::{Core, RequestCx, Target};
use crate::decode::{self, Format};
use crate::delete::DeleteRequest;
use crate::query::{FieldValidation, ListQuery, WriteQuery};
use crate::registry::{Backing, Resource, SubresourceKind, find};
use crate::status;
use crate::subresources::ScaleInput;
use crate::user::UserInfo;
use crate::watch::Flow;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use orlop_apimachinery::{Gvk, Gvr, Object, Status};
use orlop_client::{
    ApiClient, ApiError, DeleteOptions, ListOptions, ObjectList, PatchType, ResourceRef, WatchOptions,
    WatchStream, WriteOptions,
};
use std::sync::Arc;

/// An [`ApiClient`] in the server's own process. Cheap to clone.
#[derive(Clone)]
pub struct LoopbackClient {
    core: Arc<Core>,
    user: Arc<UserInfo>,
}

impl std::fmt::Debug for LoopbackClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopbackClient").field("user", &self.user.name).finish_non_exhaustive()
    }
}

fn row_of(gvr: &Gvr) -> Result<&'static Resource, Status> {
    find(&gvr.group, &gvr.version, &gvr.resource).ok_or_else(status::no_such_path)
}

fn target<'a>(at: &ResourceRef<'a>) -> Result<Target<'a>, Status> {
    let row = row_of(at.gvr)?;
    let subresource = match at.subresource {
        "" => None,
        name => Some(row.subresource(name).ok_or_else(status::no_such_path)?),
    };
    let namespace = if row.namespaced { at.namespace } else { "" };
    if row.namespaced && namespace.is_empty() {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    }
    Ok(Target { row, namespace, name: at.name, subresource })
}

fn write_query(options: &WriteOptions) -> WriteQuery {
    WriteQuery {
        dry_run: options.dry_run,
        field_manager: options.field_manager.clone(),
        field_validation: FieldValidation::Warn,
        force: options.force.then_some(true),
    }
}

impl LoopbackClient {
    pub(crate) fn new(core: Arc<Core>, user: UserInfo) -> Self {
        Self { core, user: Arc::new(user) }
    }

    fn cx(&self) -> RequestCx {
        let name = self.user.name.rsplit(':').next().unwrap_or_default();
        RequestCx::new(self.user.clone(), name)
    }

    async fn authorize(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        sub: &str,
        verb: &str,
    ) -> Result<(), Status> {
        let attributes = Attributes {
            verb,
            group: &gvr.group,
            version: &gvr.version,
            resource: &gvr.resource,
            subresource: sub,
            namespace,
            name,
            path: "",
        };
        self.core.authorize(&self.user, &attributes).await
    }

    async fn may(&self, at: &ResourceRef<'_>, verb: &str) -> Result<(), Status> {
        self.authorize(at.gvr, at.namespace, at.name, at.subresource, verb).await
    }
}

fn logged(cx: &RequestCx) {
    for warning in cx.warnings.lock().iter() {
        tracing::debug!(user = cx.user.name, warning, "the API warned");
    }
}

fn object_of(status: &Status) -> Result<Arc<Object>, Status> {
    Object::from_json(Bytes::from(status.to_json()))
        .map(Arc::new)
        .map_err(|e| Status::internal(e.to_string()))
}

#[async_trait]
impl ApiClient for LoopbackClient {
    async fn get(&self, at: ResourceRef<'_>) -> Result<Arc<Object>, ApiError> {
        self.may(&at, "get").await?;
        let target = target(&at)?;
        Ok(match target.subresource.map(|s| s.kind) {
            None | Some(SubresourceKind::Status) => self.core.get(&target, None).await?,
            Some(SubresourceKind::Scale(paths)) => self.core.get_scale(&target, &paths, None).await?,
            Some(_) => return Err(status::method_not_allowed().into()),
        })
    }

    async fn list(&self, gvr: &Gvr, options: &ListOptions) -> Result<ObjectList, ApiError> {
        let row = row_of(gvr)?;
        let query = ListQuery {
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            resource_version: options.resource_version,
            ..ListQuery::default()
        };
        let namespace = if row.namespaced { options.namespace.as_str() } else { "" };
        let target = Target { row, namespace, name: "", subresource: None };
        let filter = self.core.filter(&target, &query)?;
        let name = filter.fields.exact_name().unwrap_or_default();
        self.authorize(gvr, namespace, name, "", "list").await?;
        let page = self.core.list(&target, &query).await?;
        Ok(ObjectList { items: page.items, resource_version: page.revision })
    }

    async fn watch(&self, gvr: &Gvr, options: &WatchOptions) -> Result<WatchStream, ApiError> {
        let row = row_of(gvr)?;
        let query = ListQuery {
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            resource_version: options.resource_version,
            send_initial_events: options.send_initial_events.then_some(true),
            watch: true,
            bookmarks: true,
            ..ListQuery::default()
        };
        let namespace = if row.namespaced { options.namespace.as_str() } else { "" };
        let target = Target { row, namespace, name: "", subresource: None };
        let filter = self.core.filter(&target, &query)?;
        let name = filter.fields.exact_name().unwrap_or_default();
        self.authorize(gvr, namespace, name, "", "watch").await?;
        let watching = self.core.watch(&target, &query).await?;
        Ok(Flow::new(&self.core, row, watching, true, None).into_events().boxed())
    }

    async fn create(
        &self,
        at: ResourceRef<'_>,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        self.may(&at, "create").await?;
        let target = target(&at)?;
        let cx = self.cx();
        let query = write_query(options);
        let row = target.row;
        let gvk = match target.subresource {
            Some(sub) if !sub.object_kind.1.is_empty() => {
                Gvk::new(sub.object_kind.0, sub.object_kind.1, sub.object_kind.2)
            }
            Some(sub) => Gvk { kind: sub.object_kind.2.into(), ..row.gvk() },
            None => row.gvk(),
        };
        let value = decode::object(&cx, &gvk, Format::Json, &body, query.field_validation)?;
        let made = match (target.subresource.map(|s| s.kind), row.backing) {
            (Some(SubresourceKind::Binding), _) => {
                object_of(&self.core.bind(&cx, &target, &value, &query).await?)?
            }
            (Some(SubresourceKind::Eviction), _) => {
                object_of(&self.core.evict(&cx, &target, &value, query.dry_run).await?)?
            }
            (Some(SubresourceKind::Token), _) => self.core.issue_token(&cx, &target, value, &query).await?,
            (None, Backing::Stored(_)) => {
                let unnamed = Target { name: "", ..target };
                let written = self.core.create(&cx, &unnamed, named(value, at.name), &query).await?;
                written.object
            }
            (None, Backing::Review(review)) => self.core.review(&cx, &target, review, value).await?,
            _ => return Err(status::method_not_allowed().into()),
        };
        logged(&cx);
        Ok(made)
    }

    async fn update(
        &self,
        at: ResourceRef<'_>,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        self.may(&at, "update").await?;
        let target = target(&at)?;
        let cx = self.cx();
        let query = write_query(options);
        let row = target.row;
        let updated = match target.subresource.map(|s| s.kind) {
            Some(SubresourceKind::Scale(paths)) => {
                let gvk = Gvk::new("autoscaling", "v1", "Scale");
                let scale = decode::object(&cx, &gvk, Format::Json, &body, query.field_validation)?;
                self.core.write_scale(&cx, &target, &paths, ScaleInput::Whole(&scale), &query).await?
            }
            kind => {
                let value = decode::object(&cx, &row.gvk(), Format::Json, &body, query.field_validation)?;
                match kind {
                    Some(SubresourceKind::Finalize) => {
                        self.core.finalize(&cx, &target, &value, &query).await?
                    }
                    None | Some(SubresourceKind::Status) => {
                        self.core.replace(&cx, &target, value, &query).await?.object
                    }
                    Some(_) => return Err(status::method_not_allowed().into()),
                }
            }
        };
        logged(&cx);
        Ok(updated)
    }

    async fn patch(
        &self,
        at: ResourceRef<'_>,
        patch: PatchType,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        self.may(&at, "patch").await?;
        let target = target(&at)?;
        let cx = self.cx();
        let query = write_query(options);
        let patched = match target.subresource.map(|s| s.kind) {
            Some(SubresourceKind::Scale(paths)) => {
                self.core.write_scale(&cx, &target, &paths, ScaleInput::Patch(patch, &body), &query).await?
            }
            None | Some(SubresourceKind::Status) => {
                self.core.patch(&cx, &target, patch, &body, &query).await?.object
            }
            Some(_) => return Err(status::method_not_allowed().into()),
        };
        logged(&cx);
        Ok(patched)
    }

    async fn delete(&self, at: ResourceRef<'_>, options: &DeleteOptions) -> Result<(), ApiError> {
        self.may(&at, "delete").await?;
        let target = target(&at)?;
        if target.subresource.is_some() {
            return Err(status::method_not_allowed().into());
        }
        let request = DeleteRequest {
            grace: options.grace_period_seconds,
            uid: (!options.uid.is_empty()).then(|| options.uid.clone()),
            resource_version: options.resource_version,
            propagation: options.propagation,
            dry_run: false,
        };
        let cx = self.cx();
        self.core.delete(&cx, &target, &request).await?;
        logged(&cx);
        Ok(())
    }
}

/// Gives the object the name that the caller addressed, where it has none.
fn named(mut value: serde_json::Value, name: &str) -> serde_json::Value {
    if !name.is_empty()
        && let Ok(meta) = crate::metadata::of(&mut value)
    {
        meta.entry("name").or_insert_with(|| name.into());
    }
    value
}
