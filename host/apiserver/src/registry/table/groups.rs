//! The named groups but those of storage and reviews.

use super::super::{Backing, PluginStream, Resource, SubresourceKind};
use super::super::{
    budgets, daemons, endpoints, events, leases, plugin_revisions, plugins, priority_classes, roles,
    stateful, workloads,
};
use super::{base, own, row, scale, status};
use orlop_apimachinery::Gvr;

pub(super) fn apps() -> Vec<Resource> {
    vec![
        row("apps", "controllerrevisions", "ControllerRevision", "controllerrevision", &stateful::Revisions),
        Resource {
            short_names: &["ds"],
            categories: &["all"],
            subresources: const { &[status("DaemonSet")] },
            ..row("apps", "daemonsets", "DaemonSet", "daemonset", &daemons::DaemonSets)
        },
        Resource {
            gvr: Gvr::new("apps", "v1", "deployments"),
            kind: "Deployment",
            singular: "deployment",
            short_names: &["deploy"],
            categories: &["all"],
            backing: Backing::Stored("deployments"),
            strategy: &workloads::Deployments,
            subresources: const { &[scale(false), status("Deployment")] },
            ..base()
        },
        Resource {
            gvr: Gvr::new("apps", "v1", "replicasets"),
            kind: "ReplicaSet",
            singular: "replicaset",
            short_names: &["rs"],
            categories: &["all"],
            backing: Backing::Stored("replicasets"),
            strategy: &workloads::ReplicaSets,
            subresources: const { &[scale(false), status("ReplicaSet")] },
            ..base()
        },
        Resource {
            short_names: &["sts"],
            categories: &["all"],
            subresources: const { &[scale(false), status("StatefulSet")] },
            ..row("apps", "statefulsets", "StatefulSet", "statefulset", &stateful::StatefulSets)
        },
    ]
}

pub(super) fn others() -> Vec<Resource> {
    vec![
        Resource {
            short_names: &["crd", "crds"],
            categories: &["api-extensions"],
            namespaced: false,
            backing: Backing::Stored("apiextensions.k8s.io/customresourcedefinitions"),
            subresources: const { &[status("CustomResourceDefinition")] },
            ..row(
                "apiextensions.k8s.io",
                "customresourcedefinitions",
                "CustomResourceDefinition",
                "customresourcedefinition",
                &crate::crd::definition::Definitions,
            )
        },
        Resource {
            gvr: Gvr::new("coordination.k8s.io", "v1", "leases"),
            kind: "Lease",
            singular: "lease",
            backing: Backing::Stored("leases"),
            strategy: &leases::Leases,
            ..base()
        },
        Resource {
            gvr: Gvr::new("discovery.k8s.io", "v1", "endpointslices"),
            kind: "EndpointSlice",
            singular: "endpointslice",
            backing: Backing::Stored("endpointslices"),
            strategy: &endpoints::EndpointSlices,
            ..base()
        },
        Resource {
            gvr: Gvr::new("events.k8s.io", "v1", "events"),
            kind: "Event",
            singular: "event",
            short_names: &["ev"],
            backing: Backing::Stored("events"),
            strategy: &events::NewEvents,
            ..base()
        },
        Resource {
            short_names: &["pdb"],
            subresources: const { &[status("PodDisruptionBudget")] },
            ..row(
                "policy",
                "poddisruptionbudgets",
                "PodDisruptionBudget",
                "poddisruptionbudget",
                &budgets::Budgets,
            )
        },
        Resource {
            short_names: &["pc"],
            namespaced: false,
            ..row(
                "scheduling.k8s.io",
                "priorityclasses",
                "PriorityClass",
                "priorityclass",
                &priority_classes::PriorityClasses,
            )
        },
    ]
}

pub(super) fn rbac() -> Vec<Resource> {
    const GROUP: &str = "rbac.authorization.k8s.io";
    vec![
        Resource {
            namespaced: false,
            ..row(
                GROUP,
                "clusterrolebindings",
                "ClusterRoleBinding",
                "clusterrolebinding",
                &roles::Bindings { namespaced: false },
            )
        },
        Resource {
            namespaced: false,
            ..row(GROUP, "clusterroles", "ClusterRole", "clusterrole", &roles::Roles { namespaced: false })
        },
        row(GROUP, "rolebindings", "RoleBinding", "rolebinding", &roles::Bindings { namespaced: true }),
        row(GROUP, "roles", "Role", "role", &roles::Roles { namespaced: true }),
    ]
}

pub(super) fn orlop() -> Vec<Resource> {
    vec![
        Resource {
            namespaced: false,
            backing: Backing::Stored("orlop.dev/pluginrevisions"),
            subresources: const { &[status("PluginRevision")] },
            ..row(
                "orlop.dev",
                "pluginrevisions",
                "PluginRevision",
                "pluginrevision",
                &plugin_revisions::PluginRevisions,
            )
        },
        Resource {
            gvr: Gvr::new("orlop.dev", "v1", "plugins"),
            kind: "Plugin",
            singular: "plugin",
            namespaced: false,
            backing: Backing::Stored("orlop.dev/plugins"),
            strategy: &plugins::Plugins,
            subresources: const {
                &[
                    own("log", SubresourceKind::PluginStream(PluginStream::Log), "Plugin", &["get"]),
                    own(
                        "recording",
                        SubresourceKind::PluginStream(PluginStream::Recording),
                        "Plugin",
                        &["create"],
                    ),
                    status("Plugin"),
                ]
            },
            ..base()
        },
    ]
}
