//! Roles and their bindings.
//!
//! Source: `pkg/registry/rbac`, `pkg/apis/rbac/validation`. Who may write which rule is the
//! concern of [`crate::escalation`].

use super::json::{items, objects, set_text, text};
use super::pod_spec::placement::label_selector;
use super::{AGE_COLUMN, Column, Context, Guard, NAME_COLUMN, NameRule, Strategy, age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, invalid, not_supported, required};
use orlop_apimachinery::names;
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// The strategy of roles and clusterroles.
#[derive(Debug)]
pub(super) struct Roles {
    pub(super) namespaced: bool,
}

/// The strategy of rolebindings and clusterrolebindings.
#[derive(Debug)]
pub(super) struct Bindings {
    pub(super) namespaced: bool,
}

const GROUP: &str = "rbac.authorization.k8s.io";

impl Strategy for Roles {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn guard(&self) -> Guard {
        Guard::Role
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        for (i, rule) in items(object, &["rules"]).iter().enumerate() {
            rule_faults(rule, self.namespaced, &Path::new("rules").index(i), &mut faults);
        }
        let aggregation = object.get("aggregationRule").filter(|a| !a.is_null());
        if let Some(aggregation) = aggregation {
            let path = Path::new("aggregationRule").child("clusterRoleSelectors");
            let selectors = items(aggregation, &["clusterRoleSelectors"]);
            if selectors.is_empty() {
                let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                faults.push(required(&path, detail));
            }
            for (i, selector) in selectors.iter().enumerate() {
                label_selector(selector, &path.index(i), &mut faults);
            }
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new(
                    "Created At",
                    "CreationTimestamp is a timestamp representing the server time when this object was created.",
                )
                .typed("date"),
            ]
        }
    }

    fn cells(&self, _cx: &Context<'_>, object: &Value) -> Vec<Value> {
        vec![name_cell(object), text(object, &["metadata", "creationTimestamp"]).into()]
    }
}

fn rule_faults(rule: &Value, namespaced: bool, path: &Path, faults: &mut Vec<Cause>) {
    if items(rule, &["verbs"]).is_empty() {
        faults.push(required(&path.child("verbs"), "verbs must contain at least one value"));
    }
    let urls = items(rule, &["nonResourceURLs"]);
    if urls.is_empty() {
        if items(rule, &["apiGroups"]).is_empty() {
            let detail = "resource rules must supply at least one api group";
            faults.push(required(&path.child("apiGroups"), detail));
        }
        if items(rule, &["resources"]).is_empty() {
            faults
                .push(required(&path.child("resources"), "resource rules must supply at least one resource"));
        }
        return;
    }
    let at_urls = path.child("nonResourceURLs");
    if namespaced {
        let detail = "namespaced rules cannot apply to non-resource URLs";
        faults.push(invalid(&at_urls, Value::from(urls.to_vec()), detail));
    }
    if ["apiGroups", "resources", "resourceNames"].iter().any(|key| !items(rule, &[key]).is_empty()) {
        let detail = "rules cannot apply to both regular resources and non-resource URLs";
        faults.push(invalid(&at_urls, Value::from(urls.to_vec()), detail));
    }
}

impl Strategy for Bindings {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn guard(&self) -> Guard {
        Guard::Binding
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        if let Some(role) = map.get_mut("roleRef").and_then(Value::as_object_mut) {
            set_text(role, "apiGroup", GROUP);
        }
        for subject in objects(map, "subjects") {
            if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
                set_text(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let role = object.get("roleRef").unwrap_or(&Value::Null);
        let path = Path::new("roleRef");
        let group = text(role, &["apiGroup"]);
        if group != GROUP {
            faults.push(not_supported(&path.child("apiGroup"), group, &[GROUP]));
        }
        let kinds: &[&str] = if self.namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
        let kind = text(role, &["kind"]);
        if !kinds.contains(&kind) {
            faults.push(not_supported(&path.child("kind"), kind, kinds));
        }
        let name = text(role, &["name"]);
        if name.is_empty() {
            faults.push(required(&path.child("name"), ""));
        } else {
            let why = names::path_segment(name);
            faults.extend(why.iter().map(|why| invalid(&path.child("name"), name, why)));
        }
        for (i, subject) in items(object, &["subjects"]).iter().enumerate() {
            subject_faults(subject, &Path::new("subjects").index(i), &mut faults);
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        if new.get("roleRef") != old.get("roleRef") {
            let value = new.get("roleRef").cloned().unwrap_or_default();
            faults.push(invalid(&Path::new("roleRef"), value, "cannot change roleRef"));
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Role", "RoleRef can reference a Role or a ClusterRole."),
                AGE_COLUMN,
                Column::new("Users", "Users in the binding").wide(),
                Column::new("Groups", "Groups in the binding").wide(),
                Column::new("ServiceAccounts", "ServiceAccounts in the binding").wide(),
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let named = |kind: &str| -> Value {
            let subjects = items(object, &["subjects"]).iter().filter(|s| text(s, &["kind"]) == kind);
            let shown = subjects.map(|s| match text(s, &["namespace"]) {
                "" => text(s, &["name"]).to_owned(),
                namespace => format!("{namespace}/{}", text(s, &["name"])),
            });
            shown.collect::<Vec<_>>().join(", ").into()
        };
        let role = at(object, &["roleRef"]).cloned().unwrap_or_else(|| json!({}));
        vec![
            name_cell(object),
            format!("{}/{}", text(&role, &["kind"]), text(&role, &["name"])).into(),
            age_cell(cx, object),
            named("User"),
            named("Group"),
            named("ServiceAccount"),
        ]
    }
}

fn subject_faults(subject: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let name = text(subject, &["name"]);
    if name.is_empty() {
        faults.push(required(&path.child("name"), ""));
    }
    let group = text(subject, &["apiGroup"]);
    match text(subject, &["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty() {
                let why = names::dns1123_subdomain(name);
                faults.extend(why.iter().map(|why| invalid(&path.child("name"), name, why)));
            }
            if !group.is_empty() {
                faults.push(not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if text(subject, &["namespace"]).is_empty() {
                faults.push(required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                faults.push(not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => {
            faults.push(not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;

    #[track_caller]
    fn check(strategy: &dyn Strategy, mut object: Value, expected: &[&str]) {
        let user = UserInfo::master("admin");
        let cx = Context { now: jiff::Timestamp::UNIX_EPOCH, user: &user, random: 0 };
        strategy.default(&mut object);
        let found: Vec<String> =
            strategy.validate(&cx, &object).iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_rule_is_about_resources_or_about_paths() {
        let role = Roles { namespaced: true };
        check(&role, json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}), &[]);
        check(
            &role,
            json!({"rules": [{"verbs": [], "nonResourceURLs": ["/x"]}, {"verbs": ["get"]}]}),
            &[
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[1].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[1].resources: Required value: resource rules must supply at least one resource",
            ],
        );
    }

    #[test]
    fn a_binding_names_a_role_and_whom_it_is_for() {
        let binding = Bindings { namespaced: false };
        let good = json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "jane"}]});
        check(&binding, good, &[]);
        check(
            &binding,
            json!({"roleRef": {"kind": "Role", "name": "x"}, "subjects": [{"kind": "ServiceAccount", "name": "bot"}, {"kind": "Robot", "name": "r"}]}),
            &[
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[0].namespace: Required value",
                "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ],
        );
    }
}
