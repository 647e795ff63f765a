//! The manifest's section of a scheduler plugin.

use super::{ManifestError, check_texts, field};
use serde::{Deserialize, Serialize};

/// What a scheduler plugin implements and reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SchedulerManifest {
    /// Extension points that it implements, such as `filter` and `score`.
    pub hooks: Vec<String>,
    /// Columns of the node table that its mirror holds.
    pub columns: Vec<String>,
    /// Paths of the pod that it reads, such as `spec.nodeName`; pods equal in them share a class.
    pub pod_fields: Vec<String>,
    /// Label keys of nodes that it reads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_keys: Vec<String>,
    /// How its raw scores become 0 to 100: `none` (also where empty), `default`, `reverse`, `custom`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub normalize: String,
    /// What may make a pod fit that its filter rejected, such as `node/add`; every event where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
}

impl SchedulerManifest {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        check_texts("scheduler.hooks", &self.hooks)?;
        check_texts("scheduler.columns", &self.columns)?;
        check_texts("scheduler.podFields", &self.pod_fields)?;
        check_texts("scheduler.labelKeys", &self.label_keys)?;
        if !["", "none", "default", "reverse", "custom"].contains(&self.normalize.as_str()) {
            return Err(field("scheduler.normalize", "must be none, default, reverse or custom"));
        }
        self.events.as_ref().map_or(Ok(()), |events| check_texts("scheduler.events", events))
    }
}
