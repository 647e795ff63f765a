//! Gathers what a key declared, and writes it as the JSON of a request.

use crate::cache::{Caches, IndexKind, Shared};
use crate::declaration::{Declaration, Input, InputRule};
use crate::keys::Key;
use crate::paths;
use crate::plan::Failure;
use orlop_apimachinery::{Object, Status};
use orlop_client::{ApiError, ListOptions, ResourceRef};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A key with what the host remembers about it.
pub(crate) struct Asked {
    pub(crate) key: Key,
    pub(crate) attempt: u32,
    pub(crate) memo: Value,
    pub(crate) failure: Option<Failure>,
}

/// One item of a request, and the object that it is about.
pub(crate) struct Item {
    pub(crate) json: Vec<u8>,
    pub(crate) object: Option<Arc<Object>>,
}

/// Starts the informers and indexes that the inputs are read from, but those of [`reads_everything`].
pub(crate) fn prepare(declaration: &Declaration, caches: &Caches) -> Vec<Arc<Shared>> {
    let mut used: Vec<Arc<Shared>> = declaration.primary.iter().map(|p| caches.resource(&p.gvr())).collect();
    for input in &declaration.inputs {
        if input.resource.is_empty() {
            continue;
        }
        let shared = caches.resource(&gvr_of(input));
        match &input.by {
            InputRule::Owned {} | InputRule::Siblings {} | InputRule::OwnedByInput { .. } => {
                shared.ensure_index(&IndexKind::Controller)
            }
            InputRule::Orphans { .. } => shared.ensure_index(&IndexKind::Orphans),
            InputRule::Selected { .. } => shared.ensure_index(&IndexKind::Namespace),
            InputRule::Label { key } => shared.ensure_index(&IndexKind::Label(key.clone())),
            InputRule::Referencing { path } | InputRule::FieldIs { path, .. } => {
                shared.ensure_index(&IndexKind::Field(path.clone()));
            }
            _ => {}
        }
        used.push(shared);
    }
    used
}

/// Whether the dependents of any object are asked for, of whatever resource they are.
pub(crate) fn reads_everything(declaration: &Declaration) -> bool {
    declaration.inputs.iter().any(|i| matches!(i.by, InputRule::Dependents {}))
}

fn gvr_of(input: &Input) -> orlop_apimachinery::Gvr {
    orlop_apimachinery::Gvr::from_api_version(&input.api_version, &input.resource)
}

/// Gathers one item.
///
/// # Errors
/// Where something had to be read from the API and could not be.
pub(crate) async fn gather(
    declaration: &Declaration,
    caches: &Caches,
    asked: &Asked,
) -> Result<Item, ApiError> {
    let key = &asked.key;
    let gvr = key.resource.clone().or_else(|| declaration.primary.as_ref().map(|p| p.gvr()));
    let object = match &gvr {
        None => None,
        Some(gvr) if declaration.live => {
            match caches.client.get(ResourceRef::new(gvr, &key.namespace, &key.name)).await {
                Ok(object) => Some(object),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            }
        }
        Some(gvr) => caches.resource(gvr).cache.get(&key.namespace, &key.name),
    };
    let mut json = Vec::with_capacity(4096);
    json.extend_from_slice(b"{\"key\":");
    let mut name = json!({"namespace": key.namespace, "name": key.name});
    if let Some(resource) = &key.resource {
        name["apiVersion"] = json!(resource.api_version());
        name["resource"] = json!(resource.resource);
    }
    json.extend_from_slice(name.to_string().as_bytes());
    json.extend_from_slice(b",\"object\":");
    json.extend_from_slice(object.as_ref().map_or(b"null".as_slice(), |o| o.bytes()));
    json.extend_from_slice(b",\"inputs\":{");
    let mut lists: Vec<(&str, Vec<Arc<Object>>)> = Vec::new();
    for (i, input) in declaration.inputs.iter().enumerate() {
        if i > 0 {
            json.push(b',');
        }
        json.extend_from_slice(json!(input.name).to_string().as_bytes());
        json.extend_from_slice(b":[");
        let holds =
            |path: &str, is: &str| object.as_ref().is_some_and(|o| paths::text(o.bytes(), path) == is);
        let skipped = input.when_deleting && !object.as_ref().is_some_and(|o| o.is_being_deleted())
            || (!input.for_key.is_empty() && *input.for_key != *key.name)
            || (input.on_demand && !wants(&asked.memo, &input.name))
            || input.only_if.as_ref().is_some_and(|only| !holds(&only.path, &only.is));
        let list = if skipped {
            Vec::new()
        } else if input.resource.is_empty() {
            let values = special(input, caches, object.as_deref(), &key.name).await?;
            join(&mut json, values.iter().map(Value::to_string));
            Vec::new()
        } else if let (InputRule::FieldOf { input: from, path }, true) = (&input.by, input.live) {
            let from = match from.as_str() {
                "" => object.as_slice(),
                name => earlier(&lists, name),
            };
            named_live(caches, &gvr_of(input), from, path).await?
        } else {
            cached(input, caches, key, gvr.as_ref(), object.as_deref(), &lists)
        };
        join(&mut json, list.iter().map(|o| o.bytes()));
        json.push(b']');
        lists.push((&input.name, list));
    }
    json.extend_from_slice(format!("}},\"attempt\":{}", asked.attempt).as_bytes());
    if let Some(failure) = &asked.failure {
        json.extend_from_slice(b",\"failure\":");
        json.extend_from_slice(&serde_json::to_vec(failure).unwrap_or_else(|_| b"null".to_vec()));
    }
    json.extend_from_slice(b",\"memo\":");
    json.extend_from_slice(asked.memo.to_string().as_bytes());
    json.push(b'}');
    Ok(Item { json, object })
}

fn wants(memo: &Value, input: &str) -> bool {
    memo["want"].as_array().is_some_and(|names| names.iter().any(|n| n == input))
}

fn earlier<'l>(lists: &'l [(&str, Vec<Arc<Object>>)], name: &str) -> &'l [Arc<Object>] {
    lists.iter().find(|(n, _)| *n == name).map(|(_, l)| l.as_slice()).unwrap_or_default()
}

/// The cluster-scoped objects that others name, those that the cache lacks read from the API.
async fn named_live(
    caches: &Caches,
    gvr: &orlop_apimachinery::Gvr,
    from: &[Arc<Object>],
    path: &str,
) -> Result<Vec<Arc<Object>>, ApiError> {
    let names: BTreeSet<String> = from.iter().map(|o| paths::text(o.bytes(), path)).collect();
    let shared = caches.resource(gvr);
    let mut found = Vec::with_capacity(names.len());
    for name in names.iter().filter(|n| !n.is_empty()) {
        if let Some(cached) = shared.cache.get("", name) {
            found.push(cached);
            continue;
        }
        match caches.client.get(ResourceRef::new(gvr, "", name)).await {
            Ok(live) => found.push(live),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn join(json: &mut Vec<u8>, items: impl Iterator<Item = impl AsRef<[u8]>>) {
    for (i, item) in items.enumerate() {
        if i > 0 {
            json.push(b',');
        }
        json.extend_from_slice(item.as_ref());
    }
}

fn cached(
    input: &Input,
    caches: &Caches,
    key: &Key,
    primary: Option<&orlop_apimachinery::Gvr>,
    object: Option<&Object>,
    lists: &[(&str, Vec<Arc<Object>>)],
) -> Vec<Arc<Object>> {
    let shared = caches.resource(&gvr_of(input));
    let selected = |path: &str, index: IndexKind| {
        let (Some(object), Some(primary)) = (object, primary) else { return Vec::new() };
        let selector = caches.resource(primary).selector(object, path);
        let mut found = shared.by_index(&index, object.namespace());
        found.retain(|o| selector.matches(&o.meta().labels));
        found
    };
    match &input.by {
        InputRule::Owned {} => {
            object.map(|o| shared.by_index(&IndexKind::Controller, o.uid())).unwrap_or_default()
        }
        InputRule::Siblings {} => {
            let owner = object.and_then(Object::controller_ref).map(|r| r.uid.clone());
            let mut found =
                owner.map(|uid| shared.by_index(&IndexKind::Controller, &uid)).unwrap_or_default();
            found.retain(|o| object.is_some_and(|own| own.uid() != o.uid()));
            found
        }
        InputRule::OwnedByInput { input } => earlier(lists, input)
            .iter()
            .flat_map(|o| shared.by_index(&IndexKind::Controller, o.uid()))
            .collect(),
        InputRule::ControllersOf { input: from } => controllers(caches, &shared.gvr, earlier(lists, from)),
        InputRule::Orphans { path } => selected(path, IndexKind::Orphans),
        InputRule::Selected { path } => selected(path, IndexKind::Namespace),
        InputRule::SameName { namespace } => {
            let namespace = if namespace.is_empty() { &key.namespace } else { namespace.as_str() };
            shared.cache.get(namespace, &key.name).into_iter().collect()
        }
        InputRule::NamedIn { object } => shared.cache.get(&key.name, object).into_iter().collect(),
        InputRule::Label { key: label } => {
            shared.by_index(&IndexKind::Label(label.clone()), &format!("{}/{}", key.namespace, key.name))
        }
        InputRule::FieldOf { input, path } => {
            let names: BTreeSet<String> = if input.is_empty() {
                object.map(|o| paths::text(o.bytes(), path)).into_iter().collect()
            } else {
                earlier(lists, input).iter().map(|o| paths::text(o.bytes(), path)).collect()
            };
            names.iter().filter_map(|name| shared.cache.get("", name)).collect()
        }
        InputRule::Referencing { path } => shared.by_index(&IndexKind::Field(path.clone()), &key.name),
        InputRule::FieldIs { path, values, more_than } => {
            let index = IndexKind::Field(path.clone());
            let count: usize = values.iter().map(|v| shared.count(&index, v)).sum();
            if count <= *more_than {
                return Vec::new();
            }
            values.iter().flat_map(|v| shared.by_index(&index, v)).collect()
        }
        InputRule::All {} => shared.cache.list(),
        InputRule::NamespaceContent {} | InputRule::Owners {} | InputRule::Dependents {} => Vec::new(),
    }
}

/// The managing owners of `objects` that are in the resource, each once.
fn controllers(caches: &Caches, gvr: &orlop_apimachinery::Gvr, objects: &[Arc<Object>]) -> Vec<Arc<Object>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for object in objects {
        let Some(owner) = object.controller_ref() else { continue };
        let here = caches.locate(owner, object.namespace()).is_some_and(|(found, _)| found == *gvr);
        if here && seen.insert(owner.uid.clone()) {
            found.extend(caches.cached_owner(owner, object.namespace()));
        }
    }
    found
}

async fn special(
    input: &Input,
    caches: &Caches,
    object: Option<&Object>,
    name: &str,
) -> Result<Vec<Value>, ApiError> {
    match &input.by {
        InputRule::NamespaceContent {} => content(caches, name).await,
        InputRule::Owners {} => match object {
            Some(object) => owners(caches, object).await,
            None => Ok(Vec::new()),
        },
        InputRule::Dependents {} => {
            let Some(object) = object else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            for resource in caches.served().collectable() {
                let Some(shared) = caches.existing(&resource.gvr) else { continue };
                for dependent in shared.by_index(&IndexKind::Owners, object.uid()) {
                    found.push(json!({
                        "apiVersion": resource.gvr.api_version(),
                        "resource": resource.gvr.resource,
                        "metadata": metadata(&dependent),
                    }));
                }
            }
            Ok(found)
        }
        _ => Ok(Vec::new()),
    }
}

/// `metadata` without what no collector reads and what may be large.
fn metadata(object: &Object) -> Value {
    let mut metadata = paths::field(object.bytes(), "metadata").unwrap_or_else(|| json!({}));
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("managedFields");
        fields.remove("annotations");
    }
    metadata
}

async fn content(caches: &Caches, namespace: &str) -> Result<Vec<Value>, ApiError> {
    let mut found = Vec::new();
    for resource in caches.served().deletable().filter(|r| r.namespaced) {
        let options = ListOptions { namespace: namespace.to_owned(), ..ListOptions::default() };
        let list = match caches.client.list(&resource.gvr, &options).await {
            Ok(list) => list,
            // A resource that is served no more holds nothing.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        if !list.items.is_empty() {
            let items: Vec<Value> = list.items.iter().map(|o| json!({"metadata": metadata(o)})).collect();
            found.push(json!({
                "apiVersion": resource.gvr.api_version(),
                "resource": resource.gvr.resource,
                "kind": resource.gvk.kind,
                "items": items,
            }));
        }
    }
    Ok(found)
}

/// Whether the server says that an object of this name is not there, and not that its type is not.
fn is_about(error: &ApiError, name: &str) -> bool {
    let named = |s: &Status| s.details.as_ref().is_some_and(|d| d.name == name);
    error.is_not_found() && matches!(error, ApiError::Status(status) if named(status))
}

/// Each owner reference with its object: as cached, or read from the API where the cache lacks it.
async fn owners(caches: &Caches, object: &Object) -> Result<Vec<Value>, ApiError> {
    let mut found = Vec::new();
    for owner in &object.meta().owner_references {
        let reference = json!({
            "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid,
            "controller": owner.controller, "blockOwnerDeletion": owner.block_owner_deletion,
        });
        let unknown = || {
            let state = if caches.is_gone(owner) { "Absent" } else { "Unknown" };
            json!({"reference": reference, "state": state})
        };
        let Some((gvr, namespace)) = caches.locate(owner, object.namespace()) else {
            found.push(unknown());
            continue;
        };
        let cached = caches.cached_owner(owner, object.namespace());
        let owner_object = match cached {
            Some(cached) => Some(cached),
            None => match caches.client.get(ResourceRef::new(&gvr, &namespace, &owner.name)).await {
                Ok(live) => (live.uid() == owner.uid.as_ref()).then_some(live),
                Err(error) if is_about(&error, &owner.name) => None,
                // The type went meanwhile: whether its object is there is not known.
                Err(error) if error.is_not_found() => {
                    found.push(unknown());
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        found.push(match owner_object {
            Some(o) => json!({"reference": reference, "state": "Present", "metadata": metadata(&o)}),
            None => json!({"reference": reference, "state": "Absent"}),
        });
    }
    Ok(found)
}
