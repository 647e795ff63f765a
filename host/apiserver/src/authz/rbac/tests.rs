use super::*;
use serde_json::{Value, json};

/// An index with these roles and bindings, each under its key.
fn index(roles: &[(&str, Value)], bindings: &[(&str, Value)]) -> Rbac {
    let index = Rbac::default();
    {
        let mut state = index.state.write();
        for (key, rules) in roles {
            state.role(key, Some(&entry(&json!({"metadata": {"name": "r"}, "rules": rules}))));
        }
        for (key, body) in bindings {
            state.binding(key, None, Some(&entry(body)));
        }
    }
    index
}

fn entry(value: &Value) -> Arc<Entry> {
    let mut value = value.clone();
    value["apiVersion"] = json!("rbac.authorization.k8s.io/v1");
    value["kind"] = json!("X");
    if value["metadata"].is_null() {
        value["metadata"] = json!({"name": "x"});
    }
    let stored = crate::storage::encode(&value).unwrap();
    Arc::new(Entry::decode(&stored, 1).unwrap())
}

fn binding(kind: &str, role: &str, subject: Value) -> Value {
    json!({"roleRef": {"kind": kind, "name": role}, "subjects": [subject]})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "name": name})
}

fn get<'a>(resource: &'a str, namespace: &'a str) -> Attributes<'a> {
    Attributes { verb: "get", resource, namespace, version: "v1", ..Attributes::default() }
}

fn allowed(index: &Rbac, name: &str, attributes: &Attributes<'_>) -> bool {
    matches!(index.authorize(&UserInfo::new(name, ["devs"]), attributes), Decision::Allow(_))
}

fn rule(value: Value) -> Rule {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_role_counts_where_it_is_bound() {
    let pods = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    let roles = [("view", pods.clone()), ("a/view", json!([]))];
    let index = index(
        &roles,
        &[
            ("everywhere", binding("ClusterRole", "view", user("admin"))),
            ("a/here", binding("ClusterRole", "view", user("jane"))),
            ("a/empty", binding("Role", "view", user("joe"))),
            (
                "b/bot",
                binding(
                    "ClusterRole",
                    "view",
                    json!({"kind": "ServiceAccount", "name": "bot", "namespace": "a"}),
                ),
            ),
            ("c/devs", binding("ClusterRole", "view", json!({"kind": "Group", "name": "devs"}))),
        ],
    );
    for (name, namespaces) in [
        ("admin", &["", "a", "b", "c"][..]),
        ("jane", &["a", "c"]),
        ("joe", &["c"]),
        ("system:serviceaccount:a:bot", &["b", "c"]),
    ] {
        for namespace in ["", "a", "b", "c"] {
            assert_eq!(
                allowed(&index, name, &get("pods", namespace)),
                namespaces.contains(&namespace),
                "{name} in {namespace:?}"
            );
        }
    }
    let why = |name: &str, namespace| index.authorize(&UserInfo::new(name, [""; 0]), &get("pods", namespace));
    assert_eq!(
        why("jane", "a"),
        Decision::Allow(
            "RBAC: allowed by RoleBinding \"here/a\" of ClusterRole \"view\" to User \"jane\"".into()
        )
    );
    assert_eq!(
        why("system:serviceaccount:a:bot", "b"),
        Decision::Allow(
            "RBAC: allowed by RoleBinding \"bot/b\" of ClusterRole \"view\" to ServiceAccount \"bot/a\""
                .into()
        )
    );
}

#[test]
fn changes_take_back_what_was_given() {
    let pods = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    let before = binding("ClusterRole", "view", user("jane"));
    let index = index(&[("view", pods)], &[("b", before.clone())]);
    assert!(allowed(&index, "jane", &get("pods", "")));
    let after = binding("ClusterRole", "view", user("joe"));
    index.state.write().binding("b", Some(&entry(&before)), Some(&entry(&after)));
    assert!(!allowed(&index, "jane", &get("pods", "")) && allowed(&index, "joe", &get("pods", "")));
    index.state.write().role("view", None);
    assert_eq!(
        index.authorize(&UserInfo::new("joe", [""; 0]), &get("pods", "")),
        Decision::NoOpinion("RBAC: clusterrole.rbac.authorization.k8s.io \"view\" not found".into())
    );
    index.state.write().binding("b", Some(&entry(&after)), None);
    assert_eq!(
        index.authorize(&UserInfo::new("joe", [""; 0]), &get("pods", "")),
        Decision::NoOpinion(String::new())
    );
    assert!(index.state.read().cluster.is_empty());
}

#[test]
fn rules_allow_what_they_say() {
    let ask = |rule: &Rule, verb, group, resource, subresource, name, path| {
        rule.allows(&Attributes { verb, group, resource, subresource, name, path, ..Attributes::default() })
    };
    let pods = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/scale"]}));
    assert!(ask(&pods, "get", "", "pods", "", "a", ""));
    assert!(!ask(&pods, "list", "", "pods", "", "", ""));
    assert!(!ask(&pods, "get", "apps", "pods", "", "a", ""));
    assert!(!ask(&pods, "get", "", "pods", "log", "a", ""));
    assert!(ask(&pods, "get", "", "anything", "scale", "a", ""));
    let named = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["a"]}));
    assert!(ask(&named, "patch", "x", "y", "z", "a", ""));
    assert!(!ask(&named, "list", "x", "y", "", "", ""));
    let paths = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"]}));
    assert!(ask(&paths, "get", "", "", "", "", "/apis/apps"));
    assert!(ask(&paths, "get", "", "", "", "", "/healthz"));
    assert!(!ask(&paths, "get", "", "", "", "", "/healthz/etcd"));
}

#[test]
fn what_is_missing_is_named_as_upstream_does() {
    let held = [
        rule(json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]})),
        rule(json!({"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"], "resourceNames": ["web"]})),
    ];
    let wanted = rule(json!({"verbs": ["get", "delete", "patch"], "apiGroups": [""], "resources": ["pods"]}));
    assert_eq!(
        describe(&missing(&held, std::slice::from_ref(&wanted))),
        "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"patch\"]}"
    );
    let named = rule(
        json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["web", "db"]}),
    );
    assert_eq!(
        describe(&missing(&held, &[named])),
        "{APIGroups:[\"apps\"], Resources:[\"deployments\"], ResourceNames:[\"db\"], Verbs:[\"get\"]}"
    );
    let all = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
    assert!(missing(&[all], &[wanted]).is_empty());
    let url = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/apis/*"]}));
    assert_eq!(missing(&held, std::slice::from_ref(&url)).first(), Some(&url));
}
