//! Paths that are no resources: discovery, OpenAPI, version, health, metrics, token keys.

use crate::body::{self, ResponseBody};
use crate::core::{Core, RequestCx};
use crate::discovery;
use crate::http::{HttpRequest, respond};
use crate::negotiate::{self, Encoding};
use crate::openapi;
use crate::status;
use crate::version;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, header};
use orlop_apimachinery::Status;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Answers a request that is for no resource; it is authorized already.
pub(crate) async fn answer(
    core: &Arc<Core>,
    _cx: &RequestCx,
    request: HttpRequest,
) -> Result<Response<ResponseBody>, Status> {
    let path = request.path.trim_end_matches('/').to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let known = match parts.as_slice() {
        [""] => Some(json!({"paths": root_paths()})),
        ["version"] => Some(version::version()),
        ["api"] | ["apis"] => return listed(core, &request, parts == ["api"]),
        ["api", version] => discovery::api_resource_list("", version),
        ["apis", group] => discovery::api_group(group),
        ["apis", group, version] => discovery::api_resource_list(group, version),
        ["openid", "v1", "jwks"] => Some(core.tokens.jwks()),
        [".well-known", "openid-configuration"] => {
            let uri = format!(
                "https://{}:{}/openid/v1/jwks",
                core.config.advertise_address, core.config.secure_port
            );
            Some(core.tokens.openid_configuration(&uri))
        }
        ["openapi", "v3"] => Some(openapi::index()),
        ["openapi", "v3", rest @ ..] => {
            let document = openapi::v3(&rest.join("/"))?.ok_or_else(status::no_such_path)?;
            return rendered(&request, &document);
        }
        ["openapi", "v2"] if wants_protobuf(&request) => {
            return rendered_as(&request, &openapi::v2_protobuf()?, openapi::protobuf::MEDIA);
        }
        ["openapi", "v2"] => return rendered(&request, &openapi::v2()?),
        ["metrics"] => return Ok(metrics(core)),
        ["healthz" | "livez" | "readyz", check @ ..] => {
            return health(core, &request, parts.first().copied().unwrap_or_default(), check).await;
        }
        _ => None,
    };
    let value = known.ok_or_else(status::no_such_path)?;
    only_get(&request)?;
    show(&request, &value)
}

fn only_get(request: &HttpRequest) -> Result<(), Status> {
    if matches!(request.method, Method::GET | Method::HEAD) {
        Ok(())
    } else {
        Err(status::method_not_allowed())
    }
}

fn show(request: &HttpRequest, value: &Value) -> Result<Response<ResponseBody>, Status> {
    let accepted = negotiate::accept(request.header(header::ACCEPT), false)
        .map(|a| a.encoding)
        .unwrap_or(Encoding::Json);
    let (kind, bytes) = match accepted {
        Encoding::Json => {
            ("application/json", serde_json::to_vec(value).map_err(|e| Status::internal(e.to_string()))?)
        }
        Encoding::Yaml => (
            "application/yaml",
            serde_yaml::to_string(value).map_err(|e| Status::internal(e.to_string()))?.into_bytes(),
        ),
    };
    Ok(respond(200, kind, body::full(bytes)))
}

fn listed(core: &Core, request: &HttpRequest, legacy: bool) -> Result<Response<ResponseBody>, Status> {
    only_get(request)?;
    if !discovery::wants_aggregated(request.header(header::ACCEPT).unwrap_or_default()) {
        let address = format!("{}:{}", core.config.advertise_address, core.config.secure_port);
        let value = if legacy { discovery::api_versions(&address) } else { discovery::api_group_list() };
        let mut response = show(request, &value)?;
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        return Ok(response);
    }
    let bytes =
        serde_json::to_vec(&discovery::aggregated(legacy)).map_err(|e| Status::internal(e.to_string()))?;
    let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&bytes)));
    let mut response = if matches_etag(request, &etag) {
        respond(304, discovery::AGGREGATED, body::full(Bytes::new()))
    } else {
        respond(200, discovery::AGGREGATED, body::full(bytes))
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, value);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(response)
}

fn matches_etag(request: &HttpRequest, etag: &str) -> bool {
    request.header(header::IF_NONE_MATCH).is_some_and(|v| v.split(',').any(|t| t.trim() == etag))
}

/// Whether the protobuf form is what the client likes best.
fn wants_protobuf(request: &HttpRequest) -> bool {
    let accept = request.header(header::ACCEPT).unwrap_or_default();
    negotiate::clauses(accept).first().is_some_and(|c| openapi::protobuf::ASKED.contains(&c.media))
}

fn rendered(request: &HttpRequest, document: &openapi::Document) -> Result<Response<ResponseBody>, Status> {
    let accept = request.header(header::ACCEPT).unwrap_or_default();
    let acceptable = accept.is_empty()
        || negotiate::clauses(accept)
            .iter()
            .any(|c| matches!(c.media, "application/json" | "*/*" | "application/*"));
    if !acceptable {
        return Err(negotiate::not_acceptable(&["application/json"]));
    }
    rendered_as(request, document, "application/json")
}

fn rendered_as(
    request: &HttpRequest,
    document: &openapi::Document,
    media: &'static str,
) -> Result<Response<ResponseBody>, Status> {
    only_get(request)?;
    let gzip = request.header(header::ACCEPT_ENCODING).is_some_and(|v| v.contains("gzip"));
    let mut response = if matches_etag(request, &document.etag) {
        respond(304, media, body::full(Bytes::new()))
    } else if gzip {
        let mut response = respond(200, media, body::full(document.compressed.clone()));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        respond(200, media, body::full(openapi::plain(document)?))
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&document.etag) {
        headers.insert(header::ETAG, value);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    let cache = if request.query.has("hash") { "public, immutable" } else { "no-cache, private" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    Ok(response)
}

fn root_paths() -> Vec<String> {
    let mut out: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for (group, versions) in discovery::groups().into_iter().filter(|(g, _)| !g.is_empty()) {
        out.push(format!("/apis/{group}"));
        out.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
    }
    out.sort();
    out
}

fn metrics(core: &Core) -> Response<ResponseBody> {
    let mut objects = Vec::new();
    let mut watches = Vec::new();
    for shelf in core.cache.shelves() {
        let name = shelf.row().gvr.group_resource();
        objects.push((name.clone(), shelf.len()));
        watches.push((name, shelf.watches()));
    }
    let text = core.metrics.render(&objects, &watches, core.cache.revision());
    respond(200, "text/plain; version=0.0.4; charset=utf-8", body::full(text))
}

/// The checks of health, in upstream's words where it has them.
async fn health(
    core: &Core,
    request: &HttpRequest,
    which: &str,
    only: &[&str],
) -> Result<Response<ResponseBody>, Status> {
    only_get(request)?;
    let excluded = request.query.all("exclude");
    let mut checks = vec!["ping", "log", "etcd"];
    if which == "readyz" {
        checks.extend(["informer-sync", "shutdown"]);
    }
    if let [name] = only {
        if !checks.contains(name) {
            return Err(status::no_such_path());
        }
        checks = vec![*name];
    }
    let mut text = String::new();
    let mut well = true;
    for check in checks {
        if excluded.iter().any(|e| e == check) {
            let _ = writeln!(text, "[+]{check} excluded: ok");
            continue;
        }
        let good = match check {
            "etcd" => {
                matches!(
                    tokio::time::timeout(Duration::from_secs(2), core.store.read_index()).await,
                    Ok(Ok(_))
                )
            }
            "informer-sync" => core.cache.revision() > 0 || core.store.revision() == 0,
            "shutdown" => !core.cancel.is_cancelled(),
            _ => true,
        };
        well &= good;
        let _ = if good {
            writeln!(text, "[+]{check} ok")
        } else {
            writeln!(text, "[-]{check} failed: reason withheld")
        };
    }
    let verbose = request.query.has("verbose");
    let text = match (well, verbose) {
        (true, false) => "ok".to_owned(),
        (true, true) => format!("{text}{which} check passed\n"),
        (false, _) => format!("{text}{which} check failed\n"),
    };
    let mut response = respond(if well { 200 } else { 500 }, "text/plain; charset=utf-8", body::full(text));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    Ok(response)
}
