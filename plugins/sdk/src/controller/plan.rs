//! Plans and writes, and short ways to make them.

use super::Meta;
use serde::Serialize;
use serde_json::Value;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(b: &bool) -> bool {
    !*b
}

/// What shall happen for one key; the default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Applied in order; the first failure ends the plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub writes: Vec<Write>,
    /// Look again after so much time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_milliseconds: Option<u64>,
    /// Why nothing could be decided; retried with back-off.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Comes back with the key's next item.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub memo: Value,
}

impl Plan {
    /// One write.
    #[must_use]
    pub fn write(write: Write) -> Self {
        Self { writes: vec![write], ..Self::default() }
    }

    /// Writes in order.
    #[must_use]
    pub fn writes(writes: Vec<Write>) -> Self {
        Self { writes, ..Self::default() }
    }

    /// No decision.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self { error: message.into(), ..Self::default() }
    }

    /// Looks again when `milliseconds` have passed, or earlier if that was asked for already.
    pub fn look_again(&mut self, milliseconds: i64) {
        let wanted = u64::try_from(milliseconds).unwrap_or(0).max(1);
        self.after_milliseconds = Some(self.after_milliseconds.map_or(wanted, |known| known.min(wanted)));
    }
}

/// One write; see the WIT for what each field means.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// `create`, `update`, `patch`, `delete`, `deleteCollection`, `event`.
    pub op: &'static str,
    /// `v1` or `apps/v1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// Plural name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Empty for cluster-scoped objects.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `status` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
    /// Object or patch.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub body: Value,
    /// So many creations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Precondition.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Precondition.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// The body is a JSON patch.
    #[serde(skip_serializing_if = "is_false")]
    pub json_patch: bool,
    /// Of a deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// Of a deletion.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub propagation: &'static str,
    /// Together with its neighbours.
    #[serde(skip_serializing_if = "is_false")]
    pub parallel: bool,
    /// Reasons that are no failures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<&'static str>,
    /// After success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// After failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_event: Option<Event>,
}

impl Write {
    fn new(op: &'static str, api_version: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            op,
            api_version: api_version.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Self::default()
        }
    }

    /// POST; the body names the object or has `generateName`.
    #[must_use]
    pub fn create(api_version: &str, resource: &str, namespace: &str, body: Value) -> Self {
        Self { body, ..Self::new("create", api_version, resource, namespace, "") }
    }

    /// PUT; the body has the resourceVersion that it was made from.
    #[must_use]
    pub fn update(api_version: &str, resource: &str, meta: &Meta, body: Value) -> Self {
        Self { body, ..Self::new("update", api_version, resource, &meta.namespace, &meta.name) }
    }

    /// A merge patch of the very object that was seen: its uid is a precondition.
    #[must_use]
    pub fn patch(api_version: &str, resource: &str, meta: &Meta, body: Value) -> Self {
        let new = Self::new("patch", api_version, resource, &meta.namespace, &meta.name);
        Self { body, uid: meta.uid.clone(), ..new }
    }

    /// A deletion of the very object that was seen: its uid is a precondition. Absence is no failure.
    #[must_use]
    pub fn delete(api_version: &str, resource: &str, meta: &Meta) -> Self {
        let new = Self::new("delete", api_version, resource, &meta.namespace, &meta.name);
        Self { uid: meta.uid.clone(), ignore: vec!["NotFound"], ..new }
    }

    /// A deletion of all objects of a resource in a namespace.
    #[must_use]
    pub fn delete_collection(api_version: &str, resource: &str, namespace: &str) -> Self {
        Self::new("deleteCollection", api_version, resource, namespace, "")
    }

    /// An Event and nothing else.
    #[must_use]
    pub fn event(event: Event) -> Self {
        Self { op: "event", event: Some(event), ..Self::default() }
    }

    /// Of a subresource.
    #[must_use]
    pub fn subresource(mut self, subresource: &str) -> Self {
        self.subresource = subresource.into();
        self
    }

    /// Only if the object is at the revision that was seen.
    #[must_use]
    pub fn at_revision(mut self, meta: &Meta) -> Self {
        self.resource_version.clone_from(&meta.resource_version);
        self
    }

    /// Together with its neighbours.
    #[must_use]
    pub const fn in_parallel(mut self) -> Self {
        self.parallel = true;
        self
    }

    /// A reason that is no failure.
    #[must_use]
    pub fn ignoring(mut self, reason: &'static str) -> Self {
        self.ignore.push(reason);
        self
    }

    /// Records an Event after success.
    #[must_use]
    pub fn then(mut self, event: Event) -> Self {
        self.event = Some(event);
        self
    }

    /// Records an Event after failure.
    #[must_use]
    pub fn or_else(mut self, event: Event) -> Self {
        self.failure_event = Some(event);
        self
    }
}

/// A Kubernetes Event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// CamelCase word.
    pub reason: String,
    /// `{name}` and `{error}` are replaced.
    pub message: String,
    /// The key's object by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<Reference>,
}

impl Event {
    /// All is well.
    #[must_use]
    pub fn normal(reason: &str, message: impl Into<String>) -> Self {
        Self { kind: "Normal", reason: reason.into(), message: message.into(), about: None }
    }

    /// Somebody should look.
    #[must_use]
    pub fn warning(reason: &str, message: impl Into<String>) -> Self {
        Self { kind: "Warning", reason: reason.into(), message: message.into(), about: None }
    }

    /// About another object than the key's.
    #[must_use]
    pub fn about(mut self, api_version: &str, kind: &str, meta: &Meta) -> Self {
        self.about = Some(Reference {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
        });
        self
    }
}

/// What an [`Event`] is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
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
}
