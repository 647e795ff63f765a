//! The binary encoding of everything that goes to disk or over the Raft wire.
//!
//! Integers are LEB128 varints, byte strings carry their length, every record opens with a version
//! byte. A decoder returns an error on any input that no encoder wrote; it never panics and never
//! allocates more than its input is long.

use bytes::Bytes;

/// Why bytes are not a record. Not retryable: the data is corrupt or of a later version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The record ends too early.
    #[error("the record is truncated")]
    Truncated,
    /// A later version of the program wrote it.
    #[error("unknown record version {found}")]
    Version {
        /// The version byte.
        found: u8,
    },
    /// A tag that no version of the program writes.
    #[error("unknown tag {found} in {record}")]
    Tag {
        /// Which record.
        record: &'static str,
        /// The tag.
        found: u8,
    },
    /// An integer of more than 64 bits, or one that does not fit where it stands.
    #[error("an integer is out of range")]
    Integer,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    Text,
    /// Bytes after the end of the record.
    #[error("the record has {extra} bytes too many")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

/// Appends to a buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    buf: Vec<u8>,
}

impl Encoder {
    /// An empty record with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { buf: Vec::with_capacity(capacity) }
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.buf.push(v);
        self
    }

    /// A varint.
    pub fn varint(&mut self, mut v: u64) -> &mut Self {
        while v >= 0x80 {
            self.buf.push((v as u8) | 0x80);
            v >>= 7;
        }
        self.buf.push(v as u8);
        self
    }

    /// Length and bytes.
    pub fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.varint(v.len() as u64);
        self.buf.extend_from_slice(v);
        self
    }

    /// Bytes without a length: only as the last field.
    pub fn rest(&mut self, v: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(v);
        self
    }

    /// Length so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// The record.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.buf
    }
}

/// Reads what an [`Encoder`] wrote.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    buf: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Reads `buf` from its start.
    #[must_use]
    pub const fn new(buf: &'a [u8]) -> Self {
        Self { buf }
    }

    /// Reads the version byte that opens a record and checks that it is `known`.
    ///
    /// # Errors
    /// [`DecodeError::Version`] where it is another.
    pub fn version(buf: &'a [u8], known: u8) -> Result<Self, DecodeError> {
        let mut d = Self::new(buf);
        match d.u8()? {
            v if v == known => Ok(d),
            found => Err(DecodeError::Version { found }),
        }
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.buf.split_first().ok_or(DecodeError::Truncated)?;
        self.buf = rest;
        Ok(*first)
    }

    /// A varint.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Integer`]
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Integer);
            }
            v |= bits << shift;
            if byte & 0x80 == 0 {
                // One value, one encoding: the state must be the same byte for byte.
                return if byte == 0 && shift > 0 { Err(DecodeError::Integer) } else { Ok(v) };
            }
        }
        Err(DecodeError::Integer)
    }

    /// A varint that counts or measures something that is still to come.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] where it is larger than the rest of the input.
    pub fn length(&mut self) -> Result<usize, DecodeError> {
        let n = usize::try_from(self.varint()?).map_err(|_| DecodeError::Integer)?;
        if n > self.buf.len() { Err(DecodeError::Truncated) } else { Ok(n) }
    }

    /// Length and bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Integer`]
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let n = self.length()?;
        let (head, rest) = self.buf.split_at_checked(n).ok_or(DecodeError::Truncated)?;
        self.buf = rest;
        Ok(head)
    }

    /// Length and bytes, copied: what is kept must not pin the buffer that it came in.
    ///
    /// # Errors
    /// As [`Decoder::bytes`].
    pub fn owned(&mut self) -> Result<Bytes, DecodeError> {
        self.bytes().map(Bytes::copy_from_slice)
    }

    /// Length and text.
    ///
    /// # Errors
    /// As [`Decoder::bytes`], and [`DecodeError::Text`].
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Text)
    }

    /// Everything that is left.
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.buf
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`]
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.buf.is_empty() { Ok(()) } else { Err(DecodeError::Trailing { extra: self.buf.len() }) }
    }
}
