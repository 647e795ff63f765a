//! JSON Patch (RFC 6902), as far as plugins need to make it.

use serde::Serialize;
use serde_json::{Map, Value};

/// A list of operations, applied in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Patch {
    operations: Vec<Operation>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Operation {
    op: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
}

impl Patch {
    /// No change.
    #[must_use]
    pub const fn new() -> Self {
        Self { operations: Vec::new() }
    }

    /// Whether nothing changes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Sets the field at `path` (names of object fields, or indexes of existing items), and makes
    /// the objects above it that `object` does not have. For several fields below an
    /// object that does not exist, set that object as a whole.
    pub fn set(&mut self, object: &Value, path: &[&str], value: Value) {
        let mut at = Some(object);
        for depth in 0..path.len() {
            let Some((head, rest)) = path.get(depth).map(|h| (*h, path.get(depth + 1..).unwrap_or_default()))
            else {
                return;
            };
            let next = at.and_then(|v| step(v, head)).filter(|v| !v.is_null());
            if next.is_none() || rest.is_empty() {
                let whole = rest.iter().rev().fold(value, |inner, name| {
                    let mut outer = Map::new();
                    outer.insert((*name).to_owned(), inner);
                    Value::Object(outer)
                });
                self.add(path.get(..=depth).unwrap_or_default(), whole);
                return;
            }
            at = next;
        }
    }

    /// Adds or replaces a field whose parent exists.
    pub fn add(&mut self, path: &[&str], value: Value) {
        self.operations.push(Operation { op: "add", path: pointer(path), value: Some(value) });
    }

    /// Appends to a list; makes the list where `object` has none.
    pub fn append(&mut self, object: &Value, path: &[&str], values: Vec<Value>) {
        let mut at = Some(object);
        for name in path {
            at = at.and_then(|v| step(v, name));
        }
        if at.is_some_and(Value::is_array) {
            for value in values {
                let mut end = path.to_vec();
                end.push("-");
                self.add(&end, value);
            }
        } else {
            self.set(object, path, Value::Array(values));
        }
    }

    /// Removes a field that exists.
    pub fn remove(&mut self, path: &[&str]) {
        self.operations.push(Operation { op: "remove", path: pointer(path), value: None });
    }

    /// As JSON; empty for no change.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        if self.is_empty() { Vec::new() } else { serde_json::to_vec(&self).unwrap_or_default() }
    }
}

fn step<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => map.get(name),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    }
}

fn pointer(path: &[&str]) -> String {
    path.iter().flat_map(|name| ["/".to_owned(), name.replace('~', "~0").replace('/', "~1")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(patch: Patch) -> Value {
        serde_json::from_slice(&patch.into_bytes()).unwrap()
    }

    #[test]
    fn set_makes_the_parents_that_are_missing() {
        let object = json!({ "metadata": {} });
        let mut patch = Patch::new();
        patch.set(&object, &["metadata", "labels", "a/b"], json!("c"));
        assert_eq!(
            text(patch),
            json!([{ "op": "add", "path": "/metadata/labels", "value": { "a/b": "c" } }])
        );
        let mut patch = Patch::new();
        patch.set(&json!({ "metadata": { "labels": {} } }), &["metadata", "labels", "a/b"], json!("c"));
        assert_eq!(text(patch), json!([{ "op": "add", "path": "/metadata/labels/a~1b", "value": "c" }]));
    }

    #[test]
    fn append_makes_the_list_or_extends_it() {
        let mut patch = Patch::new();
        patch.append(&json!({ "spec": {} }), &["spec", "l"], vec![json!(1), json!(2)]);
        assert_eq!(text(patch), json!([{ "op": "add", "path": "/spec/l", "value": [1, 2] }]));
        let mut patch = Patch::new();
        patch.append(&json!({ "spec": { "l": [0] } }), &["spec", "l"], vec![json!(1)]);
        assert_eq!(text(patch), json!([{ "op": "add", "path": "/spec/l/-", "value": 1 }]));
    }

    #[test]
    fn no_change_is_no_bytes() {
        assert!(Patch::new().into_bytes().is_empty());
    }
}
