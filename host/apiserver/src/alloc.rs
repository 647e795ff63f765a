//! Cluster addresses and node ports of Services.
//!
//! What is taken is what the stored Services say; the allocator only remembers it. A reservation
//! that is not kept is returned when it is dropped, so a refused write leaks nothing.
//!
//! With more than one API server, two could give one address away at once; the repair is the same
//! as upstream's: the loser is told by the next reload. One server holds the keel.

use crate::registry::{Allocation, Resource};
use orlop_apimachinery::{Status, field};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Network of the cluster addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceNetwork {
    base: u32,
    bits: u8,
}

impl ServiceNetwork {
    /// `10.96.0.0/16`
    pub const DEFAULT: Self = Self { base: 0x0a60_0000, bits: 16 };

    /// `10.96.0.0/16`; at least four addresses. `None` where the text is no such network.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let base = u32::from(base.parse::<Ipv4Addr>().ok()?);
        let bits = bits.parse::<u8>().ok().filter(|b| (8..=30).contains(b))?;
        let mask = u32::MAX << (32 - bits);
        Some(Self { base: base & mask, bits })
    }

    /// Number of addresses, network and broadcast included.
    const fn size(self) -> u32 {
        1 << (32 - self.bits)
    }

    /// The first usable address: that of `default/kubernetes`.
    #[must_use]
    pub fn first(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self.base + 1))
    }

    fn contains(self, ip: Ipv4Addr) -> bool {
        let offset = u32::from(ip).wrapping_sub(self.base);
        offset > 0 && offset < self.size() - 1
    }
}

impl std::fmt::Display for ServiceNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

/// First and last node port.
pub(crate) const NODE_PORTS: (u16, u16) = (30_000, 32_767);

/// Transport and number.
type Port = (Box<str>, u16);

#[derive(Default)]
struct Taken {
    /// Address and the uid of the Service that has it.
    ips: HashMap<Ipv4Addr, Box<str>>,
    ports: HashMap<Port, Box<str>>,
}

/// Hands out addresses and ports. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ServiceAllocator {
    network: ServiceNetwork,
    taken: Arc<Mutex<Taken>>,
}

/// What a write has been given; returned on drop unless kept.
#[must_use]
pub(crate) struct Reservation {
    allocator: ServiceAllocator,
    ips: Vec<Ipv4Addr>,
    ports: Vec<Port>,
    /// Given back when the write is kept: what the old state had and the new one has not.
    freed_ips: Vec<Ipv4Addr>,
    freed_ports: Vec<Port>,
    owner: Box<str>,
    kept: bool,
}

impl Reservation {
    /// The write was stored.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let (ips, ports) =
            if self.kept { (&self.freed_ips, &self.freed_ports) } else { (&self.ips, &self.ports) };
        if ips.is_empty() && ports.is_empty() {
            return;
        }
        let mut taken = self.allocator.taken.lock();
        for ip in ips {
            if taken.ips.get(ip) == Some(&self.owner) {
                taken.ips.remove(ip);
            }
        }
        for port in ports {
            if taken.ports.get(port) == Some(&self.owner) {
                taken.ports.remove(port);
            }
        }
    }
}

/// What a Service has, read from the object.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holding {
    ips: Vec<Ipv4Addr>,
    ports: Vec<Port>,
}

impl Holding {
    fn of(service: &Value) -> Self {
        let spec = service.get("spec");
        let mut out = Self::default();
        if spec.and_then(|s| s.get("type")).and_then(Value::as_str) == Some("ExternalName") {
            return out;
        }
        let listed = spec.and_then(|s| s.get("clusterIPs")).and_then(Value::as_array);
        let single = spec.and_then(|s| s.get("clusterIP")).and_then(Value::as_str);
        let texts = listed.into_iter().flatten().filter_map(Value::as_str).chain(single);
        for ip in texts.filter_map(|t| t.parse().ok()) {
            if !out.ips.contains(&ip) {
                out.ips.push(ip);
            }
        }
        for port in spec.and_then(|s| s.get("ports")).and_then(Value::as_array).into_iter().flatten() {
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            if let Some(number) = number(port, "nodePort") {
                let port = (protocol.into(), number);
                if !out.ports.contains(&port) {
                    out.ports.push(port);
                }
            }
        }
        let health = spec.and_then(|s| number(s, "healthCheckNodePort"));
        out.ports.extend(health.map(|n| ("TCP".into(), n)));
        out
    }
}

fn number(object: &Value, key: &str) -> Option<u16> {
    object.get(key).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}

impl ServiceAllocator {
    pub(crate) fn new(network: ServiceNetwork) -> Self {
        Self { network, taken: Arc::default() }
    }

    /// The address network.
    pub(crate) const fn network(&self) -> ServiceNetwork {
        self.network
    }

    /// Learns what the stored Services have; forgets all else.
    pub(crate) fn load<'v>(&self, services: impl Iterator<Item = &'v Value>) {
        let mut fresh = Taken::default();
        for service in services {
            let owner: Box<str> = crate::metadata::text(service, "uid").into();
            let holding = Holding::of(service);
            fresh.ips.extend(holding.ips.into_iter().map(|ip| (ip, owner.clone())));
            fresh.ports.extend(holding.ports.into_iter().map(|p| (p, owner.clone())));
        }
        *self.taken.lock() = fresh;
    }

    /// Gives back what a removed Service had.
    pub(crate) fn release(&self, row: &Resource, service: &Value) {
        if row.allocation != Allocation::Service {
            return;
        }
        let owner = crate::metadata::text(service, "uid");
        let holding = Holding::of(service);
        let mut taken = self.taken.lock();
        for ip in holding.ips {
            if taken.ips.get(&ip).is_some_and(|o| o.as_ref() == owner) {
                taken.ips.remove(&ip);
            }
        }
        for port in holding.ports {
            if taken.ports.get(&port).is_some_and(|o| o.as_ref() == owner) {
                taken.ports.remove(&port);
            }
        }
    }

    /// Fills in what the object asks for and reserves it. Does nothing for types without
    /// allocation.
    ///
    /// # Errors
    /// 422 in upstream's words where an address or a port is taken or out of range.
    pub(crate) fn reserve(
        &self,
        row: &Resource,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, Status> {
        let mut reservation = Reservation {
            allocator: self.clone(),
            ips: Vec::new(),
            ports: Vec::new(),
            freed_ips: Vec::new(),
            freed_ports: Vec::new(),
            owner: crate::metadata::text(new, "uid").into(),
            kept: false,
        };
        if row.allocation != Allocation::Service {
            return Ok(reservation);
        }
        let name = crate::metadata::text(new, "name").to_owned();
        let had = old.map(Holding::of).unwrap_or_default();
        let filled = self
            .fill_ip(&mut reservation, new, &had)
            .and_then(|()| self.fill_ports(&mut reservation, new, &had));
        filled.map_err(|cause| Status::invalid(&row.gvr.group, row.kind, &name, vec![cause]))?;
        let has = Holding::of(new);
        reservation.freed_ips = had.ips.into_iter().filter(|ip| !has.ips.contains(ip)).collect();
        reservation.freed_ports = had.ports.into_iter().filter(|p| !has.ports.contains(p)).collect();
        Ok(reservation)
    }

    fn fill_ip(
        &self,
        reservation: &mut Reservation,
        service: &mut Value,
        had: &Holding,
    ) -> Result<(), orlop_apimachinery::status::Cause> {
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        if spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
            return Ok(());
        }
        let first =
            spec.get("clusterIPs").and_then(Value::as_array).and_then(|l| l.first()).and_then(Value::as_str);
        let asked = spec
            .get("clusterIP")
            .and_then(Value::as_str)
            .filter(|t| !t.is_empty())
            .or(first)
            .unwrap_or_default();
        if asked == "None" {
            spec.insert("clusterIP".to_owned(), "None".into());
            spec.insert("clusterIPs".to_owned(), json!(["None"]));
            return Ok(());
        }
        let path = field::Path::new("spec").child("clusterIPs");
        let ip = if asked.is_empty() {
            match had.ips.first() {
                Some(ip) => *ip,
                None => self.next_ip(reservation).ok_or_else(|| {
                    field::invalid(&path, json!([""]), "failed to allocate IP 0: range is full")
                })?,
            }
        } else {
            let listed = json!([asked]);
            let ip = asked.parse::<Ipv4Addr>().ok();
            let ip = ip.filter(|ip| self.network.contains(*ip)).ok_or_else(|| {
                field::invalid(
                    &path,
                    listed.clone(),
                    &format!(
                        "failed to allocate IP {asked}: the provided IP ({asked}) is not in the valid range. The range of valid IPs is {}",
                        self.network
                    ),
                )
            })?;
            if !had.ips.contains(&ip) {
                let mut taken = self.taken.lock();
                if taken.ips.contains_key(&ip) {
                    return Err(field::invalid(
                        &path,
                        listed,
                        &format!("failed to allocate IP {asked}: provided IP is already allocated"),
                    ));
                }
                taken.ips.insert(ip, reservation.owner.clone());
                reservation.ips.push(ip);
            }
            ip
        };
        spec.insert("clusterIP".to_owned(), ip.to_string().into());
        spec.insert("clusterIPs".to_owned(), json!([ip.to_string()]));
        spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
        spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
        Ok(())
    }

    /// Dynamic addresses come from the upper part of the network, so that asked-for ones seldom
    /// collide with them.
    fn next_ip(&self, reservation: &mut Reservation) -> Option<Ipv4Addr> {
        let size = self.network.size();
        let lower = (size / 16).clamp(16, 256).min(size / 2);
        let mut taken = self.taken.lock();
        let span = size - 1 - lower;
        let start = rand::random_range(0..span);
        let upper = (0..span).map(|i| lower + (start + i) % span);
        let candidates = upper.chain(1..lower);
        for offset in candidates {
            let ip = Ipv4Addr::from(self.network.base + offset);
            if self.network.contains(ip) && !taken.ips.contains_key(&ip) {
                taken.ips.insert(ip, reservation.owner.clone());
                reservation.ips.push(ip);
                return Some(ip);
            }
        }
        None
    }

    fn fill_ports(
        &self,
        reservation: &mut Reservation,
        service: &mut Value,
        had: &Holding,
    ) -> Result<(), orlop_apimachinery::status::Cause> {
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        let wants = match spec.get("type").and_then(Value::as_str) {
            Some("NodePort") => true,
            Some("LoadBalancer") => {
                spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false)
            }
            _ => false,
        };
        let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return Ok(()) };
        let mut taken = self.taken.lock();
        let mut mine: Vec<Port> = Vec::new();
        // Asked-for numbers first, so that none of them is given to a port without one.
        for (at, port) in ports.iter().enumerate() {
            let Some(asked) = number(port, "nodePort") else { continue };
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            let key: Port = (protocol.into(), asked);
            let path = field::Path::new("spec").child("ports").index(at).child("nodePort");
            let (low, high) = NODE_PORTS;
            if !(low..=high).contains(&asked) {
                let words = format!(
                    "provided port is not in the valid range. The range of valid ports is {low}-{high}"
                );
                return Err(field::invalid(&path, asked, &words));
            }
            if had.ports.contains(&key) {
                mine.push(key);
                continue;
            }
            if mine.contains(&key) || taken.ports.contains_key(&key) {
                return Err(field::invalid(&path, asked, "provided port is already allocated"));
            }
            taken.ports.insert(key.clone(), reservation.owner.clone());
            reservation.ports.push(key.clone());
            mine.push(key);
        }
        if !wants {
            return Ok(());
        }
        for (at, port) in ports.iter_mut().enumerate() {
            if number(port, "nodePort").is_some() {
                continue;
            }
            let protocol: Box<str> = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").into();
            let number = next_port(&taken, &mine, &protocol).ok_or_else(|| {
                let path = field::Path::new("spec").child("ports").index(at).child("nodePort");
                field::invalid(&path, 0, "failed to allocate a nodePort: range is full")
            })?;
            let key = (protocol, number);
            taken.ports.insert(key.clone(), reservation.owner.clone());
            reservation.ports.push(key.clone());
            mine.push(key);
            if let Value::Object(map) = port {
                map.insert("nodePort".to_owned(), number.into());
            }
        }
        Ok(())
    }
}

/// A free number; one that another transport of the same Service already has where possible, as
/// upstream gives DNS over TCP and UDP one number.
fn next_port(taken: &Taken, mine: &[Port], protocol: &str) -> Option<u16> {
    let free = |n: u16| !taken.ports.contains_key(&(protocol.into(), n));
    let (low, high) = NODE_PORTS;
    let span = high - low + 1;
    let start = rand::random_range(0..span);
    if let Some((_, shared)) = mine.iter().find(|(p, n)| p.as_ref() != protocol && free(*n)) {
        return Some(*shared);
    }
    (0..span).map(|i| low + (start + i) % span).find(|n| free(*n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::find;

    fn service(uid: &str, spec: Value) -> Value {
        json!({"metadata":{"name":"s","uid":uid},"spec":spec})
    }

    fn fixture() -> (ServiceAllocator, &'static Resource) {
        let network = ServiceNetwork::parse("10.96.0.0/16").unwrap();
        (ServiceAllocator::new(network), find("", "v1", "services").unwrap())
    }

    #[test]
    fn refused_writes_give_back_what_they_took() {
        let (alloc, row) = fixture();
        let mut a = service(
            "a",
            json!({"type":"NodePort","clusterIP":"10.96.0.9","ports":[{"port":80,"nodePort":30000}]}),
        );
        drop(alloc.reserve(row, &mut a, None).unwrap());
        let mut b = service(
            "b",
            json!({"type":"NodePort","clusterIP":"10.96.0.9","ports":[{"port":80,"nodePort":30000}]}),
        );
        alloc.reserve(row, &mut b, None).unwrap().keep();
        let mut c = service("c", json!({"clusterIP":"10.96.0.9","ports":[]}));
        let refused = alloc.reserve(row, &mut c, None).err().unwrap();
        assert!(refused.message.contains("provided IP is already allocated"), "{}", refused.message);
        let mut d = service("d", json!({"type":"NodePort","ports":[{"port":80,"nodePort":30000}]}));
        let refused = alloc.reserve(row, &mut d, None).err().unwrap();
        assert!(refused.message.contains("provided port is already allocated"), "{}", refused.message);
        alloc.release(row, &b);
        alloc.reserve(row, &mut c, None).unwrap().keep();
    }

    #[test]
    fn updates_keep_what_they_had_and_free_what_they_lose() {
        let (alloc, row) = fixture();
        let mut old =
            service("a", json!({"type":"NodePort","ports":[{"port":80},{"port":81,"protocol":"UDP"}]}));
        alloc.reserve(row, &mut old, None).unwrap().keep();
        let port = old["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
        assert!((30_000..=32_767).contains(&port));
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        for p in new["spec"]["ports"].as_array_mut().unwrap() {
            p.as_object_mut().unwrap().remove("nodePort");
        }
        alloc.reserve(row, &mut new, Some(&old)).unwrap().keep();
        assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        let mut other = service("b", json!({"type":"NodePort","ports":[{"port":80,"nodePort":port}]}));
        alloc.reserve(row, &mut other, None).unwrap().keep();
    }

    #[test]
    fn every_address_is_given_once_and_then_no_more() {
        let network = ServiceNetwork::parse("10.0.0.0/28").unwrap();
        let alloc = ServiceAllocator::new(network);
        let row = find("", "v1", "services").unwrap();
        let mut seen = std::collections::HashSet::new();
        for i in 0..14 {
            let mut s = service(&i.to_string(), json!({"ports":[]}));
            alloc.reserve(row, &mut s, None).unwrap().keep();
            assert!(seen.insert(s["spec"]["clusterIP"].as_str().unwrap().to_owned()));
        }
        let mut s = service("x", json!({"ports":[]}));
        assert!(alloc.reserve(row, &mut s, None).is_err());
    }
}
