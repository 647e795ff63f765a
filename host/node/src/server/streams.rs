//! exec, attach and port-forward: what a client asks for, how it is joined with the runtime, and
//! which upgrade carries it.
//!
//! Two carriers share this code: WebSocket (`streams/websocket.rs`) and SPDY/3.1
//! (`streams/spdy.rs`), the latter also inside the messages of a WebSocket.

mod spdy;
mod websocket;

use super::routes::{Query, Refusal};
use super::spdy::SpdyError;
use super::{Body, Server, full};
use crate::pod::actions::{Shared, chain};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use orlop_container::cri::{AttachRequest, ExecRequest, ExecSession, TerminalSize};
use serde_json::json;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Subprotocols of a command over SPDY.
const COMMAND: [&str; 1] = ["v4.channel.k8s.io"];
/// Subprotocols of a port-forward over SPDY.
const FORWARD: [&str; 1] = ["portforward.k8s.io"];
/// Names the subprotocols that a SPDY client offers, and the one that the server takes.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What is read at once from a process or a connection, in bytes.
const BLOCK: usize = 16 * 1024;

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    WebSocket(#[from] WsError),
    #[error(transparent)]
    Spdy(#[from] SpdyError),
}

/// Which streams a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
    /// Whether the client will send terminal sizes: it believes that there is a terminal.
    sizes: bool,
}

impl Wants {
    pub(super) fn of(query: &Query, tty: bool) -> Result<Self, Refusal> {
        let wants = Self {
            stdin: query.flag(&["input", "stdin"]),
            stdout: query.flag(&["output", "stdout"]),
            // A terminal has one output.
            stderr: query.flag(&["error", "stderr"]) && !tty,
            tty,
            sizes: query.flag(&["tty"]),
        };
        if !wants.stdin && !wants.stdout && !wants.stderr {
            let message = "you must specify at least 1 of stdin, stdout, stderr";
            return Err((StatusCode::BAD_REQUEST, message.to_owned()));
        }
        Ok(wants)
    }
}

// === the upgrade ===

/// What carries the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// WebSocket, with this subprotocol.
    WebSocket(&'static str),
    /// SPDY in the messages of a WebSocket.
    Tunnel,
    Spdy,
}

/// What a header with lists names, over all its lines.
fn listed(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    lines.flat_map(|v| v.split(',').map(|p| p.trim().to_owned())).filter(|p| !p.is_empty()).collect()
}

/// Checks the upgrade and picks a carrier and a protocol. `spdy` are the subprotocols over SPDY.
fn negotiate(headers: &HeaderMap, spdy: &[&'static str]) -> Result<(Response<Body>, Carrier), Refusal> {
    let upgrade = headers.get(UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    match upgrade.as_str() {
        "spdy/3.1" => {
            let protocol = pick_spdy(&listed(headers, &STREAM_PROTOCOL), spdy)?;
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
            Ok((response, Carrier::Spdy))
        }
        "websocket" => {
            let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
            if key.is_empty() {
                return Err((StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key header is missing".to_owned()));
            }
            let (protocol, carrier) = pick_websocket(&listed(headers, &SEC_WEBSOCKET_PROTOCOL), spdy)?;
            let accept = HeaderValue::from_str(&derive_accept_key(key))
                .map_err(|e| (StatusCode::BAD_REQUEST, e.to_string()))?;
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
            Ok((response, carrier))
        }
        _ => {
            let message = "unable to upgrade: a WebSocket or SPDY/3.1 upgrade request is needed";
            Err((StatusCode::BAD_REQUEST, message.to_owned()))
        }
    }
}

fn pick_spdy(offered: &[String], accepted: &[&'static str]) -> Result<&'static str, Refusal> {
    accepted.iter().find(|p| offered.iter().any(|o| o == *p)).copied().ok_or_else(|| {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {accepted:?}"
        );
        (StatusCode::FORBIDDEN, message)
    })
}

fn pick_websocket(offered: &[String], spdy: &[&'static str]) -> Result<(&'static str, Carrier), Refusal> {
    let has = |protocol: &str| offered.iter().any(|o| o == protocol);
    if spdy.contains(&FORWARD[0]) && has(websocket::TUNNEL) {
        return Ok((websocket::TUNNEL, Carrier::Tunnel));
    }
    let known = websocket::PROTOCOLS.into_iter().find(|p| has(p));
    known.map(|p| (p, Carrier::WebSocket(p))).ok_or_else(|| {
        let message = format!(
            "unable to upgrade: unsupported protocols {offered:?}; this node speaks {}",
            websocket::PROTOCOLS.join(", ")
        );
        (StatusCode::FORBIDDEN, message)
    })
}

// === commands ===

/// Answers an exec (with a command) or attach (without) and serves it once upgraded.
pub(super) fn exec(
    server: &Server,
    mut request: Request<Incoming>,
    id: String,
    command: Option<Vec<String>>,
    wants: Wants,
) -> Result<Response<Body>, Refusal> {
    let (response, carrier) = negotiate(request.headers(), &COMMAND)?;
    let upgraded = hyper::upgrade::on(&mut request);
    let (shared, cancel) = (server.shared.clone(), server.cancel.clone());
    server.tasks.spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let io = TokioIo::new(upgraded);
        let open = async {
            let Wants { stdin, stdout, stderr, tty, .. } = wants;
            let container_id = id;
            let opened = match command {
                Some(cmd) => {
                    let request = ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
                    shared.runtime.exec(request).await
                }
                None => {
                    let request = AttachRequest { container_id, tty, stdin, stdout, stderr };
                    shared.runtime.attach(request).await
                }
            };
            opened.map_err(|e| chain(&e))
        };
        let serve = async {
            match carrier {
                Carrier::WebSocket(protocol) => {
                    websocket::command(io, protocol, wants, open).await.map_err(StreamError::from)
                }
                Carrier::Spdy | Carrier::Tunnel => {
                    spdy::command(io, wants, open).await.map_err(StreamError::from)
                }
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            result = serve => report(result),
        }
    });
    Ok(response)
}

fn report(result: Result<(), StreamError>) {
    if let Err(error) = result {
        tracing::debug!(error = chain(&error), "a stream ended early");
    }
}

/// The final `Status` of a command.
fn exit_status(result: &Result<i32, String>) -> Vec<u8> {
    let status = match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}
        }),
        Err(why) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: {why}"),
            "details": {"causes": [{"message": why}]}
        }),
    };
    status.to_string().into_bytes()
}

fn terminal_size(data: &[u8]) -> Option<TerminalSize> {
    let value: serde_json::Value = serde_json::from_slice(data).ok()?;
    let side = |name: &str| value[name].as_u64().and_then(|n| u16::try_from(n).ok());
    Some(TerminalSize { width: side("Width")?, height: side("Height")? })
}

/// What a client sends to a command.
#[derive(Debug)]
enum Input {
    Stdin(Bytes),
    EndOfStdin,
    Resize(TerminalSize),
}

/// What goes to the client of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Stdout,
    Stderr,
    /// The final `Status`.
    Status,
}

async fn pump<R, T>(reader: Option<R>, out: &mpsc::Sender<T>, encode: impl Fn(&[u8]) -> T)
where
    R: AsyncRead + Unpin,
{
    let Some(mut reader) = reader else { return };
    let mut block = vec![0; BLOCK];
    while let Ok(n) = reader.read(&mut block).await {
        if n == 0 || out.send(encode(block.get(..n).unwrap_or_default())).await.is_err() {
            return;
        }
    }
}

/// Joins a session with a client until the command has ended and its output and `Status` are in
/// `out`, or until `input` ends: the client has gone.
async fn join<T>(
    session: ExecSession,
    mut input: impl Stream<Item = Input> + Unpin,
    out: mpsc::Sender<T>,
    encode: impl Fn(Output, &[u8]) -> T,
) {
    let ExecSession { mut stdin, stdout, stderr, resize, exit } = session;
    let output = async {
        let both = futures::future::join(
            pump(stdout, &out, |data| encode(Output::Stdout, data)),
            pump(stderr, &out, |data| encode(Output::Stderr, data)),
        );
        let (exit, _) = futures::future::join(exit, both).await;
        let status = exit_status(&exit.map_err(|e| chain(&e)));
        let _ = out.send(encode(Output::Status, &status)).await;
    };
    let receive = async {
        while let Some(item) = input.next().await {
            match item {
                Input::Stdin(data) => {
                    if let Some(writer) = &mut stdin
                        && (writer.write_all(&data).await.is_err() || writer.flush().await.is_err())
                    {
                        // The command does not read any more; it may still write.
                        stdin = None;
                    }
                }
                Input::EndOfStdin => {
                    if let Some(mut writer) = stdin.take() {
                        let _ = writer.shutdown().await;
                    }
                }
                Input::Resize(size) => {
                    if let Some(resize) = &resize {
                        let _ = resize.send(size).await;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = output => {}
        () = receive => {}
    }
}

// === port-forward ===

/// Answers a port-forward and serves it once upgraded. Over SPDY the streams name the ports, else
/// the request does.
pub(super) fn port_forward(
    server: &Server,
    mut request: Request<Incoming>,
    sandbox: String,
    ports: Vec<u16>,
) -> Result<Response<Body>, Refusal> {
    let (response, carrier) = negotiate(request.headers(), &FORWARD)?;
    if matches!(carrier, Carrier::WebSocket(_)) && (ports.is_empty() || ports.len() > 100) {
        let message = "query parameter \"port\" is required, at most 100 times";
        return Err((StatusCode::BAD_REQUEST, message.to_owned()));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let pod = Forward { shared: server.shared.clone(), sandbox: sandbox.into() };
    let cancel = server.cancel.clone();
    server.tasks.spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let io = TokioIo::new(upgraded);
        let serve = async {
            match carrier {
                Carrier::WebSocket(protocol) => {
                    websocket::forward(io, protocol, &pod, ports).await.map_err(StreamError::from)
                }
                Carrier::Tunnel => spdy::forward_tunnelled(io, &pod).await.map_err(StreamError::from),
                Carrier::Spdy => spdy::forward(io, &pod).await.map_err(StreamError::from),
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            result = serve => report(result),
        }
    });
    Ok(response)
}

/// The pod to which connections are forwarded.
#[derive(Clone)]
struct Forward {
    shared: Arc<Shared>,
    sandbox: Arc<str>,
}

/// What goes to the client of a forwarded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forwarded {
    Data,
    /// Why it failed.
    Error,
}

impl Forward {
    /// Connects to a port of the pod and copies both ways until the pod ends the connection. The end
    /// of `input` is passed on to the pod.
    async fn carry<T>(
        &self,
        port: u16,
        mut input: mpsc::Receiver<Bytes>,
        out: &mpsc::Sender<T>,
        encode: impl Fn(Forwarded, &[u8]) -> T,
    ) {
        let connection = match self.shared.runtime.port_forward(&self.sandbox, port).await {
            Ok(connection) => connection,
            Err(e) => {
                let (sandbox, why) = (&self.sandbox, chain(&e));
                let message = format!("error forwarding port {port} to pod {sandbox}, uid : {why}");
                let _ = out.send(encode(Forwarded::Error, message.as_bytes())).await;
                return;
            }
        };
        let (reader, mut writer) = tokio::io::split(connection);
        let write = async {
            while let Some(bytes) = input.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            // What still comes is not wanted: do not let the client wait for it.
            input.close();
            while input.try_recv().is_ok() {}
            let _ = writer.shutdown().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = pump(Some(reader), out, |data| encode(Forwarded::Data, data)) => {}
            () = write => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).fold(
            HeaderMap::new(),
            |mut all, (n, v)| {
                all.append(n, v);
                all
            },
        )
    }

    #[test]
    fn upgrades() {
        let version = "x-stream-protocol-version";
        let offer = headers(&[
            ("upgrade", "SPDY/3.1"),
            (version, "v4.channel.k8s.io"),
            (version, "v3.channel.k8s.io, channel.k8s.io"),
        ]);
        let (response, carrier) = negotiate(&offer, &COMMAND).unwrap();
        assert_eq!((response.status(), carrier), (StatusCode::SWITCHING_PROTOCOLS, Carrier::Spdy));
        assert_eq!(response.headers()[version], "v4.channel.k8s.io");
        assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
        let (code, message) = negotiate(&offer, &FORWARD).unwrap_err();
        assert_eq!(code, StatusCode::FORBIDDEN);
        assert!(message.contains("unable to negotiate protocol"), "{message}");

        let tunnel = headers(&[
            ("upgrade", "websocket"),
            ("sec-websocket-key", "a"),
            ("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io"),
        ]);
        let (response, carrier) = negotiate(&tunnel, &FORWARD).unwrap();
        assert_eq!(carrier, Carrier::Tunnel);
        assert_eq!(response.headers()["sec-websocket-protocol"], "SPDY/3.1+portforward.k8s.io");
        assert!(negotiate(&tunnel, &COMMAND).is_err());
        assert!(negotiate(&headers(&[]), &COMMAND).is_err());
    }

    #[test]
    fn sizes_of_terminals() {
        let size = terminal_size(br#"{"Width":80,"Height":24}"#);
        assert_eq!(size, Some(TerminalSize { width: 80, height: 24 }));
        assert_eq!(terminal_size(b"{}"), None);
        assert_eq!(terminal_size(br#"{"Width":99999999,"Height":1}"#), None);
    }
}
