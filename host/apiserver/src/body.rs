//! Bodies of responses: chains of shared buffers, never joined.

use bytes::{Buf, Bytes};
use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Several buffers that are sent as if they were one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    parts: VecDeque<Bytes>,
    left: usize,
}

impl Chain {
    /// Appends a buffer.
    pub(crate) fn push(&mut self, part: impl Into<Bytes>) {
        let part = part.into();
        if !part.is_empty() {
            self.left += part.len();
            self.parts.push_back(part);
        }
    }

    /// Whether nothing is left.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Joins what is left.
    #[must_use]
    pub(crate) fn into_bytes(mut self) -> Bytes {
        match self.parts.len() {
            0 => Bytes::new(),
            1 => self.parts.pop_front().unwrap_or_default(),
            _ => {
                let mut all = Vec::with_capacity(self.left);
                for part in &self.parts {
                    all.extend_from_slice(part);
                }
                Bytes::from(all)
            }
        }
    }
}

impl From<Bytes> for Chain {
    fn from(part: Bytes) -> Self {
        let mut chain = Self::default();
        chain.push(part);
        chain
    }
}

impl Buf for Chain {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], AsRef::as_ref)
    }

    fn advance(&mut self, mut count: usize) {
        self.left = self.left.saturating_sub(count);
        while count > 0 {
            let Some(front) = self.parts.front_mut() else { return };
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.parts.pop_front();
        }
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, part) in out.iter_mut().zip(&self.parts) {
            *slot = IoSlice::new(part);
            filled += 1;
        }
        filled
    }
}

/// What every handler answers with.
pub(crate) type ResponseBody = UnsyncBoxBody<Chain, Infallible>;

/// A body that is there at once.
struct Whole(Option<Chain>);

impl Body for Whole {
    type Data = Chain;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chain>, Infallible>>> {
        Poll::Ready(self.0.take().filter(|c| !c.is_empty()).map(|c| Ok(Frame::data(c))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Chain::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |c| c.remaining() as u64))
    }
}

/// A body that is there at once.
#[must_use]
pub(crate) fn whole(chain: Chain) -> ResponseBody {
    Whole(Some(chain)).boxed_unsync()
}

/// A body of one buffer.
#[must_use]
pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    whole(Chain::from(bytes.into()))
}

/// A body that comes piece by piece.
pub(crate) fn stream(pieces: impl Stream<Item = Chain> + Send + 'static) -> ResponseBody {
    use futures::StreamExt;
    StreamBody::new(pieces.map(|c| Ok(Frame::data(c)))).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_reads_as_one_buffer() {
        let mut chain = Chain::default();
        for part in ["ab", "", "cde", "f"] {
            chain.push(Bytes::from_static(part.as_bytes()));
        }
        assert_eq!(chain.remaining(), 6);
        chain.advance(3);
        assert_eq!(chain.chunk(), b"de");
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(chain.chunks_vectored(&mut slices), 2);
        assert_eq!(chain.into_bytes(), Bytes::from_static(b"def"));
    }
}
