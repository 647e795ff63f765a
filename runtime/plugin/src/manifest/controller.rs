//! The manifest's section of a controller plugin.
//!
//! Its meaning belongs to the controller manager, which parses it again, strictly, before the plugin is
//! activated. Here it is only kept within bounds.

use super::{ManifestError, check_len, check_text, field};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Deepest nesting of the section.
const MAX_DEPTH: usize = 16;

/// What a controller plugin watches, how objects map to its keys and what it is handed; documented in
/// `wit/controller/controller.wit`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ControllerManifest(pub Value);

impl ControllerManifest {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        if !self.0.is_object() {
            return Err(field("controller", "must be an object"));
        }
        bounded("controller", &self.0, MAX_DEPTH)
    }
}

fn bounded(path: &str, value: &Value, depth: usize) -> Result<(), ManifestError> {
    if depth == 0 {
        return Err(field(path, format!("is nested deeper than {MAX_DEPTH}")));
    }
    match value {
        Value::String(text) => check_text(path, text),
        Value::Array(items) => {
            check_len(path, items.len())?;
            items.iter().enumerate().try_for_each(|(i, v)| bounded(&format!("{path}[{i}]"), v, depth - 1))
        }
        Value::Object(fields) => {
            check_len(path, fields.len())?;
            fields.iter().try_for_each(|(k, v)| {
                check_text(path, k)?;
                bounded(&format!("{path}.{k}"), v, depth - 1)
            })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}
