//! Accounts that name the secrets which their pods may use.

use crate::account::{items, text};
use serde_json::Value;

const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
const LISTS: [&str; 3] = ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"];

/// Checks a pod's secrets against its account's, where the account asks for it.
pub(crate) fn check(account: &Value, pod: &Value) -> Result<(), String> {
    let enforce =
        account.pointer("/metadata/annotations").and_then(|a| a.get(ENFORCE)).and_then(Value::as_str);
    if !enforce.is_some_and(|v| ["1", "t", "T", "TRUE", "true", "True"].contains(&v)) {
        return Ok(());
    }
    let name = text(account, "/metadata/name");
    let mountable: Vec<&str> = items(account, "/secrets").iter().map(|s| text(s, "/name")).collect();
    for volume in items(pod, "/spec/volumes") {
        let secret = text(volume, "/secret/secretName");
        if volume.get("secret").is_some() && !mountable.contains(&secret) {
            return Err(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not reference that secret"
            ));
        }
    }
    for (what, list) in [("init container", LISTS[0]), ("container", LISTS[1])] {
        for container in items(pod, list) {
            for env in items(container, "/env") {
                let secret = text(env, "/valueFrom/secretKeyRef/name");
                if !secret.is_empty() && !mountable.contains(&secret) {
                    return Err(format!(
                        "{what} {} with envVar {} referencing secret.secretName=\"{secret}\" is not allowed because service account {name} does not reference that secret",
                        text(container, "/name"),
                        text(env, "/name"),
                    ));
                }
            }
        }
    }
    let pull: Vec<&str> = items(account, "/imagePullSecrets").iter().map(|s| text(s, "/name")).collect();
    for (i, reference) in items(pod, "/spec/imagePullSecrets").iter().enumerate() {
        let secret = text(reference, "/name");
        if !pull.contains(&secret) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{secret}\" is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

/// Whether the pod refers to any secret: volumes, environment or pull secrets.
pub(crate) fn names_a_secret(pod: &Value) -> bool {
    let volume = |v: &Value| {
        v.get("secret").is_some()
            || items(v, "/projected/sources").iter().any(|s| s.get("secret").is_some())
            || v.as_object().is_some_and(|o| {
                o.values().any(|source| {
                    ["secretRef", "nodePublishSecretRef"].iter().any(|k| source.get(k).is_some())
                })
            })
    };
    let container = |c: &Value| {
        items(c, "/env").iter().any(|e| e.pointer("/valueFrom/secretKeyRef").is_some())
            || items(c, "/envFrom").iter().any(|e| e.get("secretRef").is_some())
    };
    !items(pod, "/spec/imagePullSecrets").is_empty()
        || items(pod, "/spec/volumes").iter().any(volume)
        || LISTS.iter().flat_map(|list| items(pod, list)).any(container)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_account_that_asks_for_it_limits_its_pods() {
        let account = json!({
            "metadata": { "name": "strict", "annotations": { (ENFORCE): "true" } },
            "secrets": [{ "name": "a" }],
        });
        let with = |secret: &str| json!({ "spec": { "volumes": [{ "name": "v", "secret": { "secretName": secret } }] } });
        assert!(check(&account, &with("a")).is_ok());
        assert_eq!(
            check(&account, &with("b")).unwrap_err(),
            "volume with secret.secretName=\"b\" is not allowed because service account strict does not reference that secret"
        );
        assert!(check(&json!({}), &with("b")).is_ok());
        let pull = json!({ "spec": { "imagePullSecrets": [{ "name": "r" }] } });
        assert!(
            check(&account, &pull).unwrap_err().starts_with("imagePullSecrets[0].name=\"r\" is not allowed")
        );
    }

    #[test]
    fn secrets_are_found_wherever_they_are_named() {
        for spec in [
            json!({ "volumes": [{ "secret": { "secretName": "s" } }] }),
            json!({ "volumes": [{ "projected": { "sources": [{ "secret": { "name": "s" } }] } }] }),
            json!({ "containers": [{ "envFrom": [{ "secretRef": { "name": "s" } }] }] }),
            json!({ "initContainers": [{ "env": [{ "valueFrom": { "secretKeyRef": { "name": "s" } } }] }] }),
            json!({ "imagePullSecrets": [{ "name": "s" }] }),
        ] {
            assert!(names_a_secret(&json!({ "spec": spec })), "{spec}");
        }
        assert!(!names_a_secret(&json!({ "spec": { "volumes": [{ "emptyDir": {} }], "containers": [{}] } })));
    }
}
