//! Streams over SPDY/3.1: commands with `v4.channel.k8s.io`, connections with
//! `portforward.k8s.io`, the latter also inside the binary messages of a WebSocket.
//!
//! Headers say what a stream is: `streamType` and, for a forwarded connection, `port` and
//! `requestID`.

use super::{Forward, Forwarded, Input, Output, Wants, exit_status, join, terminal_size};
use crate::pod::actions::chain;
use crate::server::spdy::{Connection, Event, Headers, Reset, SpdyError, data, end, reset};
use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use orlop_container::cri::ExecSession;
use std::collections::{HashMap, VecDeque};
use std::future::ready;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
mod tests;

/// How long a client may take to open the streams of a command, as in the kubelet.
const CREATION: Duration = Duration::from_secs(30);
/// What a client may send before it has opened all streams, in events.
const EARLY: usize = 64;
/// Longest line with a terminal's size, in bytes.
const MOST_SIZE: usize = 1024;
/// Forwarded connections of one client at a time.
const CONNECTIONS: usize = 512;
/// Longest message of a tunnel, in bytes.
const MOST_MESSAGE: usize = 4 * 1024 * 1024;

/// Writes frames until their senders are gone.
async fn write(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Bytes>) {
    let written = async {
        while let Some(frame) = frames.recv().await {
            writer.write_all(&frame).await?;
            if frames.is_empty() {
                writer.flush().await?;
            }
        }
        writer.shutdown().await
    };
    if let Err(error) = written.await {
        tracing::trace!(%error, "a SPDY client has gone");
    }
}

// === commands ===

/// Serves an exec or attach.
pub(super) async fn command<S>(
    io: S,
    wants: Wants,
    open: impl Future<Output = Result<ExecSession, String>>,
) -> Result<(), SpdyError>
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, writer) = tokio::io::split(io);
    let (out, frames) = mpsc::channel(8);
    let connection = Connection::new(reader, out)?;
    let (result, ()) = futures::future::join(talk(connection, wants, open), write(writer, frames)).await;
    result
}

/// Numbers of a command's streams.
#[derive(Clone, Copy, Debug, Default)]
struct Ids {
    error: Option<u32>,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

impl Ids {
    /// Takes a stream in; false where its type is unknown or there is one already.
    fn take(&mut self, id: u32, kind: &str) -> bool {
        let place = match kind {
            "error" => &mut self.error,
            "stdin" => &mut self.stdin,
            "stdout" => &mut self.stdout,
            "stderr" => &mut self.stderr,
            "resize" => &mut self.resize,
            _ => return false,
        };
        place.is_none() && place.replace(id).is_none()
    }

    const fn complete(&self, wants: Wants) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !wants.stdin)
            && (self.stdout.is_some() || !wants.stdout)
            && (self.stderr.is_some() || !wants.stderr)
            && (self.resize.is_some() || !wants.sizes)
    }

    fn frame(&self, output: Output, bytes: &[u8]) -> Bytes {
        let id = match output {
            Output::Stdout => self.stdout,
            Output::Stderr => self.stderr,
            Output::Status => self.error,
        };
        id.map(|id| data(id, bytes)).unwrap_or_default()
    }
}

/// Waits for the streams of a command; with what the client sent on them meanwhile. `None` where
/// the client goes, or sends much too early.
async fn streams<R: AsyncRead + Unpin>(
    connection: &mut Connection<R>,
    wants: Wants,
) -> Result<Option<(Ids, VecDeque<Event>)>, SpdyError> {
    let mut ids = Ids::default();
    let mut early = VecDeque::new();
    while !ids.complete(wants) {
        match connection.next().await? {
            Some(Event::Open { id, headers }) => {
                if !ids.take(id, headers.get("streamtype")) {
                    let _ = connection.out().send(reset(id, Reset::RefusedStream)).await;
                }
            }
            Some(event) if early.len() < EARLY => early.push_back(event),
            _ => return Ok(None),
        }
    }
    Ok(Some((ids, early)))
}

async fn talk<R: AsyncRead + Unpin>(
    mut connection: Connection<R>,
    wants: Wants,
    open: impl Future<Output = Result<ExecSession, String>>,
) -> Result<(), SpdyError> {
    let Ok(streams) = tokio::time::timeout(CREATION, streams(&mut connection, wants)).await else {
        tracing::debug!("timed out waiting for client to create streams");
        connection.close().await;
        return Ok(());
    };
    let Some((ids, early)) = streams? else { return Ok(()) };
    let out = connection.out().clone();
    match open.await {
        Ok(session) => {
            let input = std::pin::pin!(stream::unfold(
                Incoming { connection: &mut connection, ids, early, sizes: Vec::new() },
                |mut incoming| async move { incoming.next().await.map(|input| (input, incoming)) },
            ));
            join(session, input, out.clone(), |output, bytes| ids.frame(output, bytes)).await;
        }
        Err(why) => {
            let _ = out.send(ids.frame(Output::Status, &exit_status(&Err(why)))).await;
        }
    }
    for id in [ids.stdout, ids.stderr, ids.error].into_iter().flatten() {
        let _ = out.send(end(id)).await;
    }
    connection.close().await;
    Ok(())
}

/// What a client sends to a command.
struct Incoming<'a, R> {
    connection: &'a mut Connection<R>,
    ids: Ids,
    early: VecDeque<Event>,
    /// The beginning of a terminal's size.
    sizes: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Incoming<'_, R> {
    async fn next(&mut self) -> Option<Input> {
        loop {
            let event = match self.early.pop_front() {
                Some(event) => event,
                None => match self.connection.next().await {
                    Ok(event) => event?,
                    Err(error) => {
                        tracing::debug!(error = chain(&error), "a SPDY stream ended early");
                        return None;
                    }
                },
            };
            match event {
                Event::Data { id, bytes } if Some(id) == self.ids.stdin => return Some(Input::Stdin(bytes)),
                Event::End { id } | Event::Reset { id } if Some(id) == self.ids.stdin => {
                    return Some(Input::EndOfStdin);
                }
                Event::Data { id, bytes } if Some(id) == self.ids.resize => {
                    if let Some(size) = self.size(&bytes) {
                        return Some(size);
                    }
                }
                Event::Open { id, .. } => {
                    let _ = self.connection.out().send(reset(id, Reset::RefusedStream)).await;
                }
                _ => {}
            }
        }
    }

    /// Sizes come as JSON, one per line, cut anywhere; only the latest matters.
    fn size(&mut self, bytes: &[u8]) -> Option<Input> {
        self.sizes.extend_from_slice(bytes);
        let mut latest = None;
        while let Some(at) = self.sizes.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.sizes.drain(..=at).collect();
            latest = terminal_size(&line).or(latest);
        }
        if self.sizes.len() > MOST_SIZE {
            self.sizes.clear();
        }
        latest.map(Input::Resize)
    }
}

// === port-forward ===

/// Serves a port-forward.
pub(super) async fn forward<S>(io: S, pod: &Forward) -> Result<(), SpdyError>
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, writer) = tokio::io::split(io);
    let (out, frames) = mpsc::channel(16);
    let connection = Connection::new(reader, out)?;
    let (result, ()) = futures::future::join(connections(connection, pod), write(writer, frames)).await;
    result
}

/// Serves a port-forward whose SPDY bytes travel in the binary messages of a WebSocket.
pub(super) async fn forward_tunnelled<S>(io: S, pod: &Forward) -> Result<(), SpdyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config =
        WebSocketConfig::default().max_message_size(Some(MOST_MESSAGE)).max_frame_size(Some(MOST_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (mut sink, messages) = socket.split();
    let reader = StreamReader::new(messages.filter_map(|message| {
        ready(match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    }));
    let (out, mut frames) = mpsc::channel(16);
    let connection = Connection::new(reader, out)?;
    let send = async {
        while let Some(frame) = frames.recv().await {
            if sink.send(Message::Binary(frame)).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    };
    let (result, ()) = futures::future::join(connections(connection, pod), send).await;
    result
}

/// The streams of a connection that is to be forwarded, until both are there.
#[derive(Debug, Default)]
struct Pair {
    data: Option<u32>,
    error: Option<u32>,
}

/// A forwarded connection, as its client's side sees it.
struct Live {
    input: mpsc::Sender<Bytes>,
    cancel: CancellationToken,
}

/// Pairs a client's streams and forwards each pair until the client goes.
async fn connections<R: AsyncRead + Unpin>(
    mut connection: Connection<R>,
    pod: &Forward,
) -> Result<(), SpdyError> {
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut live: HashMap<u32, Live> = HashMap::new();
    let mut tasks = JoinSet::new();
    let result = loop {
        let event = match connection.next().await {
            Ok(Some(event)) => event,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        while tasks.try_join_next().is_some() {}
        match event {
            Event::Open { id, headers } => {
                let paired = if pairs.len() + tasks.len() < CONNECTIONS {
                    pair(&mut pairs, id, &headers)
                } else {
                    Err(())
                };
                match paired {
                    Ok(None) => {}
                    Ok(Some((port, data_id, error_id))) => {
                        let (input, received) = mpsc::channel(16);
                        let cancel = CancellationToken::new();
                        live.insert(data_id, Live { input, cancel: cancel.clone() });
                        let (pod, out) = (pod.clone(), connection.out().clone());
                        tasks.spawn(async move {
                            let carry = pod.carry(port, received, &out, |kind, bytes| match kind {
                                Forwarded::Data => data(data_id, bytes),
                                Forwarded::Error => data(error_id, bytes),
                            });
                            tokio::select! {
                                () = carry => {
                                    let _ = out.send(end(data_id)).await;
                                }
                                () = cancel.cancelled() => {}
                            }
                            let _ = out.send(end(error_id)).await;
                        });
                    }
                    Err(()) => {
                        let _ = connection.out().send(reset(id, Reset::RefusedStream)).await;
                    }
                }
            }
            Event::Data { id, bytes } => {
                if let Some(there) = live.get(&id)
                    && there.input.send(bytes).await.is_err()
                {
                    live.remove(&id);
                }
            }
            Event::End { id } => {
                live.remove(&id);
            }
            Event::Reset { id } => {
                if let Some(there) = live.remove(&id) {
                    there.cancel.cancel();
                }
                pairs.retain(|_, p| p.data != Some(id) && p.error != Some(id));
            }
        }
    };
    tasks.shutdown().await;
    connection.close().await;
    result
}

/// Takes a stream in: port, data stream and error stream once both are there. An error where its
/// headers are not those of a forwarded connection.
fn pair(
    pairs: &mut HashMap<String, Pair>,
    id: u32,
    headers: &Headers,
) -> Result<Option<(u16, u32, u32)>, ()> {
    let port: u16 = headers.get("port").parse().map_err(|_| ())?;
    let kind = headers.get("streamtype");
    if port == 0 || !matches!(kind, "data" | "error") {
        return Err(());
    }
    let request = match headers.get("requestid") {
        // A client without request ids opens the error stream and then the data stream.
        "" if kind == "error" => id.to_string(),
        "" => id.saturating_sub(2).to_string(),
        given => given.to_owned(),
    };
    let pair = pairs.entry(request.clone()).or_default();
    let place = if kind == "data" { &mut pair.data } else { &mut pair.error };
    if place.is_some() {
        return Err(());
    }
    *place = Some(id);
    let (Some(data), Some(error)) = (pair.data, pair.error) else { return Ok(None) };
    pairs.remove(&request);
    Ok(Some((port, data, error)))
}
