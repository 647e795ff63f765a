//! The manifest's section of a controller plugin.

use super::{ManifestError, check_len, check_text, check_texts, field};
use serde::{Deserialize, Serialize};

/// What a controller plugin watches, and how objects map to its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ControllerManifest {
    /// Controllers that it implements; each has its own queue.
    pub controllers: Vec<String>,
    /// What is watched and cached for it.
    pub watches: Vec<Watch>,
    /// Indexes over what is watched.
    pub indexes: Vec<Index>,
}

/// One watched resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Watch {
    /// `v1` or `apps/v1`.
    pub api_version: String,
    /// Plural name.
    pub resource: String,
    /// How an object of it becomes a key of the queue: `self`, `owner`, `namespace` or `plugin`.
    pub maps_to: String,
}

/// One index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Index {
    /// Name by which the plugin asks for it.
    pub name: String,
    /// `v1` or `apps/v1`.
    pub api_version: String,
    /// Plural name.
    pub resource: String,
    /// Path of the value, such as `spec.nodeName`.
    pub path: String,
}

impl ControllerManifest {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        check_texts("controller.controllers", &self.controllers)?;
        check_len("controller.watches", self.watches.len())?;
        check_len("controller.indexes", self.indexes.len())?;
        for (i, w) in self.watches.iter().enumerate() {
            check_text(&format!("controller.watches[{i}].apiVersion"), &w.api_version)?;
            check_text(&format!("controller.watches[{i}].resource"), &w.resource)?;
            check_text(&format!("controller.watches[{i}].mapsTo"), &w.maps_to)?;
            if w.resource.is_empty() {
                return Err(field(format!("controller.watches[{i}].resource"), "must not be empty"));
            }
        }
        for (i, index) in self.indexes.iter().enumerate() {
            check_text(&format!("controller.indexes[{i}].name"), &index.name)?;
            check_text(&format!("controller.indexes[{i}].apiVersion"), &index.api_version)?;
            check_text(&format!("controller.indexes[{i}].resource"), &index.resource)?;
            check_text(&format!("controller.indexes[{i}].path"), &index.path)?;
        }
        Ok(())
    }
}
