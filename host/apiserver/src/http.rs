//! HTTPS: connections, limits, deadlines, and what every answer has in common.

use crate::authn::certificate_user;
use crate::authz::Attributes;
use crate::body::{self, Chain, ResponseBody};
use crate::core::{Core, RequestCx};
use crate::handlers;
use crate::impersonate;
use crate::info;
use crate::metrics::Series;
use crate::path::{self, ResourcePath, Route};
use crate::query::{Query, percent_decode};
use crate::status;
use crate::user::UserInfo;
use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use orlop_apimachinery::{Reason, Status};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of an unwanted body that are read before the answer is sent.
const MOST_DRAINED: usize = 64 << 20;
/// How long open connections may take to finish at shutdown, and unwanted bodies to end.
const DRAIN: Duration = Duration::from_secs(5);

/// A request as handlers see it.
pub(crate) struct HttpRequest {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) raw_query: String,
    pub(crate) query: Query,
    pub(crate) headers: http::HeaderMap,
    /// For streams that take the connection over.
    pub(crate) upgrade: Option<hyper::upgrade::OnUpgrade>,
    body: BodySlot,
    max_body: usize,
}

/// The body while nobody has read it. What a handler leaves here is read to its end before the
/// answer is sent: a client that still sends may otherwise never see the answer.
type BodySlot = Arc<parking_lot::Mutex<Option<Incoming>>>;

impl HttpRequest {
    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// 413 where it is too large, 400 where it breaks off.
    pub(crate) async fn body(&mut self) -> Result<Bytes, Status> {
        let Some(mut body) = self.take_body() else { return Ok(Bytes::new()) };
        let mut chain = Chain::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Status::bad_request(format!("the body could not be read: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if chain.remaining() + data.len() > self.max_body {
                *self.body.lock() = Some(body);
                return Err(Status::failure(
                    Reason::RequestEntityTooLarge,
                    format!("Request entity too large: limit is {}", self.max_body),
                ));
            }
            chain.push(data);
        }
        Ok(chain.into_bytes())
    }

    /// The body, unread, for proxies.
    pub(crate) fn take_body(&mut self) -> Option<Incoming> {
        self.body.lock().take()
    }
}

/// Accepts connections until the server is cancelled.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            () = core.cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(core.clone(), stream, acceptor.clone());
                core.tracker.spawn(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(core: Arc<Core>, stream: TcpStream, acceptor: TlsAcceptor) {
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
    let stream = tokio::select! {
        () = core.cancel.cancelled() => return,
        done = handshake => match done {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Err(_) => return,
        },
    };
    let certificate =
        stream.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(certificate_user);
    let cancel = core.cancel.clone();
    let service = service_fn(move |request| answer(core.clone(), certificate.clone(), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(Duration::from_secs(3600));
    builder
        .http2()
        .timer(hyper_util::rt::TokioTimer::new())
        .max_concurrent_streams(250)
        .keep_alive_interval(Duration::from_secs(30))
        .adaptive_window(true);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// One of the requests in flight.
struct InFlight<'a>(&'a AtomicI64);

impl<'a> InFlight<'a> {
    fn enter(count: &'a AtomicI64, most: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let entered = Self(count);
        (usize::try_from(before).unwrap_or(0) < most).then_some(entered)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(
    core: Arc<Core>,
    certificate: Option<Arc<UserInfo>>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let began = Instant::now();
    let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let slot: BodySlot = Arc::new(parking_lot::Mutex::new(Some(body)));
    let raw_query = parts.uri.query().unwrap_or_default().to_owned();
    let request = HttpRequest {
        method: parts.method,
        path: percent_decode(parts.uri.path(), false),
        query: Query::parse(&raw_query),
        raw_query,
        headers: parts.headers,
        upgrade,
        body: slot.clone(),
        max_body: core.config.max_body,
    };
    let route = path::route(&request.path);
    let watching = request.query.flag("watch") || matches!(&route, Route::Resource(r) if r.watch_prefix);
    let (verb, series) = describe(&request, &route, watching);
    let stream = watching || is_stream(&request, &route);
    let outcome = gate(&core, certificate, request, route, verb, stream).await;
    let mut response = match outcome {
        Ok(response) => response,
        Err(status) => status_response(&status),
    };
    let unread = slot.lock().take();
    if let Some(body) = unread {
        drain(body).await;
    }
    let id = uuid::Uuid::new_v4().to_string();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("audit-id", value);
    }
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    let code = response.status().as_u16();
    if code >= 500 {
        tracing::warn!(request_id = id, verb, code, "request failed");
    }
    core.metrics.observe(series, code, began.elapsed());
    Ok(response)
}

/// Reads what a client still sends, within bounds.
async fn drain(mut body: Incoming) {
    let read = async {
        let mut left = MOST_DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(length) else { return };
            left = rest;
        }
    };
    // Whoever sends longer than that is cut off.
    let _ = tokio::time::timeout(DRAIN, read).await;
}

fn describe(request: &HttpRequest, route: &Route, watching: bool) -> (&'static str, Series) {
    let (verb, path) = match route {
        Route::Resource(path) => (path::verb(&request.method, path, watching), path.clone()),
        Route::Other => (
            match request.method {
                Method::GET => "get",
                Method::POST => "post",
                Method::PUT => "put",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                Method::HEAD => "head",
                Method::OPTIONS => "options",
                _ => "",
            },
            ResourcePath::default(),
        ),
    };
    // Names that nobody serves must not make series without end.
    let known = crate::registry::find(&path.group, &path.version, &path.resource);
    let series = Series {
        verb,
        group: known.map_or_else(String::new, |r| r.gvr.group.to_string()),
        version: known.map_or_else(String::new, |r| r.gvr.version.to_string()),
        resource: known.map_or_else(String::new, |r| r.gvr.resource.to_string()),
        subresource: known
            .and_then(|r| r.subresource(&path.subresource))
            .map_or_else(String::new, |s| s.name.to_owned()),
    };
    (verb, series)
}

/// Whether a request may last as long as it likes.
fn is_stream(request: &HttpRequest, route: &Route) -> bool {
    match route {
        Route::Resource(path) => {
            matches!(path.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy")
                || (path.subresource == "log" && request.query.flag("follow"))
        }
        Route::Other => false,
    }
}

/// Limits, authentication, authorization, deadline.
async fn gate(
    core: &Arc<Core>,
    certificate: Option<Arc<UserInfo>>,
    request: HttpRequest,
    route: Route,
    verb: &'static str,
    stream: bool,
) -> Result<Response<ResponseBody>, Status> {
    let mutating = !matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let (count, most) = if mutating {
        (&core.metrics.mutating, core.config.max_mutating_requests_inflight)
    } else {
        (&core.metrics.reading, core.config.max_requests_inflight)
    };
    let health = matches!(request.path.split('/').nth(1), Some("healthz" | "livez" | "readyz"));
    let entered = if stream || health { None } else { Some(InFlight::enter(count, most)) };
    if matches!(entered, Some(None)) {
        core.metrics.rejected.fetch_add(1, Ordering::Relaxed);
        return Err(status::too_many_requests());
    }
    let user = core
        .authenticator
        .authenticate(certificate.as_ref(), &request.headers)
        .ok_or_else(status::unauthorized)?;
    let user = impersonate::effective(core, user, &request.headers).await?;
    let agent = request.header(header::USER_AGENT).unwrap_or_default().to_owned();
    let cx = RequestCx::new(user, &agent);
    let work = async {
        match &route {
            Route::Other => {
                let path = request.path.clone();
                let attributes = Attributes { verb, path: &path, ..Attributes::default() };
                core.authorize(&cx.user, &attributes).await?;
                info::answer(core, &cx, request).await
            }
            Route::Resource(path) => {
                let selected = selected_name(&request.query, path, verb);
                let verb = if path.subresource == "proxy" || verb.is_empty() { proxied(verb) } else { verb };
                let attributes = Attributes {
                    verb,
                    group: &path.group,
                    version: &path.version,
                    resource: &path.resource,
                    subresource: &path.subresource,
                    namespace: &path.namespace,
                    name: selected.as_deref().unwrap_or(&path.name),
                    path: "",
                };
                core.authorize(&cx.user, &attributes).await?;
                handlers::resource(core, &cx, request, path, verb).await
            }
        }
    };
    let mut response = if stream {
        work.await?
    } else {
        match tokio::time::timeout(core.config.request_timeout, work).await {
            Ok(done) => done?,
            Err(_) => return Err(status::timeout()),
        }
    };
    for warning in cx.warnings.lock().iter() {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

fn proxied(verb: &'static str) -> &'static str {
    match verb {
        "list" | "watch" => "get",
        "deletecollection" => "delete",
        other => other,
    }
}

/// A list or watch that selects one name is authorized for that name.
fn selected_name(query: &Query, path: &ResourcePath, verb: &str) -> Option<String> {
    if !path.name.is_empty() || !matches!(verb, "list" | "watch" | "deletecollection") {
        return None;
    }
    let selector = orlop_apimachinery::FieldSelector::parse(query.get("fieldSelector")).ok()?;
    selector.exact("metadata.name").map(str::to_owned)
}

/// A `Status` as a response.
pub(crate) fn status_response(status: &Status) -> Response<ResponseBody> {
    let mut response = Response::new(body::full(status.to_json()));
    *response.status_mut() =
        http::StatusCode::from_u16(status.code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let retry = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 && matches!(status.code, 429 | 500..=599) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry));
    }
    response
}

/// A response with a body and its type.
pub(crate) fn respond(code: u16, content_type: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::OK);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
