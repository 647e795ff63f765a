//! Writes that plugins ask for, as documented in `wit/controller/controller.wit`: their format in JSON, and how each is done.

use crate::api::{ApiClient, ApiError, DeleteOptions, PatchType, Propagation, ResourceRef, WriteOptions};
use bytes::Bytes;
use orlop_apimachinery::{Gvr, Object, Status};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// One write.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// What is done.
    pub op: Op,
    /// `v1` or `apps/v1`; not needed for events.
    #[serde(default)]
    pub api_version: String,
    /// Plural name; not needed for events.
    #[serde(default)]
    pub resource: String,
    /// Empty for cluster-scoped objects.
    #[serde(default)]
    pub namespace: String,
    /// Empty in creations, whose body names the object.
    #[serde(default)]
    pub name: String,
    /// `status`, `finalize` …; empty for the object.
    #[serde(default)]
    pub subresource: String,
    /// Object or patch.
    #[serde(default)]
    pub body: Value,
    /// Creations: so many objects of the same body, which has `generateName`.
    #[serde(default)]
    pub count: Option<usize>,
    /// Patches and deletions: refused where the object's uid differs.
    #[serde(default)]
    pub uid: String,
    /// Patches and deletions: refused where the object's resourceVersion differs.
    #[serde(default)]
    pub resource_version: String,
    /// Patches: the body is a JSON patch, not a merge patch.
    #[serde(default)]
    pub json_patch: bool,
    /// Deletions.
    #[serde(default)]
    pub grace_period_seconds: Option<i64>,
    /// Deletions: `Background`, `Foreground` or `Orphan`.
    #[serde(default)]
    pub propagation: String,
    /// Neighbours that are parallel form a group, applied with a slow start.
    #[serde(default)]
    pub parallel: bool,
    /// Reasons of failures that do not end the plan, such as `NotFound`.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Recorded after success; for `op: event`, the event.
    #[serde(default)]
    pub event: Option<Event>,
    /// Recorded after a failure that is not ignored.
    #[serde(default)]
    pub failure_event: Option<Event>,
}

/// What a [`Write`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Op {
    /// POST
    Create,
    /// PUT
    Update,
    /// PATCH
    Patch,
    /// DELETE
    Delete,
    /// DELETE of all objects of a resource in a namespace.
    DeleteCollection,
    /// Records an event only.
    Event,
}

impl Op {
    /// The RBAC verb.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Create | Self::Event => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

impl Write {
    /// The resource.
    #[must_use]
    pub fn gvr(&self) -> Gvr {
        Gvr::from_api_version(&self.api_version, &self.resource)
    }

    /// Whether the plugin does not mind the failure, by its reason or one of its causes.
    #[must_use]
    pub fn ignores(&self, error: &ApiError) -> bool {
        let ApiError::Status(status) = error else { return false };
        let causes = status.details.iter().flat_map(|d| &d.causes).map(|c| c.reason.as_str());
        causes.chain([status.reason.as_str()]).any(|reason| self.ignore.iter().any(|i| i == reason))
    }

    /// Options of a deletion.
    #[must_use]
    pub fn deletion(&self) -> DeleteOptions {
        DeleteOptions {
            grace_period_seconds: self.grace_period_seconds,
            uid: self.uid.clone(),
            resource_version: self.resource_version.parse().ok(),
            propagation: match self.propagation.as_str() {
                "Background" => Some(Propagation::Background),
                "Foreground" => Some(Propagation::Foreground),
                "Orphan" => Some(Propagation::Orphan),
                _ => None,
            },
        }
    }

    /// A merge patch with the preconditions that the server checks.
    fn conditional(&self) -> Value {
        let mut patch = self.body.clone();
        for (field, value) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if !value.is_empty() && patch.is_object() {
                if !patch["metadata"].is_object() {
                    patch["metadata"] = json!({});
                }
                patch["metadata"][field] = json!(value);
            }
        }
        patch
    }

    /// Does one creation, update, patch or deletion once, whatever `count` says; what was written, where there
    /// is something. Events and deletions of collections are not done here.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn perform(
        &self,
        client: &dyn ApiClient,
        field_manager: &str,
    ) -> Result<Option<Arc<Object>>, ApiError> {
        let gvr = self.gvr();
        let name = match self.op {
            Op::Create if self.subresource.is_empty() => {
                self.body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
            }
            _ => self.name.as_str(),
        };
        let at = ResourceRef::new(&gvr, &self.namespace, name).subresource(&self.subresource);
        let options = WriteOptions { field_manager: field_manager.to_owned(), ..WriteOptions::default() };
        let body = || Bytes::from(self.body.to_string());
        match self.op {
            Op::Create => client.create(at, body(), &options).await.map(Some),
            Op::Update => client.update(at, body(), &options).await.map(Some),
            Op::Patch if self.json_patch => {
                client.patch(at, PatchType::Json, body(), &options).await.map(Some)
            }
            Op::Patch => {
                let patch = Bytes::from(self.conditional().to_string());
                client.patch(at, PatchType::Merge, patch, &options).await.map(Some)
            }
            Op::Delete => client.delete(at, &self.deletion()).await.map(|()| None),
            Op::DeleteCollection | Op::Event => {
                Err(Status::bad_request(format!("a plugin's write of op {:?} is not possible here", self.op))
                    .into())
            }
        }
    }
}

/// A Kubernetes Event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Such as `SuccessfulCreate`.
    pub reason: String,
    /// For a reader; `{name}` becomes the name of the written object, `{error}` the failure.
    pub message: String,
    /// The object that it is about; without one, the key's own.
    pub about: Option<Reference>,
}

/// `v1.ObjectReference`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reference {
    /// `v1` or `apps/v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Empty for cluster-scoped objects.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// resourceVersion.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
}
