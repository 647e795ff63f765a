//! A scheduler written for clarity: one pod, one node at a time, straight from the objects.
//!
//! It shares no code with the plugins. Semantics are those of Kubernetes v1.36.

mod affinity;
mod spread;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The state of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Node objects by name.
    pub(crate) nodes: BTreeMap<String, Value>,
    /// Pods and the nodes that they are on, by any key.
    pub(crate) placed: BTreeMap<String, (String, Value)>,
    /// Labels of namespaces, by name.
    pub(crate) namespaces: BTreeMap<String, Value>,
    /// Service objects.
    pub(crate) services: Vec<Value>,
}

/// What the reference says about one pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// Weighted total of each node that fits.
    pub(crate) totals: BTreeMap<String, i64>,
    /// How many nodes gave which reason.
    pub(crate) reasons: BTreeMap<String, u32>,
    /// Nodes where evicting pods cannot help.
    pub(crate) unresolvable: u32,
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}

fn items<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    value.pointer(path).and_then(Value::as_array).map(|a| a.iter().collect()).unwrap_or_default()
}

/// Test clusters write quantities as plain numbers: milli-CPU as `100m`, the rest as integers.
fn quantity(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::String(s)) if s.ends_with('m') => s.trim_end_matches('m').parse().unwrap(),
        Some(Value::String(s)) => s.parse().unwrap(),
        Some(Value::Number(n)) => n.as_i64().unwrap(),
        _ => 0,
    }
}

fn request(pod: &Value, resource: &str) -> i64 {
    items(pod, "/spec/containers")
        .iter()
        .map(|c| quantity(c.pointer(&format!("/resources/requests/{resource}"))))
        .sum()
}

fn nonzero_request(pod: &Value, resource: &str, missing: i64) -> i64 {
    let of = |c: &&Value| match c.pointer(&format!("/resources/requests/{resource}")) {
        None => missing,
        some => quantity(some),
    };
    items(pod, "/spec/containers").iter().map(of).sum()
}

fn tolerated(pod: &Value, taint: (&str, &str, &str)) -> bool {
    items(pod, "/spec/tolerations").iter().any(|t| {
        let (key, effect, operator) = (text(t, "/key"), text(t, "/effect"), text(t, "/operator"));
        (effect.is_empty() || effect == taint.2)
            && (key.is_empty() || key == taint.0)
            && (operator == "Exists" || text(t, "/value") == taint.1)
    })
}

fn taints(node: &Value) -> Vec<(&str, &str, &str)> {
    items(node, "/spec/taints")
        .iter()
        .map(|t| (text(t, "/key"), text(t, "/value"), text(t, "/effect")))
        .collect()
}

fn requirement_holds(requirement: &Value, value: Option<&str>) -> bool {
    let values: Vec<&str> = items(requirement, "/values").iter().filter_map(|v| v.as_str()).collect();
    let number = |s: &str| s.parse::<i64>().ok();
    let pair = || value.and_then(number).zip(values.first().and_then(|v| number(v)));
    match text(requirement, "/operator") {
        "In" => value.is_some_and(|v| values.contains(&v)),
        "NotIn" => !value.is_some_and(|v| values.contains(&v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => pair().is_some_and(|(l, r)| l > r),
        "Lt" => pair().is_some_and(|(l, r)| l < r),
        other => panic!("{other}"),
    }
}

fn term_matches(term: &Value, name: &str, node: &Value) -> bool {
    let (expressions, fields) = (items(term, "/matchExpressions"), items(term, "/matchFields"));
    let label = |key: &str| node["metadata"]["labels"].get(key).and_then(Value::as_str);
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| requirement_holds(r, label(text(r, "/key"))))
        && fields.iter().all(|r| requirement_holds(r, Some(name)))
}

/// Whether a LabelSelector, which is there, selects the labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    equal.into_iter().all(|(key, value)| label(key) == value.as_str())
        && items(selector, "/matchExpressions").iter().all(|r| requirement_holds(r, label(text(r, "/key"))))
}

fn label<'a>(node: &'a Value, key: &str) -> Option<&'a str> {
    node["metadata"]["labels"].get(key).and_then(Value::as_str)
}

/// Whether the pod's node selector and required node affinity take the node.
fn node_matches(pod: &Value, name: &str, node: &Value) -> bool {
    let selected = pod["spec"]["nodeSelector"]
        .as_object()
        .is_none_or(|s| s.iter().all(|(k, v)| node["metadata"]["labels"].get(k) == Some(v)));
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    selected
        && pod
            .pointer(required)
            .is_none_or(|r| items(r, "/nodeSelectorTerms").iter().any(|t| term_matches(t, name, node)))
}

/// Whether the pod tolerates the taints that keep pods away.
fn taints_tolerated(pod: &Value, node: &Value) -> bool {
    let hard = |t: &(&str, &str, &str)| t.2 == "NoSchedule" || t.2 == "NoExecute";
    taints(node).into_iter().filter(hard).all(|t| tolerated(pod, t))
}

fn host_ports(pod: &Value) -> BTreeSet<(String, String, i64)> {
    let or =
        |value: &str, default: &str| if value.is_empty() { default.to_owned() } else { value.to_owned() };
    items(pod, "/spec/containers")
        .iter()
        .flat_map(|c| items(c, "/ports"))
        .filter(|p| p.get("hostPort").is_some())
        .map(|p| {
            (or(text(p, "/hostIP"), "0.0.0.0"), or(text(p, "/protocol"), "TCP"), quantity(p.get("hostPort")))
        })
        .collect()
}

impl State {
    fn on<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
        self.placed.values().filter(move |(node, _)| node == name).map(|(_, pod)| pod)
    }

    /// The reasons of the first plugin, in the default order, that rejects the node; and whether
    /// evicting cannot help.
    fn reasons(&self, pod: &Value, name: &str, node: &Value) -> (Vec<String>, bool) {
        let cordon = ("node.kubernetes.io/unschedulable", "", "NoSchedule");
        if node["spec"]["unschedulable"] == true && !tolerated(pod, cordon) {
            return (vec!["node(s) were unschedulable".into()], true);
        }
        if !taints_tolerated(pod, node) {
            return (vec!["node(s) had untolerated taint(s)".into()], true);
        }
        if !node_matches(pod, name, node) {
            return (vec!["node(s) didn't match Pod's node affinity/selector".into()], true);
        }
        let used: Vec<_> = self.on(name).flat_map(host_ports).collect();
        let clash = |(ip, protocol, port): &(String, String, i64)| {
            used.iter().any(|u| {
                u.1 == *protocol && u.2 == *port && (u.0 == *ip || u.0 == "0.0.0.0" || ip == "0.0.0.0")
            })
        };
        if host_ports(pod).iter().any(clash) {
            return (vec!["node(s) didn't have free ports for the requested pod ports".into()], false);
        }
        let mut reasons = Vec::new();
        let mut helpless = false;
        let allocatable = |resource: &str| quantity(node["status"]["allocatable"].get(resource));
        if i64::try_from(self.on(name).count()).unwrap() + 1 > allocatable("pods") {
            reasons.push("Too many pods".to_owned());
        }
        for resource in ["cpu", "memory", "ephemeral-storage", "example.com~1gpu"] {
            let wanted = request(pod, resource);
            let used: i64 = self.on(name).map(|p| request(p, resource)).sum();
            let resource = resource.replace("~1", "/");
            if wanted > 0 && wanted > allocatable(&resource) - used {
                reasons.push(format!("Insufficient {resource}"));
                helpless |= wanted > allocatable(&resource);
            }
        }
        if !reasons.is_empty() {
            return (reasons, helpless);
        }
        let rejected = self.spread_rejects(pod, node).or_else(|| self.affinity_rejects(pod, node));
        rejected.map_or((Vec::new(), false), |(reason, helpless)| (vec![reason.to_owned()], helpless))
    }

    fn least_allocated(&self, pod: &Value, name: &str, node: &Value) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for (resource, missing) in [("cpu", 100), ("memory", 200 << 20)] {
            let allocatable = quantity(node["status"]["allocatable"].get(resource));
            let used: i64 = self.on(name).map(|p| nonzero_request(p, resource, missing)).sum();
            let requested = used + nonzero_request(pod, resource, missing);
            if allocatable == 0 {
                continue;
            }
            weights += 1;
            sum += if requested > allocatable { 0 } else { (allocatable - requested) * 100 / allocatable };
        }
        if weights == 0 { 0 } else { sum / weights }
    }

    fn balanced(&self, pod: &Value, name: &str, node: &Value) -> i64 {
        if request(pod, "cpu") == 0 && request(pod, "memory") == 0 {
            return 0;
        }
        let rate = |extra: bool| {
            let mut shares = Vec::new();
            for resource in ["cpu", "memory"] {
                let allocatable = quantity(node["status"]["allocatable"].get(resource));
                let used: i64 = self.on(name).map(|p| request(p, resource)).sum();
                let requested = used + if extra { request(pod, resource) } else { 0 };
                if allocatable != 0 {
                    shares.push((requested as f64 / allocatable as f64).min(1.0));
                }
            }
            let deviation = if shares.len() == 2 { ((shares[0] - shares[1]) / 2.0).abs() } else { 0.0 };
            ((1.0 - deviation) * 100.0) as i64
        };
        50 + (50 + rate(true) - rate(false)) / 2
    }

    fn image_locality(&self, pod: &Value, node: &Value) -> i64 {
        let containers = items(pod, "/spec/containers");
        let size = |node: &Value, image: &str| {
            let mut found = items(node, "/status/images").into_iter();
            found
                .find(|i| items(i, "/names").iter().any(|n| *n == image))
                .map(|i| quantity(i.get("sizeBytes")))
        };
        let mut sum = 0;
        for container in &containers {
            let image = text(container, "/image");
            if let Some(bytes) = size(node, image) {
                let holders = self.nodes.values().filter(|n| size(n, image).is_some()).count();
                sum += (bytes as f64 * (holders as f64 / self.nodes.len() as f64)) as i64;
            }
        }
        let (min, max) = (23 << 20, (1000 << 20) * i64::try_from(containers.len()).unwrap());
        100 * (sum.clamp(min, max) - min) / (max - min)
    }

    /// Filters and scores every node for the pod.
    pub(crate) fn judge(&self, pod: &Value) -> Verdict {
        let mut verdict = Verdict { totals: BTreeMap::new(), reasons: BTreeMap::new(), unresolvable: 0 };
        let mut fit: Vec<(&String, &Value)> = Vec::new();
        for (name, node) in &self.nodes {
            let (reasons, helpless) = self.reasons(pod, name, node);
            if reasons.is_empty() {
                fit.push((name, node));
            }
            for reason in reasons {
                *verdict.reasons.entry(reason).or_insert(0) += 1;
            }
            verdict.unresolvable += u32::from(helpless);
        }
        let untolerated: Vec<i64> = fit
            .iter()
            .map(|(_, n)| {
                taints(n).into_iter().filter(|t| t.2 == "PreferNoSchedule" && !tolerated(pod, *t)).count()
            })
            .map(|n| i64::try_from(n).unwrap())
            .collect();
        let preferred = "/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution";
        let preferences: Vec<i64> = fit
            .iter()
            .map(|(name, node)| {
                let matching =
                    items(pod, preferred).into_iter().filter(|p| term_matches(&p["preference"], name, node));
                matching.map(|p| quantity(p.get("weight"))).sum()
            })
            .collect();
        let (most_untolerated, most_preferred) =
            (untolerated.iter().copied().max().unwrap_or(0), preferences.iter().copied().max().unwrap_or(0));
        let spread = self.spread_scores(pod, &fit);
        let near = self.affinity_scores(pod, &fit);
        for (i, (name, node)) in fit.iter().enumerate() {
            let taint =
                if most_untolerated == 0 { 100 } else { 100 - 100 * untolerated[i] / most_untolerated };
            let affinity = if most_preferred == 0 { 0 } else { 100 * preferences[i] / most_preferred };
            let total = 3 * taint
                + 2 * affinity
                + 2 * spread[i]
                + 2 * near[i]
                + self.least_allocated(pod, name, node)
                + self.balanced(pod, name, node)
                + self.image_locality(pod, node);
            verdict.totals.insert((*name).clone(), total);
        }
        verdict
    }
}
