//! Requests for resources: from path and method to the machine, and back to a response.

use crate::admission::Operation;
use crate::body::{self, ResponseBody};
use crate::core::{Core, RequestCx, Target};
use crate::decode;
use crate::delete::{DeleteRequest, Deleted, gone_status};
use crate::http::{HttpRequest, respond, status_response};
use crate::managed::WriteKind;
use crate::metadata;
use crate::negotiate::{self, Accepted, Encoding, Shape};
use crate::node_proxy;
use crate::patch;
use crate::path::ResourcePath;
use crate::plugin_streams;
use crate::query::{FieldValidation, ListQuery, WriteQuery, resource_version};
use crate::read::Page;
use crate::registry::{Backing, Resource, SubresourceKind, find};
use crate::render::{IncludeObject, View};
use crate::status;
use crate::subresources::{ScaleInput, is_readable};
use crate::watch::Flow;
use crate::write::{Part, Wish, Written, part_of};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Response, header};
use orlop_apimachinery::{Cause, Gvk, Object, Status};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Everything that a handler needs.
struct Call<'a> {
    core: &'a Arc<Core>,
    cx: &'a RequestCx,
    target: Target<'a>,
    accepted: Accepted,
}

/// Answers a request for a resource; it is authorized already.
pub(crate) fn resource<'a>(
    core: &'a Arc<Core>,
    cx: &'a RequestCx,
    request: HttpRequest,
    path: &'a ResourcePath,
    verb: &'static str,
) -> BoxFuture<'a, Result<Response<ResponseBody>, Status>> {
    Box::pin(dispatch(core, cx, request, path, verb))
}

async fn dispatch(
    core: &Arc<Core>,
    cx: &RequestCx,
    mut request: HttpRequest,
    path: &ResourcePath,
    verb: &'static str,
) -> Result<Response<ResponseBody>, Status> {
    let row = find(&path.group, &path.version, &path.resource).ok_or_else(status::no_such_path)?;
    if let Some(deprecation) = row.custom.and_then(|c| c.deprecation.as_ref()) {
        cx.warn(deprecation.as_str());
    }
    let namespace = if row.namespaced { path.namespace.as_str() } else { "" };
    if !row.namespaced && !path.namespace.is_empty() && row.gvr.resource != "namespaces" {
        return Err(status::no_such_path());
    }
    if row.namespaced && namespace.is_empty() && !path.name.is_empty() {
        return Err(status::no_such_path());
    }
    let subresource = match path.subresource.as_str() {
        "" => None,
        name => Some(row.subresource(name).ok_or_else(status::no_such_path)?),
    };
    if !path.rest.is_empty() && path.subresource != "proxy" {
        return Err(status::no_such_path());
    }
    let target = Target { row, namespace, name: &path.name, subresource };
    if let Some(SubresourceKind::NodeStream(stream)) = subresource.map(|s| s.kind) {
        let verbs = subresource.map_or(&[][..], |s| s.verbs);
        if !verbs.contains(&verb) {
            return Err(status::method_not_allowed());
        }
        return node_proxy::stream(core, cx, request, &target, stream, &path.rest).await;
    }
    if let Some(SubresourceKind::PluginStream(stream)) = subresource.map(|s| s.kind) {
        return plugin_streams::stream(core, &request, &target, stream).await;
    }
    let allowed = subresource.map_or(row.verbs, |s| s.verbs);
    let single = matches!(verb, "get" | "update" | "patch" | "delete");
    if !allowed.contains(&verb) || (single && path.name.is_empty()) {
        return Err(status::method_not_allowed());
    }
    let accepted = negotiate::accept(request.header(header::ACCEPT), verb == "watch")?;
    let call = Call { core, cx, target, accepted };
    match verb {
        "get" => call.get(&request).await,
        "list" => call.list(&request).await,
        "watch" => call.watch(&request).await,
        "create" => {
            if row.namespaced && namespace.is_empty() {
                return Err(status::method_not_allowed());
            }
            call.create(&mut request).await
        }
        "update" => call.update(&mut request).await,
        "patch" => call.patch(&mut request).await,
        "delete" => call.delete(&mut request).await,
        "deletecollection" => call.delete_collection(&mut request).await,
        _ => Err(status::method_not_allowed()),
    }
}

impl Call<'_> {
    fn view(&self, request: &HttpRequest, row: &'static Resource) -> Result<View<'_>, Status> {
        let include = IncludeObject::parse(request.query.get("includeObject"))?;
        Ok(View { row, accepted: self.accepted, include, context: self.cx.context() })
    }

    /// An object of the row's own kind.
    fn show(
        &self,
        request: &HttpRequest,
        object: &Object,
        code: u16,
    ) -> Result<Response<ResponseBody>, Status> {
        let chain = self.view(request, self.target.row)?.object(object)?;
        Ok(respond(code, self.accepted.content_type(), body::whole(chain)))
    }

    /// An object of some other kind: never a Table.
    fn show_plain(&self, object: &Object, code: u16) -> Result<Response<ResponseBody>, Status> {
        let bytes = match self.accepted.encoding {
            Encoding::Json => object.bytes().clone(),
            Encoding::Yaml => Bytes::from(
                serde_yaml::to_string(&object.to_value()).map_err(|e| Status::internal(e.to_string()))?,
            ),
        };
        Ok(respond(code, self.accepted.content_type(), body::full(bytes)))
    }

    async fn get(&self, request: &HttpRequest) -> Result<Response<ResponseBody>, Status> {
        let version = resource_version(request.query.get("resourceVersion"))?;
        match self.target.subresource.map(|s| s.kind) {
            None | Some(SubresourceKind::Status) => {
                let object = self.core.get(&self.target, version).await?;
                self.show(request, &object, 200)
            }
            Some(SubresourceKind::Scale(paths)) => {
                let scale = self.core.get_scale(&self.target, &paths, version).await?;
                self.show_plain(&scale, 200)
            }
            Some(kind) => {
                debug_assert!(!is_readable(kind));
                Err(status::method_not_allowed())
            }
        }
    }

    async fn list(&self, request: &HttpRequest) -> Result<Response<ResponseBody>, Status> {
        let query = ListQuery::from_query(&request.query)?;
        let page = self.core.list(&self.target, &query).await?;
        let chain = self.view(request, self.target.row)?.list(&page)?;
        Ok(respond(200, self.accepted.content_type(), body::whole(chain)))
    }

    async fn watch(&self, request: &HttpRequest) -> Result<Response<ResponseBody>, Status> {
        let mut query = ListQuery::from_query(&request.query)?;
        query.watch = true;
        let watching = self.core.watch(&self.target, &query).await?;
        let least = self.core.config.min_request_timeout;
        let timeout = match query.timeout_seconds {
            Some(seconds) => Duration::from_secs(seconds),
            None => least.mul_f64(rand::random_range(1.0..2.0)),
        };
        let bookmarks = query.bookmarks;
        let flow = Flow::new(self.core, self.target.row, watching, bookmarks, Some(timeout));
        let include = IncludeObject::parse(request.query.get("includeObject"))?;
        let pieces = flow.into_bytes(self.accepted, include, self.cx.user.clone());
        let content_type = match self.accepted.shape {
            Shape::Object => "application/json",
            Shape::Table(_) | Shape::Partial(_) => "application/json;stream=watch",
        };
        let mut response = respond(200, content_type, body::stream(pieces));
        response.headers_mut().insert("x-accel-buffering", http::HeaderValue::from_static("no"));
        Ok(response)
    }

    async fn body(
        &self,
        request: &mut HttpRequest,
        gvk: &Gvk,
        validation: FieldValidation,
    ) -> Result<Value, Status> {
        let format = decode::format(request.header(header::CONTENT_TYPE))?;
        let bytes = request.body().await?;
        decode::object(self.cx, gvk, format, &bytes, validation)
    }

    async fn create(&self, request: &mut HttpRequest) -> Result<Response<ResponseBody>, Status> {
        let query = WriteQuery::from_query(&request.query, "CreateOptions")?;
        let row = self.target.row;
        match (row.backing, self.target.subresource) {
            (_, Some(sub)) => {
                let own = sub.object_kind;
                let gvk = if own.0.is_empty() && own.1.is_empty() {
                    Gvk { kind: own.2.into(), ..row.gvk() }
                } else {
                    Gvk::new(own.0, own.1, own.2)
                };
                let body = self.body(request, &gvk, query.field_validation).await?;
                self.create_subresource(request, sub.kind, body, &query).await
            }
            (Backing::Review(review), None) => {
                let body = self.body(request, &row.gvk(), query.field_validation).await?;
                let done = self.core.review(self.cx, &self.target, review, body).await?;
                self.show_plain(&done, 201)
            }
            (Backing::PodBinding, None) => {
                let body = self.body(request, &row.gvk(), query.field_validation).await?;
                let name = crate::metadata::text(&body, "name").to_owned();
                let pods = find("", "v1", "pods").ok_or_else(status::no_such_path)?;
                let target = Target {
                    row: pods,
                    name: &name,
                    subresource: pods.subresource("binding"),
                    ..self.target
                };
                let done = self.core.bind(self.cx, &target, &body, &query).await?;
                Ok(status_response(&done))
            }
            (Backing::Stored(_), None) => {
                if !self.target.name.is_empty() {
                    return Err(status::method_not_allowed());
                }
                let body = self.body(request, &row.gvk(), query.field_validation).await?;
                let written = self.core.create(self.cx, &self.target, body, &query).await?;
                self.show(request, &written.object, 201)
            }
        }
    }

    async fn create_subresource(
        &self,
        _request: &HttpRequest,
        kind: SubresourceKind,
        body: Value,
        query: &WriteQuery,
    ) -> Result<Response<ResponseBody>, Status> {
        match kind {
            SubresourceKind::Binding => {
                let done = self.core.bind(self.cx, &self.target, &body, query).await?;
                Ok(status_response(&done))
            }
            SubresourceKind::Eviction => {
                let done = self.core.evict(self.cx, &self.target, &body, query.dry_run).await?;
                Ok(status_response(&done))
            }
            SubresourceKind::Token => {
                let token = self.core.issue_token(self.cx, &self.target, body, query).await?;
                self.show_plain(&token, 201)
            }
            SubresourceKind::Status
            | SubresourceKind::Scale(_)
            | SubresourceKind::Finalize
            | SubresourceKind::NodeStream(_)
            | SubresourceKind::PluginStream(_) => Err(status::method_not_allowed()),
        }
    }

    async fn update(&self, request: &mut HttpRequest) -> Result<Response<ResponseBody>, Status> {
        let query = WriteQuery::from_query(&request.query, "UpdateOptions")?;
        let row = self.target.row;
        match self.target.subresource.map(|s| s.kind) {
            Some(SubresourceKind::Scale(paths)) => {
                let gvk = Gvk::new("autoscaling", "v1", "Scale");
                let scale = self.body(request, &gvk, query.field_validation).await?;
                let done = self
                    .core
                    .write_scale(self.cx, &self.target, &paths, ScaleInput::Whole(&scale), &query)
                    .await?;
                self.show_plain(&done, 200)
            }
            Some(SubresourceKind::Finalize) => {
                let body = self.body(request, &row.gvk(), query.field_validation).await?;
                let done = self.core.finalize(self.cx, &self.target, &body, &query).await?;
                self.show(request, &done, 200)
            }
            None | Some(SubresourceKind::Status) => {
                let body = self.body(request, &row.gvk(), query.field_validation).await?;
                let written = self.core.replace(self.cx, &self.target, body, &query).await?;
                self.show(request, &written.object, if written.created { 201 } else { 200 })
            }
            Some(_) => Err(status::method_not_allowed()),
        }
    }

    async fn patch(&self, request: &mut HttpRequest) -> Result<Response<ResponseBody>, Status> {
        let query = WriteQuery::from_query(&request.query, "PatchOptions")?;
        let kind = patch::patch_type(request.header(header::CONTENT_TYPE))?;
        let body = request.body().await?;
        if let Some(SubresourceKind::Scale(paths)) = self.target.subresource.map(|s| s.kind) {
            let input = ScaleInput::Patch(kind, &body);
            let done = self.core.write_scale(self.cx, &self.target, &paths, input, &query).await?;
            return self.show_plain(&done, 200);
        }
        let written = self.core.patch(self.cx, &self.target, kind, &body, &query).await?;
        self.show(request, &written.object, if written.created { 201 } else { 200 })
    }

    async fn delete_request(&self, request: &mut HttpRequest) -> Result<DeleteRequest, Status> {
        let content_type = request.header(header::CONTENT_TYPE).map(str::to_owned);
        let bytes = request.body().await?;
        if bytes.is_empty() {
            return DeleteRequest::parse(None, &request.query);
        }
        let value = match decode::format(content_type.as_deref())? {
            decode::Format::Json => serde_json::from_slice(&bytes).map_err(|e| {
                Status::bad_request(format!("couldn't get version/kind; json parse error: {e}"))
            })?,
            decode::Format::Yaml => decode::yaml_to_json(&bytes)?,
            decode::Format::Protobuf => decode::delete_options(&bytes)?,
        };
        DeleteRequest::parse(Some(&value), &request.query)
    }

    async fn delete(&self, request: &mut HttpRequest) -> Result<Response<ResponseBody>, Status> {
        let options = self.delete_request(request).await?;
        match self.core.delete(self.cx, &self.target, &options).await? {
            Deleted::Gone(object) if self.target.row.strategy.return_deleted_object() => {
                self.show(request, &object, 200)
            }
            Deleted::Gone(object) => Ok(status_response(&gone_status(&self.target, &object))),
            Deleted::Pending(object) => self.show(request, &object, 200),
        }
    }

    async fn delete_collection(&self, request: &mut HttpRequest) -> Result<Response<ResponseBody>, Status> {
        let query = ListQuery::from_query(&request.query)?;
        let options = self.delete_request(request).await?;
        if self.target.row.namespaced && self.target.namespace.is_empty() {
            return Err(status::method_not_allowed());
        }
        let filter = self.core.filter(&self.target, &query)?;
        let items = self.core.delete_collection(self.cx, &self.target, &options, &filter).await?;
        let revision = self.core.cache.revision();
        let page = Page { items, revision, continue_token: String::new(), remaining: None };
        let chain = self.view(request, self.target.row)?.list(&page)?;
        Ok(respond(200, self.accepted.content_type(), body::whole(chain)))
    }
}

/// For types of which no write may be blind: a PUT that does not say what it replaces.
fn must_name_revision(target: &Target<'_>) -> Status {
    let cause = Cause {
        reason: "FieldValueInvalid".to_owned(),
        message: "Invalid value: 0: must be specified for an update".to_owned(),
        field: "metadata.resourceVersion".to_owned(),
    };
    Status::invalid(&target.row.gvr.group, target.row.kind, target.name, vec![cause])
}

impl Core {
    /// PUT of an object or its status.
    pub(crate) async fn replace(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        body: Value,
        query: &WriteQuery,
    ) -> Result<Written, Status> {
        let part = part_of(target);
        let creates = part == Part::Main && target.row.strategy.allow_create_on_update();
        let blind = metadata::text(&body, "resourceVersion").is_empty()
            && !target.row.strategy.allow_unconditional_update();
        let transform = |old: Option<&Value>| {
            if blind && old.is_some() {
                return Err(must_name_revision(target));
            }
            Ok(Wish { object: body.clone(), kind: WriteKind::Update })
        };
        self.update(cx, target, part, creates, query, &transform).await
    }

    /// Admission of a stream to a pod or node.
    pub(crate) async fn admit_connect(&self, cx: &RequestCx, target: &Target<'_>) -> Result<(), Status> {
        if !self.admits(target, Operation::Connect) {
            return Ok(());
        }
        let mut request =
            self.admission_request(cx, target, Operation::Connect, None, None, Value::Null, false);
        self.mutate(cx, &mut request).await?;
        self.validate(cx, &request).await
    }
}
