//! Services and pods, as far as endpoints depend on them. Shared with the `endpoints` plugin.

use orlop_sdk::controller::Meta;
use serde::Deserialize;
use serde_json::Value;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) metadata: Meta,
    pub(crate) spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) selector: Option<Value>,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: String,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) ip_families: Vec<String>,
    pub(crate) publish_not_ready_addresses: bool,
    pub(crate) traffic_distribution: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServicePort {
    pub(crate) name: String,
    pub(crate) protocol: Option<String>,
    pub(crate) app_protocol: Option<String>,
    pub(crate) port: i64,
    pub(crate) target_port: Value,
}

impl ServicePort {
    pub(crate) fn protocol(&self) -> &str {
        self.protocol.as_deref().unwrap_or("TCP")
    }
}

impl Service {
    /// Whether pods, and not somebody else, say where it leads.
    pub(crate) fn is_managed(&self) -> bool {
        self.spec.kind != "ExternalName" && self.spec.selector.as_ref().is_some_and(|s| !s.is_null())
    }

    pub(crate) fn is_headless(&self) -> bool {
        self.spec.cluster_ip == "None"
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Meta,
    pub(crate) spec: PodSpec,
    pub(crate) status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub(crate) node_name: String,
    pub(crate) hostname: String,
    pub(crate) subdomain: String,
    pub(crate) containers: Vec<Container>,
    pub(crate) init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub(crate) ports: Vec<ContainerPort>,
    pub(crate) restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub(crate) name: String,
    pub(crate) container_port: i64,
    pub(crate) protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub(crate) phase: String,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: String,
    #[serde(rename = "podIPs")]
    pub(crate) pod_ips: Vec<PodIp>,
    pub(crate) conditions: Vec<PodCondition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodIp {
    pub(crate) ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodCondition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
}

impl Pod {
    pub(crate) fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
    }

    /// Whether it has an address and is not over.
    pub(crate) fn is_reachable(&self) -> bool {
        let over = matches!(self.status.phase.as_str(), "Succeeded" | "Failed");
        !over && self.addresses().next().is_some()
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        let first = Some(self.status.pod_ip.as_str()).filter(|_| self.status.pod_ips.is_empty());
        first.into_iter().chain(self.status.pod_ips.iter().map(|p| p.ip.as_str())).filter(|ip| !ip.is_empty())
    }

    /// Its addresses of one family, `IPv4` or `IPv6`.
    pub(crate) fn addresses_of(&self, family: &str) -> Vec<&str> {
        self.addresses().filter(|ip| ip.contains(':') == (family == "IPv6")).collect()
    }

    /// The name under which a headless Service's DNS knows it.
    pub(crate) fn hostname_in(&self, service: &Service) -> Option<&str> {
        let named = !self.spec.hostname.is_empty()
            && self.spec.subdomain == service.metadata.name
            && self.metadata.namespace == service.metadata.namespace;
        named.then_some(self.spec.hostname.as_str())
    }

    /// The port of the pod that a port of the Service leads to; `None` where the pod has no port of that name.
    pub(crate) fn target_port(&self, port: &ServicePort) -> Option<i64> {
        match &port.target_port {
            Value::String(name) => {
                let sidecars = self
                    .spec
                    .init_containers
                    .iter()
                    .filter(|c| c.restart_policy.as_deref() == Some("Always"));
                self.spec
                    .containers
                    .iter()
                    .chain(sidecars)
                    .flat_map(|c| &c.ports)
                    .find(|p| p.name == *name && p.protocol.as_deref().unwrap_or("TCP") == port.protocol())
                    .map(|p| p.container_port)
            }
            Value::Number(n) if n.as_i64() != Some(0) => n.as_i64(),
            _ => Some(port.port),
        }
    }
}
