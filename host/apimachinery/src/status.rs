//! `meta/v1.Status`: how every failure reaches a client.
//!
//! Source of reasons and codes: `k8s.io/apimachinery/pkg/api/errors`.

use crate::gvk::Gvr;
use serde::{Deserialize, Serialize};
use std::fmt;

/// `Status.reason`, as far as this server produces it. A closed set on our side; what other
/// servers say is kept in [`Status::reason`] as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 409, the name is taken
    AlreadyExists,
    /// 409, the object changed meanwhile
    Conflict,
    /// 410, the address is gone
    Gone,
    /// 410, the resourceVersion or continue token is too old
    Expired,
    /// 413
    RequestEntityTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 422
    Invalid,
    /// 429
    TooManyRequests,
    /// 500
    InternalError,
    /// 503
    ServiceUnavailable,
    /// 504
    Timeout,
}

impl Reason {
    /// The word in `Status.reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Expired => "Expired",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Timeout => "Timeout",
        }
    }

    /// The HTTP status code that goes with it.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Gone | Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }
}

/// One field's fault in an `Invalid` status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, `FieldValueNotSupported`, `FieldValueForbidden`,
    /// `FieldValueDuplicate`, `FieldValueTooLong`, `FieldValueTypeInvalid`, `FieldManagerConflict` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For a reader.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path such as `spec.containers[0].image`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// `Status.details`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource (Kubernetes puts the plural here) or, where the body was wrong, its kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Uid of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One entry per fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which a retry makes sense; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: i32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// `meta/v1.Status`; the error type of everything that answers a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `Success` or `Failure`.
    pub status: String,
    /// For a reader.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// See [`Reason`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    /// HTTP status code.
    pub code: u16,
}

impl Status {
    /// A failure without details.
    #[must_use]
    pub fn failure(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: "Failure".into(),
            message: message.into(),
            reason: reason.as_str().into(),
            details: None,
            code: reason.code(),
        }
    }

    fn about(reason: Reason, gvr: &Gvr, name: &str, message: String) -> Self {
        let details = Details {
            name: name.to_owned(),
            group: gvr.group.to_string(),
            kind: gvr.resource.to_string(),
            ..Details::default()
        };
        Self { details: Some(Box::new(details)), ..Self::failure(reason, message) }
    }

    /// `pods "x" not found`
    #[must_use]
    pub fn not_found(gvr: &Gvr, name: &str) -> Self {
        Self::about(Reason::NotFound, gvr, name, format!("{} \"{name}\" not found", gvr.group_resource()))
    }

    /// `pods "x" already exists`
    #[must_use]
    pub fn already_exists(gvr: &Gvr, name: &str) -> Self {
        Self::about(
            Reason::AlreadyExists,
            gvr,
            name,
            format!("{} \"{name}\" already exists", gvr.group_resource()),
        )
    }

    /// `Operation cannot be fulfilled on pods "x": …`
    #[must_use]
    pub fn conflict(gvr: &Gvr, name: &str, why: &str) -> Self {
        Self::about(
            Reason::Conflict,
            gvr,
            name,
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", gvr.group_resource()),
        )
    }

    /// `pods "x" is forbidden: …`
    #[must_use]
    pub fn forbidden(gvr: &Gvr, name: &str, why: &str) -> Self {
        let subject = gvr.group_resource();
        let message = if name.is_empty() {
            format!("{subject} is forbidden: {why}")
        } else {
            format!("{subject} \"{name}\" is forbidden: {why}")
        };
        Self::about(Reason::Forbidden, gvr, name, message)
    }

    /// `Pod "x" is invalid: spec.containers: Required value` and the causes.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let subject = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let faults: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let message = match faults.as_slice() {
            [one] => format!("{subject} \"{name}\" is invalid: {one}"),
            many => format!("{subject} \"{name}\" is invalid: [{}]", many.join(", ")),
        };
        let details = Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        };
        Self { details: Some(Box::new(details)), ..Self::failure(Reason::Invalid, message) }
    }

    /// 400
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(Reason::BadRequest, message)
    }

    /// 500
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::failure(Reason::InternalError, format!("Internal error occurred: {message}"))
    }

    /// 410 Expired: a resourceVersion or continue token that compaction has overtaken.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(Reason::Expired, message)
    }

    /// Whether the reason is `reason`.
    #[must_use]
    pub fn is(&self, reason: Reason) -> bool {
        self.reason == reason.as_str()
    }

    /// As a JSON body with `kind` and `apiVersion`.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            kind: &'static str,
            #[serde(rename = "apiVersion")]
            api_version: &'static str,
            metadata: Empty,
            #[serde(flatten)]
            status: &'a Status,
        }
        #[derive(Serialize)]
        struct Empty {}
        let body = Body { kind: "Status", api_version: "v1", metadata: Empty {}, status: self };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}
