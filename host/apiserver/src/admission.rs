//! The door through which admission plugins are called.
//!
//! The pipeline of a write is: decode, default, prepare, **mutate**, validate, **validate by
//! plugins**, store. The implementation runs its plugins in their order within each phase, and may
//! gather the requests of several concurrent calls into one batch.
//!
//! Invariant: a request that some plugin denies, or that could not be asked about under a
//! fail-closed policy, reaches the store never.

use crate::user::UserInfo;
use async_trait::async_trait;
use orlop_apimachinery::{Gvk, Gvr, Object, Status};
use serde_json::Value;
use std::sync::Arc;

/// What the request does. The words are those of `AdmissionReview`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// POST, a PUT or an apply that creates.
    Create,
    /// PUT and PATCH.
    Update,
    /// DELETE and each object of a deletecollection.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

impl Operation {
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// One request, as plugins see it.
#[derive(Clone, Debug)]
pub struct AdmissionRequest {
    /// Unique per request; also names it in logs.
    pub uid: String,
    /// What is done.
    pub operation: Operation,
    /// The resource that the URL names.
    pub gvr: Gvr,
    /// Kind of `object` (for a subresource such as `scale` its own kind).
    pub gvk: Gvk,
    /// Empty for the object itself.
    pub subresource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Name of the object; empty only before `generateName` was expanded.
    pub name: String,
    /// The object as it would be stored; `None` for Delete. Mutating plugins change it in place.
    pub object: Option<Value>,
    /// The object as it is stored; `None` for Create. Parsed by whoever needs more than metadata.
    pub old_object: Option<Arc<Object>>,
    /// Who asks.
    pub user: UserInfo,
    /// `CreateOptions`, `UpdateOptions`, `PatchOptions` or `DeleteOptions`.
    pub options: Value,
    /// Nothing will be stored, so plugins with effects beyond the object must not have them.
    pub dry_run: bool,
}

/// What the plugins say about one request.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// `None` lets it pass; a `Status` (mostly 403 Forbidden) is sent to the client as it is.
    pub denied: Option<Box<Status>>,
    /// Whether `object` was changed (mutate only): defaults are applied again and the change is
    /// ascribed to the request's field manager.
    pub changed: bool,
    /// Sent as `Warning: 299` headers.
    pub warnings: Vec<String>,
    /// Key (`plugin/key`) and value, for the audit log.
    pub audit_annotations: Vec<(String, String)>,
}

impl Verdict {
    /// Lets the request pass unchanged.
    #[must_use]
    pub fn allow() -> Self {
        Self::default()
    }

    /// Refuses the request.
    #[must_use]
    pub fn deny(status: Status) -> Self {
        Self { denied: Some(Box::new(status)), ..Self::default() }
    }
}

/// The set of active admission plugins.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Whether any plugin wants to see such requests at all; others skip both phases. Must be
    /// cheap: it is asked on every write.
    fn handles(&self, operation: Operation, gvr: &Gvr, subresource: &str) -> bool;

    /// Runs the mutating phase. Plugins run in their order, each sees what the one before it left
    /// in [`AdmissionRequest::object`]. Returns exactly one verdict per request, in order; a denied
    /// request's object no longer matters.
    async fn mutate(&self, requests: &mut [AdmissionRequest]) -> Vec<Verdict>;

    /// Runs the validating phase on the final objects. Returns exactly one verdict per request, in
    /// order; [`Verdict::changed`] is ignored.
    async fn validate(&self, requests: &[AdmissionRequest]) -> Vec<Verdict>;
}

/// No plugins: everything passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAdmission;

#[async_trait]
impl Admission for NoAdmission {
    fn handles(&self, _operation: Operation, _gvr: &Gvr, _subresource: &str) -> bool {
        false
    }

    async fn mutate(&self, requests: &mut [AdmissionRequest]) -> Vec<Verdict> {
        requests.iter().map(|_| Verdict::allow()).collect()
    }

    async fn validate(&self, requests: &[AdmissionRequest]) -> Vec<Verdict> {
        requests.iter().map(|_| Verdict::allow()).collect()
    }
}
