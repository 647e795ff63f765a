//! The strategy of custom objects.

use super::json_path::JsonPath;
use super::{Custom, leak, leak_path, structural, text, validate};
use crate::registry::{
    AGE_COLUMN, Column, Context, GenerationRule, NAME_COLUMN, SelectableField, Strategy, age_cell, at,
    copy_field, keep_only_status, name_cell, since,
};
use orlop_apimachinery::status::Cause;
use serde_json::Value;

/// Custom objects of one version.
#[derive(Debug)]
pub(crate) struct Instances {
    custom: &'static Custom,
    has_status: bool,
    columns: &'static [Column],
    /// Of the columns after the name; none where the second column is the age.
    paths: Vec<Option<JsonPath>>,
    fields: &'static [SelectableField],
}

impl Instances {
    pub(super) fn new(custom: &'static Custom, version: &Value) -> Self {
        let mut columns = vec![NAME_COLUMN];
        let mut paths = Vec::new();
        let declared = version.get("additionalPrinterColumns").and_then(Value::as_array);
        for column in declared.into_iter().flatten() {
            columns.push(Column {
                name: leak(text(column, &["name"])),
                r#type: leak(text(column, &["type"])),
                format: leak(text(column, &["format"])),
                description: leak(text(column, &["description"])),
                priority: column
                    .get("priority")
                    .and_then(Value::as_i64)
                    .and_then(|p| i32::try_from(p).ok())
                    .unwrap_or(0),
            });
            paths.push(JsonPath::parse(text(column, &["jsonPath"])));
        }
        if paths.is_empty() {
            columns.push(AGE_COLUMN);
        }
        let fields = version.get("selectableFields").and_then(Value::as_array);
        let fields = fields.into_iter().flatten().map(|field| {
            let path = text(field, &["jsonPath"]).trim_start_matches('.');
            let paths: &'static [&'static [&'static str]] =
                Box::leak(vec![leak_path(path)].into_boxed_slice());
            SelectableField::new(leak(path), paths)
        });
        Self {
            custom,
            has_status: at(version, &["subresources", "status"]).is_some(),
            columns: Box::leak(columns.into_boxed_slice()),
            paths,
            fields: Box::leak(fields.collect::<Vec<_>>().into_boxed_slice()),
        }
    }

    /// Faults that the change brought: what was wrong before does not keep the rest from changing.
    fn new_faults(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = validate::object(self.custom, new);
        if !faults.is_empty() {
            let before = validate::object(self.custom, old);
            faults.retain(|f| !before.contains(f));
        }
        faults
    }
}

impl Strategy for Instances {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        if self.has_status
            && let Value::Object(map) = object
        {
            map.remove("status");
        }
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, new: &mut Value, old: &Value) {
        if self.has_status {
            copy_field(new, old, "status");
        } else if new.get("status") != old.get("status")
            && let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut)
        {
            // Without a subresource of its own, the status is like any other field.
            let generation = at(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
            meta.insert("generation".to_owned(), (generation + 1).into());
        }
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, new: &mut Value, old: &Value) {
        keep_only_status(new, old);
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        validate::object(self.custom, object)
    }

    fn validate_update(&self, _cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        self.new_faults(new, old)
    }

    fn validate_status_update(&self, _cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        self.new_faults(new, old)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        self.fields
    }

    fn columns(&self) -> &'static [Column] {
        self.columns
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let mut cells = vec![name_cell(object)];
        if self.paths.is_empty() {
            cells.push(age_cell(cx, object));
        }
        for (path, column) in self.paths.iter().zip(self.columns.iter().skip(1)) {
            let found = path.as_ref().and_then(|p| p.first(object));
            cells.push(cell(cx, column.r#type, found));
        }
        cells
    }

    fn from_storage(&self, object: &mut Value) {
        structural::prune(&self.custom.schema, object);
        structural::defaults(&self.custom.schema, object);
    }
}

fn cell(cx: &Context<'_>, kind: &str, found: Option<&Value>) -> Value {
    let Some(found) = found else { return Value::Null };
    match kind {
        "date" => Value::String(since(cx, Some(found))),
        "integer" | "number" if found.is_number() => found.clone(),
        "boolean" if found.is_boolean() => found.clone(),
        "string" => Value::String(found.as_str().map_or_else(|| found.to_string(), str::to_owned)),
        _ => Value::Null,
    }
}
