//! Faults of what surrounds a pod's processes: security, DNS, hosts file, projected files.
//!
//! Source of the rules and of their words: `ValidatePodSecurityContext`,
//! `ValidateSecurityContext`, `validatePodDNSConfig`, `validateLocalNonReservedPath`.

use super::super::at;
use super::super::json::{items, text};
use orlop_apimachinery::field::{Path, invalid, not_supported, required};
use orlop_apimachinery::names;
use orlop_apimachinery::status::Cause;
use serde_json::Value;

const ID: &str = "must be between 0 and 2147483647, inclusive";
pub(super) const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MOST_NAMESERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const MOST_SEARCH_BYTES: usize = 2048;

fn flag(value: &Value, path: &[&str]) -> Option<bool> {
    at(value, path).and_then(Value::as_bool)
}

fn ids(context: &Value, keys: &[&str], path: &Path, faults: &mut Vec<Cause>) {
    for key in keys {
        if let Some(id) = context.get(*key).and_then(Value::as_i64)
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            faults.push(invalid(&path.child(key), id, ID));
        }
    }
}

fn seccomp(context: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let Some(profile) = context.get("seccompProfile") else { return };
    let path = path.child("seccompProfile");
    let supported = ["Localhost", "RuntimeDefault", "Unconfined"];
    match text(profile, &["type"]) {
        "" => faults.push(required(&path.child("type"), "type is required when seccompProfile is set")),
        "Localhost" => {
            if text(profile, &["localhostProfile"]).is_empty() {
                let detail = "must be set when seccomp type is Localhost";
                faults.push(required(&path.child("localhostProfile"), detail));
            }
        }
        other if !supported.contains(&other) => {
            faults.push(not_supported(&path.child("type"), other, &supported));
        }
        _ => {
            let profile = text(profile, &["localhostProfile"]);
            if !profile.is_empty() {
                let detail = "can only be set when seccomp type is Localhost";
                faults.push(invalid(&path.child("localhostProfile"), profile, detail));
            }
        }
    }
}

/// Faults of `spec.securityContext` and of the pod's namespaces.
pub(super) fn pod_security(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    if flag(spec, &["shareProcessNamespace"]) == Some(true) && flag(spec, &["hostPID"]) == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        faults.push(invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    let Some(context) = spec.get("securityContext") else { return };
    let path = path.child("securityContext");
    ids(context, &["fsGroup", "runAsUser", "runAsGroup"], &path, faults);
    for (i, group) in items(context, &["supplementalGroups"]).iter().enumerate() {
        if let Some(id) = group.as_i64()
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            faults.push(invalid(&path.child("supplementalGroups").index(i), id, ID));
        }
    }
    for (i, sysctl) in items(context, &["sysctls"]).iter().enumerate() {
        let name = text(sysctl, &["name"]);
        let path = path.child("sysctls").index(i).child("name");
        if name.is_empty() {
            faults.push(required(&path, ""));
        } else if !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9][-_a-z0-9]*[a-z0-9]?$";
            faults.push(invalid(&path, name, detail));
        }
    }
    if let Some(policy) = context.get("fsGroupChangePolicy").and_then(Value::as_str)
        && !["Always", "OnRootMismatch"].contains(&policy)
    {
        faults.push(not_supported(&path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]));
    }
    seccomp(context, &path, faults);
}

fn is_sysctl(name: &str) -> bool {
    let word = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(word) && bytes.iter().all(|c| word(c) || b"-_".contains(c))
        })
}

/// Faults of a container's `securityContext`.
pub(super) fn container_security(container: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let Some(context) = container.get("securityContext") else { return };
    let path = path.child("securityContext");
    ids(context, &["runAsUser", "runAsGroup"], &path, faults);
    if let Some(mount) = context.get("procMount").and_then(Value::as_str)
        && !["Default", "Unmasked"].contains(&mount)
    {
        faults.push(not_supported(&path.child("procMount"), mount, &["Default", "Unmasked"]));
    }
    if flag(context, &["allowPrivilegeEscalation"]) == Some(false) {
        if flag(context, &["privileged"]) == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            faults.push(invalid(&path, context.clone(), detail));
        }
        if items(context, &["capabilities", "add"]).iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            faults.push(invalid(&path, context.clone(), detail));
        }
    }
    seccomp(context, &path, faults);
}

/// Faults of `spec.dnsConfig` and `spec.hostAliases`.
pub(super) fn dns(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    if text(spec, &["dnsPolicy"]) == "None" && items(spec, &["dnsConfig", "nameservers"]).is_empty() {
        let (at, detail) = if spec.get("dnsConfig").is_some() {
            let at = path.child("dnsConfig").child("nameservers");
            (at, "must provide at least one DNS nameserver when `dnsPolicy` is None")
        } else {
            (path.child("dnsConfig"), "must provide `dnsConfig` when `dnsPolicy` is None")
        };
        faults.push(required(&at, detail));
    }
    let at_config = path.child("dnsConfig");
    let servers = items(spec, &["dnsConfig", "nameservers"]);
    if servers.len() > MOST_NAMESERVERS {
        let detail = format!("must not have more than {MOST_NAMESERVERS} nameservers");
        faults.push(invalid(&at_config.child("nameservers"), servers.to_vec(), &detail));
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        for why in names::ip(server) {
            faults.push(invalid(&at_config.child("nameservers").index(i), server, &why));
        }
    }
    let searches = items(spec, &["dnsConfig", "searches"]);
    let at_searches = at_config.child("searches");
    if searches.len() > MOST_SEARCHES {
        let detail = format!("must not have more than {MOST_SEARCHES} search paths");
        faults.push(invalid(&at_searches, searches.to_vec(), &detail));
    }
    let bytes: usize = searches.iter().filter_map(Value::as_str).map(|s| s.len() + 1).sum();
    if bytes > MOST_SEARCH_BYTES {
        let detail = format!(
            "must not have more than {MOST_SEARCH_BYTES} characters (including spaces) in the search list"
        );
        faults.push(invalid(&at_searches, searches.to_vec(), &detail));
    }
    for (i, search) in searches.iter().filter_map(Value::as_str).enumerate() {
        let bare = if search == "." { "a" } else { search.strip_suffix('.').unwrap_or(search) };
        for why in names::dns1123_subdomain(&bare.replace('_', "a")) {
            faults.push(invalid(&at_searches.index(i), search, &why));
        }
    }
    for (i, option) in items(spec, &["dnsConfig", "options"]).iter().enumerate() {
        if text(option, &["name"]).is_empty() {
            faults.push(required(&at_config.child("options").index(i), "must not be empty"));
        }
    }
    for (i, alias) in items(spec, &["hostAliases"]).iter().enumerate() {
        let at = path.child("hostAliases").index(i);
        let ip = text(alias, &["ip"]);
        faults.extend(names::ip(ip).iter().map(|why| invalid(&at.child("ip"), ip, why)));
        for (j, name) in items(alias, &["hostnames"]).iter().filter_map(Value::as_str).enumerate() {
            for why in names::dns1123_subdomain(name) {
                faults.push(invalid(&at.child("hostnames").index(j), name, &why));
            }
        }
    }
}

/// Faults of `items` of a configMap, secret or downwardAPI volume.
pub(super) fn file_items(source: &Value, keyed: bool, path: &Path, faults: &mut Vec<Cause>) {
    for (i, item) in items(source, &["items"]).iter().enumerate() {
        let at = path.child("items").index(i);
        if keyed && text(item, &["key"]).is_empty() {
            faults.push(required(&at.child("key"), ""));
        }
        let target = text(item, &["path"]);
        if target.is_empty() {
            faults.push(required(&at.child("path"), ""));
        }
        relative_path(target, &at.child("path"), faults);
        if target.starts_with("..") && !target.split('/').any(|part| part == "..") {
            faults.push(invalid(&at.child("path"), target, "must not start with '..'"));
        }
        if let Some(mode) = item.get("mode").and_then(Value::as_i64)
            && !(0..=0o777).contains(&mode)
        {
            faults.push(invalid(&at.child("mode"), mode, MODE));
        }
        match (keyed, item.get("fieldRef"), item.get("resourceFieldRef")) {
            (true, ..) => {}
            (false, Some(_), Some(_)) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                faults.push(invalid(&at, "resource", detail));
            }
            (false, Some(field), None) => field_ref(field, FILE_FIELDS, &at.child("fieldRef"), faults),
            (false, None, Some(resource)) => {
                if text(resource, &["containerName"]).is_empty() {
                    faults.push(required(&at.child("resourceFieldRef").child("containerName"), ""));
                }
                resource_ref(resource, &at.child("resourceFieldRef"), faults);
            }
            (false, None, None) => {
                faults.push(required(&at, "one of fieldRef and resourceFieldRef is required"));
            }
        }
    }
}

/// Fields of a pod that an environment variable may hold.
pub(super) const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of a pod that a file may hold.
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fields that have a name in the downward API, allowed here or not.
const LABELLED: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

/// Faults of a `fieldRef`. Source: `validateObjectFieldSelector`.
pub(super) fn field_ref(reference: &Value, allowed: &[&str], path: &Path, faults: &mut Vec<Cause>) {
    if text(reference, &["apiVersion"]).is_empty() {
        faults.push(required(&path.child("apiVersion"), ""));
        return;
    }
    let field = text(reference, &["fieldPath"]);
    let path = path.child("fieldPath");
    if field.is_empty() {
        faults.push(required(&path, ""));
        return;
    }
    if let Some((map, key)) = field.strip_suffix("']").and_then(|f| f.split_once("['")) {
        match map {
            "metadata.labels" => {
                faults.extend(names::qualified_name(key).iter().map(|why| invalid(&path, field, why)));
            }
            "metadata.annotations" => {
                let key = key.to_ascii_lowercase();
                faults.extend(names::qualified_name(&key).iter().map(|why| invalid(&path, field, why)));
            }
            _ => faults.push(invalid(&path, field, "does not support subscript")),
        }
    } else if !LABELLED.contains(&field) {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        faults.push(invalid(&path, field, &detail));
    } else if !allowed.contains(&field) {
        faults.push(not_supported(&path, field, allowed));
    }
}

/// Faults of a `resourceFieldRef`. Source: `validateContainerResourceFieldSelector`.
pub(super) fn resource_ref(reference: &Value, path: &Path, faults: &mut Vec<Cause>) {
    const RESOURCES: &[&str] = &[
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let resource = text(reference, &["resource"]);
    let pages = ["limits.hugepages-", "requests.hugepages-"].iter().any(|p| resource.starts_with(p));
    if resource.is_empty() {
        faults.push(required(&path.child("resource"), ""));
    } else if !pages && !RESOURCES.contains(&resource) {
        faults.push(not_supported(&path.child("resource"), resource, RESOURCES));
    }
}

/// A path below a mount: relative, without `..`.
pub(super) fn relative_path(target: &str, path: &Path, faults: &mut Vec<Cause>) {
    if target.starts_with('/') {
        faults.push(invalid(path, target, "must be a relative path"));
    }
    if target.split('/').any(|part| part == "..") {
        faults.push(invalid(path, target, "must not contain '..'"));
    }
}
