//! Discovery: which groups, versions and resources there are; classic and aggregated.

use crate::negotiate::clauses;
use crate::registry::{Resource, Subresource, served};
use serde_json::{Map, Value, json};

/// Media type of the aggregated form.
pub(crate) const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Groups in discovery order, each with its versions; the core group is the empty one.
pub(crate) fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut out: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in served() {
        let (group, version) = (row.gvr.group.as_ref(), row.gvr.version.as_ref());
        match out.iter_mut().find(|(g, _)| *g == group) {
            Some((_, versions)) if versions.contains(&version) => {}
            Some((_, versions)) => versions.push(version),
            None => out.push((group, vec![version])),
        }
    }
    out
}

/// Whether the client wants the aggregated form.
pub(crate) fn wants_aggregated(accept: &str) -> bool {
    for clause in clauses(accept) {
        let aggregated = clause.parameter("as") == Some("APIGroupDiscoveryList");
        match clause.media {
            "application/json" | "*/*" | "application/*" if !aggregated => return false,
            "application/json"
                if clause.parameter("g") == Some("apidiscovery.k8s.io")
                    && clause.parameter("v") == Some("v2") =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// `/api` (`core`) or `/apis`, aggregated.
pub(crate) fn aggregated(core: bool) -> Value {
    let items: Vec<Value> = groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = rows(group, version).map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let mut meta = json!({"creationTimestamp": null});
            if let (false, Value::Object(map)) = (group.is_empty(), &mut meta) {
                map.insert("name".to_owned(), group.into());
            }
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
}

fn rows<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Resource> + 'a {
    served().filter(move |r| r.gvr.group == group && r.gvr.version == version)
}

fn kind_of(row: &Resource, sub: &Subresource) -> (String, String, String) {
    let own = sub.object_kind;
    if own.0.is_empty() && own.1.is_empty() {
        (row.gvr.group.to_string(), row.gvr.version.to_string(), own.2.to_owned())
    } else {
        (own.0.to_owned(), own.1.to_owned(), own.2.to_owned())
    }
}

fn aggregated_resource(row: &'static Resource) -> Value {
    let mut out = Map::new();
    out.insert("resource".to_owned(), row.gvr.resource.to_string().into());
    out.insert(
        "responseKind".to_owned(),
        json!({"group": row.gvr.group, "version": row.gvr.version, "kind": row.kind}),
    );
    out.insert("scope".to_owned(), if row.namespaced { "Namespaced" } else { "Cluster" }.into());
    out.insert("singularResource".to_owned(), row.singular.into());
    out.insert("verbs".to_owned(), json!(row.verbs));
    if !row.short_names.is_empty() {
        out.insert("shortNames".to_owned(), json!(row.short_names));
    }
    if !row.categories.is_empty() {
        out.insert("categories".to_owned(), json!(row.categories));
    }
    if !row.subresources.is_empty() {
        let subs: Vec<Value> = row
            .subresources
            .iter()
            .map(|sub| {
                let (group, version, kind) = kind_of(row, sub);
                json!({
                    "subresource": sub.name,
                    "responseKind": {"group": group, "version": version, "kind": kind},
                    "verbs": sub.verbs,
                })
            })
            .collect();
        out.insert("subresources".to_owned(), subs.into());
    }
    Value::Object(out)
}

/// `/api`, classic.
pub(crate) fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`, classic.
pub(crate) fn api_group_list() -> Value {
    let groups: Vec<Value> = groups()
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_value(group, &versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`; `None` for a group that is not served.
pub(crate) fn api_group(name: &str) -> Option<Value> {
    let (group, versions) = groups().into_iter().find(|(g, _)| *g == name && !g.is_empty())?;
    let mut value = group_value(group, &versions);
    if let Value::Object(map) = &mut value {
        map.insert("kind".to_owned(), "APIGroup".into());
        map.insert("apiVersion".to_owned(), "v1".into());
    }
    Some(value)
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let all: Vec<Value> =
        versions.iter().map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v})).collect();
    json!({"name": group, "versions": all, "preferredVersion": all.first()})
}

/// `/api/v1` and `/apis/<group>/<version>`; `None` where it is not served.
pub(crate) fn api_resource_list(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for row in rows(group, version) {
        let name = row.gvr.resource.as_ref();
        let mut one = json!({
            "name": name, "singularName": row.singular, "namespaced": row.namespaced, "kind": row.kind,
            "verbs": row.verbs,
        });
        if let Value::Object(map) = &mut one {
            if !row.short_names.is_empty() {
                map.insert("shortNames".to_owned(), json!(row.short_names));
            }
            if !row.categories.is_empty() {
                map.insert("categories".to_owned(), json!(row.categories));
            }
        }
        resources.push(one);
        for sub in row.subresources {
            let (sub_group, sub_version, kind) = kind_of(row, sub);
            let mut one = json!({
                "name": format!("{name}/{}", sub.name), "singularName": "", "namespaced": row.namespaced,
                "kind": kind, "verbs": sub.verbs,
            });
            if (sub_group.as_str(), sub_version.as_str()) != (group, version)
                && let Value::Object(map) = &mut one
            {
                map.insert("group".to_owned(), sub_group.into());
                map.insert("version".to_owned(), sub_version.into());
            }
            resources.push(one);
        }
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_gets_the_aggregated_form_and_old_clients_the_classic_one() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert!(wants_aggregated(kubectl));
        assert!(!wants_aggregated("application/json, */*"));
        assert!(!wants_aggregated(""));
    }

    #[test]
    fn every_row_is_discovered_in_both_forms() {
        for row in served() {
            let (group, version) = (row.gvr.group.as_ref(), row.gvr.version.as_ref());
            let classic = api_resource_list(group, version).unwrap();
            let has = |v: &Value, key: &str| v[key] == row.gvr.resource.as_ref();
            assert!(classic["resources"].as_array().unwrap().iter().any(|r| has(r, "name")), "{row:?}");
            let modern = aggregated(group.is_empty());
            let resources =
                modern["items"].as_array().unwrap().iter().flat_map(|g| g["versions"].as_array().unwrap());
            let mut resources = resources.flat_map(|v| v["resources"].as_array().unwrap());
            assert!(resources.any(|r| has(r, "resource")), "{row:?}");
        }
    }
}
