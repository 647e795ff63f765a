//! LimitRanges and resource lists.

use orlop_sdk::apimachinery::quantity::Quantity;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Resource name to amount.
pub(crate) type ResourceList = BTreeMap<String, Quantity>;

/// `v1.LimitRange`, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LimitRange {
    metadata: Metadata,
    pub(crate) spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    pub(crate) limits: Vec<Item>,
}

/// `v1.LimitRangeItem`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Item {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) max: ResourceList,
    pub(crate) min: ResourceList,
    pub(crate) default: ResourceList,
    pub(crate) default_request: ResourceList,
    pub(crate) max_limit_request_ratio: ResourceList,
}

/// Reads the context object; in the order of their names, so that the outcome is always the same.
pub(crate) fn limit_ranges(context: &Value) -> Result<Vec<LimitRange>, String> {
    let mut ranges: Vec<LimitRange> = match context {
        Value::Null => Vec::new(),
        list => {
            serde_json::from_value(list.clone()).map_err(|e| format!("a LimitRange cannot be read: {e}"))?
        }
    };
    ranges.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for item in ranges.iter_mut().flat_map(|r| &mut r.spec.limits) {
        fill(item);
    }
    Ok(ranges)
}

/// The defaults of `v1.LimitRangeItem`: limits default to the maximum, requests to the limits'
/// defaults and then to the minimum.
fn fill(item: &mut Item) {
    if item.kind != "Container" {
        return;
    }
    for (to, from) in [
        (Field::Default, Field::Max),
        (Field::DefaultRequest, Field::Default),
        (Field::DefaultRequest, Field::Min),
    ] {
        let source = match from {
            Field::Max => item.max.clone(),
            Field::Min => item.min.clone(),
            Field::Default => item.default.clone(),
            Field::DefaultRequest => continue,
        };
        let target = if matches!(to, Field::Default) { &mut item.default } else { &mut item.default_request };
        for (name, amount) in source {
            target.entry(name).or_insert(amount);
        }
    }
}

enum Field {
    Max,
    Min,
    Default,
    DefaultRequest,
}

/// A resource list below `owner`, such as a container's `resources.requests`.
pub(crate) fn list(owner: &Value, pointer: &str) -> ResourceList {
    let Some(map) = owner.pointer(pointer).and_then(Value::as_object) else { return ResourceList::new() };
    map.iter()
        .filter_map(|(name, amount)| {
            let amount = match amount {
                Value::String(text) => Quantity::parse(text).ok()?,
                other => Quantity::parse(&other.to_string()).ok()?,
            };
            Some((name.clone(), amount))
        })
        .collect()
}

/// Requests or limits of the whole pod (`field` says which): the sum over the containers, or what the init
/// containers need at their time if that is more; sidecars run along from their turn on. What the
/// pod declares for itself counts instead.
pub(crate) fn of_pod(pod: &Value, field: &str) -> ResourceList {
    let path = format!("/resources/{field}");
    let containers = |name: &str| pod.pointer("/spec").and_then(|s| s.get(name)).and_then(Value::as_array);
    let mut total = ResourceList::new();
    for container in containers("containers").into_iter().flatten() {
        add(&mut total, &list(container, &path));
    }
    let mut sidecars = ResourceList::new();
    let mut init = ResourceList::new();
    for container in containers("initContainers").into_iter().flatten() {
        let mut own = list(container, &path);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut init, &own);
    }
    raise(&mut total, &init);
    total.extend(list(pod, &format!("/spec{path}")));
    total
}

fn add(to: &mut ResourceList, from: &ResourceList) {
    for (name, amount) in from {
        let sum = to.get(name).map_or(*amount, |have| have.add(*amount));
        to.insert(name.clone(), sum);
    }
}

fn raise(to: &mut ResourceList, from: &ResourceList) {
    for (name, amount) in from {
        let most = to.get(name).map_or(*amount, |have| (*have).max(*amount));
        to.insert(name.clone(), most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_needs_the_more_of_start_and_run() {
        let needs = |cpu: &str| json!({ "resources": { "requests": { "cpu": cpu } } });
        let mut sidecar = needs("100m");
        sidecar["restartPolicy"] = json!("Always");
        let mut pod = json!({ "spec": { "containers": [needs("1"), needs("500m")], "initContainers": [sidecar, needs("3")] } });
        assert_eq!(of_pod(&pod, "requests")["cpu"].to_string(), "3100m");
        pod["spec"]["initContainers"][1] = needs("1");
        assert_eq!(of_pod(&pod, "requests")["cpu"].to_string(), "1600m");
        pod["spec"]["resources"] = json!({ "requests": { "cpu": "5" } });
        assert_eq!(of_pod(&pod, "requests")["cpu"].to_string(), "5");
    }

    #[test]
    fn items_are_filled_in_as_the_api_does() {
        let context = json!([{ "metadata": { "name": "l" }, "spec": { "limits": [
            { "type": "Container", "max": { "cpu": "2" }, "min": { "memory": "1Mi" } },
            { "type": "Pod", "max": { "cpu": "2" } }
        ] } }]);
        let ranges = limit_ranges(&context).unwrap();
        let container = &ranges[0].spec.limits[0];
        assert_eq!(container.default["cpu"].to_string(), "2");
        assert_eq!(container.default_request["cpu"].to_string(), "2");
        assert_eq!(container.default_request["memory"].to_string(), "1Mi");
        assert!(ranges[0].spec.limits[1].default.is_empty());
    }
}
