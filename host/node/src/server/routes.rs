//! What each path of the node's API answers.

use super::streams::{self, Wants};
use super::{Body, Server, full, text};
use crate::logs::{LogOptions, follow};
use crate::pod::worker::{Handle, PublishedContainer};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Query parameters, decoded, in order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let decode = |s: &str| percent_decode(&s.replace('+', " "));
        Self(
            query
                .split('&')
                .filter(|p| !p.is_empty())
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }

    pub(super) fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|n| matches!(self.get(n), Some("1" | "true" | "True" | "")))
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(byte) = bytes.get(i) {
        let hex = bytes.get(i + 1..i + 3).filter(|_| *byte == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                i += 3;
            }
            None => {
                out.push(*byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A refusal.
pub(super) type Refusal = (StatusCode, String);

impl Server {
    pub(super) async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        let result = match parts.as_slice() {
            ["healthz"] if get => Ok(text(StatusCode::OK, "ok")),
            ["pods"] if get => Ok(self.pods(false)),
            ["runningpods"] if get => Ok(self.pods(true)),
            ["containerLogs", namespace, pod, container] if get => {
                self.logs(namespace, pod, container, &query).await
            }
            ["exec", namespace, pod, .., container] => self.exec(namespace, pod, container, &query, request),
            ["attach", namespace, pod, .., container] => {
                self.attach(namespace, pod, container, &query, request)
            }
            ["run", namespace, pod, .., container] if request.method() == Method::POST => {
                self.run_command(namespace, pod, container, &query).await
            }
            ["portForward", namespace, pod, ..] => self.port_forward(namespace, pod, &query, request),
            ["stats", "summary"] if get => super::stats::summary(self).await,
            ["metrics", "resource"] if get => super::stats::resource_metrics(self).await,
            _ => Err((StatusCode::NOT_FOUND, "404 page not found".to_owned())),
        };
        result.unwrap_or_else(|(code, message)| text(code, message))
    }

    pub(super) fn find_pod(&self, namespace: &str, name: &str) -> Result<Arc<Handle>, Refusal> {
        self.registry
            .find(namespace, name)
            .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist")))
    }

    fn find_container(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
    ) -> Result<(Arc<Handle>, PublishedContainer), Refusal> {
        let handle = self.find_pod(namespace, name)?;
        let found = handle.published().containers.into_iter().find(|c| c.name == container);
        let found = found.ok_or_else(|| {
            (StatusCode::NOT_FOUND, format!("container {container} not found in pod {name}_{namespace}"))
        })?;
        Ok((handle, found))
    }

    fn running(&self, namespace: &str, name: &str, container: &str) -> Result<(String, bool), Refusal> {
        let (_, found) = self.find_container(namespace, name, container)?;
        match found.current {
            Some((id, _, true)) => Ok((id.into(), found.tty)),
            _ => Err((StatusCode::NOT_FOUND, format!("container not found (\"{container}\")"))),
        }
    }

    fn pods(&self, running_only: bool) -> Response<Body> {
        let items: Vec<_> = self
            .registry
            .all()
            .iter()
            .map(|h| h.published())
            .filter(|p| !running_only || !p.over)
            .map(|p| {
                let pod = Pod { status: p.status.as_deref().cloned(), ..p.pod.as_ref().clone() };
                serde_json::to_value(pod).unwrap_or_default()
            })
            .collect();
        json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    async fn logs(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let options =
            log_options(query, Timestamp::now()).map_err(|m| (StatusCode::UNPROCESSABLE_ENTITY, m))?;
        let (handle, found) = self.find_container(namespace, name, container)?;
        let bad = |message: String| (StatusCode::BAD_REQUEST, message);
        let previous = query.flag(&["previous"]);
        let attempt = match (previous, &found.current) {
            (true, _) => found.previous.ok_or_else(|| {
                bad(format!("previous terminated container \"{container}\" in pod \"{name}\" not found"))
            })?,
            (false, Some((_, attempt, _))) => *attempt,
            (false, None) => {
                let published = handle.published();
                let status = published.status.as_deref();
                let statuses = status
                    .iter()
                    .flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses).flatten());
                let reason = statuses
                    .filter(|s| s.name == container)
                    .find_map(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone())
                    .unwrap_or_else(|| "ContainerCreating".to_owned());
                return Err(bad(format!(
                    "container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"
                )));
            }
        };
        let dir = self.shared.config.pod_log_dir(namespace, name, &handle.uid);
        let path = dir.join(crate::container::config::log_path(container, attempt));
        if !path.exists() {
            return Err(bad(format!(
                "failed to open the log of container \"{container}\" in pod \"{name}\""
            )));
        }
        let (ended_tx, ended) = watch::channel(previous);
        if options.follow && !previous {
            self.tasks.spawn(watch_end(handle, container.to_owned(), attempt, ended_tx, self.cancel.clone()));
        }
        let (tx, rx) = mpsc::channel::<Bytes>(8);
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            if let Err(error) = follow::stream(path, options, ended, tx, cancel).await {
                tracing::debug!(%error, "a log stream ended early");
            }
        });
        let stream = ReceiverStream::new(rx).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
        let kind = http::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        Ok(response)
    }

    fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let (id, _) = self.running(namespace, pod, container)?;
        let command = query.all("command");
        if command.is_empty() {
            return Err((StatusCode::BAD_REQUEST, "you must specify at least 1 command".to_owned()));
        }
        let wants = Wants::of(query, query.flag(&["tty"]))?;
        streams::exec(self, request, id, Some(command), wants)
    }

    fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let (id, tty) = self.running(namespace, pod, container)?;
        let wants = Wants::of(query, tty)?;
        streams::exec(self, request, id, None, wants)
    }

    async fn run_command(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let (id, _) = self.running(namespace, pod, container)?;
        let command: Vec<String> =
            query.get("cmd").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        match self.shared.runtime.exec_sync(&id, command, Duration::ZERO).await {
            Ok(r) if r.exit_code == 0 => {
                let mut output = r.stdout;
                output.extend_from_slice(&r.stderr);
                Ok(Response::new(full(output)))
            }
            Ok(r) => {
                let output = String::from_utf8_lossy(&r.stderr).into_owned();
                Err((
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("command terminated with exit code {}: {output}", r.exit_code),
                ))
            }
            Err(e) => Err((StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
        }
    }

    fn port_forward(
        &self,
        namespace: &str,
        pod: &str,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let handle = self.find_pod(namespace, pod)?;
        let Some(sandbox) = handle.published().sandbox_id else {
            return Err((StatusCode::NOT_FOUND, format!("pod \"{pod}\" has no running sandbox")));
        };
        let named = query.all("port").into_iter().chain(query.all("ports"));
        let ports = named
            .flat_map(|p| p.split(',').map(str::to_owned).collect::<Vec<_>>())
            .map(|p| {
                p.parse::<u16>()
                    .ok()
                    .filter(|p| *p > 0)
                    .ok_or_else(|| (StatusCode::BAD_REQUEST, format!("invalid port {p:?}")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        streams::port_forward(self, request, sandbox.into(), ports)
    }
}

pub(super) fn json_answer(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// Says when the container has ended.
async fn watch_end(
    handle: Arc<Handle>,
    container: String,
    attempt: u32,
    ended: watch::Sender<bool>,
    cancel: tokio_util::sync::CancellationToken,
) {
    let mut published = handle.subscribe();
    drop(handle);
    loop {
        let runs = published.borrow_and_update().containers.iter().any(|c| {
            c.name == container && c.current.as_ref().is_some_and(|(_, a, running)| *a == attempt && *running)
        });
        if !runs {
            ended.send_replace(true);
            return;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = ended.closed() => return,
            changed = published.changed() => if changed.is_err() { return },
        }
    }
}

/// Reads `PodLogOptions`.
fn log_options(query: &Query, now: Timestamp) -> Result<LogOptions, String> {
    let number = |name: &str| -> Result<Option<u64>, String> {
        match query.get(name).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(v) => match v.parse::<i64>() {
                Ok(n) if n >= 0 => Ok(u64::try_from(n).ok()),
                Ok(_) => Err(format!("{name}: must be greater than or equal to 0")),
                Err(_) => Err(format!("unable to decode query: {name}: {v:?} is not a number")),
            },
        }
    };
    let since_seconds = number("sinceSeconds")?;
    let since_time = match query.get("sinceTime").filter(|v| !v.is_empty()) {
        None => None,
        Some(v) => {
            Some(v.parse::<Timestamp>().map_err(|_| format!("sinceTime: {v:?} is not an RFC 3339 time"))?)
        }
    };
    if since_seconds.is_some() && since_time.is_some() {
        return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned());
    }
    let since = since_time.or(since_seconds
        .and_then(|s| now.checked_sub(SignedDuration::from_secs(i64::try_from(s).unwrap_or(i64::MAX))).ok()));
    let limit_bytes = number("limitBytes")?;
    if limit_bytes == Some(0) {
        return Err("limitBytes: must be greater than 0".to_owned());
    }
    let stream = match query.get("stream").filter(|v| !v.is_empty()) {
        None | Some("All") => None,
        Some("Stdout") => Some(false),
        Some("Stderr") => Some(true),
        Some(other) => return Err(format!("stream: unsupported value {other:?}")),
    };
    Ok(LogOptions {
        follow: query.flag(&["follow"]),
        timestamps: query.flag(&["timestamps"]),
        since,
        tail_lines: number("tailLines")?,
        limit_bytes,
        stream,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let q = Query::parse("command=sh&command=-c&command=echo+a%20%26%3D%2B&tty=1&stdin=true&x");
        assert_eq!(q.all("command"), ["sh", "-c", "echo a &=+"]);
        assert!(q.flag(&["tty"]) && q.flag(&["input", "stdin"]) && q.flag(&["x"]) && !q.flag(&["stdout"]));
        assert_eq!(percent_decode("100%"), "100%");
    }

    #[test]
    fn options_of_a_log() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let of = |q: &str| log_options(&Query::parse(q), now);
        let o = of("follow=true&tailLines=5&limitBytes=10&timestamps=true&sinceSeconds=60").unwrap();
        assert_eq!((o.follow, o.tail_lines, o.limit_bytes, o.timestamps), (true, Some(5), Some(10), true));
        assert_eq!(o.since, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        for bad in [
            "tailLines=-1",
            "tailLines=x",
            "limitBytes=0",
            "sinceTime=x",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
