//! What a plugin answers: plans, as documented in `wit/controller/controller.wit`.

use orlop_apimachinery::Gvr;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer to one request: one plan per item, in the same order.
#[derive(Debug, Deserialize)]
pub struct Response {
    /// The plans.
    pub plans: Vec<Plan>,
}

/// What shall happen for one key.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Plan {
    /// In this order; the first failure ends the plan.
    pub writes: Vec<Write>,
    /// Look again when so much time has passed, even where nothing changed.
    pub after_milliseconds: Option<u64>,
    /// What the plugin could not decide; the key is retried with back-off.
    pub error: String,
    /// Handed back with the key's next request; `null` forgets it.
    pub memo: Value,
}

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

/// How the last plan of a key failed; handed to the plugin with the key's next request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub op: &'static str,
    /// Plural name of the resource.
    pub resource: String,
    /// `Status.reason`; empty where the API could not be reached.
    pub reason: String,
    /// For a reader.
    pub message: String,
}
