//! Streams to a node's agent: logs, exec, attach, port-forward and the node's own API.
//!
//! The request goes on over HTTPS with the server's client certificate; what asks for an upgrade
//! (WebSocket, SPDY) becomes a pipe of bytes once the node agrees, so every protocol that client
//! and node share works.

use crate::body::{self, Chain, ResponseBody};
use crate::core::{Core, RequestCx, Target};
use crate::http::HttpRequest;
use crate::query::Query;
use crate::registry::{NodeStream, at, find};
use crate::status;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use orlop_apimachinery::{Reason, Status};
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CONNECT: Duration = Duration::from_secs(10);
/// Longest error text that is read from a node.
const MOST_ERROR: usize = 64 * 1024;

/// Where a node's agent listens.
#[derive(Debug)]
struct NodeAddress {
    node: String,
    ip: IpAddr,
    port: u16,
}

/// Answers a request by asking the node.
pub(crate) async fn stream(
    core: &Arc<Core>,
    cx: &RequestCx,
    request: HttpRequest,
    target: &Target<'_>,
    stream: NodeStream,
    rest: &str,
) -> Result<Response<ResponseBody>, Status> {
    if stream != NodeStream::Log {
        core.admit_connect(cx, target).await?;
    }
    let (address, path) = match stream {
        NodeStream::NodeProxy => {
            let (name, _) = target.name.split_once(':').unwrap_or((target.name, ""));
            let node = Target { name, subresource: None, ..*target };
            let object = core.get(&node, Some(0)).await?;
            let path = if rest.is_empty() { "/" } else { rest };
            let query =
                if request.raw_query.is_empty() { String::new() } else { format!("?{}", request.raw_query) };
            (address_of(name, &object.to_value())?, format!("{}{query}", encode_path(path)))
        }
        _ => {
            let pod = core.get(&Target { subresource: None, ..*target }, None).await?.to_value();
            let node_name =
                at(&pod, &["spec", "nodeName"]).and_then(Value::as_str).unwrap_or_default().to_owned();
            if node_name.is_empty() {
                return Err(Status::bad_request(format!(
                    "pod {} does not have a host assigned",
                    target.name
                )));
            }
            let path = pod_path(target, stream, &pod, &request.query)?;
            let nodes = find("", "v1", "nodes").ok_or_else(status::no_such_path)?;
            let node = Target { row: nodes, namespace: "", name: &node_name, subresource: None };
            let object = core.get(&node, Some(0)).await?;
            (address_of(&node_name, &object.to_value())?, path)
        }
    };
    forward(core, request, &address, &path).await
}

fn address_of(name: &str, node: &Value) -> Result<NodeAddress, Status> {
    let addresses = at(node, &["status", "addresses"]).and_then(Value::as_array);
    let find = |kind: &str| {
        addresses.into_iter().flatten().find_map(|a| {
            let is = a.get("type").and_then(Value::as_str) == Some(kind);
            is.then(|| a.get("address").and_then(Value::as_str).and_then(|t| t.parse::<IpAddr>().ok()))
                .flatten()
        })
    };
    let ip = find("InternalIP").or_else(|| find("ExternalIP"));
    let port = at(node, &["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64);
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(10_250);
    let ip = ip.ok_or_else(|| {
        Status::internal(format!("no preferred addresses found for node {name:?}; known addresses: []"))
    })?;
    Ok(NodeAddress { node: name.to_owned(), ip, port })
}

fn containers(pod: &Value) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in at(pod, &["spec", list]).and_then(Value::as_array).into_iter().flatten() {
            if let Some(name) = container.get("name").and_then(Value::as_str) {
                out.push((list, name.to_owned()));
            }
        }
    }
    out
}

/// The container that a request means.
fn container(target: &Target<'_>, pod: &Value, asked: &str) -> Result<String, Status> {
    let all = containers(pod);
    if !asked.is_empty() {
        if all.iter().any(|(_, name)| name == asked) {
            return Ok(asked.to_owned());
        }
        return Err(Status::bad_request(format!("container {asked} is not valid for pod {}", target.name)));
    }
    let plain: Vec<&str> = all.iter().filter(|(l, _)| *l == "containers").map(|(_, n)| n.as_str()).collect();
    if let [only] = plain.as_slice() {
        return Ok((*only).to_owned());
    }
    let default = at(pod, &["metadata", "annotations", "kubectl.kubernetes.io/default-container"]);
    if let Some(name) = default.and_then(Value::as_str).filter(|n| plain.contains(n)) {
        return Ok(name.to_owned());
    }
    let init: Vec<&str> =
        all.iter().filter(|(l, _)| *l == "initContainers").map(|(_, n)| n.as_str()).collect();
    let more = if init.is_empty() {
        String::new()
    } else {
        format!(" or one of the init containers: [{}]", init.join(" "))
    };
    Err(Status::bad_request(format!(
        "a container name must be specified for pod {}, choose one of: [{}]{more}",
        target.name,
        plain.join(" ")
    )))
}

fn pod_path(target: &Target<'_>, stream: NodeStream, pod: &Value, query: &Query) -> Result<String, Status> {
    let (namespace, name) = (target.namespace, target.name);
    let mut parameters: Vec<(&str, String)> = Vec::new();
    let mut copy = |from: &str, to: &'static str| {
        for value in query.all(from) {
            parameters.push((to, value.clone()));
        }
    };
    let path = match stream {
        NodeStream::Log => {
            for key in [
                "follow",
                "previous",
                "timestamps",
                "tailLines",
                "limitBytes",
                "sinceSeconds",
                "sinceTime",
                "stream",
            ] {
                copy(key, key);
            }
            check_log(query)?;
            format!("/containerLogs/{namespace}/{name}/{}", container(target, pod, query.get("container"))?)
        }
        NodeStream::Exec | NodeStream::Attach => {
            // The node's own words for the streams.
            for (from, to) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
            {
                if query.flag(from) {
                    parameters.push((to, "1".to_owned()));
                }
            }
            if stream == NodeStream::Exec {
                let command = query.all("command");
                if command.is_empty() {
                    return Err(Status::bad_request("you must specify at least 1 command for the container"));
                }
                parameters.extend(command.iter().map(|c| ("command", c.clone())));
            }
            let verb = if stream == NodeStream::Exec { "exec" } else { "attach" };
            format!("/{verb}/{namespace}/{name}/{}", container(target, pod, query.get("container"))?)
        }
        NodeStream::PortForward => {
            for ports in query.all("ports") {
                parameters.extend(ports.split(',').map(|p| ("port", p.to_owned())));
            }
            format!("/portForward/{namespace}/{name}")
        }
        NodeStream::NodeProxy => return Err(status::no_such_path()),
    };
    let text: Vec<String> = parameters.iter().map(|(k, v)| format!("{k}={}", encode(v))).collect();
    let query = if text.is_empty() { String::new() } else { format!("?{}", text.join("&")) };
    Ok(format!("{}{query}", encode_path(&path)))
}

fn check_log(query: &Query) -> Result<(), Status> {
    for (key, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if let Some(number) = query.number(key)?
            && number < least
        {
            let fault = orlop_apimachinery::field::invalid(
                &orlop_apimachinery::field::Path::new(key),
                number,
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" },
            );
            return Err(Status::invalid("", "PodLogOptions", "", vec![fault]));
        }
    }
    if query.has("sinceSeconds") && query.has("sinceTime") {
        return Err(Status::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    Ok(())
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn encode_path(path: &str) -> String {
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

type Outgoing = Either<Full<Bytes>, Incoming>;

async fn forward(
    core: &Arc<Core>,
    mut request: HttpRequest,
    address: &NodeAddress,
    path: &str,
) -> Result<Response<ResponseBody>, Status> {
    let Some(tls) = core.nodes.clone() else {
        return Err(Status::internal("this server has no certificate with which to call nodes"));
    };
    let mut sender = connect(core, address, tls).await?;
    let upgrading = request.upgrade.is_some();
    let outgoing = request.take_body().map_or_else(|| Either::Left(Full::new(Bytes::new())), Either::Right);
    let method =
        if upgrading && request.method == Method::GET { Method::GET } else { request.method.clone() };
    let mut onward = Request::builder()
        .method(method)
        .uri(path)
        .body(outgoing)
        .map_err(|e| Status::bad_request(e.to_string()))?;
    *onward.headers_mut() = onward_headers(&request.headers, address, upgrading)?;
    let answer = sender.send_request(onward).await.map_err(|e| dial_error(address, &e.to_string()))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(core, request, answer);
    }
    if answer.status().is_client_error() || answer.status().is_server_error() {
        return Err(node_error(answer).await);
    }
    let (parts, incoming) = answer.into_parts();
    let pieces = incoming.into_data_stream().map(|piece| piece.map(Chain::from)).take_while(|piece| {
        let good = piece.is_ok();
        async move { good }
    });
    let keep_alive = sender;
    let pieces = pieces.filter_map(move |piece| {
        // The connection lives as long as the body.
        let _ = &keep_alive;
        async move { piece.ok() }
    });
    let cancel = core.cancel.clone();
    let mut response = Response::new(body::stream(pieces.take_until(cancel.cancelled_owned())));
    *response.status_mut() = parts.status;
    if let Some(kind) = parts.headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    Ok(response)
}

async fn connect(
    core: &Arc<Core>,
    address: &NodeAddress,
    tls: Arc<rustls::ClientConfig>,
) -> Result<hyper::client::conn::http1::SendRequest<Outgoing>, Status> {
    let dial = async {
        let stream = TcpStream::connect((address.ip, address.port)).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(tls).connect(ServerName::from(address.ip), stream).await
    };
    let stream = match tokio::time::timeout(CONNECT, dial).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(dial_error(address, &error.to_string())),
        Err(_) => return Err(dial_error(address, "i/o timeout")),
    };
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| dial_error(address, &e.to_string()))?;
    let cancel = core.cancel.clone();
    core.tracker.spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            ended = connection.with_upgrades() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection to a node ended");
                }
            }
        }
    });
    Ok(sender)
}

fn onward_headers(from: &HeaderMap, address: &NodeAddress, upgrading: bool) -> Result<HeaderMap, Status> {
    let mut out = HeaderMap::new();
    for (name, value) in from {
        let hop = matches!(
            name.as_str(),
            "host"
                | "impersonate-user"
                | "impersonate-group"
                | "impersonate-uid"
                | "authorization"
                | "cookie"
                | "connection"
                | "keep-alive"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
                | "accept-encoding"
                | "content-length"
        );
        if !hop {
            out.append(name.clone(), value.clone());
        }
    }
    // A token in the subprotocols is for this server alone.
    let protocols: Vec<String> = from
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|p| !p.starts_with("base64url.bearer.authorization.k8s.io."))
        .map(str::to_owned)
        .collect();
    if !protocols.is_empty() {
        let value =
            HeaderValue::from_str(&protocols.join(", ")).map_err(|e| Status::bad_request(e.to_string()))?;
        out.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    let host = format!("{}:{}", address.ip, address.port);
    out.insert(header::HOST, HeaderValue::from_str(&host).map_err(|e| Status::internal(e.to_string()))?);
    if upgrading {
        out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Some(upgrade) = from.get(header::UPGRADE) {
            out.insert(header::UPGRADE, upgrade.clone());
        }
    }
    Ok(out)
}

/// Answers 101 and copies bytes both ways until one side ends.
fn switch(
    core: &Arc<Core>,
    mut request: HttpRequest,
    mut answer: Response<Incoming>,
) -> Result<Response<ResponseBody>, Status> {
    let Some(client) = request.upgrade.take() else {
        return Err(Status::internal("the node switched protocols unasked"));
    };
    let node = hyper::upgrade::on(&mut answer);
    let cancel = core.cancel.clone();
    core.tracker.spawn(async move {
        let pipe = async {
            let (client, node) = match tokio::try_join!(client, node) {
                Ok(both) => both,
                Err(error) => {
                    tracing::debug!(%error, "upgrade failed");
                    return;
                }
            };
            let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
                tracing::debug!(%error, "stream ended");
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = pipe => {}
        }
    });
    let mut response = Response::new(body::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in answer.headers() {
        if !matches!(name.as_str(), "content-length" | "transfer-encoding" | "date") {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    Ok(response)
}

fn dial_error(address: &NodeAddress, why: &str) -> Status {
    tracing::warn!(node = address.node, error = why, "node cannot be reached");
    let mut status =
        Status::internal(format!("error dialing backend: dial tcp {}:{}: {why}", address.ip, address.port));
    status.message = format!("error dialing backend: dial tcp {}:{}: {why}", address.ip, address.port);
    status
}

/// What a node refused with, as a Status.
async fn node_error(answer: Response<Incoming>) -> Status {
    let code = answer.status().as_u16();
    let bytes = Limited::new(answer.into_body(), MOST_ERROR)
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    if let Ok(status) = serde_json::from_slice::<Status>(&bytes)
        && status.status == "Failure"
    {
        return status;
    }
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    let reason = match code {
        400 => Reason::BadRequest,
        401 => Reason::Unauthorized,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        405 => Reason::MethodNotAllowed,
        503 => Reason::ServiceUnavailable,
        _ => Reason::InternalError,
    };
    let mut status =
        Status::failure(reason, if text.is_empty() { format!("the node answered {code}") } else { text });
    status.code = code;
    status
}
