//! Requests and responses.

use super::Patch;
use orlop_apimachinery::{Gvr, Status};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST
    Create,
    /// PUT, PATCH
    Update,
    /// DELETE
    Delete,
    /// exec, attach, port-forward, proxy
    Connect,
    /// A code that this SDK does not know: allow it.
    Other(u32),
}

impl Operation {
    /// From the code of `orlop:admission`.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Create,
            2 => Self::Update,
            3 => Self::Delete,
            4 => Self::Connect,
            other => Self::Other(other),
        }
    }
}

/// One request. See `wit/admission/admission.wit` for every field.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is done.
    pub operation: Operation,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// Kind of the object.
    pub kind: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Empty where it is still to be generated.
    pub name: String,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The object, projected; null for delete.
    pub object: Value,
    /// The stored object, projected; null for create and where not declared.
    pub old_object: Value,
    /// One per context object of the manifest.
    pub context: Vec<Value>,
    /// JSON with `user` and `options`.
    pub attributes: Vec<u8>,
    /// A random number of this request.
    pub seed: u64,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct UserInfo {
    /// User name.
    pub username: String,
    /// Empty where unknown.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Request {
    /// A request for tests; set what matters with struct update syntax.
    #[must_use]
    pub fn new(operation: Operation, gvr: &Gvr, kind: &str, namespace: &str, object: Value) -> Self {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            operation,
            group: gvr.group.to_string(),
            version: gvr.version.to_string(),
            resource: gvr.resource.to_string(),
            subresource: String::new(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name,
            dry_run: false,
            object,
            old_object: Value::Null,
            context: Vec::new(),
            attributes: Vec::new(),
            seed: 0,
        }
    }

    /// The resource of the URL.
    #[must_use]
    pub fn gvr(&self) -> Gvr {
        Gvr {
            group: self.group.clone().into(),
            version: self.version.clone().into(),
            resource: self.resource.clone().into(),
        }
    }

    /// Who asks; the default where the host does not say.
    #[must_use]
    pub fn user(&self) -> UserInfo {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Attributes {
            user: UserInfo,
        }
        serde_json::from_slice::<Attributes>(&self.attributes).unwrap_or_default().user
    }

    /// One context object by its place in the manifest; null where there is none.
    #[must_use]
    pub fn context(&self, at: usize) -> &Value {
        self.context.get(at).unwrap_or(&Value::Null)
    }

    /// `pods "name" is forbidden: why`, with the name, or the `generateName` where it is still empty.
    #[must_use]
    pub fn forbidden(&self, why: &str) -> Status {
        let generate =
            || self.object.pointer("/metadata/generateName").and_then(Value::as_str).unwrap_or_default();
        let name = if self.name.is_empty() { generate() } else { &self.name };
        Status::forbidden(&self.gvr(), name, why)
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub struct Response {
    /// The decision.
    pub outcome: Outcome,
    /// Shown to the client; at most 16 of at most 256 bytes.
    pub warnings: Vec<String>,
}

/// The decision.
#[derive(Debug)]
pub enum Outcome {
    /// It passes, changed by the patch.
    Allow(Patch),
    /// It is refused.
    Deny(Box<Status>),
}

impl Response {
    /// It passes unchanged.
    #[must_use]
    pub const fn allow() -> Self {
        Self::patch(Patch::new())
    }

    /// It passes, changed.
    #[must_use]
    pub const fn patch(patch: Patch) -> Self {
        Self { outcome: Outcome::Allow(patch), warnings: Vec::new() }
    }

    /// It is refused.
    #[must_use]
    pub fn deny(status: Status) -> Self {
        Self { outcome: Outcome::Deny(Box::new(status)), warnings: Vec::new() }
    }

    /// The refusal, if it is one.
    #[must_use]
    pub fn denied(&self) -> Option<&Status> {
        match &self.outcome {
            Outcome::Deny(status) => Some(status),
            Outcome::Allow(_) => None,
        }
    }
}
