//! The strategy of definitions: what of them is refused, defaulted and kept.

mod schemas;

use super::json_path::JsonPath;
use super::{GROUP, RESOURCE, storage_version, text, versions};
use crate::core::rfc3339;
use crate::registry::{Column, Context, GenerationRule, NAME_COLUMN, Strategy, at, copy_field, name_cell};
use crate::subresources::set_condition;
use orlop_apimachinery::field::{self, Path};
use orlop_apimachinery::names;
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// Keeps a definition until its instances are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: &[&str] = &["integer", "number", "string", "boolean", "date"];

/// `customresourcedefinitions`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definitions;

fn keep_finalizer(object: &mut Value) {
    let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let list = meta.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut()
        && !list.iter().any(|f| f == FINALIZER)
    {
        list.push(FINALIZER.into());
    }
}

fn add_stored_version(object: &mut Value) {
    let version = object.get("spec").map(|s| storage_version(s).to_owned()).unwrap_or_default();
    let Some(map) = object.as_object_mut() else { return };
    let status = map.entry("status").or_insert_with(|| json!({}));
    let Some(status) = status.as_object_mut() else { return };
    let list = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut()
        && !version.is_empty()
        && !list.iter().any(|v| *v == version)
    {
        list.push(version.into());
    }
}

impl Strategy for Definitions {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
        spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
        let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) else { return };
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !kind.is_empty() {
            names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
            names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        if let Value::Object(map) = object {
            map.remove("status");
        }
        add_stored_version(object);
        keep_finalizer(object);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, new: &mut Value, old: &Value) {
        copy_field(new, old, "status");
        add_stored_version(new);
        if at(old, &["metadata", "deletionTimestamp"]).is_none() {
            keep_finalizer(new);
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        faults(object)
    }

    fn validate_update(&self, _cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut out = faults(new);
        let spec = Path::new("spec");
        for path in [&["group"][..], &["scope"], &["names", "plural"], &["names", "kind"]] {
            let value = |o: &Value| o.get("spec").and_then(|s| at(s, path)).cloned().unwrap_or_default();
            if value(new) != value(old) {
                let here = path.iter().fold(spec.clone(), |p, step| p.child(step));
                out.push(field::invalid(&here, value(new), "field is immutable"));
            }
        }
        let known = new.get("spec").map(|s| versions(s).map(|v| text(v, &["name"])).collect::<Vec<_>>());
        let stored = at(new, &["status", "storedVersions"]).and_then(Value::as_array);
        for (index, version) in stored.into_iter().flatten().enumerate() {
            let name = version.as_str().unwrap_or_default();
            if known.as_ref().is_some_and(|k| !k.contains(&name)) {
                let here = Path::new("status").child("storedVersions").index(index);
                let why = format!(
                    "missing from spec.versions; {name} must remain a version until no objects are stored with it: \
                     store them all anew, then take it out of status.storedVersions"
                );
                out.push(field::invalid(&here, name, &why));
            }
        }
        out
    }

    fn validate_status_update(&self, _cx: &Context<'_>, new: &Value, _old: &Value) -> Vec<Cause> {
        let version = new.get("spec").map(storage_version).unwrap_or_default();
        let stored = at(new, &["status", "storedVersions"]).and_then(Value::as_array);
        if stored.is_some_and(|s| s.iter().any(|v| v == version)) {
            return Vec::new();
        }
        let here = Path::new("status").child("storedVersions");
        let shown = stored.map_or(Value::Null, |s| s.clone().into());
        vec![field::invalid(&here, shown, &format!("must have the storage version {version}"))]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 2] =
            [NAME_COLUMN, Column::new("Created At", "When the definition was made.").typed("date")];
        &COLUMNS
    }

    fn cells(&self, _cx: &Context<'_>, object: &Value) -> Vec<Value> {
        vec![name_cell(object), at(object, &["metadata", "creationTimestamp"]).cloned().unwrap_or_default()]
    }

    fn begin_deletion(&self, cx: &Context<'_>, object: &mut Value) {
        set_condition(
            object,
            json!({
                "type": "Terminating", "status": "True", "reason": "InstanceDeletionPending",
                "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
                "lastTransitionTime": rfc3339(cx.now),
            }),
        );
    }
}

fn label(out: &mut Vec<Cause>, path: &Path, value: &str) {
    if value.is_empty() {
        out.push(field::required(path, ""));
    } else {
        out.extend(names::dns1035_label(value).iter().map(|why| field::invalid(path, value, why)));
    }
}

fn faults(object: &Value) -> Vec<Cause> {
    let mut out = Vec::new();
    let Some(spec) = object.get("spec") else { return vec![field::required(&Path::new("spec"), "")] };
    let path = Path::new("spec");
    let group = text(spec, &["group"]);
    let plural = text(spec, &["names", "plural"]);
    let at_group = path.child("group");
    if group.is_empty() {
        out.push(field::required(&at_group, ""));
    } else {
        out.extend(names::dns1123_subdomain(group).iter().map(|why| field::invalid(&at_group, group, why)));
        if !group.contains('.') {
            out.push(field::invalid(&at_group, group, "should be a domain with at least one dot"));
        }
    }
    let protected = group.ends_with(".k8s.io") || group.ends_with(".kubernetes.io");
    if protected && at(object, &["metadata", "annotations", APPROVAL]).is_none() {
        let here = Path::new("metadata").child("annotations").key(APPROVAL);
        out.push(field::required(&here, "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"));
    }
    if group == GROUP && plural == RESOURCE {
        out.push(field::forbidden(&path.child("names"), "definitions cannot define themselves"));
    }
    let at_names = path.child("names");
    label(&mut out, &at_names.child("plural"), plural);
    label(&mut out, &at_names.child("singular"), text(spec, &["names", "singular"]));
    for key in ["kind", "listKind"] {
        label(&mut out, &at_names.child(key), &text(spec, &["names", key]).to_lowercase());
    }
    for key in ["shortNames", "categories"] {
        let list = at(spec, &["names", key]).and_then(Value::as_array);
        for (index, name) in list.into_iter().flatten().enumerate() {
            label(&mut out, &at_names.child(key).index(index), name.as_str().unwrap_or_default());
        }
    }
    let kind = text(spec, &["names", "kind"]);
    if !kind.is_empty() && kind == text(spec, &["names", "listKind"]) {
        out.push(field::invalid(&at_names.child("listKind"), kind, "kind and listKind may not be the same"));
    }
    let expected = format!("{plural}.{group}");
    let name = text(object, &["metadata", "name"]);
    if name != expected {
        let here = Path::new("metadata").child("name");
        out.push(field::invalid(&here, name, "must be spec.names.plural+\".\"+spec.group"));
    }
    let scope = text(spec, &["scope"]);
    if !matches!(scope, "Namespaced" | "Cluster") {
        out.push(field::not_supported(&path.child("scope"), scope, &["Cluster", "Namespaced"]));
    }
    conversion(spec, &path, &mut out);
    if spec.get("preserveUnknownFields").is_some_and(|p| *p == true) {
        out.push(field::invalid(&path.child("preserveUnknownFields"), true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"));
    }
    let at_versions = path.child("versions");
    let mut seen = Vec::new();
    let mut stored = 0;
    for (index, version) in versions(spec).enumerate() {
        let here = at_versions.index(index);
        let name = text(version, &["name"]);
        label(&mut out, &here.child("name"), name);
        if seen.contains(&name) {
            out.push(field::duplicate(&here.child("name"), name));
        }
        seen.push(name);
        stored += usize::from(version.get("storage").is_some_and(|s| *s == true));
        version_faults(version, &here, &mut out);
    }
    if stored != 1 {
        let why = "must have exactly one version marked as storage version";
        out.push(field::invalid(&at_versions, spec.get("versions").cloned().unwrap_or_default(), why));
    }
    out
}

fn conversion(spec: &Value, path: &Path, out: &mut Vec<Cause>) {
    let here = path.child("conversion").child("strategy");
    match text(spec, &["conversion", "strategy"]) {
        "None" | "" => {
            if at(spec, &["conversion", "webhook"]).is_some() {
                let here = path.child("conversion").child("webhook");
                out.push(field::forbidden(&here, "should not be set when strategy is not set to Webhook"));
            }
        }
        "Webhook" => out.push(field::forbidden(
            &here,
            "conversion by webhook is not supported yet: use the strategy None, with schemas that differ in nothing but what may be pruned",
        )),
        other => out.push(field::not_supported(&here, other, &["None", "Webhook"])),
    }
}

fn version_faults(version: &Value, path: &Path, out: &mut Vec<Cause>) {
    let here = path.child("schema").child("openAPIV3Schema");
    match at(version, &["schema", "openAPIV3Schema"]) {
        None => out.push(field::required(&here, "schemas are required")),
        Some(schema) => {
            if text(schema, &["type"]) != "object" {
                out.push(field::invalid(
                    &here.child("type"),
                    text(schema, &["type"]),
                    "must be object at the root",
                ));
            }
            schemas::faults(schema, &here, out);
        }
    }
    let columns = version.get("additionalPrinterColumns").and_then(Value::as_array);
    for (index, column) in columns.into_iter().flatten().enumerate() {
        let here = path.child("additionalPrinterColumns").index(index);
        if text(column, &["name"]).is_empty() {
            out.push(field::required(&here.child("name"), ""));
        }
        let kind = text(column, &["type"]);
        if !COLUMN_TYPES.contains(&kind) {
            out.push(field::not_supported(&here.child("type"), kind, COLUMN_TYPES));
        }
        json_path(out, &here.child("jsonPath"), text(column, &["jsonPath"]));
    }
    let fields = version.get("selectableFields").and_then(Value::as_array);
    for (index, one) in fields.into_iter().flatten().enumerate() {
        let here = path.child("selectableFields").index(index).child("jsonPath");
        plain_path(out, &here, text(one, &["jsonPath"]), "");
    }
    if let Some(scale) = at(version, &["subresources", "scale"]) {
        let here = path.child("subresources").child("scale");
        plain_path(out, &here.child("specReplicasPath"), text(scale, &["specReplicasPath"]), ".spec.");
        plain_path(out, &here.child("statusReplicasPath"), text(scale, &["statusReplicasPath"]), ".status.");
        if scale.get("labelSelectorPath").is_some() {
            plain_path(out, &here.child("labelSelectorPath"), text(scale, &["labelSelectorPath"]), ".");
        }
    }
}

fn json_path(out: &mut Vec<Cause>, path: &Path, value: &str) {
    if value.is_empty() {
        out.push(field::required(path, ""));
    } else if JsonPath::parse(value).is_none() {
        let why = "is not a supported JSONPath: write fields (.a.b), indexes ([0]), [*] and [?(@.a==\"b\")]";
        out.push(field::invalid(path, value, why));
    }
}

/// A path of fields alone, below `root`.
fn plain_path(out: &mut Vec<Cause>, path: &Path, value: &str, root: &str) {
    if value.is_empty() {
        out.push(field::required(path, ""));
    } else if !value.starts_with('.') || value.contains(['[', ']']) || value.contains("..") {
        out.push(field::invalid(path, value, "must be a simple json path of fields, such as .spec.replicas"));
    } else if !value.starts_with(root) {
        out.push(field::invalid(path, value, &format!("should be a json path under {root}")));
    }
}
