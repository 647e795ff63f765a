//! Objects on their way into the store.
//!
//! Whoever writes an object has it parsed, and the watch brings the very same bytes back. So the writer
//! announces what it writes, and neither he nor the pump parses it again.
//!
//! Invariant: a draft stands for an event only where key and bytes are equal; what is not announced
//! is parsed.

use super::entry::{Entry, field_values};
use crate::registry::SelectableField;
use crate::storage::{self, StorageError};
use bytes::Bytes;
use orlop_apimachinery::{Object, ObjectMeta};
use orlop_store::KeyValue;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// An object as it will be stored, and what there is to know of it but its revision.
pub(crate) struct Draft {
    value: Bytes,
    meta: ObjectMeta,
    fields: Option<Box<[Box<str>]>>,
    made: OnceLock<Arc<Entry>>,
}

impl Draft {
    /// From an object in its stored form. `declared` are the selectable fields of its shelf, where they
    /// cannot be others by the time the object comes back.
    pub(crate) fn new(object: &Value, declared: Option<&[SelectableField]>) -> Result<Self, StorageError> {
        Ok(Self {
            value: storage::encode(object)?,
            meta: ObjectMeta::from_value(object).map_err(StorageError::Object)?,
            fields: declared.map(|declared| field_values(declared, object)),
            made: OnceLock::new(),
        })
    }

    /// What goes into the store.
    pub(crate) fn value(&self) -> &Bytes {
        &self.value
    }

    /// The object as it lies in the store since `revision`: one copy, whoever asks.
    pub(crate) fn at(&self, revision: u64) -> Result<Arc<Entry>, StorageError> {
        if let Some(made) = self.made.get().filter(|e| e.object().meta().resource_version == revision) {
            return Ok(made.clone());
        }
        let (json, splice) = storage::open(&self.value)?;
        let meta = ObjectMeta { resource_version: revision, ..self.meta.clone() };
        let object = Object::from_parts(storage::splice(&json, splice, revision), meta);
        let entry = Arc::new(Entry::from_parts(object, splice, self.fields.clone()));
        // Where somebody else was first, both are right.
        Ok(match self.made.set(entry.clone()) {
            Ok(()) => entry,
            Err(entry) => match self.made.get() {
                Some(made) if made.object().meta().resource_version == revision => made.clone(),
                _ => entry,
            },
        })
    }
}

/// The drafts that have been announced, by key.
#[derive(Default)]
pub(super) struct Drafts(Mutex<HashMap<Bytes, Arc<Draft>>>);

/// An announcement; dropping it takes it back.
pub(crate) struct Announced<'d> {
    drafts: &'d Drafts,
    key: Bytes,
    draft: Arc<Draft>,
}

impl Drafts {
    /// Of several drafts of one key the last counts.
    pub(super) fn announce(&self, key: Bytes, draft: Draft) -> Announced<'_> {
        let draft = Arc::new(draft);
        self.0.lock().insert(key.clone(), draft.clone());
        Announced { drafts: self, key, draft }
    }

    /// The entry of an event that was announced.
    pub(super) fn entry(&self, kv: &KeyValue) -> Option<Arc<Entry>> {
        let draft = self.0.lock().get(&kv.key).cloned()?;
        if draft.value != kv.value {
            return None;
        }
        draft.at(kv.mod_revision).ok()
    }
}

impl Announced<'_> {
    /// What was announced.
    pub(crate) fn draft(&self) -> &Draft {
        &self.draft
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let mut drafts = self.drafts.0.lock();
        if drafts.get(&self.key).is_some_and(|d| Arc::ptr_eq(d, &self.draft)) {
            drafts.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::find;
    use serde_json::json;

    fn pod(node: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": node}, "status": {"phase": "Pending"},
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "generation": 3, "labels": {"b": "2", "a": "1"},
                "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "v", "controller": true}]}})
    }

    fn event(value: &Bytes, revision: u64) -> KeyValue {
        let key = Bytes::from_static(b"/registry/pods/d/p");
        KeyValue { key, value: value.clone(), create_revision: revision, mod_revision: revision, version: 1 }
    }

    #[test]
    fn a_draft_is_what_reading_the_store_gives() {
        let declared = find("", "v1", "pods").unwrap().strategy.selectable_fields();
        let draft = Draft::new(&pod("n"), Some(declared)).unwrap();
        let made = draft.at(7).unwrap();
        let read = Entry::decode(draft.value(), 7).unwrap();
        assert_eq!(made.object().bytes(), read.object().bytes());
        assert_eq!(made.object().meta(), read.object().meta());
        assert_eq!(made.object().meta().resource_version, 7);
        assert_eq!(made.fields(declared), read.fields(declared));
        assert_eq!(made.gone_at(9).bytes(), read.gone_at(9).bytes());
        assert!(Arc::ptr_eq(&made, &draft.at(7).unwrap()));
        assert_eq!(draft.at(8).unwrap().object().meta().resource_version, 8);
    }

    #[test]
    fn only_the_announced_bytes_are_recognised() {
        let drafts = Drafts::default();
        let key = event(&Bytes::new(), 1).key;
        let first = drafts.announce(key.clone(), Draft::new(&pod("a"), None).unwrap());
        let value = first.draft().value().clone();
        let entry = drafts.entry(&event(&value, 5)).unwrap();
        assert!(Arc::ptr_eq(&entry, &first.draft().at(5).unwrap()));
        let second = drafts.announce(key, Draft::new(&pod("b"), None).unwrap());
        assert!(drafts.entry(&event(&value, 5)).is_none(), "another draft of the key stands there");
        drop(first);
        assert!(drafts.entry(&event(second.draft().value(), 6)).is_some());
        let value = second.draft().value().clone();
        drop(second);
        assert!(drafts.entry(&event(&value, 6)).is_none());
    }
}
