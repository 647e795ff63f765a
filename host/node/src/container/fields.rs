//! The downward API: fields of the pod and resources of its containers as text.

use crate::quantity::{Resources, milli, whole};
use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

/// What the API object does not (yet) say.
#[derive(Clone, Debug)]
pub(crate) struct PodFacts {
    pub(crate) host_ip: IpAddr,
    pub(crate) pod_ips: Vec<IpAddr>,
    /// Takes the place of limits that are not set.
    pub(crate) allocatable: Resources,
}

/// A field of the pod, or why there is none. Labels and annotations as a whole are written one
/// per line, quoted, as in a downward API volume.
pub(crate) fn field(pod: &Pod, facts: &PodFacts, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |s: Option<&String>| Ok(s.cloned().unwrap_or_default());
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    if let Some((map, key)) = subscript(path) {
        let values = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("fieldPath {map:?} does not support subscript")),
        };
        return Ok(values.and_then(|v| v.get(key)).cloned().unwrap_or_default());
    }
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Ok(format_map(meta.labels.as_ref())),
        "metadata.annotations" => Ok(format_map(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" => Ok(facts.host_ip.to_string()),
        "status.podIP" => Ok(facts.pod_ips.first().map(ToString::to_string).unwrap_or_default()),
        "status.podIPs" => Ok(join(&facts.pod_ips)),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// `metadata.labels['key']`
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (i, (key, value)) in map.into_iter().flatten().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let _ = write!(out, "{key}={}", quote(value));
    }
    out
}

/// Go's `%q`.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A resource of a container, divided and rounded up.
pub(crate) fn resource(
    pod: &Pod,
    facts: &PodFacts,
    default_container: &str,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(default_container);
    let spec = super::super::pod::model::spec_of(pod);
    let container = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find(|c| c.name == name)
        .ok_or_else(|| format!("container {name} not found"))?;
    let resources = container.resources.as_ref();
    let (kind, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let limit = || resources.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(resource));
    let amount = match kind {
        "limits" => limit().or_else(|| facts.allocatable.get(resource)),
        "requests" => {
            resources.and_then(|r| r.requests.as_ref()).and_then(|l| l.get(resource)).or_else(limit)
        }
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor =
        selector.divisor.as_ref().map(|d| d.0.as_str()).filter(|d| !matches!(*d, "" | "0")).unwrap_or("1");
    let read = if resource == "cpu" { milli } else { whole };
    let amount = amount.map_or(Some(0), |q| read(&q.0));
    let divisor = read(divisor).filter(|d| *d > 0);
    match (amount, divisor) {
        (Some(amount), Some(divisor)) => {
            Ok((amount.unsigned_abs().div_ceil(divisor.unsigned_abs())).to_string())
        }
        _ => Err(format!("invalid quantity in {}", selector.resource)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u",
                "labels": {"app": "x", "tier": "a \"b\""}, "annotations": {"example.com/a": "1"}},
            "spec": {"nodeName": "node", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}}}]}
        }))
        .unwrap()
    }

    fn facts() -> PodFacts {
        PodFacts {
            host_ip: "192.0.2.1".parse().unwrap(),
            pod_ips: vec!["10.0.0.7".parse().unwrap()],
            allocatable: serde_json::from_value(json!({"cpu": "2", "memory": "1Gi"})).unwrap(),
        }
    }

    #[test]
    fn fields() {
        for (path, value) in [
            ("metadata.name", "p"),
            ("metadata.labels['app']", "x"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['example.com/a']", "1"),
            ("metadata.labels", "app=\"x\"\ntier=\"a \\\"b\\\"\""),
            ("status.podIP", "10.0.0.7"),
            ("status.podIPs", "10.0.0.7"),
            ("status.hostIP", "192.0.2.1"),
            ("spec.nodeName", "node"),
            ("spec.serviceAccountName", "sa"),
        ] {
            assert_eq!(field(&pod(), &facts(), path).as_deref(), Ok(value), "{path}");
        }
        assert!(field(&pod(), &facts(), "spec.hostname").is_err());
    }

    #[test]
    fn resources() {
        for (what, divisor, value) in [
            ("limits.cpu", "", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.cpu", "1m", "1500"),
            ("requests.memory", "1Mi", "64"),
            ("limits.memory", "1Ki", "1048576"),
        ] {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": what, "divisor": divisor})).unwrap();
            assert_eq!(
                resource(&pod(), &facts(), "c", &selector).as_deref(),
                Ok(value),
                "{what} / {divisor}"
            );
        }
    }
}
