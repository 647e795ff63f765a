//! The API as a trait.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use orlop_apimachinery::{Gvr, Object, Reason, Status};
use std::sync::Arc;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server answered with a failure; `Status` says whether a retry can help.
    #[error(transparent)]
    Status(#[from] Status),
    /// No answer: connection refused, reset or timed out. Retryable; a write may have happened.
    #[error("the API server could not be reached: {message}")]
    Transport {
        /// What the transport said.
        message: String,
    },
}

impl ApiError {
    /// Whether the server answered with `reason`.
    #[must_use]
    pub fn is(&self, reason: Reason) -> bool {
        matches!(self, Self::Status(s) if s.is(reason))
    }

    /// 404 NotFound
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.is(Reason::NotFound)
    }

    /// 409 Conflict (not AlreadyExists)
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.is(Reason::Conflict)
    }
}

/// Names one object, or a subresource of it.
#[derive(Clone, Copy, Debug)]
pub struct ResourceRef<'a> {
    /// The resource.
    pub gvr: &'a Gvr,
    /// Empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// Name of the object; empty only for `create` with `generateName` or a name in the body.
    pub name: &'a str,
    /// `status`, `scale`, `binding`, `eviction`, `token` …; empty for the object itself.
    pub subresource: &'a str,
}

impl<'a> ResourceRef<'a> {
    /// An object of `gvr`.
    #[must_use]
    pub const fn new(gvr: &'a Gvr, namespace: &'a str, name: &'a str) -> Self {
        Self { gvr, namespace, name, subresource: "" }
    }

    /// A subresource of the same object.
    #[must_use]
    pub const fn subresource(self, subresource: &'a str) -> Self {
        Self { subresource, ..self }
    }
}

/// What to list. The default lists all objects of all namespaces, linearizable.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Empty for all namespaces.
    pub namespace: String,
    /// As in the query parameter; empty for everything.
    pub label_selector: String,
    /// As in the query parameter; empty for everything.
    pub field_selector: String,
    /// As in the query parameter: `None` is linearizable, `Some(0)` is whatever the cache has.
    pub resource_version: Option<u64>,
}

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Empty for all namespaces.
    pub namespace: String,
    /// As in the query parameter; empty for everything.
    pub label_selector: String,
    /// As in the query parameter; empty for everything.
    pub field_selector: String,
    /// Events after this revision; `None` starts with the current state as `Added` events.
    pub resource_version: Option<u64>,
    /// Watch-list: the current state as `Added`, then a bookmark with `initial_events_end`.
    pub send_initial_events: bool,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// `fieldManager`; empty lets the server choose.
    pub field_manager: String,
    /// Server-side apply only.
    pub force: bool,
    /// `dryRun=All`
    pub dry_run: bool,
}

/// Options of delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// `None` takes the object's own default.
    pub grace_period_seconds: Option<i64>,
    /// Fails with Conflict where the uid differs; empty for no precondition.
    pub uid: String,
    /// Fails with Conflict where the resourceVersion differs.
    pub resource_version: Option<u64>,
    /// `None` takes the type's default (Background).
    pub propagation: Option<Propagation>,
}

/// `propagationPolicy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents go after the owner.
    Background,
    /// Dependents go before the owner.
    Foreground,
    /// Dependents stay.
    Orphan,
}

/// Body format of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    StrategicMerge,
    /// `application/apply-patch+yaml`
    Apply,
}

/// Result of a list.
#[derive(Clone, Debug)]
pub struct ObjectList {
    /// In key order.
    pub items: Vec<Arc<Object>>,
    /// Revision of the list.
    pub resource_version: u64,
}

/// One event of a watch, in revision order.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// The object appeared (or began to match the selectors).
    Added(Arc<Object>),
    /// The object changed.
    Modified(Arc<Object>),
    /// The object went (or ceased to match the selectors); its last state.
    Deleted(Arc<Object>),
    /// Nothing happened up to `resource_version`.
    Bookmark {
        /// Watching may resume from here.
        resource_version: u64,
        /// The synthetic `Added` events of a watch-list are complete.
        initial_events_end: bool,
    },
}

/// A running watch. An `Err` item ends it; `Expired` asks for a new list.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, ApiError>>;

/// The API. All methods are cancel-safe in the sense of HTTP: a cancelled write may have happened.
#[async_trait]
pub trait ApiClient: Send + Sync + 'static {
    /// Linearizable read of one object (or its `scale` or other readable subresource).
    async fn get(&self, at: ResourceRef<'_>) -> Result<Arc<Object>, ApiError>;

    /// Lists objects.
    async fn list(&self, gvr: &Gvr, options: &ListOptions) -> Result<ObjectList, ApiError>;

    /// Watches objects.
    async fn watch(&self, gvr: &Gvr, options: &WatchOptions) -> Result<WatchStream, ApiError>;

    /// POST: creates an object, or a subresource such as `binding`, `eviction` or `token`.
    async fn create(
        &self,
        at: ResourceRef<'_>,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError>;

    /// PUT: replaces; optimistic where the body has a resourceVersion.
    async fn update(
        &self,
        at: ResourceRef<'_>,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError>;

    /// PATCH.
    async fn patch(
        &self,
        at: ResourceRef<'_>,
        patch: PatchType,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError>;

    /// DELETE; `Ok` where the object is gone or its deletion has begun.
    async fn delete(&self, at: ResourceRef<'_>, options: &DeleteOptions) -> Result<(), ApiError>;
}
