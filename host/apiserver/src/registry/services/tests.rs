use super::*;
use crate::user::UserInfo;

fn with<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
    let user = UserInfo::master("admin");
    f(&Context { now: "2026-01-01T01:00:00Z".parse().unwrap(), user: &user, random: 0 })
}

fn service(spec: Value) -> Value {
    let mut object =
        json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:50:00Z"}, "spec": spec});
    Services.default(&mut object);
    object
}

#[track_caller]
fn faults(spec: Value, expected: &[&str]) {
    let found = with(|cx| Services.validate(cx, &service(spec)));
    let found: Vec<String> = found.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
    assert_eq!(found, expected);
}

#[test]
fn defaults_are_upstreams() {
    let object = service(json!({"ports": [{"port": 80}]}));
    let spec = &object["spec"];
    assert_eq!(spec["type"], "ClusterIP");
    assert_eq!(spec["sessionAffinity"], "None");
    assert_eq!(spec["internalTrafficPolicy"], "Cluster");
    assert_eq!(spec["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    let object =
        service(json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}));
    assert_eq!(object["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(object["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(object["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
}

#[test]
fn faults_have_upstreams_paths_and_words() {
    faults(json!({"ports": [{"port": 80}]}), &[]);
    faults(json!({"clusterIP": "None"}), &[]);
    faults(json!({}), &["spec.ports: Required value"]);
    faults(
        json!({"ports": [{"port": 80}, {"port": 81}]}),
        &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
    );
    faults(
        json!({"ports": [{"port": 0}]}),
        &[
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
    faults(
        json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
        &["spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"],
    );
    faults(
        json!({"type": "Cluster", "ports": [{"port": 80}]}),
        &["spec.type: Unsupported value: \"Cluster\": supported values: \"ClusterIP\", \"ExternalName\", \
           \"LoadBalancer\", \"NodePort\""],
    );
    faults(
        json!({"ports": [{"port": 80, "nodePort": 30000}]}),
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
}

#[test]
fn the_address_is_fixed() {
    let old = service(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
    let new = service(json!({"clusterIP": "10.96.0.2", "ports": [{"port": 80}]}));
    let found = with(|cx| Services.validate_update(cx, &new, &old));
    assert_eq!(found.len(), 1);
    assert_eq!(
        format!("{}: {}", found[0].field, found[0].message),
        "spec.clusterIPs[0]: Invalid value: \"10.96.0.2\": may not change once set"
    );
}

#[test]
fn rows_are_kubectls() {
    let row = |spec: Value| with(|cx| Services.cells(cx, &service(spec)));
    assert_eq!(
        row(json!({"type": "NodePort", "clusterIP": "10.96.0.1", "selector": {"app": "web"},
            "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 53, "protocol": "UDP"}]})),
        [
            json!("web"),
            json!("NodePort"),
            json!("10.96.0.1"),
            json!("<none>"),
            json!("80:30080/TCP,53/UDP"),
            json!("10m"),
            json!("app=web")
        ]
    );
    let external = row(json!({"type": "ExternalName", "externalName": "example.com"}));
    assert_eq!(
        external[1..5],
        [json!("ExternalName"), json!("<none>"), json!("example.com"), json!("<none>")]
    );
    assert_eq!(row(json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))[3], "<pending>");
    assert_eq!(row(json!({"clusterIP": "None"}))[2], "None");
}

#[test]
fn a_writer_that_names_no_address_keeps_the_allocated_ones() {
    let old = service(json!({"type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
        "ports": [{"port": 80, "nodePort": 30080}]}));
    let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080}]}));
    with(|cx| Services.prepare_for_update(cx, &mut new, &old));
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.1"]));
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
    assert_eq!(with(|cx| Services.validate_update(cx, &new, &old)), Vec::new());
    let mut plain = service(json!({"ports": [{"port": 80}]}));
    with(|cx| Services.prepare_for_update(cx, &mut plain, &old));
    assert_eq!(plain["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
}
