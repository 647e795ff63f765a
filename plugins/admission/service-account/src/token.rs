//! The projected volume with the token, the CA and the namespace, and its mounts.

use crate::account::{items, text};
use orlop_sdk::admission::Patch;
use serde_json::{Value, json};

/// Where containers find the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const PREFIX: &str = "kube-api-access-";
/// An hour, and a little so that a token asked for an hour is told from this one.
const EXPIRATION_SECONDS: u32 = 60 * 60 + 7;

/// Mounts the token into every container that has nothing at its place yet.
pub(crate) fn mount(patch: &mut Patch, pod: &Value) {
    let existing =
        items(pod, "/spec/volumes").iter().map(|v| text(v, "/name")).find(|n| n.starts_with(PREFIX));
    let name = existing
        .map_or_else(|| orlop_sdk::apimachinery::names::generate_name(PREFIX, seed(pod)), ToOwned::to_owned);
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer("/spec").and_then(|s| s.get(list)).and_then(Value::as_array);
        for (i, container) in containers.into_iter().flatten().enumerate() {
            if items(container, "/volumeMounts").iter().any(|m| text(m, "/mountPath") == MOUNT_PATH) {
                continue;
            }
            needed = true;
            let mount = json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH });
            patch.append(pod, &["spec", list, &i.to_string(), "volumeMounts"], vec![mount]);
        }
    }
    if needed && existing.is_none() {
        patch.append(pod, &["spec", "volumes"], vec![volume(&name)]);
    }
}

/// Equal pods get the same name, so that the answer for one is the answer for all. It has to be unique in the pod only.
fn seed(pod: &Value) -> u64 {
    let text = pod.to_string();
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3))
}

fn volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": EXPIRATION_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [
                    { "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }
                ] } }
            ]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(pod: &Value) -> Value {
        let mut patch = Patch::new();
        mount(&mut patch, pod);
        serde_json::from_slice(&patch.into_bytes()).unwrap_or(Value::Null)
    }

    #[test]
    fn all_containers_get_one_volume() {
        let pod = json!({ "spec": { "initContainers": [{ "name": "i" }], "containers": [{ "name": "a", "volumeMounts": [] }] } });
        let patch = patched(&pod);
        let ops = patch.as_array().unwrap();
        assert_eq!(ops.len(), 3);
        assert_eq!(ops[0]["path"], "/spec/initContainers/0/volumeMounts");
        assert_eq!(ops[1]["path"], "/spec/containers/0/volumeMounts/-");
        assert_eq!(ops[2]["path"], "/spec/volumes");
        let name = ops[2]["value"][0]["name"].as_str().unwrap();
        assert!(name.starts_with(PREFIX) && name.len() == PREFIX.len() + 5, "{name}");
        assert_eq!(ops[1]["value"]["name"], name);
    }

    #[test]
    fn a_mount_at_the_place_keeps_ours_away() {
        let mounted = json!({ "name": "mine", "mountPath": MOUNT_PATH });
        assert_eq!(
            patched(&json!({ "spec": { "containers": [{ "volumeMounts": [mounted] }] } })),
            Value::Null
        );
    }

    #[test]
    fn a_volume_of_the_name_is_used_again() {
        let pod = json!({ "spec": {
            "containers": [{ "name": "a" }],
            "volumes": [{ "name": "kube-api-access-abcde" }]
        } });
        let patch = patched(&pod);
        assert_eq!(patch.as_array().unwrap().len(), 1);
        assert_eq!(patch[0]["value"][0]["name"], "kube-api-access-abcde");
    }
}
