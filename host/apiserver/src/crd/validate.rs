//! Instances against their schema, in upstream's words.

use super::{Custom, structural, text};
use orlop_apimachinery::field::{self, Path};
use orlop_apimachinery::quantity::Quantity;
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Number, Value};
use std::collections::HashMap;

/// Most faults that are told.
const MOST: usize = 100;

/// The patterns of a schema, compiled.
pub(super) fn patterns(schema: &Value) -> HashMap<String, regex::Regex> {
    let mut out = HashMap::new();
    structural::walk(schema, "", &mut |_, inner| {
        let pattern = text(inner, &["pattern"]);
        if !pattern.is_empty()
            && let Ok(compiled) = regex::Regex::new(pattern)
        {
            out.insert(pattern.to_owned(), compiled);
        }
    });
    out
}

/// Faults of an object.
pub(crate) fn object(custom: &Custom, value: &Value) -> Vec<Cause> {
    let mut check = Check { patterns: &custom.patterns, faults: Vec::new() };
    check.at(&custom.schema, value, &Path::root());
    check.faults
}

/// Faults of a value by a schema of which nothing was prepared.
pub(super) fn against(schema: &Value, value: &Value, path: &Path) -> Vec<Cause> {
    let mut check = Check { patterns: &patterns(schema), faults: Vec::new() };
    check.at(schema, value, path);
    check.faults
}

struct Check<'a> {
    patterns: &'a HashMap<String, regex::Regex>,
    faults: Vec<Cause>,
}

/// What a schema calls the value.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(n) if n.as_f64().is_some_and(|f| f.fract() == 0.0) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is(schema: &Value, key: &str) -> bool {
    schema.get(key).is_some_and(|v| *v == true)
}

fn size(schema: &Value, key: &str) -> Option<usize> {
    schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
}

impl Check<'_> {
    fn put(&mut self, cause: Cause) {
        if self.faults.len() < MOST {
            self.faults.push(cause);
        }
    }

    fn invalid(&mut self, path: &Path, value: &Value, detail: &str) {
        let detail = format!("{} in body {detail}", path.as_str());
        self.put(field::invalid(path, value.clone(), detail.trim_start()));
    }

    fn at(&mut self, schema: &Value, value: &Value, path: &Path) {
        if !schema.is_object() {
            return;
        }
        if value.is_null() && is(schema, "nullable") {
            return;
        }
        if !self.typed(schema, value, path) {
            return;
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            let texts: Vec<String> =
                allowed.iter().map(|a| a.as_str().map_or_else(|| a.to_string(), str::to_owned)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            self.put(field::not_supported(path, value.clone(), &texts));
        }
        match value {
            Value::String(s) => self.string(schema, s, value, path),
            Value::Number(n) => self.number(schema, n, value, path),
            Value::Array(items) => self.array(schema, items, value, path),
            Value::Object(map) => self.map(schema, map, value, path),
            Value::Null | Value::Bool(_) => {}
        }
        self.junctors(schema, value, path);
    }

    fn typed(&mut self, schema: &Value, value: &Value, path: &Path) -> bool {
        let found = type_of(value);
        if is(schema, "x-kubernetes-int-or-string") {
            let good = matches!(found, "integer" | "string");
            if !good {
                self.mismatch(path, "integer,string", found);
            }
            return good;
        }
        let wanted = text(schema, &["type"]);
        let good = wanted.is_empty() || wanted == found || (wanted == "number" && found == "integer");
        if !good {
            self.mismatch(path, wanted, found);
        }
        good
    }

    fn mismatch(&mut self, path: &Path, wanted: &str, found: &str) {
        let detail = format!("{} in body must be of type {wanted}: \"{found}\"", path.as_str());
        self.put(field::type_invalid(path, found, &detail));
    }

    fn string(&mut self, schema: &Value, s: &str, value: &Value, path: &Path) {
        let length = s.chars().count();
        if let Some(most) = size(schema, "maxLength")
            && length > most
        {
            self.put(field::too_long(path, most));
        }
        if let Some(least) = size(schema, "minLength")
            && length < least
        {
            self.invalid(path, value, &format!("should be at least {least} chars long"));
        }
        let pattern = text(schema, &["pattern"]);
        if let Some(compiled) = self.patterns.get(pattern)
            && !compiled.is_match(s)
        {
            self.invalid(path, value, &format!("should match '{pattern}'"));
        }
        let format = text(schema, &["format"]);
        if !formatted(format, s) {
            self.invalid(path, value, &format!("must be of type {format}: {value}"));
        }
    }

    fn number(&mut self, schema: &Value, n: &Number, value: &Value, path: &Path) {
        let Some(n) = n.as_f64() else { return };
        if let Some(most) = schema.get("maximum").and_then(Value::as_f64) {
            let exclusive = is(schema, "exclusiveMaximum");
            if n > most || (exclusive && n >= most) {
                let word = if exclusive { "less than" } else { "less than or equal to" };
                self.invalid(path, value, &format!("should be {word} {most}"));
            }
        }
        if let Some(least) = schema.get("minimum").and_then(Value::as_f64) {
            let exclusive = is(schema, "exclusiveMinimum");
            if n < least || (exclusive && n <= least) {
                let word = if exclusive { "greater than" } else { "greater than or equal to" };
                self.invalid(path, value, &format!("should be {word} {least}"));
            }
        }
        if let Some(unit) = schema.get("multipleOf").and_then(Value::as_f64)
            && unit > 0.0
            && ((n / unit) - (n / unit).round()).abs() > 1e-9
        {
            self.invalid(path, value, &format!("should be a multiple of {unit}"));
        }
        let range = match text(schema, &["format"]) {
            "int32" => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            _ => None,
        };
        if range.is_some_and(|(low, high)| n < low || n > high) {
            self.invalid(path, value, "must be of type int32");
        }
    }

    fn array(&mut self, schema: &Value, items: &[Value], value: &Value, path: &Path) {
        if let Some(most) = size(schema, "maxItems")
            && items.len() > most
        {
            self.put(field::too_many(path, items.len(), most));
        }
        if let Some(least) = size(schema, "minItems")
            && items.len() < least
        {
            self.invalid(path, value, &format!("should have at least {least} items"));
        }
        let keys: Vec<&str> = schema
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let identity = match text(schema, &["x-kubernetes-list-type"]) {
            "set" => Some(Value::to_string as fn(&Value) -> String),
            "map" => None,
            _ if is(schema, "uniqueItems") => Some(Value::to_string as fn(&Value) -> String),
            _ => None,
        };
        let mut seen = std::collections::HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let here = path.index(index);
            if let Some(inner) = schema.get("items") {
                self.at(inner, item, &here);
            }
            let (id, shown) = match identity {
                Some(identity) => (identity(item), item.clone()),
                None if !keys.is_empty() => {
                    let only: Map<String, Value> =
                        keys.iter().filter_map(|k| Some(((*k).to_owned(), item.get(*k)?.clone()))).collect();
                    let only = Value::Object(only);
                    (only.to_string(), only)
                }
                None => continue,
            };
            if !seen.insert(id) {
                self.put(field::duplicate(&here, shown));
            }
        }
    }

    fn map(&mut self, schema: &Value, map: &Map<String, Value>, value: &Value, path: &Path) {
        let child = |key: &str| if path.as_str().is_empty() { Path::new(key) } else { path.child(key) };
        if let Some(most) = size(schema, "maxProperties")
            && map.len() > most
        {
            self.put(field::too_many(path, map.len(), most));
        }
        if let Some(least) = size(schema, "minProperties")
            && map.len() < least
        {
            self.invalid(path, value, &format!("should have at least {least} properties"));
        }
        for key in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            if let Some(key) = key.as_str()
                && !map.contains_key(key)
            {
                self.put(field::required(&child(key), ""));
            }
        }
        if is(schema, "x-kubernetes-embedded-resource") {
            for key in ["apiVersion", "kind"] {
                if map.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
                    self.put(field::required(&child(key), "must not be empty"));
                }
            }
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties").filter(|a| a.is_object());
        for (key, inner) in map {
            if let Some(known) = properties.and_then(|p| p.get(key)) {
                self.at(known, inner, &child(key));
            } else if let Some(known) = additional {
                self.at(known, inner, &child(key));
            }
        }
    }

    /// Whether the value has no fault by `schema`.
    fn passes(&self, schema: &Value, value: &Value) -> bool {
        let mut other = Check { patterns: self.patterns, faults: Vec::new() };
        other.at(schema, value, &Path::root());
        other.faults.is_empty()
    }

    fn junctors(&mut self, schema: &Value, value: &Value, path: &Path) {
        let list = |key: &str| schema.get(key).and_then(Value::as_array);
        for inner in list("allOf").into_iter().flatten() {
            self.at(inner, value, path);
        }
        if let Some(any) = list("anyOf")
            && !any.is_empty()
            && !any.iter().any(|s| self.passes(s, value))
        {
            self.invalid(path, value, "must validate at least one schema (anyOf)");
        }
        if let Some(one) = list("oneOf")
            && !one.is_empty()
            && one.iter().filter(|s| self.passes(s, value)).count() != 1
        {
            self.invalid(path, value, "must validate one and only one schema (oneOf)");
        }
        if let Some(not) = schema.get("not").filter(|n| n.is_object())
            && self.passes(not, value)
        {
            self.invalid(path, value, "must not validate the schema (not)");
        }
    }
}

/// Whether a string has the format; unknown ones are not checked, as upstream.
fn formatted(format: &str, s: &str) -> bool {
    match format {
        "date-time" => s.parse::<jiff::Timestamp>().is_ok(),
        "date" => s.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => s.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => s.parse::<std::net::Ipv6Addr>().is_ok(),
        "uuid" => uuid::Uuid::parse_str(s).is_ok(),
        "quantity" => s.parse::<Quantity>().is_ok(),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(s).is_ok()
        }
        _ => true,
    }
}
