//! Reads single fields out of an object's JSON in one pass, without building a tree.

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A parsed list of dotted paths, read together.
#[derive(Clone, Debug)]
pub(crate) struct Paths(Vec<Vec<String>>);

impl Paths {
    pub(crate) fn new(paths: &[String]) -> Self {
        Self(paths.iter().map(|p| p.split('.').map(str::to_owned).collect()).collect())
    }

    /// The bytes of each field as they stand, `None` where it is absent.
    fn read<'b>(&self, json: &'b [u8]) -> Vec<Option<&'b RawValue>> {
        let mut found = vec![None; self.0.len()];
        let wants = self.0.iter().map(Vec::as_slice).enumerate().collect();
        let mut parser = serde_json::Deserializer::from_slice(json);
        // Objects in a cache are well-formed; on anything else nothing is found.
        if (Seek { wants, found: &mut found }).deserialize(&mut parser).is_err() {
            found.fill(None);
        }
        found
    }

    /// Whether at least one field differs between two objects in canonical JSON.
    pub(crate) fn differ(&self, a: &[u8], b: &[u8]) -> bool {
        let (a, b) = (self.read(a), self.read(b));
        a.iter().zip(&b).any(|(x, y)| x.map(RawValue::get) != y.map(RawValue::get))
    }
}

/// One field of an object; `None` where it is absent.
pub(crate) fn field(json: &[u8], path: &str) -> Option<Value> {
    let paths = Paths::new(&[path.to_owned()]);
    let raw = paths.read(json).into_iter().next().flatten()?;
    serde_json::from_str(raw.get()).ok()
}

/// One text field of an object; empty where it is absent or no text.
pub(crate) fn text(json: &[u8], path: &str) -> String {
    match field(json, path) {
        Some(Value::String(s)) => s,
        _ => String::new(),
    }
}

struct Seek<'p, 'f, 'de> {
    wants: Vec<(usize, &'p [String])>,
    found: &'f mut Vec<Option<&'de RawValue>>,
}

impl<'de> DeserializeSeed<'de> for Seek<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let deeper: Vec<(usize, &[String])> = self
                .wants
                .iter()
                .filter_map(|(at, path)| {
                    path.split_first().filter(|(head, _)| **head == key).map(|(_, t)| (*at, t))
                })
                .collect();
            if deeper.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else if deeper.iter().any(|(_, path)| path.is_empty()) {
                let raw = map.next_value::<&'de RawValue>()?;
                for (at, path) in deeper {
                    let value = if path.is_empty() { Some(raw) } else { inner(raw, path) };
                    if let Some(slot) = self.found.get_mut(at) {
                        *slot = value;
                    }
                }
            } else {
                map.next_value_seed(Seek { wants: deeper, found: self.found })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A field below another wanted one.
fn inner<'de>(raw: &'de RawValue, path: &[String]) -> Option<&'de RawValue> {
    let mut found = vec![None];
    let mut parser = serde_json::Deserializer::from_str(raw.get());
    Seek { wants: vec![(0, path)], found: &mut found }.deserialize(&mut parser).ok()?;
    found.into_iter().next().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_fields_and_sees_differences() {
        let pod = |node: &str, phase: &str| {
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": node, "list": [1, {"x": null}]},
                   "status": {"phase": phase}})
            .to_string()
        };
        let (a, b) = (pod("n1", "Running"), pod("n1", "Failed"));
        assert_eq!(text(a.as_bytes(), "spec.nodeName"), "n1");
        assert_eq!(field(a.as_bytes(), "metadata.labels"), Some(json!({"a": "b"})));
        assert_eq!(field(a.as_bytes(), "spec.nothing"), None);
        assert_eq!(field(a.as_bytes(), "spec.nodeName.deeper"), None);
        let differ = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
            Paths::new(&paths).differ(a.as_bytes(), b.as_bytes())
        };
        assert!(differ(&["status.phase"]));
        assert!(differ(&["spec", "status", "status.phase"]));
        assert!(!differ(&["spec.nodeName", "spec", "metadata.labels", "gone"]));
    }
}
