//! QoS classes and what a container's resources mean for its cgroup.
//!
//! Source of the rules: `k8s.io/kubernetes/pkg/apis/core/v1/helper/qos` and `pkg/kubelet/cm`.

use crate::quantity::{bytes_of, cpu_millis};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// CFS period in microseconds.
pub(crate) const CPU_PERIOD: i64 = 100_000;

/// `status.qosClass`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

/// The QoS class of a pod, from the requests and limits of all its containers.
pub(crate) fn class_of(spec: &PodSpec) -> QosClass {
    let mut any = false;
    let mut guaranteed = true;
    for container in all_containers(spec) {
        let resources = container.resources.as_ref();
        let requests = resources.and_then(|r| r.requests.as_ref());
        let limits = resources.and_then(|r| r.limits.as_ref());
        for name in ["cpu", "memory"] {
            let amount = |list: Option<&crate::quantity::Resources>| {
                if name == "cpu" { cpu_millis(list) } else { bytes_of(list, name) }
            };
            let request = amount(requests).filter(|n| *n > 0);
            let limit = amount(limits).filter(|n| *n > 0);
            any |= request.is_some() || limit.is_some();
            // A missing request takes the limit's value, as API defaulting does.
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// The cgroup of a pod below the root `root`: guaranteed pods directly, others by class.
pub(crate) fn cgroup_parent(root: &str, pod: &Pod, uid: &str) -> String {
    let class = pod.spec.as_ref().map_or(QosClass::BestEffort, class_of);
    match class {
        QosClass::Guaranteed => format!("/{root}/pod{uid}"),
        QosClass::Burstable => format!("/{root}/burstable/pod{uid}"),
        QosClass::BestEffort => format!("/{root}/besteffort/pod{uid}"),
    }
}

/// cgroup v1 `cpu.shares` of a request: at least 2, at most 262144.
pub(crate) fn cpu_shares(millis: i64) -> i64 {
    if millis == 0 { 2 } else { (millis * 1024 / 1000).clamp(2, 262_144) }
}

/// CFS quota in microseconds per [`CPU_PERIOD`]; 0 for no limit, never below 1 ms.
pub(crate) fn cpu_quota(millis: i64) -> i64 {
    if millis == 0 { 0 } else { (millis * CPU_PERIOD / 1000).max(1000) }
}

/// `oom_score_adj` of a container.
pub(crate) fn oom_score_adj(class: QosClass, memory_request: i64, capacity: i64, critical: bool) -> i64 {
    if critical {
        return -997;
    }
    match class {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let share = if capacity > 0 {
                i64::try_from(1000 * i128::from(memory_request) / i128::from(capacity)).unwrap_or(1000)
            } else {
                0
            };
            (1000 - share).clamp(3, 999)
        }
    }
}

/// Requests of a whole pod as the scheduler counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodRequests {
    pub(crate) cpu_millis: i64,
    pub(crate) memory: i64,
}

/// Sum over the containers, or the peak of the init containers where that is higher; sidecars
/// count in both. Overhead is added.
pub(crate) fn requests_of(spec: &PodSpec) -> PodRequests {
    let of = |c: &Container| {
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref());
        PodRequests {
            cpu_millis: cpu_millis(requests).or_else(|| cpu_millis(limits)).unwrap_or(0),
            memory: bytes_of(requests, "memory").or_else(|| bytes_of(limits, "memory")).unwrap_or(0),
        }
    };
    let mut total = PodRequests::default();
    for c in spec.containers.iter().map(of) {
        total.cpu_millis += c.cpu_millis;
        total.memory += c.memory;
    }
    let mut sidecars = PodRequests::default();
    let mut peak = PodRequests::default();
    for c in spec.init_containers.iter().flatten() {
        let r = of(c);
        if c.restart_policy.as_deref() == Some("Always") {
            sidecars.cpu_millis += r.cpu_millis;
            sidecars.memory += r.memory;
            peak.cpu_millis = peak.cpu_millis.max(sidecars.cpu_millis);
            peak.memory = peak.memory.max(sidecars.memory);
        } else {
            peak.cpu_millis = peak.cpu_millis.max(sidecars.cpu_millis + r.cpu_millis);
            peak.memory = peak.memory.max(sidecars.memory + r.memory);
        }
    }
    let overhead = spec.overhead.as_ref();
    PodRequests {
        cpu_millis: (total.cpu_millis + sidecars.cpu_millis).max(peak.cpu_millis)
            + cpu_millis(overhead).unwrap_or(0),
        memory: (total.memory + sidecars.memory).max(peak.memory) + bytes_of(overhead, "memory").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn classes() {
        assert_eq!(class_of(&spec(json!({"containers": [{"name": "a"}]}))), QosClass::BestEffort);
        let limits = json!({"cpu": "1", "memory": "1Gi"});
        let guaranteed =
            json!({"containers": [{"name": "a", "resources": {"limits": limits, "requests": limits}}]});
        assert_eq!(class_of(&spec(guaranteed)), QosClass::Guaranteed);
        let only_limits = json!({"containers": [{"name": "a", "resources": {"limits": limits}}]});
        assert_eq!(class_of(&spec(only_limits)), QosClass::Guaranteed);
        let burstable = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]});
        assert_eq!(class_of(&spec(burstable)), QosClass::Burstable);
        let mixed = json!({"containers": [{"name": "a", "resources": {"limits": limits}}, {"name": "b"}]});
        assert_eq!(class_of(&spec(mixed)), QosClass::Burstable);
    }

    #[test]
    fn cgroup_values() {
        assert_eq!(cpu_shares(0), 2);
        assert_eq!(cpu_shares(100), 102);
        assert_eq!(cpu_shares(1000), 1024);
        assert_eq!(cpu_quota(0), 0);
        assert_eq!(cpu_quota(5), 1000);
        assert_eq!(cpu_quota(500), 50_000);
        assert_eq!(oom_score_adj(QosClass::BestEffort, 0, 100, false), 1000);
        assert_eq!(oom_score_adj(QosClass::Burstable, 50, 100, false), 500);
        assert_eq!(oom_score_adj(QosClass::Burstable, 100, 100, false), 3);
        assert_eq!(oom_score_adj(QosClass::Burstable, 0, 100, false), 999);
    }

    #[test]
    fn requests_take_the_peak() {
        let s = spec(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "1"}}}
            ]
        }));
        assert_eq!(requests_of(&s).cpu_millis, 1050);
    }
}
