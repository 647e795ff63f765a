//! The server's side of SPDY/3.1, as far as Kubernetes' streams use it: a client opens streams,
//! both sides send data, either side ends its half or resets.
//!
//! Windows are neither kept nor granted, as in the implementation that the clients use: what holds
//! a sender back is TCP. Payloads of data frames are handed on in pieces, so that a frame's length
//! never decides how much memory it takes.

mod frame;
mod headers;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub(super) use frame::{Reset, data, end, reset};
pub(super) use headers::Headers;

use bytes::Bytes;
use frame::{FIN, HEAD, Head, Kind};
use std::collections::{HashSet, VecDeque};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// Longest control frame in bytes; what Kubernetes' clients send is some hundred.
const MOST_CONTROL: u32 = 64 * 1024;
/// Streams of one connection that the client has not ended.
const MOST_STREAMS: usize = 1024;
/// Largest piece in which data is handed on, in bytes.
const PIECE: usize = 32 * 1024;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpdyError {
    /// The transport failed, or ended inside a frame.
    #[error("cannot read a frame")]
    Read(#[source] std::io::Error),
    /// A control frame of another version.
    #[error("a frame of SPDY version {0}: version 3 is needed")]
    Version(u16),
    /// A control frame above the limit.
    #[error("a control frame of {0} bytes is too long")]
    TooLong(u32),
    /// A control frame whose payload is too short for its type.
    #[error("a control frame is cut short")]
    Short,
    /// A header block that cannot be read.
    #[error("a header block is {0}")]
    Headers(&'static str),
}

/// What a client did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Opened a stream; it has been told that the stream is accepted.
    Open { id: u32, headers: Headers },
    /// Sent data, at most 32 KiB at a time.
    Data { id: u32, bytes: Bytes },
    /// Will send no more on this stream.
    End { id: u32 },
    /// Gave the stream up in both directions.
    Reset { id: u32 },
}

/// The rest of a data frame that is being read.
#[derive(Debug)]
struct Rest {
    id: u32,
    left: usize,
    fin: bool,
}

/// Reads a client's frames and answers those that need no decision. What is sent into `out` goes
/// to the client as it is, one item after another.
#[derive(Debug)]
pub(super) struct Connection<R> {
    reader: R,
    out: mpsc::Sender<Bytes>,
    inflate: headers::Reader,
    deflate: headers::Writer,
    /// Streams that the client has opened and not ended.
    open: HashSet<u32>,
    /// The latest stream that was opened.
    last: u32,
    rest: Option<Rest>,
    ready: VecDeque<Event>,
}

impl<R: AsyncRead + Unpin> Connection<R> {
    /// # Errors
    /// [`SpdyError::Headers`] where zlib refuses the dictionary.
    pub(super) fn new(reader: R, out: mpsc::Sender<Bytes>) -> Result<Self, SpdyError> {
        Ok(Self {
            reader,
            out,
            inflate: headers::Reader::new(),
            deflate: headers::Writer::new()?,
            open: HashSet::new(),
            last: 0,
            rest: None,
            ready: VecDeque::new(),
        })
    }

    /// What goes to the client.
    pub(super) const fn out(&self) -> &mpsc::Sender<Bytes> {
        &self.out
    }

    /// The next thing that the client did; `None` once it has gone. Not cancel safe.
    ///
    /// # Errors
    /// See [`SpdyError`]; the client has been told to go away.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, SpdyError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            match self.step().await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => {
                    self.send(frame::go_away(self.last, true)).await;
                    return Err(error);
                }
            }
        }
    }

    /// Takes leave of the client.
    pub(super) async fn close(mut self) {
        self.send(frame::go_away(self.last, false)).await;
    }

    async fn send(&mut self, frame: Bytes) {
        // A client that has gone is noticed when reading.
        let _ = self.out.send(frame).await;
    }

    /// Reads a frame, or a piece of one. False once the client has gone.
    async fn step(&mut self) -> Result<bool, SpdyError> {
        if let Some(rest) = self.rest.take() {
            return self.piece(rest).await;
        }
        let mut head = [0; HEAD];
        // An end between two frames is an orderly one.
        let [first, others @ ..] = &mut head;
        if self.reader.read(std::slice::from_mut(first)).await.map_err(SpdyError::Read)? == 0 {
            return Ok(false);
        }
        self.reader.read_exact(others).await.map_err(SpdyError::Read)?;
        match Head::parse(head) {
            Head::Version(version) => Err(SpdyError::Version(version)),
            Head::Data { id, fin, length } => {
                let left = usize::try_from(length).unwrap_or(usize::MAX);
                self.rest = Some(Rest { id, left, fin });
                Ok(true)
            }
            Head::Control { length, .. } if length > MOST_CONTROL => Err(SpdyError::TooLong(length)),
            Head::Control { kind, flags, length } => {
                let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
                self.reader.read_exact(&mut payload).await.map_err(SpdyError::Read)?;
                match kind {
                    Some(kind) => self.control(kind, flags, &payload).await,
                    None => Ok(true),
                }
            }
        }
    }

    async fn piece(&mut self, mut rest: Rest) -> Result<bool, SpdyError> {
        if rest.left > 0 {
            let mut piece = vec![0; rest.left.min(PIECE)];
            let n = self.reader.read(&mut piece).await.map_err(SpdyError::Read)?;
            if n == 0 {
                return Err(SpdyError::Read(std::io::ErrorKind::UnexpectedEof.into()));
            }
            piece.truncate(n);
            rest.left = rest.left.saturating_sub(n);
            // Data for a stream that was refused or ended may still be on its way: skip it.
            if self.open.contains(&rest.id) {
                self.ready.push_back(Event::Data { id: rest.id, bytes: piece.into() });
            }
        }
        if rest.left > 0 {
            self.rest = Some(rest);
        } else if rest.fin && self.open.remove(&rest.id) {
            self.ready.push_back(Event::End { id: rest.id });
        }
        Ok(true)
    }

    async fn control(&mut self, kind: Kind, flags: u8, payload: &[u8]) -> Result<bool, SpdyError> {
        match kind {
            Kind::SynStream => {
                let (id, rest) = frame::stream_id(payload).ok_or(SpdyError::Short)?;
                // The stream it belongs to, a priority and a slot do not matter here.
                let block = rest.get(6..).ok_or(SpdyError::Short)?;
                // Even the block of a stream that is refused moves the compression on.
                let headers = self.inflate.read(block)?;
                self.open_stream(id, headers, flags & FIN != 0).await?;
            }
            Kind::Headers => {
                let (id, block) = frame::stream_id(payload).ok_or(SpdyError::Short)?;
                self.inflate.read(block)?;
                if flags & FIN != 0 && self.open.remove(&id) {
                    self.ready.push_back(Event::End { id });
                }
            }
            Kind::RstStream => {
                let (id, _) = frame::stream_id(payload).ok_or(SpdyError::Short)?;
                self.open.remove(&id);
                if id <= self.last {
                    self.ready.push_back(Event::Reset { id });
                }
            }
            Kind::Ping => {
                let id = payload.first_chunk::<4>().ok_or(SpdyError::Short)?;
                // Odd numbers are a client's; an even one would answer a ping of ours.
                if id[3] % 2 == 1 {
                    self.send(frame::control(Kind::Ping, 0, &[id])).await;
                }
            }
            // A client that goes away opens no more streams; those that are open go on.
            Kind::GoAway | Kind::Settings | Kind::WindowUpdate => {}
            Kind::SynReply => {
                // This side opens no streams, but the block belongs to the compression.
                let (_, block) = frame::stream_id(payload).ok_or(SpdyError::Short)?;
                self.inflate.read(block)?;
            }
        }
        Ok(true)
    }

    async fn open_stream(&mut self, id: u32, headers: Headers, fin: bool) -> Result<(), SpdyError> {
        // A client's streams have odd numbers that grow.
        if id.is_multiple_of(2) || id <= self.last {
            self.send(reset(id, Reset::ProtocolError)).await;
            return Ok(());
        }
        self.last = id;
        if self.open.len() >= MOST_STREAMS {
            self.send(reset(id, Reset::RefusedStream)).await;
            return Ok(());
        }
        let block = self.deflate.write(&Headers::default())?;
        self.send(frame::control(Kind::SynReply, 0, &[&id.to_be_bytes(), &block])).await;
        self.ready.push_back(Event::Open { id, headers });
        if fin {
            self.ready.push_back(Event::End { id });
        } else {
            self.open.insert(id);
        }
        Ok(())
    }
}
