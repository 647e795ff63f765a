//! Watched objects.

use serde_json::Value;
use std::collections::BTreeMap;

/// An object that appeared, changed or went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectChange {
    /// Position in the manifest's `watches`.
    pub watch: u32,
    /// `metadata.namespace`; empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// The object, cut down to the declared fields; `None` where it went.
    pub object: Option<Value>,
}

/// Keeps the watched objects.
///
/// ```
/// use orlop_sdk::scheduler::{ObjectChange, Objects};
/// use orlop_sdk::serde_json::json;
///
/// let mut objects = Objects::default();
/// let change = ObjectChange {
///     watch: 0,
///     namespace: "shop".into(),
///     name: "prices".into(),
///     object: Some(json!({"data": {"zone-a": "3"}})),
/// };
/// objects.apply(true, vec![change]);
/// let prices = objects.get(0, "shop", "prices").unwrap();
/// assert_eq!(prices["data"]["zone-a"], "3");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// By watch, namespace, name.
    watches: Vec<BTreeMap<String, BTreeMap<String, Value>>>,
}

impl Objects {
    /// Takes in what changed; `full`: `changes` are all there are.
    pub fn apply(&mut self, full: bool, changes: Vec<ObjectChange>) {
        if full {
            self.watches.clear();
        }
        for change in changes {
            let at = change.watch as usize;
            if self.watches.len() <= at {
                self.watches.resize_with(at + 1, BTreeMap::new);
            }
            let Some(watch) = self.watches.get_mut(at) else { continue };
            match change.object {
                Some(object) => {
                    watch.entry(change.namespace).or_default().insert(change.name, object);
                }
                None => {
                    let Some(namespace) = watch.get_mut(&change.namespace) else { continue };
                    namespace.remove(&change.name);
                    if namespace.is_empty() {
                        watch.remove(&change.namespace);
                    }
                }
            }
        }
    }

    /// One object; `namespace` is empty for cluster-scoped ones.
    #[must_use]
    pub fn get(&self, watch: u32, namespace: &str, name: &str) -> Option<&Value> {
        self.watches.get(watch as usize)?.get(namespace)?.get(name)
    }

    /// All objects of a watch as namespace, name, object; in order of these.
    pub fn iter(&self, watch: u32) -> impl Iterator<Item = (&str, &str, &Value)> {
        self.watches.get(watch as usize).into_iter().flatten().flat_map(|(namespace, objects)| {
            objects.iter().map(move |(name, object)| (namespace.as_str(), name.as_str(), object))
        })
    }

    /// The objects of a watch in one namespace, in order of their names.
    pub fn in_namespace(&self, watch: u32, namespace: &str) -> impl Iterator<Item = (&str, &Value)> {
        let objects = self.watches.get(watch as usize).and_then(|w| w.get(namespace));
        objects.into_iter().flatten().map(|(name, object)| (name.as_str(), object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn change(namespace: &str, name: &str, object: Option<Value>) -> ObjectChange {
        ObjectChange { watch: 1, namespace: namespace.into(), name: name.into(), object }
    }

    fn names(objects: &Objects) -> Vec<String> {
        objects.iter(1).map(|(namespace, name, _)| format!("{namespace}/{name}")).collect()
    }

    #[test]
    fn follows_changes_and_starts_over() {
        let mut objects = Objects::default();
        let all = vec![
            change("b", "x", Some(json!(1))),
            change("a", "y", Some(json!(2))),
            change("a", "x", Some(json!(3))),
        ];
        objects.apply(true, all);
        assert_eq!(names(&objects), ["a/x", "a/y", "b/x"]);
        objects.apply(false, vec![change("b", "x", None), change("a", "x", Some(json!(4)))]);
        assert_eq!(names(&objects), ["a/x", "a/y"]);
        assert_eq!(objects.get(1, "a", "x"), Some(&json!(4)));
        assert_eq!(objects.in_namespace(1, "a").count(), 2);
        assert_eq!(objects.iter(0).count(), 0, "no object of another watch");
        objects.apply(true, vec![change("", "z", Some(json!({})))]);
        assert_eq!(names(&objects), ["/z"]);
    }
}
