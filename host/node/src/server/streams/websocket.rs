//! Streams over WebSocket: `v5.channel.k8s.io`, `v4.channel.k8s.io`, and their base64 variants.
//!
//! A frame begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final `Status`, 4 terminal
//! sizes; in v5, 255 closes the channel that its next byte names.

use super::{Forward, Forwarded, Input, Output, Wants, exit_status, join, terminal_size};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt, StreamExt};
use orlop_container::cri::ExecSession;
use std::future::ready;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
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

/// What this side speaks, best first.
pub(super) const PROTOCOLS: [&str; 4] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "base64.channel.k8s.io"];

/// SPDY for port-forward inside the messages of a WebSocket.
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

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

    /// What a message means to a command.
    fn input(self, message: &Message) -> Option<Input> {
        match self.decode(message)? {
            (STDIN, data) => Some(Input::Stdin(data.into())),
            (RESIZE, data) => terminal_size(&data).map(Input::Resize),
            (CLOSE, data) if self.closes && data.first() == Some(&STDIN) => Some(Input::EndOfStdin),
            _ => None,
        }
    }
}

fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Serves an exec or attach.
pub(super) async fn command<S>(
    io: S,
    protocol: &str,
    wants: Wants,
    open: impl Future<Output = Result<ExecSession, String>>,
) -> Result<(), WsError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let wire = Wire::of(protocol);
    match open.await {
        Ok(session) => serve(socket, wire, wants, session).await,
        Err(why) => {
            socket.send(wire.encode(ERROR, &exit_status(&Err(why)))).await?;
            socket.send(goodbye()).await?;
            socket.flush().await
        }
    }
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
    let input = frames
        .take_while(|m| ready(m.as_ref().is_ok_and(|m| !m.is_close())))
        .filter_map(|m| ready(m.ok().and_then(|m| wire.input(&m))));
    let talk = join(session, input, tx, |output, data| {
        let channel = match output {
            Output::Stdout => STDOUT,
            Output::Stderr => STDERR,
            Output::Status => ERROR,
        };
        wire.encode(channel, data)
    });
    let send = async {
        while let Some(message) = rx.recv().await {
            sink.send(message).await?;
        }
        sink.send(goodbye()).await?;
        sink.flush().await
    };
    let ((), sent) = futures::future::join(talk, send).await;
    match sent {
        // The client was the first to go.
        Err(WsError::ConnectionClosed | WsError::AlreadyClosed | WsError::Protocol(_)) => Ok(()),
        other => other,
    }
}

/// Serves a port-forward: per port a data channel and an error channel, each of which begins with
/// the port.
pub(super) async fn forward<S>(io: S, protocol: &str, pod: &Forward, ports: Vec<u16>) -> Result<(), WsError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let wire = Wire::of(protocol);
    let (mut sink, mut frames) = socket.split();
    let (tx, mut rx) = mpsc::channel::<Message>(8);
    let mut inputs = Vec::new();
    let mut work = Vec::new();
    for (i, port) in ports.into_iter().enumerate() {
        let channel = u8::try_from(i * 2).unwrap_or(u8::MAX - 1);
        for channel in [channel, channel + 1] {
            sink.send(wire.encode(channel, &port.to_le_bytes())).await?;
        }
        let (input, received) = mpsc::channel(8);
        inputs.push(input);
        let tx = tx.clone();
        work.push(async move {
            pod.carry(port, received, &tx, |kind, data| match kind {
                Forwarded::Data => wire.encode(channel, data),
                Forwarded::Error => wire.encode(channel + 1, data),
            })
            .await;
        });
    }
    drop(tx);
    let send = async {
        while let Some(message) = rx.recv().await {
            sink.send(message).await?;
        }
        sink.close().await
    };
    let receive = async {
        while let Some(Ok(message)) = frames.next().await {
            if message.is_close() {
                return;
            }
            let Some((channel, data)) = wire.decode(&message) else { continue };
            let input = inputs.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
            if let Some(input) = input {
                // A connection that has ended takes no more.
                let _ = input.send(data.into()).await;
            }
        }
    };
    let output = futures::future::join(futures::future::join_all(work), send);
    tokio::select! {
        (_, sent) = output => sent,
        () = receive => Ok(()),
    }
}
