//! Namespaces.

use super::json::text;
use super::{AGE_COLUMN, Column, Context, NAME_COLUMN, NameRule, SelectableField, Strategy};
use super::{age_cell, at, copy_field, name_cell};
use serde_json::{Value, json};

/// The strategy of namespaces.
#[derive(Debug)]
pub(super) struct Namespaces;

const COLUMNS: &[Column] = &[NAME_COLUMN, Column::new("Status", "The status of the namespace"), AGE_COLUMN];

const FIELDS: &[SelectableField] = &[SelectableField::new("status.phase", &[&["status", "phase"]])];

/// The label that every namespace carries, so that selectors can name it.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Strategy for Namespaces {
    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }

    fn default(&self, namespace: &mut Value) {
        let name = text(namespace, &["metadata", "name"]).to_owned();
        if name.is_empty() {
            return;
        }
        if let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut)
            && let Some(labels) = super::json::object(metadata, "labels")
        {
            labels.insert(NAME_LABEL.into(), name.into());
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, namespace: &mut Value) {
        namespace["status"] = json!({ "phase": "Active" });
        let mut finalizers =
            at(namespace, &["spec", "finalizers"]).and_then(Value::as_array).cloned().unwrap_or_default();
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
        namespace["spec"] = json!({ "finalizers": finalizers });
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, new: &mut Value, old: &Value) {
        // Finalizers go by /finalize only.
        copy_field(new, old, "spec");
        copy_field(new, old, "status");
    }

    fn holds(&self, namespace: &Value) -> bool {
        at(namespace, &["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|f| !f.is_empty())
    }

    fn begin_deletion(&self, _cx: &Context<'_>, namespace: &mut Value) {
        namespace["status"]["phase"] = "Terminating".into();
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, namespace: &Value) -> Vec<Value> {
        vec![name_cell(namespace), text(namespace, &["status", "phase"]).into(), age_cell(cx, namespace)]
    }
}
