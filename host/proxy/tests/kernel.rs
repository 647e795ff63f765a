//! Services on the real kernel: a host, pods and a machine outside, each in a network namespace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../network/tests/support/netns.rs"]
mod netns;

use netns::{Host, Netns, at, wait_until};
use orlop_apimachinery::Gvr;
use orlop_client::{DeleteOptions, ResourceRef};
use orlop_proxy::{Config, Proxy};
use orlop_testkit::MemoryApi;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SERVICES: Gvr = Gvr::new("", "v1", "services");
const SLICES: Gvr = Gvr::new("discovery.k8s.io", "v1", "endpointslices");
const NODES: Gvr = Gvr::new("", "v1", "nodes");

/// A host with three pods, a machine outside, and a proxy.
struct World {
    host: Host,
    pods: BTreeMap<&'static str, Netns>,
    outside: Netns,
    api: MemoryApi,
    cancel: CancellationToken,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let outside = Netns::new();
        host.netns.connect("uplink", "192.0.2.1/24", &outside, "192.0.2.9/24");
        host.netns.ip("route add default via 192.0.2.9");
        host.netns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        let mut pods = BTreeMap::new();
        for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
            let pod = Netns::new();
            host.netns.connect(
                &format!("pod-{name}"),
                &format!("10.88.{n}.1/24"),
                &pod,
                &format!("10.88.{n}.2/24"),
            );
            pod.ip(&format!("route add default via 10.88.{n}.1"));
            pod.serve(name, 8080);
            pods.insert(name, pod);
        }
        let api = MemoryApi::new();
        api.put(&NODES, json!({"metadata": {"name": "here"}, "spec": {"podCIDR": "10.88.0.0/16"}})).unwrap();
        Self { host, pods, outside, api, cancel: CancellationToken::new() }
    }

    fn start(&mut self) {
        self.cancel = CancellationToken::new();
        let (cancel, client) = (self.cancel.clone(), self.api.client());
        let config = Config { canary: Duration::from_millis(300), ..Config::new("here", None) };
        self.host.spawn(async move { Proxy::new(client, config).run(cancel).await.unwrap() });
        // The last of the rules that lead to the others.
        self.wait_for_rule("-j KUBE-POSTROUTING");
    }

    /// Creates or replaces an object, but for its metadata.
    fn set(&self, gvr: &Gvr, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let change = |now: &mut Value| {
            for (field, value) in object.as_object().unwrap().iter().filter(|(field, _)| *field != "metadata")
            {
                now[field] = value.clone();
            }
        };
        if self.api.modify(gvr, "default", name, change).is_none() {
            self.api.put(gvr, object).unwrap();
        }
    }

    fn delete(&self, gvr: Gvr, name: &'static str) {
        let client = self.api.client();
        self.host.block(async move {
            client.delete(ResourceRef::new(&gvr, "default", name), &DeleteOptions::default()).await.unwrap();
        });
    }

    fn service(&self, name: &str, mut spec: Value) {
        if spec.get("ports").is_none() {
            spec["ports"] = json!([{"name": "web", "port": 80}]);
        }
        self.set(&SERVICES, json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}));
    }

    /// Sets a Service's endpoints: pods with flags `t`erminating, `r`emote.
    fn endpoints(&self, service: &str, protocol: &str, pods: &[(&str, &str)]) {
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|(pod, flags)| {
                let n = ["a", "b", "c"].iter().position(|p| p == pod).unwrap();
                let node = if flags.contains('r') { "there" } else { "here" };
                let gone = flags.contains('t');
                json!({
                    "addresses": [format!("10.88.{n}.2")], "nodeName": node,
                    "conditions": {"ready": !gone, "serving": true, "terminating": gone},
                })
            })
            .collect();
        let labels = json!({"kubernetes.io/service-name": service});
        self.set(
            &SLICES,
            json!({
                "metadata": {"name": format!("{service}-1"), "namespace": "default", "labels": labels},
                "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "web", "port": 8080, "protocol": protocol}],
            }),
        );
    }

    fn rules(&self) -> String {
        self.host.netns.command("iptables-save")
    }

    fn canaries(&self) -> usize {
        self.rules().matches(":KUBE-PROXY-CANARY").count()
    }

    /// Servers that answer on an address, each with the client's address as it sees it.
    fn servers(&self, from: &Netns, ip: &str, port: u16) -> HashSet<(String, String)> {
        (0..24)
            .map(|_| from.dial(at(ip, port)).unwrap())
            .map(|c| (c.server.clone(), c.seen.clone()))
            .collect()
    }

    fn wait_for_rule(&self, text: &str) {
        wait_until(&format!("there is a rule {text}"), || self.rules().contains(text));
    }

    fn wait_for_no_rule(&self, text: &str) {
        wait_until(&format!("there is no rule {text}"), || !self.rules().contains(text));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn set(pairs: &[(&str, &str)]) -> HashSet<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

fn names(found: HashSet<(String, String)>) -> HashSet<String> {
    found.into_iter().map(|(server, _)| server).collect()
}

#[test]
fn tcp_services() {
    let mut world = World::new();
    let ports = json!([{"name": "web", "port": 80, "nodePort": 30080}]);
    world.service("web", json!({"type": "NodePort", "clusterIP": "10.96.0.10", "ports": ports}));
    world.endpoints("web", "TCP", &[("a", ""), ("b", "")]);
    world.start();
    world.wait_for_rule("default/web:web cluster IP");
    let (a, c) = (&world.pods["a"], &world.pods["c"]);
    // From the host, from another pod (whose address is kept), from an endpoint itself (hairpin).
    let both: HashSet<String> = HashSet::from(["a".to_owned(), "b".to_owned()]);
    assert_eq!(names(world.servers(&world.host.netns, "10.96.0.10", 80)), both);
    assert_eq!(world.servers(c, "10.96.0.10", 80), set(&[("a", "10.88.2.2"), ("b", "10.88.2.2")]));
    assert_eq!(world.servers(a, "10.96.0.10", 80), set(&[("a", "10.88.0.1"), ("b", "10.88.0.2")]));
    // The node port from outside is masqueraded, and works on every address of the host.
    assert_eq!(
        world.servers(&world.outside, "192.0.2.1", 30080),
        set(&[("a", "10.88.0.1"), ("b", "10.88.1.1")])
    );
    assert_eq!(names(world.servers(&world.host.netns, "127.0.0.1", 30080)), both);
    assert_eq!(names(world.servers(c, "10.88.2.1", 30080)), both);

    // Connections outlive every change of the rules; new ones go by the new rules.
    let mut connections: Vec<_> = (0..8).map(|_| c.dial(at("10.96.0.10", 80)).unwrap()).collect();
    world.endpoints("web", "TCP", &[("b", "")]);
    world.wait_for_no_rule("10.88.0.2:8080");
    assert_eq!(world.servers(c, "10.96.0.10", 80), set(&[("b", "10.88.2.2")]));
    world.endpoints("web", "TCP", &[]);
    world.wait_for_rule("default/web:web has no endpoints");
    world.wait_for_no_rule("KUBE-SEP-");
    let refused = c.dial(at("10.96.0.10", 80)).err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    let refused = world.outside.dial(at("192.0.2.1", 30080)).err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    for connection in &mut connections {
        assert!(connection.echo("still there").unwrap(), "a connection to {} broke", connection.server);
    }
    // Endpoints that terminate are better than none.
    world.endpoints("web", "TCP", &[("a", "t")]);
    world.wait_for_rule("10.88.0.2:8080");
    assert_eq!(world.servers(c, "10.96.0.10", 80), set(&[("a", "10.88.2.2")]));
    world.delete(SLICES, "web-1");
    world.delete(SERVICES, "web");
    world.wait_for_no_rule("default/web");
    assert!(c.dial(at("10.96.0.10", 80)).is_err());
}

#[test]
fn affinity_and_traffic_policies() {
    let mut world = World::new();
    world.start();
    world.service("sticky", json!({"clusterIP": "10.96.0.11", "sessionAffinity": "ClientIP"}));
    world.endpoints("sticky", "TCP", &[("a", ""), ("b", ""), ("c", "")]);
    world.wait_for_rule("--rcheck --seconds 10800");
    for from in [&world.host.netns, &world.pods["a"], &world.pods["b"]] {
        let found = names(world.servers(from, "10.96.0.11", 80));
        assert_eq!(found.len(), 1, "a client stays with its endpoint: {found:?}");
    }
    // Only this node's endpoints, and the client's own address.
    let ports = json!([{"name": "web", "port": 80, "nodePort": 30081}]);
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.12", "externalTrafficPolicy": "Local", "ports": ports});
    world.service("local", spec);
    world.endpoints("local", "TCP", &[("a", "r"), ("b", ""), ("c", "r")]);
    world.wait_for_rule("--dport 30081 -j KUBE-EXT");
    assert_eq!(world.servers(&world.outside, "192.0.2.1", 30081), set(&[("b", "192.0.2.9")]));
    assert_eq!(names(world.servers(&world.pods["c"], "10.96.0.12", 80)).len(), 3, "inside, all endpoints");
    world.endpoints("local", "TCP", &[("a", "r")]);
    world.wait_for_rule("default/local:web has no local endpoints");
    let dropped = world.outside.dial(at("192.0.2.1", 30081)).err().unwrap();
    assert_eq!(dropped.kind(), std::io::ErrorKind::TimedOut, "{dropped}");
    assert_eq!(names(world.servers(&world.pods["c"], "10.96.0.12", 80)).len(), 1);
    let spec =
        json!({"clusterIP": "10.96.0.13", "internalTrafficPolicy": "Local", "externalIPs": ["198.51.100.5"]});
    world.service("inner", spec);
    world.endpoints("inner", "TCP", &[("a", "r"), ("b", "")]);
    world.wait_for_rule("198.51.100.5/32 -p tcp -m comment --comment \"default/inner:web external IP\"");
    assert_eq!(world.servers(&world.pods["c"], "10.96.0.13", 80), set(&[("b", "10.88.2.2")]));
    world.outside.ip("route add 198.51.100.5 via 192.0.2.1");
    let found = names(world.servers(&world.outside, "198.51.100.5", 80));
    assert_eq!(found.len(), 2, "an external IP takes all endpoints: {found:?}");
}

#[test]
fn udp_clients_follow_the_endpoints() {
    let mut world = World::new();
    world.start();
    let ports = json!([{"name": "web", "port": 53, "protocol": "UDP", "nodePort": 30053}]);
    world.service("dns", json!({"type": "NodePort", "clusterIP": "10.96.0.14", "ports": ports}));
    world.wait_for_rule("default/dns:web has no endpoints");
    let c = &world.pods["c"];
    assert_eq!(c.ask_udp(4001, at("10.96.0.14", 53), 1), None);
    // The same client, the same port, all the time: its flow must be led anew each time.
    for (pod, before) in [("a", "-"), ("b", "a"), ("a", "b")] {
        world.endpoints("dns", "UDP", &[(pod, "")]);
        wait_until(&format!("the client is led from {before} to {pod}"), || {
            c.ask_udp(4001, at("10.96.0.14", 53), 1).as_deref() == Some(pod)
        });
        wait_until("the client outside too", || {
            world.outside.ask_udp(4002, at("192.0.2.1", 30053), 1).as_deref() == Some(pod)
        });
    }
    assert_eq!(c.ask_udp(4003, at("10.96.0.14", 53), 3).as_deref(), Some("a"));
}

#[test]
fn restarts_flushes_and_cleanup() {
    let mut world = World::new();
    world.service("web", json!({"clusterIP": "10.96.0.10"}));
    world.endpoints("web", "TCP", &[("a", "")]);
    world.start();
    let mut open = world.pods["c"].dial(at("10.96.0.10", 80)).unwrap();
    // Services work without the proxy; what changed meanwhile is put right by the next one.
    world.cancel.cancel();
    assert_eq!(names(world.servers(&world.pods["c"], "10.96.0.10", 80)).len(), 1);
    world.delete(SERVICES, "web");
    world.service("web", json!({"clusterIP": "10.96.0.20"}));
    world.endpoints("web", "TCP", &[("b", "")]);
    world.start();
    world.wait_for_rule("10.88.1.2:8080");
    world.wait_for_no_rule("10.88.0.2:8080");
    assert!(!world.rules().contains("10.96.0.10"));
    assert_eq!(world.servers(&world.pods["c"], "10.96.0.20", 80), set(&[("b", "10.88.2.2")]));
    assert!(open.echo("still there").unwrap());
    // Somebody flushes the rules: they come back, once each.
    let jumps = |world: &World| world.rules().lines().filter(|l| l.contains("-j KUBE-")).count();
    let before = jumps(&world);
    // At one stroke, or the proxy would begin to put them back in the middle of it.
    world.host.netns.run(|| {
        let empty = "printf '*nat\\nCOMMIT\\n*filter\\nCOMMIT\\n*mangle\\nCOMMIT\\n' | iptables-restore";
        assert!(std::process::Command::new("sh").args(["-c", empty]).status().unwrap().success());
    });
    wait_until("the rules are back", || world.canaries() == 3 && jumps(&world) == before);
    assert_eq!(world.servers(&world.pods["c"], "10.96.0.20", 80), set(&[("b", "10.88.2.2")]));
    assert!(!world.host.netns.command("ip6tables-save").contains("KUBE"), "no IPv6 Service, no IPv6 rule");
    world.cancel.cancel();
    world.host.netns.command("iptables -N MINE");
    world.host.netns.command("iptables -A INPUT -j MINE");
    wait_until("everything is removed", || {
        world.host.block(async { Proxy::cleanup().await.unwrap() });
        !world.rules().contains("KUBE")
    });
    world.host.block(async { Proxy::cleanup().await.unwrap() });
    assert!(world.rules().contains("-A INPUT -j MINE"), "the rules of others stay");
}
