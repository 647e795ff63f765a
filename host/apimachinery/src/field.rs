//! Field paths and validation faults, worded as `k8s.io/apimachinery/pkg/util/validation/field`.

use crate::status::Cause;
use serde_json::Value;
use std::fmt;

/// Path of a field from the root of an object: `spec.containers[0].image`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A first field.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The root itself.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// A field of the object here.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An item of the list here.
    #[must_use]
    pub fn index(&self, at: usize) -> Self {
        Self(format!("{}[{at}]", self.0))
    }

    /// An entry of the map here.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value as Kubernetes prints it in a fault: strings quoted as Go's `%q`, the rest as JSON.
#[must_use]
pub fn quoted(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

fn cause(path: &Path, reason: &str, message: String) -> Cause {
    Cause { reason: reason.to_owned(), message, field: path.0.clone() }
}

fn with_detail(head: String, detail: &str) -> String {
    if detail.is_empty() { head } else { format!("{head}: {detail}") }
}

/// `Required value`
#[must_use]
pub fn required(path: &Path, detail: &str) -> Cause {
    cause(path, "FieldValueRequired", with_detail("Required value".to_owned(), detail))
}

/// `Invalid value: "x": detail`
#[must_use]
pub fn invalid(path: &Path, value: impl Into<Value>, detail: &str) -> Cause {
    cause(path, "FieldValueInvalid", with_detail(format!("Invalid value: {}", quoted(&value.into())), detail))
}

/// `Unsupported value: "x": supported values: "a", "b"`
#[must_use]
pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Cause {
    let supported: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
    let detail = if supported.is_empty() {
        String::new()
    } else {
        format!("supported values: {}", supported.join(", "))
    };
    let message = with_detail(format!("Unsupported value: {}", quoted(&value.into())), &detail);
    cause(path, "FieldValueNotSupported", message)
}

/// `Duplicate value: "x"`
#[must_use]
pub fn duplicate(path: &Path, value: impl Into<Value>) -> Cause {
    cause(path, "FieldValueDuplicate", format!("Duplicate value: {}", quoted(&value.into())))
}

/// `Forbidden: detail`
#[must_use]
pub fn forbidden(path: &Path, detail: &str) -> Cause {
    cause(path, "FieldValueForbidden", with_detail("Forbidden".to_owned(), detail))
}

/// `Not found: "x"`
#[must_use]
pub fn not_found(path: &Path, value: impl Into<Value>) -> Cause {
    cause(path, "FieldValueNotFound", format!("Not found: {}", quoted(&value.into())))
}

/// `Too long: may not be more than N bytes`
#[must_use]
pub fn too_long(path: &Path, most: usize) -> Cause {
    let detail = if most == 1 {
        "may not be more than 1 byte".to_owned()
    } else {
        format!("may not be more than {most} bytes")
    };
    cause(path, "FieldValueTooLong", format!("Too long: {detail}"))
}

/// `Too many: N: must have at most M items`
#[must_use]
pub fn too_many(path: &Path, actual: usize, most: usize) -> Cause {
    let items = if most == 1 { "item" } else { "items" };
    cause(path, "FieldValueTooMany", format!("Too many: {actual}: must have at most {most} {items}"))
}

/// `Invalid value: "x": detail`, reason FieldValueTypeInvalid.
#[must_use]
pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: &str) -> Cause {
    cause(
        path,
        "FieldValueTypeInvalid",
        with_detail(format!("Invalid value: {}", quoted(&value.into())), detail),
    )
}
