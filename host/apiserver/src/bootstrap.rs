//! What a fresh cluster has: the system namespaces, roles and priority classes, and `default/kubernetes` with its endpoints.

mod rbac;

use crate::core::{Core, RequestCx, Target};
use crate::managed::WriteKind;
use crate::query::WriteQuery;
use crate::registry::{Resource, find, system_classes};
use crate::user::UserInfo;
use crate::write::{Part, Wish};
use orlop_apimachinery::{Reason, Status};
use serde_json::{Value, json};
use std::sync::Arc;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates what is missing and corrects the endpoints of `default/kubernetes`.
///
/// # Errors
/// What the pipeline refused with; mostly that the store is not there.
pub(crate) async fn run(core: &Core) -> Result<(), Status> {
    let cx = RequestCx::new(Arc::new(UserInfo::master("system:apiserver")), "kube-apiserver");
    for name in NAMESPACES {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(core, &cx, row("", "v1", "namespaces")?, "", name, body, false).await?;
    }
    rbac::run(core, &cx).await?;
    let classes = row("scheduling.k8s.io", "v1", "priorityclasses")?;
    for (name, class) in system_classes() {
        ensure(core, &cx, classes, "", name, class, false).await?;
    }
    let config = &core.config;
    let port = config.secure_port;
    let ip = core.services.network().first().to_string();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    ensure(core, &cx, row("", "v1", "services")?, "default", "kubernetes", service, false).await?;
    let address = config.advertise_address.to_string();
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    ensure(core, &cx, row("", "v1", "endpoints")?, "default", "kubernetes", endpoints, true).await?;
    let family = if config.advertise_address.is_ipv4() { "IPv4" } else { "IPv6" };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family,
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    ensure(core, &cx, row("discovery.k8s.io", "v1", "endpointslices")?, "default", "kubernetes", slice, true)
        .await
}

fn row(group: &str, version: &str, resource: &str) -> Result<&'static Resource, Status> {
    find(group, version, resource).ok_or_else(|| Status::internal(format!("{resource} is not served")))
}

async fn ensure(
    core: &Core,
    cx: &RequestCx,
    row: &'static Resource,
    namespace: &str,
    name: &str,
    body: Value,
    correct: bool,
) -> Result<(), Status> {
    let target = Target { row, namespace, name, subresource: None };
    let query = WriteQuery::default();
    if let Some(entry) = core.shelf(row)?.get(&target.key()) {
        if !correct || covers(&entry.object().to_value(), &body) {
            return Ok(());
        }
        let transform = |old: Option<&Value>| {
            let mut object = old.cloned().unwrap_or_default();
            if let (Value::Object(object), Value::Object(body)) = (&mut object, &body) {
                for (key, value) in body.iter().filter(|(k, _)| *k != "metadata") {
                    object.insert(key.clone(), value.clone());
                }
            }
            crate::metadata::of(&mut object)?.remove("resourceVersion");
            Ok(Wish { object, kind: WriteKind::Update })
        };
        return core.update(cx, &target, Part::Main, false, &query, &transform).await.map(|_| ());
    }
    match core.create(cx, &Target { name: "", ..target }, body, &query).await {
        Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
        _ => Ok(()),
    }
}

/// Whether everything but the metadata is as wished.
fn covers(object: &Value, wished: &Value) -> bool {
    let parts = wished.as_object().into_iter().flatten().filter(|(k, _)| *k != "metadata");
    parts.into_iter().all(|(k, v)| object.get(k) == Some(v))
}
