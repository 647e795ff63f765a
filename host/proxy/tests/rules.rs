//! The rules as text: golden files, and that every update leads to what a full write gives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use orlop_apimachinery::Object;
use orlop_proxy::model::{self, Family, Service, ServiceKey, Slice};
use orlop_proxy::{Fragment, Ruleset, Settings, render};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn settings() -> Settings {
    Settings { pod_cidr: Some("10.0.0.0/8".to_owned()), zone: None }
}

fn object(value: &Value) -> Object {
    Object::from_value(value).unwrap()
}

fn key(name: &str) -> ServiceKey {
    (name.replace("svc", "ns").into(), name.into())
}

/// A Service `svcN` in `nsN` with the given spec.
fn service(name: &str, spec: Value) -> Option<Service> {
    model::service(&object(
        &json!({"metadata": {"name": name, "namespace": name.replace("svc", "ns")}, "spec": spec}),
    ))
}

/// A slice with a port `p80`; an endpoint is its address and flags: `l`ocal, `n`ot ready,
/// `t`erminating (and serving).
fn slice(port: u16, protocol: &str, endpoints: &[(&str, &str)]) -> Slice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, flags)| {
            let has = |flag| flags.contains(flag);
            let node = if has('l') { "here" } else { "there" };
            let conditions = json!({
                "ready": !has('n') && !has('t'), "serving": !has('n'), "terminating": has('t'),
            });
            json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
        })
        .collect();
    let value = json!({
        "metadata": {"name": "s", "namespace": "ns"},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "p80", "port": port, "protocol": protocol}],
    });
    model::slice(&object(&value), "here")
}

fn port(extra: Value) -> Value {
    let mut port = json!({"name": "p80", "port": 80, "protocol": "TCP"});
    port.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!([port])
}

fn fragment(name: &str, spec: Value, slices: &[Slice]) -> (ServiceKey, Fragment) {
    let key = key(name);
    let service = service(name, spec).unwrap();
    let fragment = render(&key, &service, slices.iter(), Family::V4, &settings());
    (key, fragment)
}

fn full(fragments: Vec<(ServiceKey, Fragment)>) -> String {
    let mut ruleset = Ruleset::new(Family::V4);
    ruleset.update(fragments);
    let text = ruleset.full(&BTreeSet::new());
    Model::default().restore(&text);
    text
}

#[test]
fn no_services() {
    insta::assert_snapshot!(full(vec![]));
}

#[test]
fn cluster_ip() {
    let one = slice(80, "TCP", &[("10.180.0.1", "")]);
    let two = slice(
        80,
        "TCP",
        &[("10.180.0.4", ""), ("10.180.0.5", "l"), ("10.180.0.6", "n"), ("10.180.0.7", "t")],
    );
    insta::assert_snapshot!(full(vec![
        fragment("svc1", json!({"clusterIP": "172.30.0.41", "ports": port(json!({}))}), &[one]),
        // The same endpoint in two slices counts once, and the ready one wins.
        fragment(
            "svc2",
            json!({"clusterIP": "172.30.0.42", "ports": port(json!({}))}),
            &[two, slice(80, "TCP", &[("10.180.0.4", "n"), ("10.180.0.8", "")])]
        ),
        fragment("svc3", json!({"clusterIP": "172.30.0.43", "ports": port(json!({}))}), &[]),
    ]));
}

#[test]
fn endpoints_that_terminate_serve_while_no_other_does() {
    let slices = [slice(80, "TCP", &[("10.180.0.1", "t"), ("10.180.0.2", "n"), ("10.180.0.3", "t")])];
    let spec = json!({"clusterIP": "172.30.0.41", "ports": port(json!({}))});
    insta::assert_snapshot!(full(vec![fragment("svc1", spec, &slices)]));
}

#[test]
fn external_traffic() {
    let slices = [slice(8080, "TCP", &[("10.180.0.1", "l"), ("10.180.0.2", "")])];
    let all = json!({
        "type": "LoadBalancer", "clusterIP": "172.30.0.41", "externalIPs": ["192.0.2.7", "2001:db8::7"],
        "ports": port(json!({"nodePort": 30080})),
    });
    let mut local = all.clone();
    local["externalTrafficPolicy"] = "Local".into();
    let elsewhere = [slice(8080, "TCP", &[("10.180.0.2", "")])];
    insta::assert_snapshot!(full(vec![
        fragment("svc1", all, &slices),
        fragment("svc2", local.clone(), &slices),
        fragment("svc3", local.clone(), &elsewhere),
        fragment("svc4", local, &[]),
    ]));
}

#[test]
fn load_balancers() {
    let value = |mode: &str, ranges: Value| {
        json!({
            "metadata": {"name": "svc1", "namespace": "ns1"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "172.30.0.41", "ports": port(json!({})),
                "loadBalancerSourceRanges": ranges,
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.99", "ipMode": mode}, {"hostname": "x"}]}},
        })
    };
    let slices = [slice(80, "TCP", &[("10.180.0.1", "")])];
    let ranges = json!(["203.0.113.0/25", "2001:db8::/64"]);
    let mut texts = Vec::new();
    for (mode, ranges) in [("VIP", json!([])), ("VIP", ranges), ("Proxy", json!([]))] {
        let service = model::service(&object(&value(mode, ranges))).unwrap();
        let fragment = render(&key("svc1"), &service, slices.iter(), Family::V4, &settings());
        texts.push(full(vec![(key("svc1"), fragment)]));
    }
    insta::assert_snapshot!(texts.join("---\n"));
}

#[test]
fn affinity_and_protocols() {
    let affine = json!({
        "clusterIP": "172.30.0.41", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}, "ports": port(json!({"protocol": "UDP"})),
    });
    let udp = slice(53, "UDP", &[("10.180.0.1", ""), ("10.180.0.2", "")]);
    let sctp = json!({"clusterIP": "172.30.0.42", "ports": port(json!({"protocol": "SCTP"}))});
    let nameless = json!({"clusterIP": "172.30.0.43", "ports": [{"port": 9}]});
    // A slice of another protocol or port name is not this port's.
    insta::assert_snapshot!(full(vec![
        fragment("svc1", affine, std::slice::from_ref(&udp)),
        fragment("svc2", sctp, &[slice(9, "SCTP", &[("10.180.0.3", "")]), udp.clone()]),
        fragment("svc3", nameless, &[udp]),
    ]));
}

#[test]
fn internal_traffic_policy() {
    let spec =
        |ip: &str| json!({"clusterIP": ip, "internalTrafficPolicy": "Local", "ports": port(json!({}))});
    insta::assert_snapshot!(full(vec![
        fragment(
            "svc1",
            spec("172.30.0.41"),
            &[slice(80, "TCP", &[("10.180.0.1", "l"), ("10.180.0.2", "")])]
        ),
        fragment("svc2", spec("172.30.0.42"), &[slice(80, "TCP", &[("10.180.0.2", "")])]),
        fragment("svc3", spec("172.30.0.43"), &[]),
    ]));
}

#[test]
fn ipv6() {
    let ips = json!(["172.30.0.41", "fd00::41"]);
    let spec = json!({"clusterIPs": ips, "type": "NodePort", "ports": port(json!({"nodePort": 30080}))});
    let dual = service("svc1", spec).unwrap();
    let value = json!({
        "metadata": {"name": "s", "namespace": "ns1"},
        "addressType": "IPv6",
        "endpoints": [{"addresses": ["fd00:1::2"]}],
        "ports": [{"name": "p80", "port": 8080}],
    });
    let slices = [model::slice(&object(&value), "here"), slice(80, "TCP", &[("10.180.0.1", "")])];
    let settings = Settings { pod_cidr: Some("fd00:1::/64".to_owned()), zone: None };
    let mut ruleset = Ruleset::new(Family::V6);
    ruleset.update(vec![(key("svc1"), render(&key("svc1"), &dual, slices.iter(), Family::V6, &settings))]);
    insta::assert_snapshot!(ruleset.full(&BTreeSet::new()));
    let v4_only = service("svc2", json!({"clusterIP": "172.30.0.42", "ports": port(json!({}))})).unwrap();
    assert_eq!(render(&key("svc2"), &v4_only, slices.iter(), Family::V6, &settings), Fragment::default());
}

#[test]
fn services_without_rules() {
    assert_eq!(service("svc1", json!({"clusterIP": "None", "ports": port(json!({}))})), None);
    assert_eq!(service("svc1", json!({"type": "ExternalName", "externalName": "example.com"})), None);
    assert_eq!(service("svc1", json!({"clusterIP": "", "ports": port(json!({}))})), None);
    let other = json!({
        "metadata": {"name": "a", "namespace": "b", "labels": {"service.kubernetes.io/service-proxy-name": "x"}},
        "spec": {"clusterIP": "172.30.0.41", "ports": port(json!({}))},
    });
    assert_eq!(model::service(&object(&other)), None);
}

#[test]
fn topology_hints() {
    let endpoint = |ip: &str, zone: Option<&str>| {
        let zones: Vec<Value> = zone.iter().map(|z| json!({"name": z})).collect();
        json!({"addresses": [ip], "hints": {"forZones": zones}})
    };
    let used = |endpoints: Value, zone: Option<&str>| {
        let value = json!({
            "metadata": {"name": "s", "namespace": "ns1"},
            "endpoints": endpoints,
            "ports": [{"name": "p80", "port": 80}],
        });
        let slices = [model::slice(&object(&value), "here")];
        let service = service("svc1", json!({"clusterIP": "172.30.0.41", "ports": port(json!({}))})).unwrap();
        let settings = Settings { zone: zone.map(str::to_owned), ..settings() };
        let fragment = render(&key("svc1"), &service, slices.iter(), Family::V4, &settings);
        fragment.chains.keys().filter(|c| c.starts_with("KUBE-SEP-")).count()
    };
    let hinted = json!([
        endpoint("10.0.0.1", Some("a")),
        endpoint("10.0.0.2", Some("b")),
        endpoint("10.0.0.3", Some("a"))
    ]);
    assert_eq!(used(hinted.clone(), Some("a")), 2);
    assert_eq!(used(hinted.clone(), Some("b")), 1);
    assert_eq!(used(hinted.clone(), Some("c")), 3, "no hint for this zone");
    assert_eq!(used(hinted, None), 3, "a node without a zone");
    let partly = json!([endpoint("10.0.0.1", Some("a")), endpoint("10.0.0.2", None)]);
    assert_eq!(used(partly, Some("a")), 2, "one without a hint");
}

/// What `iptables-restore --noflush` does to the chains that it is told about.
#[derive(Default, Debug, PartialEq, Eq, Clone)]
struct Model {
    chains: BTreeMap<(String, String), Vec<String>>,
}

impl Model {
    fn restore(&mut self, text: &str) {
        let mut table = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if let Some(rest) = line.strip_prefix(':') {
                let name = rest.split(' ').next().unwrap();
                assert!(name.len() <= 28, "{name} is too long");
                self.chains.insert((table.clone(), name.to_owned()), Vec::new());
            } else if let Some(rest) = line.strip_prefix("-A ") {
                let name = rest.split(' ').next().unwrap();
                let chain = self.chains.get_mut(&(table.clone(), name.to_owned()));
                chain.unwrap_or_else(|| panic!("no chain for {line}")).push(line.to_owned());
            } else if let Some(name) = line.strip_prefix("-X ") {
                assert!(self.chains.remove(&(table.clone(), name.to_owned())).unwrap().is_empty());
            } else {
                assert_eq!(line, "COMMIT");
                table.clear();
            }
        }
        assert!(table.is_empty(), "a table without COMMIT");
        for ((table, _), rules) in &self.chains {
            for rule in rules {
                let target = rule.split(" -j ").nth(1).and_then(|r| r.split(' ').next());
                if let Some(target) = target.filter(|t| t.starts_with("KUBE-")) {
                    assert!(
                        self.chains.contains_key(&(table.clone(), target.to_owned())),
                        "dangling: {rule}"
                    );
                }
            }
        }
    }
}

/// A Service and endpoints of every kind, by chance.
fn any_fragment(n: u64, mut random: impl FnMut(u64) -> u64) -> (ServiceKey, Fragment) {
    let name = format!("svc{n}");
    if random(5) == 0 {
        return (key(&name), Fragment::default());
    }
    let endpoints: Vec<(String, &str)> = (0..random(4))
        .map(|_| (format!("10.180.{n}.{}", random(5)), ["", "l", "n", "t", "lt"][random(5) as usize]))
        .collect();
    let endpoints: Vec<_> = endpoints.iter().map(|(ip, flags)| (ip.as_str(), *flags)).collect();
    let mut spec =
        json!({"clusterIP": format!("172.30.0.{n}"), "ports": port(json!({"nodePort": 30000 + n}))});
    for (chance, field, value) in [
        (2, "type", "NodePort"),
        (2, "sessionAffinity", "ClientIP"),
        (3, "externalTrafficPolicy", "Local"),
        (3, "internalTrafficPolicy", "Local"),
    ] {
        if random(chance) == 0 {
            spec[field] = value.into();
        }
    }
    fragment(&name, spec, &[slice(80, "TCP", &endpoints)])
}

#[test]
fn updates_lead_to_what_a_full_write_gives() {
    let mut seed = 1u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    let mut ruleset = Ruleset::new(Family::V4);
    let mut live = Model::default();
    live.restore(&ruleset.full(&BTreeSet::new()));
    let mut quiet = 0;
    for _ in 0..400 {
        let changes: BTreeMap<ServiceKey, Fragment> = (0..=random(2))
            .map(|_| {
                let n = random(6);
                any_fragment(n, &mut random)
            })
            .collect();
        let difference = ruleset.update(changes.clone().into_iter().collect());
        live.restore(&difference);
        let mut fresh = Model::default();
        fresh.restore(&ruleset.full(&BTreeSet::new()));
        assert_eq!(live, fresh, "after {difference}");
        assert_eq!(ruleset.update(changes.into_iter().collect()), "", "the same again changes nothing");
        quiet += usize::from(difference.is_empty());
        // A restart finds what is there and ends with the same.
        let stale =
            live.chains.keys().filter(|(t, c)| t == "nat" && c.len() > 20).map(|(_, c)| c.clone()).collect();
        let mut again = live.clone();
        again.restore(&ruleset.full(&stale));
        assert_eq!(again, live);
    }
    assert!(quiet < 200, "hardly anything changed");
}
