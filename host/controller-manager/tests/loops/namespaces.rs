//! Namespaces: what each gets, and how it ends.

use crate::cleaning::collector;
use crate::harness::{Cluster, DEPLOYMENTS, PODS, plugin, value};
use crate::workloads::{deployment, workloads};
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, DeleteOptions, ResourceRef};
use orlop_controller_manager::ControllerSpec;
use orlop_plugin_namespace::Namespace;
use orlop_plugin_root_ca_certificate_publisher::RootCaPublisher;
use orlop_plugin_serviceaccount::ServiceAccount;
use serde_json::json;

static NAMESPACES: Gvr = Gvr::new("", "v1", "namespaces");
static ACCOUNTS: Gvr = Gvr::new("", "v1", "serviceaccounts");
static CONFIGMAPS: Gvr = Gvr::new("", "v1", "configmaps");
const CA: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

fn specs() -> Vec<ControllerSpec> {
    vec![
        plugin::<Namespace>(orlop_plugin_namespace::MANIFEST, "{}"),
        plugin::<ServiceAccount>(orlop_plugin_serviceaccount::MANIFEST, "{}"),
        plugin::<RootCaPublisher>(
            orlop_plugin_root_ca_certificate_publisher::MANIFEST,
            &json!({"rootCA": CA}).to_string(),
        ),
    ]
}

#[tokio::test]
async fn every_namespace_has_an_account_and_the_ca() {
    let cluster = Cluster::start(specs());
    for name in ["default", "kube-system"] {
        cluster.api.put(&NAMESPACES, json!({"metadata": {"name": name}})).unwrap();
    }
    let ca = |namespace: &str| value(cluster.api.peek(&CONFIGMAPS, namespace, "kube-root-ca.crt"));
    let complete = |namespace: &str| {
        cluster.api.peek(&ACCOUNTS, namespace, "default").is_some() && ca(namespace)["data"]["ca.crt"] == CA
    };
    cluster.until("both have both", || complete("default") && complete("kube-system")).await;
    assert!(ca("default")["metadata"]["annotations"]["kubernetes.io/description"].is_string());
    cluster.api.modify(&CONFIGMAPS, "default", "kube-root-ca.crt", |c| {
        c["data"] = json!({"ca.crt": "forged", "x": "y"})
    });
    cluster.until("a forged CA is repaired", || ca("default")["data"] == json!({"ca.crt": CA})).await;
    let gone = DeleteOptions::default();
    cluster.api.delete(ResourceRef::new(&ACCOUNTS, "default", "default"), &gone).await.unwrap();
    cluster.until("the account is back", || complete("default")).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_namespace_is_emptied_pods_first() {
    let mut all = specs();
    all.extend(workloads());
    all.push(collector());
    let cluster = Cluster::start(all);
    cluster.api.put(&NAMESPACES, json!({"metadata": {"name": "shop"}})).unwrap();
    let mut web = deployment("web", 3, "a");
    web["metadata"]["namespace"] = json!("shop");
    cluster.api.put(&DEPLOYMENTS, web).unwrap();
    let account = || cluster.api.peek(&ACCOUNTS, "shop", "default").is_some();
    cluster.until("it has pods and an account", || cluster.pods().len() == 3 && account()).await;
    let held = cluster.pods()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.api.modify(&PODS, "shop", &held, |p| p["metadata"]["finalizers"] = json!(["example.com/held"]));
    // As NamespaceLifecycle does.
    let api = cluster.api.clone();
    cluster.api.intercept(move |call| {
        let ending = api.peek(&NAMESPACES, "", &call.namespace).is_some_and(|n| n.is_being_deleted());
        let create = call.verb == orlop_testkit::Verb::Create && call.subresource.is_empty();
        if ending && create {
            let mut status =
                orlop_apimachinery::Status::forbidden(&call.gvr, "", "because it is being terminated");
            let cause =
                orlop_apimachinery::Cause { reason: "NamespaceTerminating".into(), ..Default::default() };
            if let Some(details) = &mut status.details {
                details.causes.push(cause);
            }
            return Err(status.into());
        }
        Ok(())
    });
    let at = ResourceRef::new(&NAMESPACES, "", "shop");
    cluster.api.delete(at, &DeleteOptions::default()).await.unwrap();
    cluster
        .until("it says what holds it", || {
            let ns = value(cluster.api.peek(&NAMESPACES, "", "shop"));
            let message = |kind: &str| {
                let all = ns["status"]["conditions"].as_array().cloned().unwrap_or_default();
                all.iter().find(|c| c["type"] == kind && c["status"] == "True").map(|c| c["message"].clone())
            };
            ns["status"]["phase"] == "Terminating"
                && message("NamespaceContentRemaining")
                    .is_some_and(|m| m.as_str().unwrap().contains("pods. has 1 resource instances"))
                && message("NamespaceFinalizersRemaining").is_some_and(|m| {
                    m == "Some content in the namespace has finalizers remaining: example.com/held in 1 resource instances"
                })
        })
        .await;
    assert!(account(), "pods go first");
    cluster.api.modify(&PODS, "shop", &held, |p| p["metadata"]["finalizers"] = json!([]));
    cluster
        .until("it is gone with all that was in it", || {
            cluster.api.peek(&NAMESPACES, "", "shop").is_none()
                && cluster.pods().is_empty()
                && cluster.api.peek_all(&DEPLOYMENTS).is_empty()
                && cluster.api.peek_all(&ACCOUNTS).is_empty()
                && cluster.api.peek_all(&CONFIGMAPS).is_empty()
        })
        .await;
    cluster.stop().await;
}
