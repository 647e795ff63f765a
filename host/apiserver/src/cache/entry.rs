//! What the cache holds of one object, and one change of it.

use super::watcher::EventType;
use crate::registry::SelectableField;
use crate::storage::{self, StorageError};
use bytes::Bytes;
use orlop_apimachinery::Object;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// One object and what is derived from it when first needed.
#[derive(Debug)]
pub(crate) struct Entry {
    object: Arc<Object>,
    splice: u32,
    fields: OnceLock<Box<[Box<str>]>>,
}

impl Entry {
    /// From a stored value.
    pub(crate) fn decode(value: &Bytes, revision: u64) -> Result<Self, StorageError> {
        let (object, splice) = storage::decode(value, revision)?;
        Ok(Self { object: Arc::new(object), splice, fields: OnceLock::new() })
    }

    /// From what its writer knows.
    pub(super) fn from_parts(object: Object, splice: u32, fields: Option<Box<[Box<str>]>>) -> Self {
        let fields = fields.map(OnceLock::from).unwrap_or_default();
        Self { object: Arc::new(object), splice, fields }
    }

    /// The same without what was derived.
    pub(crate) fn renewed(&self) -> Self {
        Self { object: self.object.clone(), splice: self.splice, fields: OnceLock::new() }
    }

    /// The object.
    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// The values of the type's selectable fields, in their order. The body is parsed once.
    pub(crate) fn fields(&self, declared: &[SelectableField]) -> &[Box<str>] {
        self.fields.get_or_init(|| {
            if declared.is_empty() {
                return Box::default();
            }
            field_values(declared, &self.object.to_value())
        })
    }

    /// The object as it is shown when it ceases to exist or to match at `revision`.
    pub(crate) fn gone_at(&self, revision: u64) -> Arc<Object> {
        match storage::with_revision(&self.object, self.splice, revision) {
            Ok(object) => Arc::new(object),
            Err(_) => self.object.clone(),
        }
    }
}

/// The values of all fields of an object, in their order.
pub(super) fn field_values(declared: &[SelectableField], body: &Value) -> Box<[Box<str>]> {
    declared.iter().map(|f| field_value(f, body).into()).collect()
}

/// The value of a field of an object, as field selectors compare it.
pub(crate) fn field_value(field: &SelectableField, body: &Value) -> String {
    for path in field.paths {
        let text = match crate::registry::at(body, path) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(b)) => b.to_string(),
            Some(Value::Number(n)) => n.to_string(),
            _ => continue,
        };
        if !text.is_empty() {
            return text;
        }
    }
    field.default.to_owned()
}

/// One change of one object; `old` and `new` are never both `None`.
#[derive(Debug)]
pub(crate) struct Change {
    /// `namespace/name` or `name`.
    pub(crate) key: Box<str>,
    /// At which revision.
    pub(crate) revision: u64,
    /// Before.
    pub(crate) old: Option<Arc<Entry>>,
    /// After.
    pub(crate) new: Option<Arc<Entry>>,
    gone: OnceLock<Arc<Object>>,
}

impl Change {
    pub(crate) fn new(
        key: Box<str>,
        revision: u64,
        old: Option<Arc<Entry>>,
        new: Option<Arc<Entry>>,
    ) -> Self {
        Self { key, revision, old, new, gone: OnceLock::new() }
    }

    /// What a watcher that sees this change as `event` is shown.
    pub(crate) fn object(&self, event: EventType) -> Option<Arc<Object>> {
        match event {
            EventType::Added | EventType::Modified => self.new.as_ref().map(|e| e.object().clone()),
            EventType::Deleted => {
                let old = self.old.as_ref()?;
                Some(self.gone.get_or_init(|| old.gone_at(self.revision)).clone())
            }
        }
    }
}
