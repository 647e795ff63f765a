//! Roles and bindings at work: who is let in, and who may give what away.

use super::*;
use crate::UserInfo;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

impl Fixture {
    async fn r#as(&self, user: &str, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [("impersonate-user", user), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.call(Caller::Admin, method, path, &headers, body).await
    }

    /// Waits until the cache has seen everything that was written.
    async fn settled(&self) {
        self.server.core.cache.wait_current().await.unwrap();
    }

    async fn bind(&self, namespace: &str, role: &str, user: &str) {
        let subject = json!([{"kind": "User", "name": user}]);
        let body = json!({"metadata": {"name": format!("{user}-{role}")}, "subjects": subject,
            "roleRef": {"kind": "ClusterRole", "name": role}});
        let path = match namespace {
            "" => format!("{RBAC}/clusterrolebindings"),
            _ => format!("{RBAC}/namespaces/{namespace}/rolebindings"),
        };
        self.post(&path, &body).await.ok();
        self.settled().await;
    }
}

#[test]
fn a_binding_lets_in_and_its_end_shuts_out() {
    run(async {
        let f = start().await;
        f.r#as("jane", "GET", PODS, &Value::Null).await.refused(403);
        f.bind("default", "view", "jane").await;
        f.r#as("jane", "GET", PODS, &Value::Null).await.ok();
        f.r#as("jane", "GET", "/api/v1/pods", &Value::Null).await.refused(403);
        f.r#as("jane", "GET", "/api/v1/namespaces/default/secrets", &Value::Null).await.refused(403);
        f.r#as("jane", "POST", PODS, &pod("p")).await.refused(403);
        let rules = json!({"spec": {"namespace": "default"}});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
        let seen = f.r#as("jane", "POST", path, &rules).await.ok();
        let pods = |r: &Value| r["resources"].as_array().unwrap().contains(&json!("pods"));
        assert!(seen["status"]["resourceRules"].as_array().unwrap().iter().any(pods));
        let ask = json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
        let reason = f.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &ask).await.ok();
        assert_eq!(
            reason["status"]["reason"],
            "RBAC: allowed by RoleBinding \"jane-view/default\" of ClusterRole \"view\" to User \"jane\""
        );
        f.delete(&format!("{RBAC}/namespaces/default/rolebindings/jane-view"), None).await.ok();
        f.settled().await;
        f.r#as("jane", "GET", PODS, &Value::Null).await.refused(403);
    });
}

#[test]
fn nobody_gives_away_what_he_has_not() {
    run(async {
        let f = start().await;
        f.bind("default", "admin", "jane").await;
        let roles = format!("{RBAC}/namespaces/default/roles");
        let role = |name: &str, resource: &str| json!({"metadata": {"name": name}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]});
        f.r#as("jane", "POST", &roles, &role("mine", "pods")).await.ok();
        let words = f.r#as("jane", "POST", &roles, &role("more", "nodes")).await.refused(403);
        assert_eq!(
            words,
            "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"
        );
        let words =
            f.r#as("jane", "PUT", &format!("{roles}/mine"), &role("mine", "nodes")).await.refused(403);
        assert!(words.contains("Resources:[\"nodes\"]"), "{words}");
        let bindings = format!("{RBAC}/namespaces/default/rolebindings");
        let binding = |name: &str, role: &str| {
            json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": "joe"}]})
        };
        f.r#as("jane", "POST", &bindings, &binding("b", "edit")).await.ok();
        f.r#as("jane", "POST", &bindings, &binding("c", "cluster-admin")).await.refused(403);
        let absent = f.r#as("jane", "POST", &bindings, &binding("d", "nothing")).await.refused(404);
        assert_eq!(absent, "clusterroles.rbac.authorization.k8s.io \"nothing\" not found");
        // A label is no right, and changes none.
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        f.bind("default", "cluster-admin", "root").await;
        let headers = [("impersonate-user", "jane"), ("content-type", "application/merge-patch+json")];
        let path = format!("{bindings}/root-cluster-admin");
        f.call(Caller::Admin, "PATCH", &path, &headers, label.to_string()).await.ok();

        // Who may bind or escalate needs to hold nothing.
        let special = json!({"metadata": {"name": "special"}, "rules": [
            {"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"]},
            {"verbs": ["escalate"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]}]});
        f.post(&format!("{RBAC}/clusterroles"), &special).await.ok();
        f.bind("default", "special", "jane").await;
        f.r#as("jane", "POST", &bindings, &binding("c", "cluster-admin")).await.ok();
        f.r#as("jane", "POST", &roles, &role("more", "nodes")).await.ok();
    });
}

#[test]
fn an_aggregated_role_is_for_those_who_may_everything() {
    run(async {
        let f = start().await;
        let manager = json!({"metadata": {"name": "manager"}, "rules": [
            {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterrolebindings"]},
            {"verbs": ["create", "update"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"]}]});
        f.post(&format!("{RBAC}/clusterroles"), &manager).await.ok();
        f.bind("", "manager", "jane").await;
        let all = json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
        let words = f.r#as("jane", "POST", &format!("{RBAC}/clusterroles"), &all).await.refused(403);
        assert!(words.contains("must have cluster-admin privileges to use the aggregationRule"), "{words}");
        f.post(&format!("{RBAC}/clusterroles"), &all).await.ok();
    });
}

#[test]
fn plugins_have_the_rights_that_somebody_gave_them() {
    run(async {
        let f = start().await;
        let client = f.server.loopback(UserInfo::plugin("mine"));
        let pods = orlop_apimachinery::Gvr::new("", "v1", "pods");
        let everything = orlop_client::ListOptions::default();
        let list = || client.list(&pods, &everything);
        let refused = list().await.unwrap_err().to_string();
        assert!(refused.contains("User \"system:plugin:mine\" cannot list resource \"pods\""), "{refused}");
        let body = json!({"metadata": {"name": "plugins"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "Group", "name": "system:plugins"}]});
        f.post(&format!("{RBAC}/clusterrolebindings"), &body).await.ok();
        f.settled().await;
        list().await.unwrap();
    });
}

#[test]
fn a_restart_mends_the_default_roles_and_leaves_others_alone() {
    run(async {
        let f = start().await;
        let path = format!("{RBAC}/clusterroles/system:discovery");
        let made = f.get(&path).await.ok();
        assert_eq!(made["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
        assert_eq!(made["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"], "true");
        let extra = json!({"verbs": ["get"], "nonResourceURLs": ["/mine"]});
        f.patch(&path, "merge-patch+json", &json!({"rules": [extra]})).await.ok();
        let kept = format!("{RBAC}/clusterroles/system:monitoring");
        let off = json!({"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "rules": []});
        f.patch(&kept, "merge-patch+json", &off).await.ok();
        f.delete(&format!("{RBAC}/clusterrolebindings/system:basic-user"), None).await.ok();
        let _second = f.second().await;
        f.settled().await;
        let rules = f.get(&path).await.ok()["rules"].clone();
        assert_eq!(rules[0], extra);
        assert!(rules.as_array().unwrap().len() > 1, "{rules}");
        assert!(f.get(&kept).await.ok()["rules"].as_array().is_none_or(Vec::is_empty));
        f.get(&format!("{RBAC}/clusterrolebindings/system:basic-user")).await.ok();
    });
}
