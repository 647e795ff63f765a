//! Fills in what containers leave open. Source: `plugin/pkg/admission/limitranger`.

use crate::resources::{LimitRange, ResourceList, list};
use orlop_sdk::admission::Patch;
use serde_json::{Map, Value, json};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Sets the defaults of all ranges, the first that has one winning, and notes on the pod what was set.
pub(crate) fn patch(ranges: &[LimitRange], pod: &Value) -> Patch {
    let mut patch = Patch::new();
    let mut notes = Vec::new();
    let mut limits = ResourceList::new();
    let mut requests = ResourceList::new();
    for item in ranges.iter().flat_map(|r| &r.spec.limits).filter(|i| i.kind == "Container") {
        merge(&mut limits, &item.default);
        merge(&mut requests, &item.default_request);
    }
    for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.pointer("/spec").and_then(|s| s.get(field)).and_then(Value::as_array);
        for (i, container) in containers.into_iter().flatten().enumerate() {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            for (kind, word, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let set = missing(container, kind, defaults);
                if set.is_empty() {
                    continue;
                }
                let names: Vec<&str> = set.keys().map(String::as_str).collect();
                notes.push(format!("{} {word} for {what} {name}", names.join(", ")));
            }
            if let Some(resources) = filled(container, &requests, &limits) {
                patch.set(pod, &["spec", field, &i.to_string(), "resources"], resources);
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        patch.set(pod, &["metadata", "annotations", ANNOTATION], json!(note));
    }
    patch
}

fn merge(to: &mut ResourceList, from: &ResourceList) {
    for (name, amount) in from {
        to.entry(name.clone()).or_insert(*amount);
    }
}

fn missing(container: &Value, kind: &str, defaults: &ResourceList) -> ResourceList {
    let present = list(container, &format!("/resources/{kind}"));
    defaults.iter().filter(|(name, _)| !present.contains_key(*name)).map(|(n, a)| (n.clone(), *a)).collect()
}

/// The container's resources with all that is missing; `None` where nothing is.
fn filled(container: &Value, requests: &ResourceList, limits: &ResourceList) -> Option<Value> {
    let mut resources = container.get("resources").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut changed = false;
    for (kind, defaults) in [("requests", requests), ("limits", limits)] {
        for (name, amount) in missing(container, kind, defaults) {
            changed = true;
            let entry = resources.entry(kind).or_insert_with(|| Value::Object(Map::new()));
            if let Some(map) = entry.as_object_mut() {
                map.insert(name, json!(amount.to_string()));
            }
        }
    }
    changed.then_some(Value::Object(resources))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::limit_ranges;

    fn ops(limits: Value, pod: &Value) -> Value {
        let context = json!([{ "metadata": { "name": "l" }, "spec": { "limits": limits } }]);
        let patch = patch(&limit_ranges(&context).unwrap(), pod);
        serde_json::from_slice(&patch.into_bytes()).unwrap_or(Value::Null)
    }

    #[test]
    fn defaults_fill_what_is_missing_and_say_so() {
        let limits = json!([{ "type": "Container", "default": { "cpu": "1", "memory": "64Mi" }, "defaultRequest": { "cpu": "100m" } }]);
        let pod = json!({ "metadata": { "name": "p" }, "spec": {
            "containers": [{ "name": "a", "resources": { "limits": { "cpu": "2" } } }],
            "initContainers": [{ "name": "i" }]
        } });
        assert_eq!(
            ops(limits, &pod),
            json!([
                { "op": "add", "path": "/spec/containers/0/resources", "value": {
                    "limits": { "cpu": "2", "memory": "64Mi" }, "requests": { "cpu": "100m", "memory": "64Mi" } } },
                { "op": "add", "path": "/spec/initContainers/0/resources", "value": {
                    "limits": { "cpu": "1", "memory": "64Mi" }, "requests": { "cpu": "100m", "memory": "64Mi" } } },
                { "op": "add", "path": "/metadata/annotations", "value": { (ANNOTATION):
                    "LimitRanger plugin set: cpu, memory request for container a; memory limit for container a; cpu, memory request for init container i; cpu, memory limit for init container i" } }
            ])
        );
    }

    #[test]
    fn nothing_is_set_where_nothing_is_missing_or_defaulted() {
        let full = json!({ "spec": { "containers": [{ "resources": { "limits": { "cpu": "1" }, "requests": { "cpu": "1" } } }] } });
        assert_eq!(ops(json!([{ "type": "Container", "default": { "cpu": "1" } }]), &full), Value::Null);
        assert_eq!(
            ops(
                json!([{ "type": "Pod", "max": { "cpu": "1" } }]),
                &json!({ "spec": { "containers": [{}] } })
            ),
            Value::Null
        );
    }
}
