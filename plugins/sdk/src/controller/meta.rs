//! The parts of an object that every controller reads, slim.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// `metadata`, as far as controllers read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name.
    pub name: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Uid.
    pub uid: String,
    /// Opaque revision.
    pub resource_version: String,
    /// Incremented when the spec changes.
    pub generation: i64,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// Owners.
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
    /// Finalizers.
    #[serde(deserialize_with = "nullable")]
    pub finalizers: Vec<String>,
    /// RFC 3339.
    pub creation_timestamp: Option<String>,
    /// RFC 3339; there while it is being deleted.
    pub deletion_timestamp: Option<String>,
    /// Seconds.
    pub deletion_grace_period_seconds: Option<i64>,
}

fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl Meta {
    /// Whether deletion has begun.
    #[must_use]
    pub const fn is_being_deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The owner with `controller: true`.
    #[must_use]
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|r| r.controller == Some(true))
    }

    /// When it was created, in milliseconds since 1970; 0 where unknown.
    #[must_use]
    pub fn created(&self) -> i64 {
        self.creation_timestamp.as_deref().and_then(super::parse_time).unwrap_or(0)
    }

    /// The labels in the form that `orlop_apimachinery::Selector` matches: sorted pairs.
    #[must_use]
    pub fn label_pairs(&self) -> Vec<(Box<str>, Box<str>)> {
        self.labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect()
    }
}

/// `metadata.ownerReferences[]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// `apps/v1`
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Whether it manages the dependent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether foreground deletion of the owner waits for the dependent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

impl OwnerReference {
    /// The reference by which `owner` manages a dependent.
    #[must_use]
    pub fn controller_of(api_version: &str, kind: &str, owner: &Meta) -> Self {
        Self {
            api_version: api_version.into(),
            kind: kind.into(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// An object whose spec and status are of types of the plugin's choice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object<S, T = Value> {
    /// `metadata`
    pub metadata: Meta,
    /// `spec`
    pub spec: S,
    /// `status`
    pub status: T,
}

/// One entry of `status.conditions`, in the form that most types share. Unknown fields are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When anything about it was last written, for types that have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<String>,
    /// When the kubelet last wrote it, for nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<String>,
    /// When the status last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// CamelCase word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For a reader.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The rest.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}
