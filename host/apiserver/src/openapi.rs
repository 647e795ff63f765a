//! OpenAPI v3 per group and version, and v2 in one document: rendered when asked for, kept
//! compressed, named by their hash.

pub(crate) mod protobuf;

use crate::discovery;
use crate::registry::{Backing, Resource, Subresource, SubresourceKind, served};
use crate::schema;
use crate::version;
use bytes::Bytes;
use orlop_apimachinery::schema::openapi::{Dialect, Docs, full_name, schemas};
use orlop_apimachinery::{Gvk, Status};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Write;
use std::sync::LazyLock;

/// A rendered document.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Gzip.
    pub(crate) compressed: Bytes,
    pub(crate) etag: String,
}

static DOCUMENTS: LazyLock<Mutex<HashMap<String, (u64, Document)>>> = LazyLock::new(Mutex::default);

/// What the documents are of: the embedded data, and the generation of the table.
fn hash() -> String {
    format!("{}{:X}", *HASH, crate::crd::table::now().generation)
}

/// Changes when anything that documents are made of changes.
static HASH: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    hash.update(version::GIT_VERSION);
    for file in schema::DOC_FILES {
        hash.update(file.len().to_le_bytes());
        hash.update(file);
    }
    for row in crate::registry::built_in() {
        hash.update(row.gvr.to_string());
    }
    hex::encode_upper(hash.finalize())
});

/// `/openapi/v3`
pub(crate) fn index() -> Value {
    let mut paths = Map::new();
    for (group, versions) in discovery::groups() {
        for version in versions {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = format!("/openapi/v3/{path}?hash={}", hash());
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`; `None` where it is not served.
///
/// # Errors
/// 500 where rendering fails.
pub(crate) fn v3(path: &str) -> Result<Option<Document>, Status> {
    let parts: Vec<&str> = path.split('/').collect();
    let (group, version) = match parts.as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] if !group.is_empty() => (*group, *version),
        _ => return Ok(None),
    };
    let served: Vec<&'static Resource> =
        served().filter(|r| r.gvr.group == group && r.gvr.version == version).collect();
    if served.is_empty() {
        return Ok(None);
    }
    document(path, || {
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": version::GIT_VERSION},
            "paths": paths(&served, Dialect::V3),
            "components": {"schemas": definitions(&served, Dialect::V3)},
        })
    })
    .map(Some)
}

/// `/openapi/v2`
///
/// # Errors
/// 500 where rendering fails.
pub(crate) fn v2() -> Result<Document, Status> {
    document("v2", v2_value)
}

/// The same as [`protobuf::MEDIA`].
///
/// # Errors
/// 500 where rendering fails.
pub(crate) fn v2_protobuf() -> Result<Document, Status> {
    kept("v2-protobuf", || Ok(protobuf::encode(&v2_value())))
}

fn v2_value() -> Value {
    let served: Vec<&'static Resource> = served().collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version::GIT_VERSION},
        "paths": paths(&served, Dialect::V2),
        "definitions": definitions(&served, Dialect::V2),
    })
}

fn document(name: &str, render: impl FnOnce() -> Value) -> Result<Document, Status> {
    kept(name, || serde_json::to_vec(&render()).map_err(|e| Status::internal(e.to_string())))
}

fn kept(name: &str, render: impl FnOnce() -> Result<Vec<u8>, Status>) -> Result<Document, Status> {
    let generation = crate::crd::table::now().generation;
    if let Some((made, known)) = DOCUMENTS.lock().get(name)
        && *made == generation
    {
        return Ok(known.clone());
    }
    let fail = |e: std::io::Error| Status::internal(e.to_string());
    let bytes = render()?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(5));
    gzip.write_all(&bytes).map_err(fail)?;
    let compressed = Bytes::from(gzip.finish().map_err(fail)?);
    let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&bytes)));
    let made = Document { compressed, etag };
    DOCUMENTS.lock().insert(name.to_owned(), (generation, made.clone()));
    Ok(made)
}

/// The plain bytes of a document, for clients that take no gzip.
///
/// # Errors
/// 500 where it cannot be unpacked.
pub(crate) fn plain(document: &Document) -> Result<Bytes, Status> {
    use std::io::Read;
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(document.compressed.as_ref())
        .read_to_end(&mut out)
        .map_err(|e| Status::internal(e.to_string()))?;
    Ok(Bytes::from(out))
}

fn sub_gvk(row: &Resource, sub: &Subresource) -> Gvk {
    let own = sub.object_kind;
    if own.0.is_empty() && own.1.is_empty() {
        Gvk { kind: own.2.into(), ..row.gvk() }
    } else {
        Gvk::new(own.0, own.1, own.2)
    }
}

fn definitions(rows: &[&'static Resource], dialect: Dialect) -> Map<String, Value> {
    let set = schema::set();
    let docs = Docs::index(schema::DOC_FILES);
    let mut roots = Vec::new();
    for row in rows {
        let list = Gvk { kind: row.list_kind().into(), ..row.gvk() };
        let subs = row.subresources.iter().map(|s| sub_gvk(row, s));
        roots.extend([row.gvk(), list].into_iter().chain(subs).filter_map(|gvk| schema::of_kind(&gvk)));
    }
    for name in ["DeleteOptions", "Status", "Patch", "APIResourceList", "APIGroup"] {
        roots.extend(set.by_name(&format!("apimachinery.pkg.apis.meta.v1.{name}")));
    }
    let custom = rows.iter().any(|r| r.custom.is_some());
    for name in ["ObjectMeta", "ListMeta"].into_iter().filter(|_| custom) {
        roots.extend(set.by_name(&format!("apimachinery.pkg.apis.meta.v1.{name}")));
    }
    let mut out = schemas(set, &docs, roots, dialect);
    rows.iter().for_each(|row| crate::crd::openapi::add(row, dialect, &mut out));
    out
}

/// The paths with what clients look for: actions, kinds and the query parameters of writes.
fn paths(rows: &[&'static Resource], dialect: Dialect) -> Map<String, Value> {
    let mut out = Map::new();
    for row in rows {
        let root = if row.gvr.group.is_empty() {
            format!("/api/{}", row.gvr.version)
        } else {
            format!("/apis/{}/{}", row.gvr.group, row.gvr.version)
        };
        let place = if row.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{place}/{}", row.gvr.resource);
        let gvk = row.gvk();
        let has = |verb: &str| row.verbs.contains(&verb);
        let mut operations = Map::new();
        for (verb, method, action) in [
            ("list", "get", "list"),
            ("create", "post", "post"),
            ("deletecollection", "delete", "deletecollection"),
        ] {
            if has(verb) {
                operations.insert(method.to_owned(), operation(row, &gvk, action, "", dialect));
            }
        }
        path_parameters(&mut operations, row.namespaced, false, dialect);
        out.insert(collection.clone(), Value::Object(operations));
        if row.namespaced && has("list") {
            let mut all = Map::new();
            all.insert("get".to_owned(), operation(row, &gvk, "list", "ForAllNamespaces", dialect));
            out.insert(format!("{root}/{}", row.gvr.resource), Value::Object(all));
        }
        if matches!(row.backing, Backing::Stored(_)) {
            let mut operations = Map::new();
            for (verb, method, action) in [
                ("get", "get", "get"),
                ("update", "put", "put"),
                ("patch", "patch", "patch"),
                ("delete", "delete", "delete"),
            ] {
                if has(verb) {
                    operations.insert(method.to_owned(), operation(row, &gvk, action, "", dialect));
                }
            }
            path_parameters(&mut operations, row.namespaced, true, dialect);
            out.insert(format!("{collection}/{{name}}"), Value::Object(operations));
        }
        for sub in row.subresources {
            let gvk = sub_gvk(row, sub);
            let mut operations = Map::new();
            for verb in sub.verbs {
                let (method, action) = match *verb {
                    "create" => ("post", if is_stream(sub) { "connect" } else { "post" }),
                    "get" => ("get", if is_stream(sub) { "connect" } else { "get" }),
                    "update" => ("put", "put"),
                    "patch" => ("patch", "patch"),
                    "delete" => ("delete", "connect"),
                    _ => continue,
                };
                operations.insert(method.to_owned(), operation(row, &gvk, action, sub.name, dialect));
            }
            path_parameters(&mut operations, row.namespaced, true, dialect);
            out.insert(format!("{collection}/{{name}}/{}", sub.name), Value::Object(operations));
        }
    }
    out
}

fn is_stream(sub: &Subresource) -> bool {
    match sub.kind {
        SubresourceKind::NodeStream(_) => sub.name != "log",
        SubresourceKind::PluginStream(_) => true,
        _ => false,
    }
}

fn path_parameters(operations: &mut Map<String, Value>, namespaced: bool, named: bool, dialect: Dialect) {
    let mut list = Vec::new();
    if named {
        list.push(parameter("name", "path", "string", dialect));
    }
    if namespaced {
        list.push(parameter("namespace", "path", "string", dialect));
    }
    operations.insert("parameters".to_owned(), list.into());
}

fn parameter(name: &str, place: &str, kind: &str, dialect: Dialect) -> Value {
    let mut out = json!({"name": name, "in": place, "uniqueItems": true});
    if let Value::Object(map) = &mut out {
        if place == "path" {
            map.insert("required".to_owned(), true.into());
        }
        match dialect {
            Dialect::V2 => map.insert("type".to_owned(), kind.into()),
            Dialect::V3 => {
                map.remove("uniqueItems");
                map.insert("schema".to_owned(), json!({"type": kind, "uniqueItems": true}))
            }
        };
    }
    out
}

fn operation(row: &Resource, gvk: &Gvk, action: &str, suffix: &str, dialect: Dialect) -> Value {
    let queries: &[(&str, &str)] = match action {
        "list" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        "post" | "put" => &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")],
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" | "deletecollection" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        _ => &[],
    };
    let parameters: Vec<Value> = queries.iter().map(|(n, k)| parameter(n, "query", k, dialect)).collect();
    let group = if row.gvr.group.is_empty() {
        "Core".to_owned()
    } else {
        let first = row.gvr.group.split('.').next().unwrap_or_default();
        capital(first)
    };
    let scope = if row.namespaced && suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
    let id = format!("{action}{group}{}{scope}{}{}", capital(&row.gvr.version), row.kind, capital(suffix));
    let own = schema::of_kind(gvk).and_then(|id| schema::set().get(id)).map(|t| full_name(&t.name));
    let custom = row.custom.filter(|_| gvk.kind == row.kind).map(|_| crate::crd::openapi::name(row));
    let list = if action == "list" && custom.is_some() { "List" } else { "" };
    let reference = own.or(custom).map(|name| {
        let name = format!("{name}{list}");
        match dialect {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    });
    let mut ok = json!({"description": "OK"});
    if let (Some(reference), Value::Object(map)) = (&reference, &mut ok) {
        match dialect {
            Dialect::V2 => map.insert("schema".to_owned(), reference.clone()),
            Dialect::V3 => {
                map.insert("content".to_owned(), json!({"application/json": {"schema": reference}}))
            }
        };
    }
    let mut out = json!({
        "operationId": id,
        "parameters": parameters,
        "responses": {"200": ok, "401": {"description": "Unauthorized"}},
        "tags": [format!("{}_{}", group.to_lowercase(), row.gvr.version)],
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": gvk.group, "version": gvk.version, "kind": gvk.kind},
    });
    if dialect == Dialect::V3
        && matches!(action, "post" | "put")
        && let (Some(reference), Value::Object(map)) = (reference, &mut out)
    {
        map.insert(
            "requestBody".to_owned(),
            json!({"content": {"*/*": {"schema": reference}}, "required": true}),
        );
    }
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}
