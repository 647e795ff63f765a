//! Keys and their plans.

use super::{failure, list, text};
use crate::record::{Call, Outcome};
use crate::workbench::Workbench;
use orlop_plugin::Compiled;
use serde_json::{Map, Value, json};

/// The request of one item, as the host sends it.
pub(crate) fn request(now: &Value, item: &Value) -> String {
    let mut item = item.clone();
    if let Some(fields) = item.as_object_mut() {
        fields.remove("title");
        for (field, default) in
            [("object", Value::Null), ("inputs", json!({})), ("attempt", json!(0)), ("memo", Value::Null)]
        {
            fields.entry(field).or_insert(default);
        }
    }
    json!({ "now": now, "items": [item] }).to_string()
}

pub(super) fn run(
    input: &Value,
    config: &Value,
    workbench: &Workbench,
    plugin: &Compiled,
) -> Result<Value, String> {
    let now = input.get("now").cloned().unwrap_or_else(|| json!(0));
    let mut guest = match workbench.open(plugin, config) {
        Ok(guest) => guest,
        Err(error) => return Ok(failure(&error)),
    };
    let mut out = Vec::new();
    for (i, item) in list(input, "requests")?.iter().enumerate() {
        let name = text(item, "/key/name");
        if name.is_empty() {
            return Err(format!("requests[{i}].key.name is missing"));
        }
        let title = match text(item, "/title") {
            "" => name,
            title => title,
        };
        let mut result = Map::new();
        result.insert("title".to_owned(), title.into());
        match guest.perform(&Call::Reconcile { request: request(&now, item) }) {
            Outcome::Failure(error) => _ = result.insert("failure".to_owned(), json!(error)),
            Outcome::Answer(answer) => {
                match answer.pointer("/plans").and_then(Value::as_array).map(Vec::as_slice) {
                    Some([plan]) => _ = result.insert("plan".to_owned(), plan.clone()),
                    _ => _ = result.insert("nonsense".to_owned(), answer),
                }
            }
        }
        out.push(Value::Object(result));
    }
    Ok(json!({ "requests": out }))
}
