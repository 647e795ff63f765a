//! What the runtime is told about a pod as a whole.

use super::files;
use crate::config::NodeConfig;
use crate::pod::model::spec_of;
use crate::qos::{self, cpu_quota, cpu_shares};
use crate::quantity::{bytes_of, cpu_millis};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use orlop_container::cri::{
    DnsConfig, LinuxContainerResources, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    PortMapping, Protocol, SandboxSecurityContext,
};

/// Label: name of the pod.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: namespace of the pod.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: uid of the pod.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";

/// Namespaces of the pod's containers.
pub(crate) fn namespaces(spec: &PodSpec) -> NamespaceOption {
    let node_if =
        |yes: Option<bool>| if yes == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = if spec.host_pid == Some(true) {
        NamespaceMode::Node
    } else if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: node_if(spec.host_network),
        pid,
        ipc: node_if(spec.host_ipc),
        target_id: String::new(),
    }
}

/// Limits of the pod's cgroup: shares of all requests; quota and memory where every container has
/// a limit.
fn pod_resources(spec: &PodSpec) -> LinuxContainerResources {
    let requests = qos::requests_of(spec);
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let limits =
        |c: &k8s_openapi::api::core::v1::Container| c.resources.as_ref().and_then(|r| r.limits.clone());
    let sum = |of: &dyn Fn(Option<&crate::quantity::Resources>) -> Option<i64>| -> Option<i64> {
        let mains = spec.containers.iter().map(|c| of(limits(c).as_ref())).sum::<Option<i64>>()?;
        let inits = spec.init_containers.iter().flatten().map(|c| of(limits(c).as_ref()));
        let inits: Vec<i64> = inits.collect::<Option<_>>()?;
        // Init containers run one by one, sidecars beside the others: the larger bound holds both.
        let sidecars: i64 = spec
            .init_containers
            .iter()
            .flatten()
            .zip(&inits)
            .filter(|(c, _)| c.restart_policy.as_deref() == Some("Always"))
            .map(|(_, n)| *n)
            .sum();
        Some((mains + sidecars).max(inits.into_iter().max().unwrap_or(0) + sidecars))
    };
    let bounded = all().count() > 0;
    let quota = if bounded { sum(&cpu_millis).map_or(0, cpu_quota) } else { 0 };
    LinuxContainerResources {
        cpu_shares: cpu_shares(requests.cpu_millis).unsigned_abs(),
        cpu_period: if quota > 0 { qos::CPU_PERIOD.unsigned_abs() } else { 0 },
        cpu_quota: quota,
        memory_limit_in_bytes: sum(&|l| bytes_of(l, "memory")).unwrap_or(0),
        ..Default::default()
    }
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let protocol = match p.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            let host_port = u16::try_from(p.host_port?).ok().filter(|p| *p > 0)?;
            let container_port = u16::try_from(p.container_port).ok()?;
            let host_ip = p.host_ip.as_deref().and_then(|ip| ip.parse().ok());
            Some(PortMapping { protocol, container_port, host_port, host_ip })
        })
        .collect()
}

/// The sandbox of a pod.
pub(crate) fn config(
    pod: &Pod,
    uid: &str,
    attempt: u32,
    node: &NodeConfig,
    host_dns: &DnsConfig,
) -> PodSandboxConfig {
    let spec = spec_of(pod);
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_NAMESPACE.into(), namespace.clone());
    labels.insert(POD_UID.into(), uid.to_owned());
    let privileged = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|c| c.security_context.as_ref().is_some_and(|s| s.privileged == Some(true)));
    let context = spec.security_context.as_ref();
    PodSandboxConfig {
        hostname: if spec.host_network == Some(true) {
            String::new()
        } else {
            files::uts_name(pod, &node.cluster_domain)
        },
        log_directory: node.pod_log_dir(&namespace, &name, uid),
        dns_config: Some(files::dns(pod, node, host_dns)),
        port_mappings: port_mappings(spec),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        labels,
        cgroup_parent: qos::cgroup_parent(&node.cgroup_root, pod, uid),
        resources: pod_resources(spec),
        sysctls: context
            .and_then(|c| c.sysctls.as_ref())
            .map(|list| list.iter().map(|s| (s.name.clone(), s.value.clone())).collect())
            .unwrap_or_default(),
        security_context: SandboxSecurityContext { namespace_options: namespaces(spec), privileged },
        metadata: PodSandboxMetadata { name, uid: uid.to_owned(), namespace, attempt },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sandbox_of_a_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"hostPID": true, "containers": [
                {"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}],
                 "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}},
                {"name": "b", "resources": {"limits": {"memory": "64Mi"}}}]}
        }))
        .unwrap();
        let node = NodeConfig::new("n", "192.0.2.1".parse().unwrap(), "/r");
        let c = config(&pod, "u1", 2, &node, &DnsConfig::default());
        assert_eq!(c.hostname, "web");
        assert_eq!(c.cgroup_parent, "/kubepods/burstable/podu1");
        assert_eq!(c.log_directory.to_str(), Some("/r/logs/shop_web_u1"));
        assert_eq!((c.port_mappings.len(), c.port_mappings[0].host_port), (1, 8080));
        assert_eq!(c.security_context.namespace_options.pid, NamespaceMode::Node);
        assert_eq!(c.resources.memory_limit_in_bytes, 128 << 20);
        assert_eq!(c.resources.cpu_quota, 0, "one container has no cpu limit");
        assert_eq!(c.resources.cpu_shares, 512);
        assert_eq!(c.labels["io.kubernetes.pod.uid"], "u1");
    }
}
