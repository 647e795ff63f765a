//! Faults of a pod spec.
//!
//! Source of the rules and of their words: `pkg/apis/core/validation/validation.go`. Types and
//! unknown fields are the schema's concern.

use super::super::at;
use super::super::json::{items, number, text};
use super::placement::placement;
use super::surroundings;
use orlop_apimachinery::field::{Path, duplicate, forbidden, invalid, not_found, not_supported, required};
use orlop_apimachinery::names;
use orlop_apimachinery::quantity::Quantity;
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Where a pod spec stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Of {
    /// A pod.
    Pod,
    /// The template of a controller that keeps its pods running: restart policy Always only.
    KeptTemplate,
}

/// All faults of the spec at `path`.
pub(in super::super) fn pod_spec(spec: &Value, of: Of, path: &Path) -> Vec<Cause> {
    let mut faults = Vec::new();
    let volumes = volumes(spec, path, &mut faults);
    let containers = path.child("containers");
    if items(spec, &["containers"]).is_empty() {
        faults.push(required(&containers, ""));
    }
    let mut all_names = BTreeSet::new();
    for (list, init) in [("initContainers", true), ("containers", false)] {
        for (i, container) in items(spec, &[list]).iter().enumerate() {
            let at = path.child(list).index(i);
            let name = text(container, &["name"]);
            if !name.is_empty() && !all_names.insert(name) {
                faults.push(duplicate(&at.child("name"), name));
            }
            container_faults(container, init, &volumes, &at, &mut faults);
        }
    }
    host_ports(spec, path, &mut faults);

    let restart = text(spec, &["restartPolicy"]);
    let supported: &[&str] = if of == Of::Pod { &["Always", "OnFailure", "Never"] } else { &["Always"] };
    one_of(restart, supported, &path.child("restartPolicy"), &mut faults);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(text(spec, &["dnsPolicy"]), &dns, &path.child("dnsPolicy"), &mut faults);
    surroundings::dns(spec, path, &mut faults);
    surroundings::pod_security(spec, path, &mut faults);
    placement(spec, path, &mut faults);
    if !items(spec, &["ephemeralContainers"]).is_empty() && of == Of::KeptTemplate {
        let detail = "ephemeral containers not allowed in pod template";
        faults.push(forbidden(&path.child("ephemeralContainers"), detail));
    }
    if let Some(seconds) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64)
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        faults.push(invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
    for (key, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("schedulerName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
    ] {
        named(text(spec, &[key]), rule, &path.child(key), &mut faults);
    }
    if let Some(selector) = spec.get("nodeSelector").and_then(Value::as_object) {
        names::check_labels(selector, &path.child("nodeSelector"), &mut faults);
    }
    tolerations(spec, path, &mut faults);
    let mut gates = BTreeSet::new();
    for (i, gate) in items(spec, &["schedulingGates"]).iter().enumerate() {
        let at = path.child("schedulingGates").index(i);
        let name = text(gate, &["name"]);
        faults.extend(names::qualified_name(name).iter().map(|why| invalid(&at, name, why)));
        if !gates.insert(name) {
            faults.push(duplicate(&at, name));
        }
    }
    if at(spec, &["hostNetwork"]).and_then(Value::as_bool) == Some(true) {
        for (i, container) in items(spec, &["containers"]).iter().enumerate() {
            for (j, port) in items(container, &["ports"]).iter().enumerate() {
                if number(port, &["hostPort"]) != number(port, &["containerPort"]) {
                    let at = containers.index(i).child("ports").index(j).child("hostPort");
                    let port = number(port, &["hostPort"]);
                    faults.push(invalid(&at, port, "must match `containerPort` when `hostNetwork` is true"));
                }
            }
        }
    }
    faults
}

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

fn one_of(value: &str, supported: &[&str], path: &Path, faults: &mut Vec<Cause>) {
    if value.is_empty() {
        faults.push(required(path, ""));
    } else if !supported.contains(&value) {
        let mut sorted = supported.to_vec();
        sorted.sort_unstable();
        faults.push(not_supported(path, value, &sorted));
    }
}

fn named(value: &str, rule: fn(&str) -> Vec<String>, path: &Path, faults: &mut Vec<Cause>) {
    if !value.is_empty() {
        faults.extend(rule(value).iter().map(|why| invalid(path, value, why)));
    }
}

fn volumes<'a>(spec: &'a Value, path: &Path, faults: &mut Vec<Cause>) -> BTreeSet<&'a str> {
    let mut known = BTreeSet::new();
    for (i, volume) in items(spec, &["volumes"]).iter().enumerate() {
        let at = path.child("volumes").index(i);
        let name = text(volume, &["name"]);
        let name_at = at.child("name");
        if name.is_empty() {
            faults.push(required(&name_at, ""));
        } else {
            faults.extend(names::dns1123_label(name).iter().map(|why| invalid(&name_at, name, why)));
            if !known.insert(name) {
                faults.push(duplicate(&name_at, name));
            }
        }
        let sources = volume.as_object().into_iter().flatten().filter(|(k, v)| *k != "name" && !v.is_null());
        for (n, (source, settings)) in sources.enumerate() {
            if n > 0 {
                faults.push(forbidden(&at.child(source), "may not specify more than 1 volume type"));
                continue;
            }
            volume_source(source, settings, &at.child(source), faults);
        }
    }
    known
}

fn volume_source(source: &str, settings: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let need = |key: &str, faults: &mut Vec<Cause>| {
        if text(settings, &[key]).is_empty() {
            faults.push(required(&path.child(key), ""));
        }
    };
    match source {
        "secret" => {
            need("secretName", faults);
            surroundings::file_items(settings, true, path, faults);
        }
        "configMap" => {
            need("name", faults);
            surroundings::file_items(settings, true, path, faults);
        }
        "downwardAPI" => surroundings::file_items(settings, false, path, faults),
        "hostPath" => {
            need("path", faults);
            if text(settings, &["path"]).split('/').any(|part| part == "..") {
                faults.push(invalid(&path.child("path"), text(settings, &["path"]), "must not contain '..'"));
            }
            let types = [
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ];
            let kind = text(settings, &["type"]);
            if !types.contains(&kind) {
                faults.push(not_supported(&path.child("type"), kind, &types));
            }
        }
        "persistentVolumeClaim" => need("claimName", faults),
        "emptyDir" => {
            if let Some(limit) = settings.get("sizeLimit").and_then(Value::as_str)
                && Quantity::parse(limit).is_ok_and(|q| q.value() < 0)
            {
                faults.push(forbidden(
                    &path.child("sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                ));
            }
        }
        "projected" => {
            for (i, one) in items(settings, &["sources"]).iter().enumerate() {
                let at = path.child("sources").index(i);
                let Some(one) = one.as_object() else { continue };
                if one.len() > 1 {
                    faults.push(forbidden(&at, "may not specify more than 1 volume type"));
                }
                for (kind, keyed) in [("secret", true), ("configMap", true), ("downwardAPI", false)] {
                    let Some(source) = one.get(kind) else { continue };
                    if keyed && text(source, &["name"]).is_empty() {
                        faults.push(required(&at.child(kind).child("name"), ""));
                    }
                    surroundings::file_items(source, keyed, &at.child(kind), faults);
                }
                if let Some(token) = one.get("serviceAccountToken") {
                    let at = at.child("serviceAccountToken");
                    if text(token, &["path"]).is_empty() {
                        faults.push(required(&at.child("path"), ""));
                    }
                    if number(token, &["expirationSeconds"]) < 600 {
                        let seconds = number(token, &["expirationSeconds"]);
                        let detail = "may not specify a duration less than 10 minutes";
                        faults.push(invalid(&at.child("expirationSeconds"), seconds, detail));
                    }
                }
            }
        }
        _ => {}
    }
    if let Some(mode) = settings.get("defaultMode").and_then(Value::as_i64)
        && !(0..=0o777).contains(&mode)
    {
        faults.push(invalid(&path.child("defaultMode"), mode, surroundings::MODE));
    }
}

fn container_faults(
    container: &Value,
    init: bool,
    volumes: &BTreeSet<&str>,
    path: &Path,
    faults: &mut Vec<Cause>,
) {
    let name = text(container, &["name"]);
    if name.is_empty() {
        faults.push(required(&path.child("name"), ""));
    } else {
        named(name, names::dns1123_label, &path.child("name"), faults);
    }
    let image = text(container, &["image"]);
    if image.is_empty() {
        faults.push(required(&path.child("image"), ""));
    } else if image.trim() != image {
        faults.push(invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
    }
    one_of(
        text(container, &["imagePullPolicy"]),
        &["Always", "IfNotPresent", "Never"],
        &path.child("imagePullPolicy"),
        faults,
    );
    one_of(
        text(container, &["terminationMessagePolicy"]),
        &["File", "FallbackToLogsOnError"],
        &path.child("terminationMessagePolicy"),
        faults,
    );
    if let Some(policy) = container.get("restartPolicy").and_then(Value::as_str) {
        let at = path.child("restartPolicy");
        if !init {
            faults.push(forbidden(&at, "may not be set for non-init containers"));
        } else if policy != "Always" {
            faults.push(not_supported(&at, policy, &["Always"]));
        }
    }
    ports(container, path, faults);
    env(container, path, faults);
    mounts(container, volumes, path, faults);
    resources(container, &path.child("resources"), faults);
    surroundings::container_security(container, path, faults);
    let sidecar = init && text(container, &["restartPolicy"]) == "Always";
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(kind).filter(|p| !p.is_null()) else { continue };
        let at = path.child(kind);
        if init && !sidecar {
            faults.push(forbidden(&at, "may not be set for init containers without restartPolicy=Always"));
        } else {
            probe_faults(probe, kind, &at, faults);
        }
    }
    if init && !sidecar && at(container, &["lifecycle"]).is_some() {
        let detail = "may not be set for init containers without restartPolicy=Always";
        faults.push(forbidden(&path.child("lifecycle"), detail));
        return;
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = at(container, &["lifecycle", hook]).filter(|h| !h.is_null()) {
            handler_faults(
                handler,
                &["exec", "httpGet", "tcpSocket", "sleep"],
                &path.child("lifecycle").child(hook),
                faults,
            );
        }
    }
}

fn ports(container: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let mut known = BTreeSet::new();
    for (i, port) in items(container, &["ports"]).iter().enumerate() {
        let at = path.child("ports").index(i);
        let name = text(port, &["name"]);
        if !name.is_empty() {
            faults.extend(names::port_name(name).iter().map(|why| invalid(&at.child("name"), name, why)));
            if !known.insert(name) {
                faults.push(duplicate(&at.child("name"), name));
            }
        }
        let number_of = number(port, &["containerPort"]);
        if number_of == 0 {
            faults.push(required(&at.child("containerPort"), ""));
        } else {
            let why = names::port_number(number_of);
            faults.extend(why.iter().map(|why| invalid(&at.child("containerPort"), number_of, why)));
        }
        if let Some(host) = port.get("hostPort").and_then(Value::as_i64).filter(|p| *p != 0) {
            faults
                .extend(names::port_number(host).iter().map(|why| invalid(&at.child("hostPort"), host, why)));
        }
        one_of(text(port, &["protocol"]), &["TCP", "UDP", "SCTP"], &at.child("protocol"), faults);
    }
}

fn host_ports(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let mut taken = BTreeSet::new();
    for (i, container) in items(spec, &["containers"]).iter().enumerate() {
        for (j, port) in items(container, &["ports"]).iter().enumerate() {
            let host = number(port, &["hostPort"]);
            if host == 0 {
                continue;
            }
            let key = (text(port, &["protocol"]), text(port, &["hostIP"]), host);
            if !taken.insert(key) {
                let at = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                faults.push(duplicate(&at, format!("{}/{}/{}", key.0, key.1, key.2)));
            }
        }
    }
}

fn env(container: &Value, path: &Path, faults: &mut Vec<Cause>) {
    for (i, var) in items(container, &["env"]).iter().enumerate() {
        let at_var = path.child("env").index(i);
        let name = text(var, &["name"]);
        if name.is_empty() {
            faults.push(required(&at_var.child("name"), ""));
        } else {
            faults.extend(
                names::env_var_name(name).iter().map(|why| invalid(&at_var.child("name"), name, why)),
            );
        }
        let Some(source) = var.get("valueFrom").and_then(Value::as_object) else { continue };
        let at_source = at_var.child("valueFrom");
        let sources: Vec<_> = source.iter().filter(|(_, v)| !v.is_null()).collect();
        if !text(var, &["value"]).is_empty() {
            faults.push(invalid(&at_source, "", "may not be specified when `value` is not empty"));
        }
        match sources.as_slice() {
            [] => faults.push(invalid(
                &at_source,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            )),
            [(kind, settings)] => env_source(kind, settings, &at_source, faults),
            _ => faults.push(invalid(&at_source, "", "may not have more than one field specified at a time")),
        }
    }
    for (i, from) in items(container, &["envFrom"]).iter().enumerate() {
        let at_from = path.child("envFrom").index(i);
        for kind in ["configMapRef", "secretRef"] {
            if let Some(settings) = from.get(kind).filter(|s| !s.is_null())
                && text(settings, &["name"]).is_empty()
            {
                faults.push(required(&at_from.child(kind).child("name"), ""));
            }
        }
    }
}

fn env_source(kind: &str, settings: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let at = path.child(kind);
    match kind {
        "fieldRef" => surroundings::field_ref(settings, surroundings::ENV_FIELDS, &at, faults),
        "resourceFieldRef" => surroundings::resource_ref(settings, &at, faults),
        "configMapKeyRef" | "secretKeyRef" => {
            if text(settings, &["name"]).is_empty() {
                faults.push(required(&at.child("name"), ""));
            }
            let key = text(settings, &["key"]);
            if key.is_empty() {
                faults.push(required(&at.child("key"), ""));
            } else {
                faults
                    .extend(names::config_map_key(key).iter().map(|why| invalid(&at.child("key"), key, why)));
            }
        }
        _ => {}
    }
}

fn mounts(container: &Value, volumes: &BTreeSet<&str>, path: &Path, faults: &mut Vec<Cause>) {
    let mut paths = BTreeSet::new();
    for (i, mount) in items(container, &["volumeMounts"]).iter().enumerate() {
        let at = path.child("volumeMounts").index(i);
        let name = text(mount, &["name"]);
        if name.is_empty() {
            faults.push(required(&at.child("name"), ""));
        } else if !volumes.contains(name) {
            faults.push(not_found(&at.child("name"), name));
        }
        let target = text(mount, &["mountPath"]);
        if target.is_empty() {
            faults.push(required(&at.child("mountPath"), ""));
        } else if !paths.insert(target) {
            faults.push(invalid(&at.child("mountPath"), target, "must be unique"));
        }
        for key in ["subPath", "subPathExpr"] {
            surroundings::relative_path(text(mount, &[key]), &at.child(key), faults);
        }
        if !text(mount, &["subPath"]).is_empty() && !text(mount, &["subPathExpr"]).is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            faults.push(invalid(&at.child("subPathExpr"), text(mount, &["subPathExpr"]), detail));
        }
        let propagation = text(mount, &["mountPropagation"]);
        let modes = ["Bidirectional", "HostToContainer", "None"];
        if !propagation.is_empty() && !modes.contains(&propagation) {
            faults.push(not_supported(&at.child("mountPropagation"), propagation, &modes));
        }
        if propagation == "Bidirectional"
            && super::super::at(container, &["securityContext", "privileged"]).and_then(Value::as_bool)
                != Some(true)
        {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            faults.push(forbidden(&at.child("mountPropagation"), detail));
        }
    }
}

fn resources(container: &Value, path: &Path, faults: &mut Vec<Cause>) {
    let quantities = |kind: &str, faults: &mut Vec<Cause>| -> BTreeMap<String, Quantity> {
        let empty = Map::new();
        let listed = at(container, &["resources", kind]).and_then(Value::as_object).unwrap_or(&empty);
        let mut parsed = BTreeMap::new();
        for (name, value) in listed {
            let at = path.child(kind).key(name);
            faults.extend(names::qualified_name(name).iter().map(|why| invalid(&at, name.as_str(), why)));
            if !name.contains('/') && !STANDARD.contains(&name.as_str()) && !name.starts_with("hugepages-") {
                faults.push(invalid(
                    &at,
                    name.as_str(),
                    "must be a standard resource type or fully qualified",
                ));
                faults.push(invalid(&at, name.as_str(), "must be a standard resource for containers"));
            }
            if let Some(quantity) = value.as_str().and_then(|t| Quantity::parse(t).ok()) {
                if quantity.milli_value() < 0 {
                    faults.push(invalid(&at, value.clone(), NOT_NEGATIVE));
                }
                if !overcommits(name) && !quantity.is_integer() {
                    faults.push(invalid(&at, value.clone(), "must be an integer"));
                }
                parsed.insert(name.clone(), quantity);
            }
        }
        parsed
    };
    let limits = quantities("limits", faults);
    let requests = quantities("requests", faults);
    for (name, request) in &requests {
        let at = path.child("requests");
        if let Some(limit) = limits.get(name) {
            if request > limit {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                faults.push(invalid(&at, request.to_string(), &detail));
            } else if request != limit && !overcommits(name) {
                let detail = format!("must be equal to {name} limit of {limit}");
                faults.push(invalid(&at, request.to_string(), &detail));
            }
        } else if !overcommits(name) {
            faults
                .push(required(&path.child("limits"), "Limit must be set for non overcommitable resources"));
        }
    }
}

/// What a container may ask for without naming a domain.
const STANDARD: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// Only what the node knows by itself may be promised more often than it is there.
fn overcommits(resource: &str) -> bool {
    (!resource.contains('/') || resource.starts_with("kubernetes.io/")) && !resource.starts_with("hugepages-")
}

fn probe_faults(probe: &Value, kind: &str, path: &Path, faults: &mut Vec<Cause>) {
    handler_faults(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, faults);
    for key in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        let value = number(probe, &[key]);
        if value < 0 {
            faults.push(invalid(&path.child(key), value, NOT_NEGATIVE));
        }
    }
    if let Some(seconds) = probe.get("terminationGracePeriodSeconds").and_then(Value::as_i64) {
        let at = path.child("terminationGracePeriodSeconds");
        if kind == "readinessProbe" {
            faults.push(invalid(&at, seconds, "must not be set for readinessProbes"));
        } else if seconds <= 0 {
            faults.push(invalid(&at, seconds, "must be greater than 0"));
        }
    }
    if kind != "readinessProbe" && number(probe, &["successThreshold"]) != 1 {
        let value = number(probe, &["successThreshold"]);
        faults.push(invalid(&path.child("successThreshold"), value, "must be 1"));
    }
}

fn handler_faults(handler: &Value, kinds: &[&str], path: &Path, faults: &mut Vec<Cause>) {
    let given: Vec<&&str> = kinds.iter().filter(|k| handler.get(**k).is_some_and(|h| !h.is_null())).collect();
    match given.as_slice() {
        [] => faults.push(required(path, "must specify a handler type")),
        [one] => {
            let at = path.child(one);
            match **one {
                "exec" if items(handler, &["exec", "command"]).is_empty() => {
                    faults.push(required(&at.child("command"), ""));
                }
                "httpGet" | "tcpSocket" | "grpc" => {
                    port_faults(handler.get(**one), &at.child("port"), faults)
                }
                _ => {}
            }
            if **one == "httpGet" {
                one_of(
                    text(handler, &["httpGet", "scheme"]),
                    &["HTTP", "HTTPS"],
                    &at.child("scheme"),
                    faults,
                );
            }
        }
        [_, more @ ..] => {
            for kind in more {
                faults.push(forbidden(&path.child(kind), "may not specify more than 1 handler type"));
            }
        }
    }
}

fn port_faults(handler: Option<&Value>, path: &Path, faults: &mut Vec<Cause>) {
    match handler.and_then(|h| h.get("port")) {
        Some(Value::Number(port)) => {
            let port = port.as_i64().unwrap_or_default();
            faults.extend(names::port_number(port).iter().map(|why| invalid(path, port, why)));
        }
        Some(Value::String(name)) => {
            faults.extend(names::port_name(name).iter().map(|why| invalid(path, name.as_str(), why)));
        }
        _ => faults.push(required(path, "")),
    }
}

fn tolerations(spec: &Value, path: &Path, faults: &mut Vec<Cause>) {
    for (i, toleration) in items(spec, &["tolerations"]).iter().enumerate() {
        let at = path.child("tolerations").index(i);
        let key = text(toleration, &["key"]);
        let operator = text(toleration, &["operator"]);
        if key.is_empty() {
            if operator != "Exists" {
                let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
                faults.push(invalid(&at.child("operator"), operator, detail));
            }
        } else {
            names::check_label_name(key, &at.child("key"), faults);
        }
        match operator {
            "" | "Equal" => {
                let value = text(toleration, &["value"]);
                faults.extend(
                    names::label_value(value).iter().map(|why| invalid(&at.child("operator"), value, why)),
                );
            }
            "Exists" => {
                if !text(toleration, &["value"]).is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    faults.push(invalid(&at.child("operator"), text(toleration, &["value"]), detail));
                }
            }
            other => faults.push(not_supported(&at.child("operator"), other, &["Equal", "Exists"])),
        }
        let effect = text(toleration, &["effect"]);
        if !["", "NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            let supported = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
            faults.push(not_supported(&at.child("effect"), effect, &supported));
        }
        if toleration.get("tolerationSeconds").is_some_and(|s| !s.is_null()) && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            faults.push(invalid(&at.child("effect"), effect, detail));
        }
    }
}
