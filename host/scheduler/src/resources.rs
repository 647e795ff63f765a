//! What a pod asks of a node, by Kubernetes' rules.
//!
//! The effective request is, per resource, the higher of (a) the sum over containers and sidecars
//! and (b) the highest init container together with the sidecars that started before it; plus the
//! overhead; or the pod-level request where one is set. Source: `component-helpers/resource` of
//! Kubernetes v1.36.

use orlop_apimachinery::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// CPU that a container without a request counts as when nodes are scored: milli-CPU.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Memory that a container without a request counts as when nodes are scored: bytes.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource name: milli-CPU for `cpu`, else units. Sorted, without zeros that nobody set.
pub type Amounts = BTreeMap<String, i64>;

/// Parses a quantity as integer, rounded up; `cpu` in thousandths.
///
/// Returns `None` for what is no quantity. What does not fit saturates.
#[must_use]
pub fn amount(resource: &str, quantity: &Value) -> Option<i64> {
    let quantity = match quantity {
        Value::String(text) => Quantity::parse(text).ok()?,
        Value::Number(n) => Quantity::parse(&n.to_string()).ok()?,
        _ => return None,
    };
    Some(if resource == "cpu" { quantity.milli_value() } else { quantity.value() })
}

/// What a pod requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// As accounted.
    pub exact: Amounts,
    /// Milli-CPU, as scored.
    pub nonzero_cpu: i64,
    /// Bytes, as scored.
    pub nonzero_memory: i64,
}

/// The requests of the pod whose `spec` this is.
#[must_use]
pub fn pod_requests(spec: &Value) -> Requests {
    let exact = effective(spec, false);
    let nonzero = effective(spec, true);
    Requests {
        nonzero_cpu: nonzero.get("cpu").copied().unwrap_or(0),
        nonzero_memory: nonzero.get("memory").copied().unwrap_or(0),
        exact,
    }
}

fn effective(spec: &Value, with_defaults: bool) -> Amounts {
    let pod_level = requests_of(spec);
    let container_requests = |container: &Value| {
        let mut requests = requests_of(container);
        if with_defaults {
            // A pod-level request stands for all containers: none of them is missing one then.
            for (name, value) in [("cpu", DEFAULT_MILLI_CPU), ("memory", DEFAULT_MEMORY)] {
                if !pod_level.contains_key(name) {
                    requests.entry(name.to_owned()).or_insert(value);
                }
            }
        }
        requests
    };
    let mut total = Amounts::new();
    for container in items(spec, "containers") {
        add(&mut total, &container_requests(container));
    }
    let mut sidecars = Amounts::new();
    let mut init_peak = Amounts::new();
    for container in items(spec, "initContainers") {
        let mut requests = container_requests(container);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut total, &requests);
            add(&mut sidecars, &requests);
            requests = sidecars.clone();
        } else {
            add(&mut requests, &sidecars);
        }
        raise(&mut init_peak, &requests);
    }
    raise(&mut total, &init_peak);
    for (name, value) in &pod_level {
        if is_supported_at_pod_level(name) {
            total.insert(name.clone(), *value);
        }
    }
    add(&mut total, &amounts(spec.get("overhead")));
    total
}

fn is_supported_at_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

fn items<'a>(spec: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    spec.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// `resources.requests` of a container or a pod spec.
fn requests_of(holder: &Value) -> Amounts {
    amounts(holder.get("resources").and_then(|r| r.get("requests")))
}

/// The amounts of a resource list; what is no quantity is left out.
#[must_use]
pub fn amounts(list: Option<&Value>) -> Amounts {
    let Some(Value::Object(map)) = list else { return Amounts::new() };
    map.iter().filter_map(|(name, q)| Some((name.clone(), amount(name, q)?))).collect()
}

fn add(to: &mut Amounts, other: &Amounts) {
    for (name, value) in other {
        let slot = to.entry(name.clone()).or_insert(0);
        *slot = slot.saturating_add(*value);
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, value) in other {
        let slot = to.entry(name.clone()).or_insert(*value);
        *slot = (*slot).max(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities() {
        assert_eq!(amount("cpu", &json!("1.5")), Some(1500));
        assert_eq!(amount("memory", &json!("1.5Gi")), Some(1_610_612_736));
        assert_eq!(amount("pods", &json!(110)), Some(110));
        assert_eq!(amount("memory", &json!("1Kx")), None);
    }

    #[test]
    fn init_containers_sidecars_and_overhead() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({
            "containers": [container("1"), container("2")],
            // 3 alone; then the sidecar; then 4 beside the sidecar.
            "initContainers": [container("3"), sidecar, container("4")],
            "overhead": {"cpu": "250m"},
        });
        // max(1 + 2 + 1, 4 + 1) + 0.25
        assert_eq!(pod_requests(&spec).exact["cpu"], 5250);
    }

    #[test]
    fn missing_requests_count_when_scored() {
        let spec = json!({"containers": [{}, {"resources": {"requests": {"cpu": "1"}}}]});
        let requests = pod_requests(&spec);
        assert_eq!(requests.exact.get("memory"), None);
        assert_eq!(requests.nonzero_cpu, 1100);
        assert_eq!(requests.nonzero_memory, 2 * DEFAULT_MEMORY);
    }

    #[test]
    fn pod_level_requests_replace_the_sum() {
        let spec = json!({
            "resources": {"requests": {"cpu": "3", "memory": "1Gi"}},
            "containers": [{"resources": {"requests": {"cpu": "1", "example.com/gpu": "2"}}}],
            "overhead": {"cpu": "500m"},
        });
        let requests = pod_requests(&spec);
        assert_eq!(requests.exact["cpu"], 3500);
        assert_eq!(requests.exact["memory"], 1 << 30);
        assert_eq!(requests.exact["example.com/gpu"], 2);
        assert_eq!(requests.nonzero_cpu, 3500);
    }
}
