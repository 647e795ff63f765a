//! What a node may do: what its agent needs, for itself and for the pods bound to it.
//!
//! Source: the Node authorizer and the NodeRestriction admission of upstream.

use super::{Attributes, Decision};
use crate::cache::{Filter, Scope, WatchCache};
use crate::registry::find;
use crate::user::UserInfo;
use orlop_apimachinery::selector::Selector;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";

/// The node that a user is, if he is one.
pub(super) fn name(user: &UserInfo) -> Option<&str> {
    if user.in_group(GROUP) { user.name.strip_prefix(PREFIX).filter(|n| !n.is_empty()) } else { None }
}

/// Decides for users `system:node:<name>` in the group `system:nodes`.
pub(super) struct NodeAuthorizer {
    cache: Arc<WatchCache>,
}

impl NodeAuthorizer {
    pub(super) const fn new(cache: Arc<WatchCache>) -> Self {
        Self { cache }
    }

    pub(super) fn authorize(&self, user: &UserInfo, a: &Attributes<'_>) -> Decision {
        let Some(node) = name(user) else { return Decision::NoOpinion(String::new()) };
        if self.allows(node, a) { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }

    fn allows(&self, node: &str, a: &Attributes<'_>) -> bool {
        let read = matches!(a.verb, "get" | "list" | "watch");
        let write = matches!(a.verb, "create" | "update" | "patch");
        let own = a.name == node || (a.verb == "create" && a.name.is_empty());
        match (a.group, a.resource, a.subresource) {
            ("", "nodes", "") => read || (own && (write || a.verb == "delete")),
            ("", "nodes", "status") => own && write,
            ("", "pods", "") => {
                read || a.verb == "create" || (a.verb == "delete" && self.runs(node, a.namespace, a.name))
            }
            ("", "pods", "status") => write && self.runs(node, a.namespace, a.name),
            ("", "pods", "eviction") => a.verb == "create" && self.runs(node, a.namespace, a.name),
            ("", "services" | "endpoints", "") | ("discovery.k8s.io", "endpointslices", "") => read,
            ("" | "events.k8s.io", "events", "") => write,
            ("coordination.k8s.io", "leases", "") => {
                a.namespace == "kube-node-lease" && own && (a.verb == "get" || write || a.verb == "delete")
            }
            ("", "secrets" | "configmaps", "") => {
                read && !a.name.is_empty() && self.refers(node, a.namespace, a.resource, a.name)
            }
            ("", "serviceaccounts", "token") => {
                a.verb == "create" && self.refers(node, a.namespace, a.resource, a.name)
            }
            ("", "serviceaccounts", "") => {
                a.verb == "get" && self.refers(node, a.namespace, a.resource, a.name)
            }
            ("", "persistentvolumeclaims", "") => {
                a.verb == "get" && self.refers(node, a.namespace, a.resource, a.name)
            }
            ("", "persistentvolumes", "") | ("storage.k8s.io", "volumeattachments", "") => a.verb == "get",
            ("storage.k8s.io", "csidrivers", "") => read,
            ("storage.k8s.io", "csinodes", "") => own && (a.verb == "get" || write || a.verb == "delete"),
            ("resource.k8s.io", "resourceclaims", "") => {
                a.verb == "get" && self.refers(node, a.namespace, a.resource, a.name)
            }
            ("authentication.k8s.io", "tokenreviews", "")
            | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => {
                a.verb == "create"
            }
            _ => false,
        }
    }

    /// Whether a pod is bound to the node.
    fn runs(&self, node: &str, namespace: &str, pod: &str) -> bool {
        self.pods(Scope::Key(format!("{namespace}/{pod}").into()), node, |_| true)
    }

    /// Whether a pod of the node refers to the secret, config map or service account.
    fn refers(&self, node: &str, namespace: &str, resource: &str, name: &str) -> bool {
        self.pods(Scope::Namespace(namespace.into()), node, |pod| refers(pod, resource, name))
    }

    fn pods(&self, scope: Scope, node: &str, holds: impl Fn(&Value) -> bool) -> bool {
        let Some(shelf) = find("", "v1", "pods").and_then(|row| self.cache.shelf(row)) else { return false };
        let filter = Filter { scope, labels: Selector::everything(), fields: Default::default() };
        shelf.list(&filter, "", 0).entries.iter().any(|entry| {
            // A substring check first: parsing every pod of a namespace would be dear.
            let bytes = entry.object().bytes();
            if !contains(bytes, node.as_bytes()) {
                return false;
            }
            let pod = entry.object().to_value();
            pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node) && holds(&pod)
        })
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len().max(1)).any(|w| w == needle)
}

fn refers(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    match resource {
        "serviceaccounts" => {
            spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or("default") == name
        }
        "persistentvolumeclaims" => {
            let pod_name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
            volumes.into_iter().any(|volume| {
                let own = |v: &Value| v.as_str().is_some_and(|v| format!("{pod_name}-{v}") == name);
                // A volume that the pod brings along becomes a claim of this name.
                volume.pointer("/persistentVolumeClaim/claimName").and_then(Value::as_str) == Some(name)
                    || (volume.get("ephemeral").is_some() && volume.get("name").is_some_and(own))
            })
        }
        "resourceclaims" => {
            let named = |list: &str, key: &str| {
                let items = pod.pointer(list).and_then(Value::as_array).into_iter().flatten();
                items.into_iter().any(|c| c.get(key).and_then(Value::as_str) == Some(name))
            };
            named("/spec/resourceClaims", "resourceClaimName")
                || named("/status/resourceClaimStatuses", "resourceClaimName")
        }
        "secrets" => {
            mentions(spec, name, &["secretRef", "secretKeyRef", "secret", "imagePullSecrets"], "secretName")
        }
        _ => mentions(spec, name, &["configMapRef", "configMapKeyRef", "configMap"], "name"),
    }
}

/// Whether below one of `keys` an object names `name` (as `name` or as `alias`).
fn mentions(value: &Value, name: &str, keys: &[&str], alias: &str) -> bool {
    let is = |v: &Value| ["name", alias].iter().any(|k| v.get(*k).and_then(Value::as_str) == Some(name));
    match value {
        Value::Array(items) => items.iter().any(|v| mentions(v, name, keys, alias)),
        Value::Object(map) => map.iter().any(|(key, v)| {
            let here = keys.contains(&key.as_str())
                && (is(v) || v.as_array().is_some_and(|list| list.iter().any(is)));
            here || mentions(v, name, keys, alias)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_wherever_pods_have_them() {
        let pod = json!({"metadata":{"name":"p"},"spec":{"containers":[{"env":[{"valueFrom":{"secretKeyRef":{"name":"a","key":"k"}}}],
            "envFrom":[{"configMapRef":{"name":"b"}}]}],
            "volumes":[{"secret":{"secretName":"c"}},{"projected":{"sources":[{"configMap":{"name":"d"}}]}},
            {"name":"f","persistentVolumeClaim":{"claimName":"data"}},{"name":"h","ephemeral":{}}],
            "imagePullSecrets":[{"name":"e"}],"resourceClaims":[{"name":"g","resourceClaimName":"gpu"}]}});
        for name in ["a", "c", "e"] {
            assert!(refers(&pod, "secrets", name), "{name}");
            assert!(!refers(&pod, "configmaps", name), "{name}");
        }
        for name in ["b", "d"] {
            assert!(refers(&pod, "configmaps", name), "{name}");
        }
        assert!(refers(&pod, "serviceaccounts", "default"));
        assert!(
            refers(&pod, "persistentvolumeclaims", "data") && refers(&pod, "persistentvolumeclaims", "p-h")
        );
        assert!(
            !refers(&pod, "persistentvolumeclaims", "f") && !refers(&pod, "persistentvolumeclaims", "p-f")
        );
        assert!(refers(&pod, "resourceclaims", "gpu") && !refers(&pod, "resourceclaims", "g"));
        assert!(!refers(&pod, "secrets", "x"));
    }
}
