//! Addresses and ports of Services, and what a fresh cluster has.

use super::*;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion":"v1","kind":"Service","metadata":{"name":name},"spec":spec})
}

#[test]
fn a_fresh_cluster_has_its_own_service_and_namespaces() {
    run(async {
        let f = start().await;
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let space = f.get(&format!("/api/v1/namespaces/{name}")).await.ok();
            assert_eq!(space["metadata"]["labels"]["kubernetes.io/metadata.name"], name);
        }
        let own = f.get(&format!("{SERVICES}/kubernetes")).await.ok();
        assert_eq!(own["spec"]["clusterIP"], "10.96.0.1");
        let endpoints = f.get("/api/v1/namespaces/default/endpoints/kubernetes").await.ok();
        assert_eq!(endpoints["subsets"][0]["ports"][0]["port"], f.address.port());
        f.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.ok();
    });
}

#[test]
fn addresses_and_ports_are_given_once_and_given_back() {
    run(async {
        let f = start().await;
        let ports = json!([{"port":80,"protocol":"TCP"}]);
        let made = f.post(SERVICES, &service("a", json!({"type":"NodePort","ports":ports}))).await.ok();
        let ip = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
        assert_eq!(made["spec"]["clusterIPs"], json!([ip]));
        let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
        assert!((30000..=32767).contains(&port));
        let same_ip =
            f.post(SERVICES, &service("b", json!({"clusterIP":ip,"ports":ports}))).await.refused(422);
        assert!(same_ip.contains("provided IP is already allocated"), "{same_ip}");
        let wanted = json!([{"port":80,"nodePort":port}]);
        let same_port =
            f.post(SERVICES, &service("b", json!({"type":"NodePort","ports":wanted}))).await.refused(422);
        assert!(same_port.contains("provided port is already allocated"), "{same_port}");
        let outside =
            f.post(SERVICES, &service("b", json!({"clusterIP":"10.1.0.1","ports":ports}))).await.refused(422);
        assert!(outside.contains("is not in the valid range"), "{outside}");
        f.post(
            &format!("{SERVICES}?dryRun=All"),
            &service("b", json!({"clusterIP":"10.96.0.77","ports":ports})),
        )
        .await
        .ok();
        f.post(SERVICES, &service("b", json!({"clusterIP":"10.96.0.77","ports":ports}))).await.ok();
        f.delete(&format!("{SERVICES}/a"), None).await.ok();
        f.post(SERVICES, &service("c", json!({"clusterIP":ip,"type":"NodePort","ports":wanted}))).await.ok();
        let headless = f.post(SERVICES, &service("h", json!({"clusterIP":"None","ports":ports}))).await.ok();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    });
}

#[test]
fn a_restarted_server_remembers_what_is_taken() {
    run(async {
        let f = start().await;
        let ports = json!([{"port":80}]);
        let made = f.post(SERVICES, &service("a", json!({"ports":ports}))).await.ok();
        let ip = &made["spec"]["clusterIP"];
        let second = f.second().await;
        let client = second.loopback(crate::UserInfo::master("test"));
        let gvr = orlop_apimachinery::Gvr::new("", "v1", "services");
        let at = orlop_client::ResourceRef::new(&gvr, "default", "");
        let body = service("b", json!({"clusterIP":ip,"ports":ports})).to_string();
        let refused = client.create(at, Bytes::from(body), &Default::default()).await.unwrap_err();
        assert!(refused.to_string().contains("provided IP is already allocated"), "{refused}");
    });
}
