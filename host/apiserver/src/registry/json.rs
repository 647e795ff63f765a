//! Small steps over JSON objects that the strategies share.

use serde_json::{Map, Value};

/// Sets `key` where it is missing or null.
pub(super) fn set_default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets a string where it is missing or empty: Go's plain strings know no difference.
pub(super) fn set_text(map: &mut Map<String, Value>, key: &str, value: &str) {
    if map.get(key).is_none_or(|v| v.is_null() || v == "") {
        map.insert(key.to_owned(), value.into());
    }
}

/// The object at `key`; made where it is missing or null. `None` where it is something else, which
/// validation then names.
pub(super) fn object<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    set_default(map, key, Map::new());
    map.get_mut(key)?.as_object_mut()
}

/// The objects in the list at `key`.
pub(super) fn objects<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The items of the list at `path`.
pub(super) fn items<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    super::at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The string at `path`, empty where missing.
pub(super) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    super::at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at `path`, 0 where missing.
pub(super) fn number(value: &Value, path: &[&str]) -> i64 {
    super::at(value, path).and_then(Value::as_i64).unwrap_or_default()
}

/// `<none>` for an empty list, as kubectl prints it.
pub(super) fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}
