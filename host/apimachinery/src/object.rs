//! One API object as the process holds it: canonical JSON bytes, plus the metadata that every
//! part of the system asks for, parsed once.
//!
//! An object is immutable and shared as `Arc<Object>`; there is one copy of it per process. The
//! body is parsed on demand and not kept.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Immutable API object.
#[derive(Clone, Debug)]
pub struct Object {
    bytes: Bytes,
    meta: ObjectMeta,
}

/// The parsed part of `metadata`. What is not here is read from [`Object::to_value`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Empty only in a body that uses `generateName` and is not stored yet.
    pub name: Box<str>,
    /// Empty for cluster-scoped objects.
    pub namespace: Box<str>,
    /// Set by the API server at creation; never reused.
    pub uid: Box<str>,
    /// Store revision of the last write; 0 where the object was never stored.
    pub resource_version: u64,
    /// Incremented when the spec changes; 0 for types without one.
    pub generation: i64,
    /// Sorted by key.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// In the order of the object.
    pub owner_references: Vec<OwnerReference>,
    /// In the order of the object.
    pub finalizers: Vec<Box<str>>,
    /// RFC 3339, as stored; `None` while the object is not being deleted.
    pub deletion_timestamp: Option<Box<str>>,
    /// RFC 3339, as stored; empty where never stored.
    pub creation_timestamp: Box<str>,
}

/// `metadata.ownerReferences[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// `apps/v1`
    pub api_version: Box<str>,
    /// `ReplicaSet`
    pub kind: Box<str>,
    /// Name of the owner, in the same namespace or cluster-scoped.
    pub name: Box<str>,
    /// Uid of the owner.
    pub uid: Box<str>,
    /// At most one owner is the managing controller.
    pub controller: bool,
    /// With foreground deletion the owner waits for this dependent.
    pub block_owner_deletion: bool,
}

/// Why bytes are no API object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Not JSON, or `metadata` is not of the shape that every object has. Not retryable.
    #[error("the body is not a valid API object")]
    Malformed(#[source] serde_json::Error),
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: MetaHead,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct MetaHead {
    name: Box<str>,
    namespace: Box<str>,
    uid: Box<str>,
    resource_version: Box<str>,
    generation: i64,
    labels: Option<std::collections::BTreeMap<Box<str>, Box<str>>>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<Box<str>>>,
    deletion_timestamp: Option<Box<str>>,
    creation_timestamp: Option<Box<str>>,
}

impl From<MetaHead> for ObjectMeta {
    fn from(m: MetaHead) -> Self {
        Self {
            name: m.name,
            namespace: m.namespace,
            uid: m.uid,
            resource_version: m.resource_version.parse().unwrap_or(0),
            generation: m.generation,
            labels: m.labels.unwrap_or_default().into_iter().collect(),
            owner_references: m.owner_references.unwrap_or_default(),
            finalizers: m.finalizers.unwrap_or_default(),
            deletion_timestamp: m.deletion_timestamp,
            creation_timestamp: m.creation_timestamp.unwrap_or_default(),
        }
    }
}

impl ObjectMeta {
    /// Reads the metadata of a parsed object, as [`Object::from_json`] does of its bytes.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`] where `metadata` has wrong types.
    pub fn from_value(object: &Value) -> Result<Self, ObjectError> {
        let head = Head::deserialize(object).map_err(ObjectError::Malformed)?;
        Ok(head.metadata.into())
    }
}

impl Object {
    /// Parses the metadata of `bytes` and keeps the bytes as they are.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`] where the bytes are not JSON or `metadata` has wrong types.
    pub fn from_json(bytes: Bytes) -> Result<Self, ObjectError> {
        let head: Head = serde_json::from_slice(&bytes).map_err(ObjectError::Malformed)?;
        Ok(Self { bytes, meta: head.metadata.into() })
    }

    /// Joins canonical JSON and its metadata, which is not checked.
    #[must_use]
    pub const fn from_parts(bytes: Bytes, meta: ObjectMeta) -> Self {
        Self { bytes, meta }
    }

    /// Serialises `value` canonically (keys sorted) and parses its metadata.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`] where `metadata` has wrong types.
    pub fn from_value(value: &Value) -> Result<Self, ObjectError> {
        let bytes = serde_json::to_vec(value).map_err(ObjectError::Malformed)?;
        Self::from_json(Bytes::from(bytes))
    }

    /// The canonical JSON, with `apiVersion`, `kind` and `metadata.resourceVersion`.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The parsed metadata.
    #[must_use]
    pub fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    /// `metadata.name`
    #[must_use]
    pub fn name(&self) -> &str {
        &self.meta.name
    }

    /// `metadata.namespace`, empty for cluster-scoped objects.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.meta.namespace
    }

    /// `metadata.uid`
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.meta.uid
    }

    /// The value of one label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.meta.labels.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        self.meta.labels.get(at).map(|(_, v)| v.as_ref())
    }

    /// The owner reference with `controller: true`.
    #[must_use]
    pub fn controller_ref(&self) -> Option<&OwnerReference> {
        self.meta.owner_references.iter().find(|r| r.controller)
    }

    /// Whether deletion has begun.
    #[must_use]
    pub fn is_being_deleted(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }

    /// Parses the whole object; the result is not kept.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// Parses the object as `T`; the result is not kept.
    ///
    /// # Errors
    /// What serde says where the object does not have the shape of `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.bytes)
    }
}
