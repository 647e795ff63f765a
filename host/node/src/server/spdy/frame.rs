//! Frames of SPDY/3.1: an eight-byte head each, then a payload.

use bytes::Bytes;

/// Length of a frame's head in bytes.
pub(super) const HEAD: usize = 8;
/// The sender ends its half of the stream.
pub(super) const FIN: u8 = 1;

const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
/// The highest bit of a stream's number is reserved.
const ID: u32 = 0x7fff_ffff;

/// Type of a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    SynStream = 1,
    SynReply = 2,
    RstStream = 3,
    Settings = 4,
    Ping = 6,
    GoAway = 7,
    Headers = 8,
    WindowUpdate = 9,
}

impl Kind {
    fn of(number: u16) -> Option<Self> {
        [
            Self::SynStream,
            Self::SynReply,
            Self::RstStream,
            Self::Settings,
            Self::Ping,
            Self::GoAway,
            Self::Headers,
            Self::WindowUpdate,
        ]
        .into_iter()
        .find(|k| *k as u16 == number)
    }
}

/// Why a stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(in crate::server) enum Reset {
    ProtocolError = 1,
    RefusedStream = 3,
}

/// What a frame's head says. Lengths are at most 2^24 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// `kind` is `None` where this side does not know the type.
    Control {
        kind: Option<Kind>,
        flags: u8,
        length: u32,
    },
    Data {
        id: u32,
        fin: bool,
        length: u32,
    },
    /// A control frame of another version of SPDY.
    Version(u16),
}

impl Head {
    pub(super) fn parse(head: [u8; HEAD]) -> Self {
        let [a, b, c, d, flags, l0, l1, l2] = head;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        let first = u16::from_be_bytes([a, b]);
        if first & CONTROL == 0 {
            return Self::Data { id: u32::from_be_bytes([a, b, c, d]), fin: flags & FIN != 0, length };
        }
        match first & !CONTROL {
            VERSION => Self::Control { kind: Kind::of(u16::from_be_bytes([c, d])), flags, length },
            other => Self::Version(other),
        }
    }
}

/// Reads the number of a stream off the front of a payload.
pub(super) fn stream_id(payload: &[u8]) -> Option<(u32, &[u8])> {
    let (first, rest) = payload.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*first) & ID, rest))
}

/// A control frame. `parts` are together shorter than 2^24 bytes.
pub(super) fn control(kind: Kind, flags: u8, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = Vec::with_capacity(HEAD + length);
    out.extend_from_slice(&(CONTROL | VERSION).to_be_bytes());
    out.extend_from_slice(&(kind as u16).to_be_bytes());
    put_length(&mut out, flags, length);
    parts.iter().for_each(|p| out.extend_from_slice(p));
    out.into()
}

/// A data frame. `data` is shorter than 2^24 bytes.
pub(in crate::server) fn data(id: u32, data: &[u8]) -> Bytes {
    data_frame(id, 0, data)
}

/// An empty data frame that ends this side's half of the stream.
pub(in crate::server) fn end(id: u32) -> Bytes {
    data_frame(id, FIN, &[])
}

fn data_frame(id: u32, flags: u8, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEAD + data.len());
    out.extend_from_slice(&(id & ID).to_be_bytes());
    put_length(&mut out, flags, data.len());
    out.extend_from_slice(data);
    out.into()
}

fn put_length(out: &mut Vec<u8>, flags: u8, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX).min((1 << 24) - 1);
    out.extend_from_slice(&((u32::from(flags) << 24) | length).to_be_bytes());
}

/// Refuses or gives up a stream.
pub(in crate::server) fn reset(id: u32, why: Reset) -> Bytes {
    control(Kind::RstStream, 0, &[&id.to_be_bytes(), &(why as u32).to_be_bytes()])
}

/// Says that no stream above `last` was or will be served.
pub(super) fn go_away(last: u32, error: bool) -> Bytes {
    control(Kind::GoAway, 0, &[&last.to_be_bytes(), &u32::from(error).to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(frame: &[u8]) -> Head {
        Head::parse(*frame.first_chunk().unwrap())
    }

    #[test]
    fn heads() {
        assert_eq!(head(&data(7, b"abc")), Head::Data { id: 7, fin: false, length: 3 });
        assert_eq!(head(&end(7)), Head::Data { id: 7, fin: true, length: 0 });
        let reset = reset(5, Reset::RefusedStream);
        assert_eq!(&reset[..], &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3]);
        assert_eq!(head(&reset), Head::Control { kind: Some(Kind::RstStream), flags: 0, length: 8 });
        assert_eq!(head(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Head::Version(2));
        assert_eq!(
            head(&[0x80, 3, 0, 5, 9, 1, 0, 0]),
            Head::Control { kind: None, flags: 9, length: 65_536 }
        );
    }
}
