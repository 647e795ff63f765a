//! What of a request an admission plugin sees: whether a rule matches, and what is cut out of the object.

use super::admission::{AdmissionManifest, Rule};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

impl Rule {
    /// Whether the rule matches a request, its scope aside. `operation` is `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[must_use]
    pub fn matches(&self, operation: &str, group: &str, resource: &str, subresource: &str) -> bool {
        let one = |list: &[String], value: &str| list.iter().any(|v| v == "*" || v == value);
        one(&self.operations, operation)
            && one(&self.api_groups, group)
            && self.resources.iter().any(|pattern| match pattern.split_once('/') {
                None => subresource.is_empty() && (pattern == "*" || pattern == resource),
                Some((of, sub)) => (of == "*" || of == resource) && (sub == "*" || sub == subresource),
            })
    }

    /// Whether the scope matches; a Namespace lies in no namespace, whatever its request says.
    #[must_use]
    pub fn matches_scope(&self, namespaced: bool) -> bool {
        match self.scope.as_str() {
            "Namespaced" => namespaced,
            "Cluster" => !namespaced,
            _ => true,
        }
    }
}

/// An object, or some of its members.
#[derive(Serialize)]
#[serde(untagged)]
enum Part<'v> {
    Whole(&'v Value),
    Some(BTreeMap<&'v str, Part<'v>>),
}

impl AdmissionManifest {
    /// JSON of the parts of `object` that the projection names; of all of it where there is none.
    #[must_use]
    pub fn project(&self, object: &Value) -> Vec<u8> {
        if self.projection.is_empty() {
            return serde_json::to_vec(object).unwrap_or_default();
        }
        let mut out = Part::Some(BTreeMap::new());
        for path in &self.projection {
            let (mut from, mut to) = (object, &mut out);
            let mut keys = path.split('.').peekable();
            // The objects on the way are there even where the leaf is not, so that a plugin knows
            // whether it must make them.
            while let Some(key) = keys.next() {
                let (Some((key, found)), Part::Some(map)) = (member(from, key), to) else { break };
                if keys.peek().is_none() {
                    map.insert(key, Part::Whole(found));
                    break;
                }
                if !found.is_object() {
                    break;
                }
                (from, to) = (found, map.entry(key).or_insert_with(|| Part::Some(BTreeMap::new())));
            }
        }
        serde_json::to_vec(&out).unwrap_or_default()
    }
}

/// A member of an object, with its name as it stands there.
fn member<'v>(object: &'v Value, key: &str) -> Option<(&'v str, &'v Value)> {
    object.as_object()?.get_key_value(key).map(|(key, value)| (key.as_str(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn projections_keep_what_they_name() {
        let manifest = |projection: Value| -> AdmissionManifest {
            let json = json!({ "phases": ["mutate"], "rules": [], "projection": projection });
            serde_json::from_value(json).unwrap()
        };
        let object = json!({ "metadata": { "name": "a", "uid": "u" }, "spec": { "x": 1, "y": { "z": 2 } }, "status": {} });
        let part = manifest(json!(["metadata.name", "spec.y", "spec.none.deep"])).project(&object);
        let part: Value = serde_json::from_slice(&part).unwrap();
        assert_eq!(part, json!({ "metadata": { "name": "a" }, "spec": { "y": { "z": 2 } } }));
        let part = manifest(json!(["spec.y", "spec", "spec.x"])).project(&object);
        let part: Value = serde_json::from_slice(&part).unwrap();
        assert_eq!(part, json!({ "spec": { "x": 1, "y": { "z": 2 } } }));
        let all: Value = serde_json::from_slice(&manifest(json!([])).project(&object)).unwrap();
        assert_eq!(all, object);
    }
}
