//! What other objects say about a pod: the labels of its namespace, and the selectors of the Services and
//! controllers that it belongs to. They are `computed.namespaceLabels` and `computed.defaultSelector`.
//!
//! Which pods a change concerns is told by [`Affected`], so that only those are read anew.

use orlop_apimachinery::{Gvr, Object};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Kinds of objects that say something about pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Surrounding {
    /// By its labels.
    Namespace,
    /// By its selector, as the others.
    Service,
    /// See there.
    ReplicationController,
    /// See there.
    ReplicaSet,
    /// See there.
    StatefulSet,
    /// Says nothing about pods, but about their eviction.
    PodDisruptionBudget,
}

impl Surrounding {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Namespace,
        Self::Service,
        Self::ReplicationController,
        Self::ReplicaSet,
        Self::StatefulSet,
        Self::PodDisruptionBudget,
    ];

    /// Where they are served.
    #[must_use]
    pub const fn gvr(self) -> Gvr {
        match self {
            Self::Namespace => Gvr::new("", "v1", "namespaces"),
            Self::Service => Gvr::new("", "v1", "services"),
            Self::ReplicationController => Gvr::new("", "v1", "replicationcontrollers"),
            Self::ReplicaSet => Gvr::new("apps", "v1", "replicasets"),
            Self::StatefulSet => Gvr::new("apps", "v1", "statefulsets"),
            Self::PodDisruptionBudget => Gvr::new("policy", "v1", "poddisruptionbudgets"),
        }
    }

    /// The kind of controller that an owner reference names.
    fn of_owner(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            ("v1", "ReplicationController") => Some(Self::ReplicationController),
            ("apps/v1", "ReplicaSet") => Some(Self::ReplicaSet),
            ("apps/v1", "StatefulSet") => Some(Self::StatefulSet),
            _ => None,
        }
    }
}

/// The pods that a change concerns.
#[derive(Clone, Debug, PartialEq)]
pub struct Affected {
    kind: Surrounding,
    namespace: String,
    name: String,
    /// Of a Service, before and after.
    selectors: Vec<Value>,
}

impl Affected {
    /// Whether placed pods are among them; else only pods that wait are.
    #[must_use]
    pub fn placed(&self) -> bool {
        self.kind == Surrounding::Namespace
    }

    /// Whether the pod is one of them.
    #[must_use]
    pub fn concerns(&self, pod: &Object) -> bool {
        if pod.namespace() != self.namespace {
            return false;
        }
        match self.kind {
            Surrounding::Namespace => true,
            Surrounding::Service => self.selectors.iter().any(|s| selects(s, |key| pod.label(key))),
            kind => pod.controller_ref().is_some_and(|owner| {
                Surrounding::of_owner(&owner.api_version, &owner.kind) == Some(kind)
                    && *owner.name == *self.name
            }),
        }
    }
}

/// Whether a Service's selector, a map, selects labels. An empty one selects nothing.
fn selects<'a>(selector: &Value, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    selector
        .as_object()
        .is_some_and(|s| !s.is_empty() && s.iter().all(|(key, value)| label(key) == value.as_str()))
}

type Owner = (Surrounding, String);

/// What is known of these objects.
#[derive(Debug, Default)]
pub struct Surroundings {
    reads_labels: bool,
    reads_selector: bool,
    labels: HashMap<String, Value>,
    /// Selectors of Services by namespace and name.
    services: HashMap<String, BTreeMap<String, Value>>,
    /// Selectors of controllers by namespace.
    owners: HashMap<String, HashMap<Owner, Value>>,
    /// Controllers that some pod was looked up by, known or not.
    sought: HashMap<String, HashSet<Owner>>,
}

impl Surroundings {
    /// Says what plugins read: `computed.namespaceLabels`, `computed.defaultSelector`.
    pub fn read(&mut self, labels: bool, selector: bool) {
        (self.reads_labels, self.reads_selector) = (labels, selector);
    }

    /// An object appeared, changed, or went. Says which pods have to be read anew, if any.
    pub fn change(
        &mut self,
        kind: Surrounding,
        namespace: &str,
        name: &str,
        object: Option<&Object>,
    ) -> Option<Affected> {
        let affected = |namespace: &str, selectors| {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Some(Affected { kind, namespace, name, selectors })
        };
        let value = object.map(Object::to_value);
        let selector = |value: Value| value.pointer("/spec/selector").cloned().filter(|s| !s.is_null());
        match kind {
            Surrounding::Namespace => {
                let labels =
                    value.map(|v| v.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({})));
                let before = replace(&mut self.labels, name, labels.clone());
                (self.reads_labels && before != labels).then(|| affected(name, Vec::new())).flatten()
            }
            Surrounding::Service => {
                let selector = value.and_then(selector);
                let services = self.services.entry(namespace.to_owned()).or_default();
                let before = match &selector {
                    Some(selector) => services.insert(name.to_owned(), selector.clone()),
                    None => services.remove(name),
                };
                if services.is_empty() {
                    self.services.remove(namespace);
                }
                let changed = self.reads_selector && before != selector;
                changed.then(|| affected(namespace, before.into_iter().chain(selector).collect())).flatten()
            }
            _ => {
                let gone = value.is_none();
                let selector = value.and_then(selector);
                let owner = (kind, name.to_owned());
                let owners = self.owners.entry(namespace.to_owned()).or_default();
                let before = match &selector {
                    Some(selector) => owners.insert(owner.clone(), selector.clone()),
                    None => owners.remove(&owner),
                };
                if owners.is_empty() {
                    self.owners.remove(namespace);
                }
                let mut sought = false;
                if let Some(of_namespace) = self.sought.get_mut(namespace) {
                    sought = if gone { of_namespace.remove(&owner) } else { of_namespace.contains(&owner) };
                    if of_namespace.is_empty() {
                        self.sought.remove(namespace);
                    }
                }
                (self.reads_selector && sought && before != selector)
                    .then(|| affected(namespace, Vec::new()))
                    .flatten()
            }
        }
    }

    /// Adds to a pod's `computed` fields what plugins read.
    pub fn complete(&mut self, pod: &mut Value) {
        if !self.reads_labels && !self.reads_selector {
            return;
        }
        let namespace = pod.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("").to_owned();
        let labels =
            self.reads_labels.then(|| self.labels.get(&namespace).cloned().unwrap_or_else(|| json!({})));
        let selector = self.reads_selector.then(|| self.selector_of(&namespace, pod));
        if let Some(computed) = pod.get_mut("computed").and_then(Value::as_object_mut) {
            computed.extend(labels.map(|labels| ("namespaceLabels".to_owned(), labels)));
            computed.extend(selector.map(|selector| ("defaultSelector".to_owned(), selector)));
        }
    }

    /// The selectors of the pod's Services and of its controller in one.
    ///
    /// Source: `DefaultSelector` of `pkg/scheduler/framework/plugins/helper` of Kubernetes v1.36.
    fn selector_of(&mut self, namespace: &str, pod: &Value) -> Value {
        let label =
            |key: &str| pod.pointer("/metadata/labels").and_then(|l| l.get(key)).and_then(Value::as_str);
        let mut equal: Map<String, Value> = Map::new();
        let mut expressions: Vec<Value> = Vec::new();
        for selector in self.services.get(namespace).into_iter().flat_map(BTreeMap::values) {
            if selects(selector, label) {
                equal.extend(selector.as_object().cloned().unwrap_or_default());
            }
        }
        let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let owner = owners.into_iter().flatten().find(|o| o.get("controller") == Some(&Value::Bool(true)));
        let text = |owner: &Value, key: &str| owner.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        let owner = owner.and_then(|o| {
            Some((Surrounding::of_owner(&text(o, "apiVersion"), &text(o, "kind"))?, text(o, "name")))
        });
        if let Some(owner) = owner {
            let selector = self.owners.get(namespace).and_then(|o| o.get(&owner));
            if owner.0 == Surrounding::ReplicationController {
                equal.extend(selector.and_then(Value::as_object).cloned().unwrap_or_default());
            } else if let Some(selector) = selector {
                let labels = selector.get("matchLabels").and_then(Value::as_object);
                equal.extend(labels.cloned().unwrap_or_default());
                let more = selector.get("matchExpressions").and_then(Value::as_array);
                expressions.extend(more.cloned().unwrap_or_default());
            }
            self.sought.entry(namespace.to_owned()).or_default().insert(owner);
        }
        match (equal.is_empty(), expressions.is_empty()) {
            (true, true) => Value::Null,
            (false, true) => json!({"matchLabels": equal}),
            (true, false) => json!({"matchExpressions": expressions}),
            (false, false) => json!({"matchLabels": equal, "matchExpressions": expressions}),
        }
    }
}

fn replace(map: &mut HashMap<String, Value>, key: &str, value: Option<Value>) -> Option<Value> {
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: &Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "computed": {}, "metadata": {
            "namespace": "shop", "name": "web-1", "labels": {"app": "web", "tier": "front"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": true}],
        }})
    }

    fn named(kind: &str, api_version: &str, spec: &Value) -> Object {
        object(&json!({"apiVersion": api_version, "kind": kind,
            "metadata": {"namespace": "shop", "name": "web", "uid": "x", "resourceVersion": "1"}, "spec": spec}))
    }

    #[test]
    fn services_and_the_owner_make_the_default_selector() {
        let mut surroundings = Surroundings::default();
        surroundings.read(true, true);
        let mut waiting = pod();
        surroundings.complete(&mut waiting);
        assert_eq!(waiting["computed"], json!({"namespaceLabels": {}, "defaultSelector": null}));

        let service = named("Service", "v1", &json!({"selector": {"tier": "front"}}));
        let affected = surroundings.change(Surrounding::Service, "shop", "web", Some(&service)).unwrap();
        assert!(affected.concerns(&object(&pod())) && !affected.placed());
        let set = named(
            "ReplicaSet",
            "apps/v1",
            &json!({"selector": {"matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "x", "operator": "Exists"}]}}),
        );
        let affected = surroundings.change(Surrounding::ReplicaSet, "shop", "web", Some(&set)).unwrap();
        assert!(affected.concerns(&object(&pod())));
        // Nobody asked for this one, and a new status is no news of the other.
        assert_eq!(surroundings.change(Surrounding::StatefulSet, "shop", "web", Some(&set)), None);
        assert_eq!(surroundings.change(Surrounding::ReplicaSet, "shop", "web", Some(&set)), None);

        surroundings.complete(&mut waiting);
        let expected = json!({"matchLabels": {"app": "web", "tier": "front"},
            "matchExpressions": [{"key": "x", "operator": "Exists"}]});
        assert_eq!(waiting["computed"]["defaultSelector"], expected);
    }

    #[test]
    fn a_namespace_concerns_all_its_pods() {
        let mut surroundings = Surroundings::default();
        surroundings.read(true, false);
        let namespace = object(&json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "uid": "n", "resourceVersion": "1", "labels": {"team": "a"}}}));
        let affected = surroundings.change(Surrounding::Namespace, "", "shop", Some(&namespace)).unwrap();
        assert!(affected.placed() && affected.concerns(&object(&pod())));
        assert_eq!(surroundings.change(Surrounding::Namespace, "", "shop", Some(&namespace)), None);
        let mut pod = pod();
        surroundings.complete(&mut pod);
        assert_eq!(pod["computed"], json!({"namespaceLabels": {"team": "a"}}));
    }
}
