//! What the proxy reads of Services and EndpointSlices, reduced to what rules are made of.

use orlop_apimachinery::Object;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Namespace and name of a Service.
pub type ServiceKey = (Box<str>, Box<str>);

/// A Service with this label is another proxy's affair.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Affinity that no timeout was given for, in seconds.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// IPv4 or IPv6: each has its own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `iptables`
    V4,
    /// `ip6tables`
    V6,
}

impl Family {
    /// Whether an address is of this family.
    #[must_use]
    pub const fn has(self, ip: IpAddr) -> bool {
        matches!((self, ip), (Self::V4, IpAddr::V4(_)) | (Self::V6, IpAddr::V6(_)))
    }
}

/// Protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// As iptables spells it.
    #[must_use]
    pub const fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Name of the port; may be empty where it is the only one.
    pub name: String,
    /// Protocol of the port and of its endpoints.
    pub protocol: Protocol,
    /// The port of the cluster IP, of external IPs and of load balancers.
    pub port: u16,
    /// The port of every node; 0 for none.
    pub node_port: u16,
}

/// A Service that has rules: not headless, not ExternalName, nobody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Of both families.
    pub cluster_ips: Vec<IpAddr>,
    /// Of both families.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of load balancers that pass packets on unchanged.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may reach the load balancer's addresses; empty for everybody. CIDRs of both families.
    pub source_ranges: Vec<String>,
    /// Seconds for which a client keeps its endpoint.
    pub affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`
    pub external_local: bool,
    /// In the order of the spec.
    pub ports: Vec<ServicePort>,
}

/// One endpoint of one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Takes new connections.
    pub ready: bool,
    /// Answers; stays so while it terminates.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
    /// Runs on this node.
    pub local: bool,
    /// Zones whose clients should use it; empty for no hint.
    pub zones: Vec<String>,
}

/// Endpoints of one slice by port name and protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The endpoints.
    pub ports: BTreeMap<(String, Protocol), Vec<Endpoint>>,
}

// === the objects' shapes ===

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawService {
    spec: RawSpec,
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawSpec {
    r#type: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<String>,
    load_balancer_source_ranges: Vec<String>,
    session_affinity: String,
    session_affinity_config: RawAffinity,
    internal_traffic_policy: String,
    external_traffic_policy: String,
    ports: Vec<RawPort>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawAffinity {
    #[serde(rename = "clientIP")]
    client_ip: RawClientIp,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawPort {
    name: String,
    protocol: Protocol,
    port: u16,
    node_port: u16,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawStatus {
    load_balancer: RawLoadBalancer,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawLoadBalancer {
    ingress: Vec<RawIngress>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawIngress {
    ip: String,
    ip_mode: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawSlice {
    address_type: String,
    endpoints: Option<Vec<RawEndpoint>>,
    ports: Option<Vec<RawSlicePort>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawEndpoint {
    addresses: Vec<String>,
    conditions: RawConditions,
    node_name: String,
    hints: RawHints,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawHints {
    for_zones: Vec<RawZone>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawZone {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawSlicePort {
    name: Option<String>,
    protocol: Option<Protocol>,
    port: Option<u16>,
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

/// Reads a Service; `None` where it gets no rules.
#[must_use]
pub fn service(object: &Object) -> Option<Service> {
    if object.label(PROXY_NAME_LABEL).is_some() || object.label(HEADLESS_LABEL).is_some() {
        return None;
    }
    let raw: RawService = match object.parse() {
        Ok(raw) => raw,
        Err(error) => {
            tracing::warn!(namespace = object.namespace(), name = object.name(), %error, "a Service cannot be read");
            return None;
        }
    };
    let spec = raw.spec;
    if spec.r#type == "ExternalName" {
        return None;
    }
    let mut cluster_ips = addresses(&spec.cluster_ips);
    if cluster_ips.is_empty() {
        cluster_ips = addresses([&spec.cluster_ip]);
    }
    // "None" of a headless Service, or not allocated yet.
    if cluster_ips.is_empty() {
        return None;
    }
    let node_ports = matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer");
    let vips = raw.status.load_balancer.ingress.iter().filter(|i| i.ip_mode.is_empty() || i.ip_mode == "VIP");
    let ports = spec.ports.into_iter().map(|p| ServicePort {
        name: p.name,
        protocol: p.protocol,
        port: p.port,
        node_port: if node_ports { p.node_port } else { 0 },
    });
    Some(Service {
        cluster_ips,
        external_ips: addresses(&spec.external_ips),
        load_balancer_ips: addresses(vips.map(|i| &i.ip)),
        source_ranges: spec.load_balancer_source_ranges.iter().map(|r| r.trim().to_owned()).collect(),
        affinity: (spec.session_affinity == "ClientIP").then(|| {
            spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(DEFAULT_AFFINITY_SECONDS)
        }),
        internal_local: spec.internal_traffic_policy == "Local",
        external_local: spec.external_traffic_policy == "Local",
        ports: ports.collect(),
    })
}

/// The Service that a slice belongs to; `None` where it has none, or one without rules.
#[must_use]
pub fn service_of(slice: &Object) -> Option<ServiceKey> {
    if slice.label(HEADLESS_LABEL).is_some() || slice.label(PROXY_NAME_LABEL).is_some() {
        return None;
    }
    Some((slice.namespace().into(), slice.label(SERVICE_NAME_LABEL)?.into()))
}

/// Reads an EndpointSlice, as seen from `node`.
#[must_use]
pub fn slice(object: &Object, node: &str) -> Slice {
    let raw: RawSlice = match object.parse() {
        Ok(raw) => raw,
        Err(error) => {
            tracing::warn!(namespace = object.namespace(), name = object.name(), %error, "an EndpointSlice cannot be read");
            return Slice::default();
        }
    };
    let mut out = Slice::default();
    if raw.address_type == "FQDN" {
        return out;
    }
    let endpoints = raw.endpoints.unwrap_or_default();
    for port in raw.ports.unwrap_or_default() {
        // A port that is not set means all ports, which no rule can express.
        let Some(number) = port.port.filter(|p| *p != 0) else { continue };
        let key = (port.name.unwrap_or_default(), port.protocol.unwrap_or_default());
        let list = out.ports.entry(key).or_default();
        for endpoint in &endpoints {
            // The addresses of one endpoint are interchangeable; upstream uses the first.
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            let ready = endpoint.conditions.ready.unwrap_or(true);
            list.push(Endpoint {
                ip,
                port: number,
                ready,
                serving: endpoint.conditions.serving.unwrap_or(ready),
                terminating: endpoint.conditions.terminating.unwrap_or(false),
                local: !node.is_empty() && endpoint.node_name == node,
                zones: endpoint.hints.for_zones.iter().map(|z| z.name.clone()).collect(),
            });
        }
    }
    out
}
