//! Requests and what becomes of them: mutated first, then validated, as the API server does.

use super::{failure, list, text};
use crate::record::{AdmissionRequest, Call, Outcome};
use crate::workbench::{Guest, Workbench};
use orlop_plugin::Compiled;
use orlop_plugin::manifest::AdmissionManifest;
use orlop_plugin::manifest::admission::Phase;
use serde_json::{Map, Value, json};

pub(super) fn run(
    input: &Value,
    config: &Value,
    workbench: &Workbench,
    plugin: &Compiled,
) -> Result<Value, String> {
    let manifest = plugin.manifest().admission.as_ref().ok_or("it is no admission plugin")?;
    let mut guest = match workbench.open(plugin, config) {
        Ok(guest) => guest,
        Err(error) => return Ok(failure(&error)),
    };
    let mut out = Vec::new();
    for (i, request) in list(input, "requests")?.iter().enumerate() {
        let result = one(&mut guest, manifest, request).map_err(|e| format!("requests[{i}]: {e}"))?;
        out.push(result);
    }
    Ok(json!({ "requests": out }))
}

const OPERATIONS: [&str; 4] = ["CREATE", "UPDATE", "DELETE", "CONNECT"];

/// A request, and the object as it stands.
pub(crate) fn request(
    manifest: &AdmissionManifest,
    input: &Value,
) -> Result<(AdmissionRequest, Value), String> {
    let operation = text(input, "/operation");
    let code = OPERATIONS
        .iter()
        .position(|o| *o == operation)
        .ok_or_else(|| format!("operation `{operation}` is none of {}", OPERATIONS.join(", ")))?;
    let resource = text(input, "/resource");
    if resource.is_empty() {
        return Err("resource is missing: the plural name, such as pods".to_owned());
    }
    let object = input.get("object").cloned().unwrap_or(Value::Null);
    let old = input.get("oldObject").cloned().unwrap_or(Value::Null);
    let seen = if object.is_null() { &old } else { &object };
    let api_version = text(seen, "/apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let or = |field: &str, pointer: &str| match text(input, field) {
        "" => text(seen, pointer).to_owned(),
        said => said.to_owned(),
    };
    let (name, namespace) = (or("/name", "/metadata/name"), or("/namespace", "/metadata/namespace"));
    let context = manifest.context.iter().map(|declared| {
        let found = input.get("context").and_then(|c| c.get(&declared.name));
        let none = if declared.object_name.is_none() { json!([]) } else { Value::Null };
        found.cloned().unwrap_or(none).to_string()
    });
    let project = |v: &Value| String::from_utf8_lossy(&manifest.project(v)).into_owned();
    let attributes = json!({
        "user": input.get("user").cloned().unwrap_or_else(|| json!({ "username": "tester", "groups": [] })),
        "options": input.get("options").cloned().unwrap_or_else(|| json!({})),
    });
    let request = AdmissionRequest {
        operation: u32::try_from(code).unwrap_or(0) + 1,
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        subresource: text(input, "/subresource").to_owned(),
        kind: text(seen, "/kind").to_owned(),
        namespace,
        name,
        dry_run: input.get("dryRun").and_then(Value::as_bool).unwrap_or(false),
        object: if object.is_null() { String::new() } else { project(&object) },
        old_object: if manifest.old_object && !old.is_null() { project(&old) } else { String::new() },
        context: context.collect(),
        attributes: attributes.to_string(),
        seed: input.get("seed").and_then(Value::as_u64).unwrap_or(0),
    };
    Ok((request, object))
}

/// Whether a rule of the manifest matches.
pub(crate) fn is_asked(manifest: &AdmissionManifest, request: &AdmissionRequest) -> bool {
    let operation = OPERATIONS.get((request.operation as usize).wrapping_sub(1)).copied().unwrap_or_default();
    // A Namespace lies in no namespace, though its request's is its own name.
    let is_namespace = request.group.is_empty() && request.resource == "namespaces";
    let namespaced = !(request.namespace.is_empty() || is_namespace);
    manifest.rules.iter().any(|rule| {
        rule.matches(operation, &request.group, &request.resource, &request.subresource)
            && rule.matches_scope(namespaced)
    })
}

fn one(guest: &mut Guest, manifest: &AdmissionManifest, input: &Value) -> Result<Value, String> {
    let (mut request, mut object) = request(manifest, input)?;
    let title = match text(input, "/title") {
        "" => format!("{} {}/{}", text(input, "/operation"), request.resource, request.name),
        title => title.to_owned(),
    };
    let mut out = Map::new();
    out.insert("title".to_owned(), title.into());
    if !is_asked(manifest, &request) {
        out.insert("asked".to_owned(), false.into());
        return Ok(Value::Object(out));
    }
    let mut warnings = Vec::new();
    for phase in &manifest.phases {
        let requests = vec![request.clone()];
        let call = match phase {
            Phase::Mutate => Call::Mutate { requests },
            Phase::Validate => Call::Validate { requests },
        };
        let verdict = match guest.perform(&call) {
            Outcome::Failure(error) => {
                out.insert("failure".to_owned(), json!(error));
                return Ok(Value::Object(out));
            }
            Outcome::Answer(verdicts) => verdicts.get(0).cloned().unwrap_or(Value::Null),
        };
        warnings.extend(verdict["warnings"].as_array().cloned().unwrap_or_default());
        if verdict["allowed"] != true {
            out.insert("allowed".to_owned(), false.into());
            out.insert("status".to_owned(), verdict["status"].clone());
            break;
        }
        if !verdict["patch"].is_null() {
            let bad = |e: String| format!("the plugin's patch cannot be applied: {e}");
            let patch: json_patch::Patch =
                serde_json::from_value(verdict["patch"].clone()).map_err(|e| bad(e.to_string()))?;
            json_patch::patch(&mut object, &patch).map_err(|e| bad(e.to_string()))?;
            out.insert("patch".to_owned(), verdict["patch"].clone());
            out.insert("object".to_owned(), object.clone());
            request.object = String::from_utf8_lossy(&manifest.project(&object)).into_owned();
        }
    }
    out.entry("allowed").or_insert(Value::Bool(true));
    if !warnings.is_empty() {
        out.insert("warnings".to_owned(), warnings.into());
    }
    Ok(Value::Object(out))
}
