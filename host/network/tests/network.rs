//! The pod network on the real kernel: bridge, addresses, masquerade, host ports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/netns.rs"]
mod netns;

use netns::{Host, Netns, at};
use orlop_network::{Attachment, Config, HostPort, Network, NetworkError, Protocol};
use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

trait Operate {
    fn open(&self, config: &Config) -> Network;
    fn attach(&self, network: &Network, pod: &str, netns: &Netns) -> Result<Attachment, NetworkError>;
    fn detach(&self, network: &Network, pod: &str);
}

impl Operate for Host {
    fn open(&self, config: &Config) -> Network {
        let config = config.clone();
        self.block(async move { Network::open(config).await }).unwrap()
    }

    fn attach(&self, network: &Network, pod: &str, netns: &Netns) -> Result<Attachment, NetworkError> {
        let (network, pod, path) = (network.clone(), pod.to_owned(), netns.path());
        self.block(async move { network.attach(&pod, &path).await })
    }

    fn detach(&self, network: &Network, pod: &str) {
        let (network, pod) = (network.clone(), pod.to_owned());
        self.block(async move { network.detach(&pod).await }).unwrap();
    }
}

fn config(state: &Path, cidr: &str) -> Config {
    Config::new(cidr.parse().unwrap(), state.join("network"))
}

#[test]
fn pods_reach_each_other_and_the_outside() {
    let temp = tempfile::tempdir().unwrap();
    let host = Host::new();
    let outside = Netns::new();
    host.netns.connect("uplink", "192.0.2.1/24", &outside, "192.0.2.9/24");
    host.netns.ip("route add default via 192.0.2.9");
    let config = config(temp.path(), "10.77.0.0/24");
    let network = host.open(&config);
    assert_eq!(network.gateway().to_string(), "10.77.0.1");
    let (a, b) = (Netns::new(), Netns::new());
    let ip = |attachment: Attachment| attachment.addresses[0].to_string();
    let a_ip = ip(host.attach(&network, "ns/a", &a).unwrap());
    let b_ip = ip(host.attach(&network, "ns/b", &b).unwrap());
    assert_eq!((a_ip.as_str(), b_ip.as_str()), ("10.77.0.2", "10.77.0.3"));
    a.serve("a", 8080);
    b.serve("b", 8080);
    outside.serve("outside", 9090);
    host.netns.serve("host", 7070);

    let found = a.dial(at(&b_ip, 8080)).unwrap();
    assert_eq!(
        (found.server.as_str(), found.seen.as_str()),
        ("b", a_ip.as_str()),
        "no address is changed between pods"
    );
    assert_eq!(a.ask_udp(5353, at(&b_ip, 8080), 3).as_deref(), Some("b"));
    let found = host.netns.dial(at(&a_ip, 8080)).unwrap();
    assert_eq!((found.server.as_str(), found.seen.as_str()), ("a", "10.77.0.1"));
    assert_eq!(a.dial(at("10.77.0.1", 7070)).unwrap().server, "host");
    // The outside knows no way to pods: what leaves wears the host's address.
    let found = a.dial(at("192.0.2.9", 9090)).unwrap();
    assert_eq!((found.server.as_str(), found.seen.as_str()), ("outside", "192.0.2.1"));

    let port =
        |host_port| HostPort { protocol: Protocol::Tcp, host_ip: None, host_port, container_port: 8080 };
    let (net, ports) = (network.clone(), vec![port(80)]);
    host.block(async move { net.set_host_ports("ns/a", ports).await }).unwrap();
    assert_eq!(outside.dial(at("192.0.2.1", 80)).unwrap().server, "a");
    assert_eq!(host.netns.dial(at("127.0.0.1", 80)).unwrap().server, "a");
    assert_eq!(b.dial(at("192.0.2.1", 80)).unwrap().server, "a");
    assert_eq!(
        a.dial(at("192.0.2.1", 80)).unwrap().server,
        "a",
        "a pod reaches itself through the host's port"
    );
    let net = network.clone();
    let refused = host.block(async move { net.set_host_ports("ns/x", vec![]).await });
    assert!(matches!(refused, Err(NetworkError::NotAttached { .. })));
    host.detach(&network, "ns/a");
    assert!(outside.dial(at("192.0.2.1", 80)).is_err(), "the port went with the pod");
    drop(network);
    // Everything goes, and a second time there is nothing left to do.
    for _ in 0..2 {
        let config = config.clone();
        host.block(async move { Network::cleanup_all(config).await }).unwrap();
    }
    assert!(!host.netns.command("iptables-save").contains("ORLOP"));
    let links = host.netns.ip("-brief link");
    assert!(!links.contains("orlop0") && !links.contains("veth"), "{links}");
    assert!(!config.state.exists());
    assert!(b.ip("-brief link").lines().count() == 1, "only the loopback interface is left");
}

#[test]
fn a_host_that_was_killed_knows_its_pods_again() {
    let temp = tempfile::tempdir().unwrap();
    let host = Host::new();
    let config = config(temp.path(), "10.78.0.0/29");
    let network = host.open(&config);
    let pods: Vec<Netns> = (0..5).map(|_| Netns::new()).collect();
    let mut addresses = Vec::new();
    for (n, netns) in pods.iter().enumerate() {
        addresses.push(host.attach(&network, &format!("p{n}"), netns).unwrap());
    }
    let sixth = Netns::new();
    let error = host.attach(&network, "p5", &sixth).unwrap_err();
    assert_eq!(error.to_string(), "no IP addresses available in the pod network 10.78.0.0/29");
    pods[0].serve("zero", 80);
    let mut open = pods[1].dial(at("10.78.0.2", 80)).unwrap();
    // The process goes without a word; p3's sandbox dies meanwhile, and p4's is made anew.
    drop(network);
    let mut pods = pods;
    pods.remove(3);
    netns::wait_until("the interface of a dead sandbox is gone", || {
        host.netns.ip("-brief link show type veth").lines().count() == 4
    });
    let network = host.open(&config);
    assert!(open.echo("still here").unwrap(), "connections go on");
    let net = network.clone();
    let known: Vec<String> =
        host.block(async move { net.attached().await }).unwrap().into_iter().map(|(pod, _)| pod).collect();
    assert_eq!(known, ["p0", "p1", "p2", "p4"]);
    for n in [0, 1, 2] {
        assert_eq!(
            host.attach(&network, &format!("p{n}"), &pods[n]).unwrap(),
            addresses[n],
            "attaching again changes nothing"
        );
    }
    assert!(open.echo("and here").unwrap());
    let anew = Netns::new();
    assert_eq!(
        host.attach(&network, "p4", &anew).unwrap(),
        addresses[4],
        "a new sandbox keeps the pod's address"
    );
    anew.serve("anew", 80);
    assert_eq!(pods[0].dial(at(&addresses[4].addresses[0].to_string(), 80)).unwrap().server, "anew");
    // The dead pod's address is free.
    assert_eq!(host.attach(&network, "p5", &sixth).unwrap().addresses, addresses[3].addresses);
    let net = network.clone();
    let keep = HashSet::from(["p0".to_owned(), "p1".to_owned()]);
    let gone = host.block(async move { net.retain(keep).await }).unwrap();
    assert_eq!(gone, ["p2", "p5", "p4"]);
    assert_eq!(host.netns.ip("-brief link show type veth").lines().count(), 2);
    host.detach(&network, "never attached");
    // A sandbox that is not there leaves nothing behind.
    let net = network.clone();
    let failed = host.block(async move { net.attach("ghost", Path::new("/proc/1/ns/nothing")).await });
    assert!(matches!(failed, Err(NetworkError::Link(_))));
    assert_eq!(host.netns.ip("-brief link show type veth").lines().count(), 2);
}

#[test]
fn attaching_is_quick() {
    let temp = tempfile::tempdir().unwrap();
    let host = Host::new();
    let service_cidr = Some("10.96.0.0/12".parse().unwrap());
    let network = host.open(&Config { service_cidr, ..config(temp.path(), "10.79.0.0/24") });
    // This host has no default route.
    assert!(host.netns.ip("route").contains("10.96.0.0/12 dev orlop0"));
    let pods: Vec<Netns> = (0..20).map(|_| Netns::new()).collect();
    let started = Instant::now();
    for (n, pod) in pods.iter().enumerate() {
        host.attach(&network, &format!("pod-{n}"), pod).unwrap();
    }
    println!("{:?} for each pod", started.elapsed() / 20);
    let error = {
        let (mut other, bridge) = (config(temp.path(), "10.80.0.0/24"), "lo".to_owned());
        other.bridge = bridge;
        other.state = temp.path().join("other");
        host.block(async move { Network::open(other).await }).err().unwrap()
    };
    assert!(error.to_string().contains("exists and is not a bridge"), "{error}");
}
