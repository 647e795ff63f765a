//! The claims of a pod, as `computed.requestedClaims` and `computed.resourceClaims`.
//!
//! The pod's own name and uid are part of them only where a claim is made for this one pod, so that
//! pods that share claims, or have none, stay one class.

use serde_json::{Map, Value, json};

/// Adds the claims of `pod` to its `computed` fields, where it has any.
pub fn add_claims(computed: &mut Map<String, Value>, pod: &Value) {
    for (key, claims) in
        [("requestedClaims", requested_claims(pod)), ("resourceClaims", resource_claims(pod))]
    {
        if !claims.is_empty() {
            computed.insert(key.to_owned(), Value::Array(claims));
        }
    }
}

/// The PersistentVolumeClaims of a pod's volumes, in order.
///
/// A generic ephemeral volume has a claim of its own, named after pod and volume, which must belong to
/// the pod.
fn requested_claims(pod: &Value) -> Vec<Value> {
    let meta = |key: &str| pod.pointer("/metadata").and_then(|m| m.get(key)).and_then(Value::as_str);
    let namespace = meta("namespace").unwrap_or("");
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten();
    volumes
        .filter_map(|volume| {
            if let Some(source) = volume.get("persistentVolumeClaim").filter(|s| s.is_object()) {
                let name = source.get("claimName").and_then(Value::as_str).unwrap_or("");
                return Some(json!({"namespace": namespace, "name": name}));
            }
            volume.get("ephemeral").filter(|s| s.is_object())?;
            let name = meta("name").unwrap_or("");
            let claim = format!("{name}-{}", volume.get("name").and_then(Value::as_str).unwrap_or(""));
            let owner = json!({"name": name, "uid": meta("uid").unwrap_or("")});
            Some(json!({"namespace": namespace, "name": claim, "pod": owner}))
        })
        .collect()
}

/// The ResourceClaims of a pod, in order: those that it names, and those made for it from a template.
///
/// `name` is null where no claim was needed for a template, and missing where none was made yet.
fn resource_claims(pod: &Value) -> Vec<Value> {
    let meta = |key: &str| pod.pointer("/metadata").and_then(|m| m.get(key)).and_then(Value::as_str);
    let namespace = meta("namespace").unwrap_or("");
    let wanted = pod.pointer("/spec/resourceClaims").and_then(Value::as_array).into_iter().flatten();
    let made = pod.pointer("/status/resourceClaimStatuses").and_then(Value::as_array);
    wanted
        .map(|wanted| {
            let key = wanted.get("name").and_then(Value::as_str).unwrap_or("");
            let mut claim = Map::from_iter([
                ("namespace".to_owned(), Value::from(namespace)),
                ("request".to_owned(), Value::from(key)),
            ]);
            if let Some(name) = wanted.get("resourceClaimName").filter(|n| n.is_string()) {
                claim.insert("name".to_owned(), name.clone());
            } else if wanted.get("resourceClaimTemplateName").is_some_and(Value::is_string) {
                let made =
                    made.into_iter().flatten().find(|s| s.get("name").and_then(Value::as_str) == Some(key));
                if let Some(made) = made {
                    let name = made.get("resourceClaimName").cloned().unwrap_or(Value::Null);
                    claim.insert("name".to_owned(), name);
                }
                let owner = json!({"name": meta("name").unwrap_or(""), "uid": meta("uid").unwrap_or("")});
                claim.insert("pod".to_owned(), owner);
            }
            Value::Object(claim)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_volumes_name_the_pod_only_where_they_are_its_own() {
        let pod = json!({
            "metadata": {"namespace": "shop", "name": "web-0", "uid": "u"},
            "spec": {"volumes": [
                {"name": "a", "emptyDir": {}},
                {"name": "b", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "c", "ephemeral": {"volumeClaimTemplate": {}}},
            ]},
        });
        let expected = json!([
            {"namespace": "shop", "name": "data"},
            {"namespace": "shop", "name": "web-0-c", "pod": {"name": "web-0", "uid": "u"}},
        ]);
        assert_eq!(Value::Array(requested_claims(&pod)), expected);
        let mut computed = Map::new();
        add_claims(
            &mut computed,
            &json!({"metadata": {"name": "a"}, "spec": {"volumes": [{"emptyDir": {}}]}}),
        );
        assert!(computed.is_empty());
        add_claims(&mut computed, &pod);
        assert_eq!(computed.get("requestedClaims"), Some(&expected));
        assert!(!computed.contains_key("resourceClaims"));
    }

    #[test]
    fn resource_claims_by_name_and_by_template() {
        let pod = json!({
            "metadata": {"namespace": "shop", "name": "web-0", "uid": "u"},
            "spec": {"resourceClaims": [
                {"name": "a", "resourceClaimName": "shared"},
                {"name": "b", "resourceClaimTemplateName": "t"},
                {"name": "c", "resourceClaimTemplateName": "t"},
                {"name": "d", "resourceClaimTemplateName": "t"},
            ]},
            "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "web-0-b-x"}, {"name": "c"}]},
        });
        let owner = json!({"name": "web-0", "uid": "u"});
        let expected = json!([
            {"namespace": "shop", "request": "a", "name": "shared"},
            {"namespace": "shop", "request": "b", "name": "web-0-b-x", "pod": owner},
            {"namespace": "shop", "request": "c", "name": null, "pod": owner},
            {"namespace": "shop", "request": "d", "pod": owner},
        ]);
        assert_eq!(Value::Array(resource_claims(&pod)), expected);
    }
}
