//! The table of served types, in discovery order.
//!
//! A type whose strategy has its own file names it here; the others use [`Generic`]. The core group
//! is here, the others are below.

mod groups;
mod reviews;
mod storage;

use super::{Allocation, Backing, Generic, Gvk3, NodeStream, Resource, ScalePaths, Strategy};
use super::{Subresource, SubresourceKind};
use super::{
    claims, data_maps, endpoints, events, limit_ranges, namespaces, nodes, pods, services, volumes, workloads,
};
use orlop_apimachinery::Gvr;
use std::sync::LazyLock;

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces and services cannot be deleted as a collection … upstream serves it for services only.
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const CONNECT: &[&str] = &["create", "get"];
const GET_PATCH_UPDATE: &[&str] = &["get", "patch", "update"];
const UPDATE: &[&str] = &["update"];
const EVERY_METHOD: &[&str] = &["create", "delete", "get", "patch", "update"];

const fn own(
    name: &'static str,
    kind: SubresourceKind,
    object: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, kind, object_kind: Gvk3("", "", object), verbs }
}

const fn status(object: &'static str) -> Subresource {
    own("status", SubresourceKind::Status, object, GET_PATCH_UPDATE)
}

const fn scale(selector_is_map: bool) -> Subresource {
    Subresource {
        name: "scale",
        kind: SubresourceKind::Scale(ScalePaths {
            spec_replicas: &["spec", "replicas"],
            status_replicas: &["status", "replicas"],
            selector: &["spec", "selector"],
            selector_is_map,
        }),
        object_kind: Gvk3("autoscaling", "v1", "Scale"),
        verbs: GET_PATCH_UPDATE,
    }
}

const fn stream(
    name: &'static str,
    what: NodeStream,
    object: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    own(name, SubresourceKind::NodeStream(what), object, verbs)
}

fn base() -> Resource {
    Resource {
        gvr: Gvr::new("", "v1", ""),
        kind: "",
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL,
        backing: Backing::Stored(""),
        strategy: &Generic,
        subresources: const { &[] },
        allocation: Allocation::None,
        custom: None,
    }
}

/// A stored type of the version v1, in namespaces, without short names.
fn row(
    group: &'static str,
    resource: &'static str,
    kind: &'static str,
    singular: &'static str,
    strategy: &'static dyn Strategy,
) -> Resource {
    Resource {
        gvr: Gvr::new(group, "v1", resource),
        kind,
        singular,
        backing: Backing::Stored(resource),
        strategy,
        ..base()
    }
}

/// Every type that is always served.
pub(super) static BUILT_IN: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let mut rows = core();
    rows.extend(groups::apps());
    rows.extend(reviews::rows());
    rows.extend(groups::others());
    rows.extend(groups::rbac());
    rows.extend(storage::rows());
    rows.extend(groups::orlop());
    rows
});

fn core() -> Vec<Resource> {
    vec![
        Resource {
            gvr: Gvr::new("", "v1", "bindings"),
            kind: "Binding",
            singular: "binding",
            verbs: CREATE,
            backing: Backing::PodBinding,
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "configmaps"),
            kind: "ConfigMap",
            singular: "configmap",
            short_names: &["cm"],
            backing: Backing::Stored("configmaps"),
            strategy: &data_maps::ConfigMaps,
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "endpoints"),
            kind: "Endpoints",
            singular: "endpoints",
            short_names: &["ep"],
            backing: Backing::Stored("services/endpoints"),
            strategy: &endpoints::Endpoints,
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "events"),
            kind: "Event",
            singular: "event",
            short_names: &["ev"],
            backing: Backing::Stored("events"),
            strategy: &events::Events,
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "limitranges"),
            kind: "LimitRange",
            singular: "limitrange",
            short_names: &["limits"],
            backing: Backing::Stored("limitranges"),
            strategy: &limit_ranges::LimitRanges,
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "namespaces"),
            kind: "Namespace",
            singular: "namespace",
            short_names: &["ns"],
            namespaced: false,
            verbs: NO_COLLECTION,
            backing: Backing::Stored("namespaces"),
            strategy: &namespaces::Namespaces,
            subresources: const {
                &[own("finalize", SubresourceKind::Finalize, "Namespace", UPDATE), status("Namespace")]
            },
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "nodes"),
            kind: "Node",
            singular: "node",
            short_names: &["no"],
            namespaced: false,
            backing: Backing::Stored("minions"),
            strategy: &nodes::Nodes,
            subresources: const {
                &[stream("proxy", NodeStream::NodeProxy, "NodeProxyOptions", EVERY_METHOD), status("Node")]
            },
            ..base()
        },
        Resource {
            short_names: &["pvc"],
            subresources: const { &[status("PersistentVolumeClaim")] },
            ..row(
                "",
                "persistentvolumeclaims",
                "PersistentVolumeClaim",
                "persistentvolumeclaim",
                &claims::Claims,
            )
        },
        Resource {
            short_names: &["pv"],
            namespaced: false,
            subresources: const { &[status("PersistentVolume")] },
            ..row("", "persistentvolumes", "PersistentVolume", "persistentvolume", &volumes::Volumes)
        },
        Resource {
            gvr: Gvr::new("", "v1", "pods"),
            kind: "Pod",
            singular: "pod",
            short_names: &["po"],
            categories: &["all"],
            backing: Backing::Stored("pods"),
            strategy: &pods::Pods,
            subresources: const {
                &[
                    stream("attach", NodeStream::Attach, "PodAttachOptions", CONNECT),
                    own("binding", SubresourceKind::Binding, "Binding", CREATE),
                    Subresource {
                        name: "eviction",
                        kind: SubresourceKind::Eviction,
                        object_kind: Gvk3("policy", "v1", "Eviction"),
                        verbs: CREATE,
                    },
                    stream("exec", NodeStream::Exec, "PodExecOptions", CONNECT),
                    stream("log", NodeStream::Log, "Pod", GET),
                    stream("portforward", NodeStream::PortForward, "PodPortForwardOptions", CONNECT),
                    status("Pod"),
                ]
            },
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "podtemplates"),
            kind: "PodTemplate",
            singular: "podtemplate",
            backing: Backing::Stored("podtemplates"),
            strategy: &workloads::PodTemplates,
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "replicationcontrollers"),
            kind: "ReplicationController",
            singular: "replicationcontroller",
            short_names: &["rc"],
            categories: &["all"],
            backing: Backing::Stored("controllers"),
            strategy: &workloads::ReplicationControllers,
            subresources: const { &[scale(true), status("ReplicationController")] },
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "secrets"),
            kind: "Secret",
            singular: "secret",
            backing: Backing::Stored("secrets"),
            strategy: &data_maps::Secrets,
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "serviceaccounts"),
            kind: "ServiceAccount",
            singular: "serviceaccount",
            short_names: &["sa"],
            backing: Backing::Stored("serviceaccounts"),
            strategy: &data_maps::ServiceAccounts,
            subresources: const {
                &[Subresource {
                    name: "token",
                    kind: SubresourceKind::Token,
                    object_kind: Gvk3("authentication.k8s.io", "v1", "TokenRequest"),
                    verbs: CREATE,
                }]
            },
            ..base()
        },
        Resource {
            gvr: Gvr::new("", "v1", "services"),
            kind: "Service",
            singular: "service",
            short_names: &["svc"],
            categories: &["all"],
            backing: Backing::Stored("services/specs"),
            strategy: &services::Services,
            subresources: const { &[status("Service")] },
            allocation: Allocation::Service,
            ..base()
        },
    ]
}
