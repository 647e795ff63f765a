//! The roles and bindings that every cluster has, from `policies/rbac.yaml`.
//!
//! Source: `plugin/pkg/auth/authorizer/rbac/bootstrappolicy`, `pkg/registry/rbac/reconciliation`.

use super::row;
use crate::authz::{GROUP, Rule, missing};
use crate::core::{Core, RequestCx, Target};
use crate::managed::WriteKind;
use crate::metadata;
use crate::query::WriteQuery;
use crate::registry::Resource;
use crate::write::{Part, Wish};
use futures::{StreamExt, TryStreamExt};
use orlop_apimachinery::{Reason, Status};
use serde::Deserialize;
use serde_json::{Value, json};

const FILE: &str = include_str!("../../../../policies/rbac.yaml");
const LABEL: &str = "kubernetes.io/bootstrapping";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// Writes at the same time; they share the store's flushes.
const WORKERS: usize = 32;

/// Every object of the file, with its row.
fn objects() -> Result<Vec<(&'static Resource, Value)>, Status> {
    let fault = |why: String| Status::internal(format!("policies/rbac.yaml: {why}"));
    let mut out = Vec::new();
    for document in serde_yaml::Deserializer::from_str(FILE) {
        let mut object = Value::deserialize(document).map_err(|e| fault(e.to_string()))?;
        let resource = match object.get("kind").and_then(Value::as_str) {
            Some("ClusterRole") => "clusterroles",
            Some("ClusterRoleBinding") => "clusterrolebindings",
            Some("Role") => "roles",
            Some("RoleBinding") => "rolebindings",
            other => return Err(fault(format!("{other:?} is no kind of RBAC"))),
        };
        let meta = metadata::of(&mut object)?;
        let labels = meta.entry("labels").or_insert_with(|| json!({}));
        labels[LABEL] = "rbac-defaults".into();
        meta.insert("annotations".to_owned(), json!({AUTOUPDATE: "true"}));
        out.push((row(GROUP, "v1", resource)?, object));
    }
    fill_aggregated(&mut out);
    Ok(out)
}

/// Gives the aggregated roles their first rules, so that they hold from the beginning; later ones
/// are the concern of a controller.
fn fill_aggregated(objects: &mut [(&'static Resource, Value)]) {
    use orlop_apimachinery::selector::Selector;
    let selector = |object: &Value| {
        let selector = object.pointer("/aggregationRule/clusterRoleSelectors/0")?;
        Selector::from_label_selector(selector).ok()
    };
    // `view` is part of `edit`, which is part of `admin`: three rounds reach all.
    for _ in 0..3 {
        let known: Vec<Value> = objects.iter().map(|(_, o)| o.clone()).collect();
        for (_, object) in objects.iter_mut() {
            let Some(selector) = selector(object) else { continue };
            let name = metadata::text(object, "name").to_owned();
            let parts = known.iter().filter(|o| {
                metadata::text(o, "name") != name
                    && o["kind"] == "ClusterRole"
                    && selector.matches_value(&o["metadata"]["labels"])
            });
            let mut rules: Vec<Value> = Vec::new();
            for rule in parts.flat_map(|o| o["rules"].as_array().into_iter().flatten()) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            object["rules"] = rules.into();
        }
    }
}

/// Creates what is missing and mends what may be mended.
pub(super) async fn run(core: &Core, cx: &RequestCx) -> Result<(), Status> {
    let writes = objects()?.into_iter().map(|(row, object)| async move {
        let name = metadata::text(&object, "name").to_owned();
        let namespace = metadata::text(&object, "namespace").to_owned();
        let target = Target { row, namespace: &namespace, name: &name, subresource: None };
        let query = WriteQuery::default();
        if let Some(entry) = core.shelf(row)?.get(&target.key()) {
            if mended(&entry.object().to_value(), &object).is_none() {
                return Ok(());
            }
            let transform = |old: Option<&Value>| {
                let old = old.cloned().unwrap_or_default();
                let mut object = mended(&old, &object).unwrap_or(old);
                metadata::of(&mut object)?.remove("resourceVersion");
                Ok(Wish { object, kind: WriteKind::Update })
            };
            return core.update(cx, &target, Part::Main, false, &query, &transform).await.map(|_| ());
        }
        match core.create(cx, &Target { name: "", ..target }, object, &query).await {
            Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
            _ => Ok(()),
        }
    });
    futures::stream::iter(writes).buffer_unordered(WORKERS).try_collect().await
}

/// The object with what it lacks of `wished`; `None` where it lacks nothing or is not to be mended.
fn mended(object: &Value, wished: &Value) -> Option<Value> {
    if object["metadata"]["annotations"][AUTOUPDATE] != "true" {
        return None;
    }
    let mut new = object.clone();
    let added: Vec<Value> = match wished["kind"].as_str() {
        Some("ClusterRole" | "Role") => {
            if wished.get("aggregationRule").is_some_and(Value::is_object) {
                return None;
            }
            let rules = |o: &Value| Vec::<Rule>::deserialize(&o["rules"]).unwrap_or_default();
            let lacking = missing(&rules(object), &rules(wished));
            lacking.iter().filter_map(|rule| serde_json::to_value(rule).ok()).collect()
        }
        _ => {
            let has = |subject: &&Value| {
                let same = |other: &Value| {
                    ["kind", "name", "namespace"].iter().all(|key| other.get(key) == subject.get(key))
                };
                !object["subjects"].as_array().into_iter().flatten().any(same)
            };
            wished["subjects"].as_array().into_iter().flatten().filter(has).cloned().collect()
        }
    };
    if added.is_empty() {
        return None;
    }
    let key = if wished.get("roleRef").is_some() { "subjects" } else { "rules" };
    match new.get_mut(key).and_then(Value::as_array_mut) {
        Some(list) => list.extend(added),
        None => new[key] = added.into(),
    }
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_of_people_hold_those_below_them() {
        let all = objects().unwrap();
        let rules = |name: &str| {
            let role = all.iter().find(|(r, o)| r.kind == "ClusterRole" && o["metadata"]["name"] == name);
            Vec::<Rule>::deserialize(&role.unwrap().1["rules"]).unwrap()
        };
        assert!(missing(&rules("admin"), &rules("edit")).is_empty());
        assert!(missing(&rules("edit"), &rules("view")).is_empty());
        assert!(!missing(&rules("view"), &rules("edit")).is_empty());
        assert!(!missing(&rules("edit"), &rules("admin")).is_empty());
        assert!(missing(&rules("cluster-admin"), &rules("admin")).is_empty());
    }

    #[test]
    fn every_binding_names_a_role_of_the_file() {
        let all = objects().unwrap();
        for (_, binding) in all.iter().filter(|(_, o)| o.get("roleRef").is_some()) {
            let named = |o: &Value| {
                o["kind"] == binding["roleRef"]["kind"] && o["metadata"]["name"] == binding["roleRef"]["name"]
            };
            assert!(all.iter().any(|(_, o)| named(o)), "{binding}");
        }
    }
}
