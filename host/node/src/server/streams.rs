//! exec, attach and port-forward over WebSocket: `v5.channel.k8s.io`, `v4.channel.k8s.io`, and
//! their base64 variants.
//!
//! A frame begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final `Status`, 4 terminal
//! sizes; in v5, 255 closes the channel that its next byte names.

use super::routes::{Query, Refusal};
use super::{Body, Server, full};
use crate::pod::actions::chain;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use orlop_container::cri::{AttachRequest, ExecRequest, ExecSession, TerminalSize};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

#[cfg(test)]
mod tests;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

const PROTOCOLS: [&str; 4] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "base64.channel.k8s.io"];

/// Which streams a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wants {
    pub(super) fn of(query: &Query, tty: bool) -> Result<Self, Refusal> {
        let wants = Self {
            stdin: query.flag(&["input", "stdin"]),
            stdout: query.flag(&["output", "stdout"]),
            // A terminal has one output.
            stderr: query.flag(&["error", "stderr"]) && !tty,
            tty,
        };
        if !wants.stdin && !wants.stdout && !wants.stderr {
            let message = "you must specify at least 1 of stdin, stdout, stderr";
            return Err((StatusCode::BAD_REQUEST, message.to_owned()));
        }
        Ok(wants)
    }
}

/// How frames look on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wire {
    base64: bool,
    closes: bool,
}

impl Wire {
    fn of(protocol: &str) -> Self {
        Self { base64: protocol.contains("base64"), closes: protocol.starts_with("v5") }
    }

    fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + data.len() * 4 / 3 + 4);
            text.push(char::from(b'0' + channel));
            STANDARD.encode_string(data, &mut text);
            return Message::text(text);
        }
        let mut frame = Vec::with_capacity(data.len() + 1);
        frame.push(channel);
        frame.extend_from_slice(data);
        Message::binary(frame)
    }

    /// Channel and data; `None` for what is no frame.
    fn decode(self, message: &Message) -> Option<(u8, Vec<u8>)> {
        match message {
            Message::Binary(b) if !self.base64 => b.split_first().map(|(c, rest)| (*c, rest.to_vec())),
            Message::Text(t) if self.base64 => {
                let (channel, rest) = t.as_bytes().split_first()?;
                Some((channel.checked_sub(b'0')?, STANDARD.decode(rest).ok()?))
            }
            // Some clients send text frames with plain channels.
            Message::Text(t) => t.as_bytes().split_first().map(|(c, rest)| (*c, rest.to_vec())),
            _ => None,
        }
    }
}

/// Checks the upgrade and picks a protocol.
fn negotiate(request: &Request<Incoming>) -> Result<(Response<Body>, &'static str), Refusal> {
    let header =
        |name| request.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
    let upgrade = header(UPGRADE).to_ascii_lowercase();
    if upgrade.contains("spdy") {
        let message =
            "SPDY is not supported by this node: use WebSocket with the subprotocol v5.channel.k8s.io";
        return Err((StatusCode::BAD_REQUEST, message.to_owned()));
    }
    if upgrade != "websocket" {
        let message = "unable to upgrade: a WebSocket upgrade request is needed";
        return Err((StatusCode::BAD_REQUEST, message.to_owned()));
    }
    let key = header(SEC_WEBSOCKET_KEY);
    if key.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key header is missing".to_owned()));
    }
    let offered: Vec<String> = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|p| p.trim().to_owned()))
        .collect();
    let Some(protocol) = PROTOCOLS.into_iter().find(|p| offered.iter().any(|o| o == p)) else {
        let message = format!(
            "unable to upgrade: unsupported protocols {offered:?}; this node speaks {}",
            PROTOCOLS.join(", ")
        );
        return Err((StatusCode::FORBIDDEN, message));
    };
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|e| (StatusCode::BAD_REQUEST, e.to_string()))?;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok((response, protocol))
}

/// Answers an exec (with a command) or attach (without) and serves it once upgraded.
pub(super) fn exec(
    server: &Server,
    mut request: Request<Incoming>,
    id: String,
    command: Option<Vec<String>>,
    wants: Wants,
) -> Result<Response<Body>, Refusal> {
    let (response, protocol) = negotiate(&request)?;
    let upgraded = hyper::upgrade::on(&mut request);
    let (shared, cancel) = (server.shared.clone(), server.cancel.clone());
    server.tasks.spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let open = async {
            let Wants { stdin, stdout, stderr, tty } = wants;
            match command {
                Some(cmd) => {
                    shared
                        .runtime
                        .exec(ExecRequest { container_id: id, cmd, tty, stdin, stdout, stderr })
                        .await
                }
                None => {
                    shared
                        .runtime
                        .attach(AttachRequest { container_id: id, tty, stdin, stdout, stderr })
                        .await
                }
            }
        };
        let serve = async {
            match open.await {
                Ok(session) => serve(socket, Wire::of(protocol), wants, session).await,
                Err(e) => refuse(socket, Wire::of(protocol), &chain(&e)).await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            result = serve => if let Err(error) = result {
                tracing::debug!(%error, "a stream ended early");
            }
        }
    });
    Ok(response)
}

/// The final `Status` of a command.
fn exit_status(result: &Result<i32, String>) -> serde_json::Value {
    match result {
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
    }
}

async fn refuse<S>(mut socket: WebSocketStream<S>, wire: Wire, why: &str) -> Result<(), WsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let status = exit_status(&Err(why.to_owned()));
    socket.send(wire.encode(ERROR, status.to_string().as_bytes())).await?;
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await
}

async fn pump<R: AsyncRead + Unpin>(reader: Option<R>, channel: u8, wire: Wire, out: mpsc::Sender<Message>) {
    let Some(mut reader) = reader else { return };
    let mut block = vec![0; 16 * 1024];
    while let Ok(n) = reader.read(&mut block).await {
        if n == 0 || out.send(wire.encode(channel, block.get(..n).unwrap_or_default())).await.is_err() {
            return;
        }
    }
}

/// Takes what the client sends. Returns when it has gone.
async fn receive(
    mut frames: impl Stream<Item = Result<Message, WsError>> + Unpin,
    wire: Wire,
    mut stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resize: Option<mpsc::Sender<TerminalSize>>,
) {
    while let Some(Ok(message)) = frames.next().await {
        if message.is_close() {
            return;
        }
        match wire.decode(&message) {
            Some((STDIN, data)) => {
                if let Some(writer) = &mut stdin
                    && (writer.write_all(&data).await.is_err() || writer.flush().await.is_err())
                {
                    // The command does not read any more; it may still write.
                    stdin = None;
                }
            }
            Some((RESIZE, data)) => {
                if let (Some(resize), Some(size)) = (&resize, terminal_size(&data)) {
                    let _ = resize.send(size).await;
                }
            }
            Some((CLOSE, data)) if wire.closes && data.first() == Some(&STDIN) => {
                if let Some(mut writer) = stdin.take() {
                    let _ = writer.shutdown().await;
                }
            }
            _ => {}
        }
    }
}

fn terminal_size(data: &[u8]) -> Option<TerminalSize> {
    let value: serde_json::Value = serde_json::from_slice(data).ok()?;
    let side = |name: &str| value[name].as_u64().and_then(|n| u16::try_from(n).ok());
    Some(TerminalSize { width: side("Width")?, height: side("Height")? })
}

/// Joins a session with a socket until the command ends or the client goes.
async fn serve<S>(
    socket: WebSocketStream<S>,
    wire: Wire,
    wants: Wants,
    session: ExecSession,
) -> Result<(), WsError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sink, frames) = socket.split();
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    // Tells the client that the streams are open.
    let first = if wants.stdout {
        STDOUT
    } else if wants.stderr {
        STDERR
    } else {
        ERROR
    };
    sink.send(wire.encode(first, &[])).await?;
    let (tx, mut rx) = mpsc::channel::<Message>(8);
    let output = async {
        let both = futures::future::join(
            pump(stdout, STDOUT, wire, tx.clone()),
            pump(stderr, STDERR, wire, tx.clone()),
        );
        let (exit, _) = futures::future::join(exit, both).await;
        let status = exit_status(&exit.map_err(|e| chain(&e)));
        let _ = tx.send(wire.encode(ERROR, status.to_string().as_bytes())).await;
        drop(tx);
    };
    let send = async {
        while let Some(message) = rx.recv().await {
            sink.send(message).await?;
        }
        sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await?;
        sink.flush().await
    };
    tokio::select! {
        ((), sent) = futures::future::join(output, send) => sent,
        () = receive(frames, wire, stdin, resize) => Ok(()),
    }
}

// === port-forward ===

/// Answers a port-forward and serves it once upgraded: per port a data channel and an error
/// channel, each of which begins with the port.
pub(super) fn port_forward(
    server: &Server,
    mut request: Request<Incoming>,
    sandbox: String,
    ports: Vec<u16>,
) -> Result<Response<Body>, Refusal> {
    let (response, protocol) = negotiate(&request)?;
    if ports.is_empty() || ports.len() > 100 {
        let message = "query parameter \"port\" is required, at most 100 times";
        return Err((StatusCode::BAD_REQUEST, message.to_owned()));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let (shared, cancel) = (server.shared.clone(), server.cancel.clone());
    let wire = Wire::of(protocol);
    server.tasks.spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let (mut sink, mut frames) = socket.split();
        let (tx, mut rx) = mpsc::channel::<Message>(8);
        let mut writers = Vec::new();
        let mut readers = Vec::new();
        for (i, port) in ports.iter().enumerate() {
            let data = u8::try_from(i * 2).unwrap_or(u8::MAX - 1);
            for channel in [data, data + 1] {
                if sink.send(wire.encode(channel, &port.to_le_bytes())).await.is_err() {
                    return;
                }
            }
            match shared.runtime.port_forward(&sandbox, *port).await {
                Ok(connection) => {
                    let (reader, writer) = tokio::io::split(connection);
                    writers.push(Some(writer));
                    readers.push(pump(Some(reader), data, wire, tx.clone()));
                }
                Err(e) => {
                    let message = format!("error forwarding port {port} to pod: {}", chain(&e));
                    let _ = sink.send(wire.encode(data + 1, message.as_bytes())).await;
                    writers.push(None);
                }
            }
        }
        drop(tx);
        let send = async {
            while let Some(message) = rx.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        };
        let receive = async {
            while let Some(Ok(message)) = frames.next().await {
                if message.is_close() {
                    return;
                }
                let Some((channel, data)) = wire.decode(&message) else { continue };
                let writer = writers.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
                if let Some(Some(writer)) = writer
                    && writer.write_all(&data).await.is_err()
                {
                    return;
                }
            }
        };
        let output = futures::future::join(futures::future::join_all(readers), send);
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = output => {}
            () = receive => {}
        }
    });
    Ok(response)
}
