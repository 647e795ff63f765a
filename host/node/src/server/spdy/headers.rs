//! Header blocks of SPDY/3: counted pairs, compressed with zlib and a dictionary that both sides
//! know. One zlib stream runs through all blocks of a direction.

use super::SpdyError;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use std::sync::LazyLock;

/// Longest header block, decompressed, in bytes.
const MOST: usize = 16 * 1024;

/// First part of the dictionary: each word goes after its length in four bytes.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// Second part of the dictionary.
const TAIL: &str = "10010120120220520630030230330430530630740240540640740840941041141241341441541641750250450520\
    3 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unautho\
    rized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unava\
    ilableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat\
    , Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+\
    xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=is\
    o-8859-1,utf-,*,enq=0.";

/// The dictionary (draft-mbelshe-httpbis-spdy-00, section 2.6.10.1).
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS {
        put(&mut out, word.as_bytes());
    }
    out.extend_from_slice(TAIL.as_bytes());
    out
});

fn put(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text);
}

/// Headers of a stream: names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header; empty where there is none.
    pub(in crate::server) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or_default()
    }

    #[cfg(test)]
    pub(in crate::server) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    /// Reads a decompressed block; `None` where it is not well-formed.
    fn parse(mut block: &[u8]) -> Option<Self> {
        fn number(block: &mut &[u8]) -> Option<usize> {
            let (first, rest) = block.split_first_chunk::<4>()?;
            *block = rest;
            usize::try_from(u32::from_be_bytes(*first)).ok()
        }
        fn text(block: &mut &[u8]) -> Option<String> {
            let length = number(block)?;
            let (text, rest) = block.split_at_checked(length)?;
            *block = rest;
            String::from_utf8(text.to_vec()).ok()
        }
        let count = number(&mut block)?;
        // A pair takes eight bytes at least.
        let mut pairs = Vec::with_capacity(count.min(block.len() / 8));
        for _ in 0..count {
            pairs.push((text(&mut block)?.to_ascii_lowercase(), text(&mut block)?));
        }
        block.is_empty().then_some(Self(pairs))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        for (name, value) in &self.0 {
            put(&mut out, name.as_bytes());
            put(&mut out, value.as_bytes());
        }
        out
    }
}

/// Reads the header blocks that a peer sends, in their order.
#[derive(Debug)]
pub(super) struct Reader(Decompress);

impl Reader {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Reads one block.
    ///
    /// # Errors
    /// [`SpdyError::Headers`]: not zlib, another dictionary, too long, or not well-formed. The
    /// stream of blocks cannot be read on after that.
    pub(super) fn read(&mut self, mut input: &[u8]) -> Result<Headers, SpdyError> {
        let mut block = Vec::new();
        while !input.is_empty() || block.len() == block.capacity() {
            if block.len() > MOST {
                return Err(SpdyError::Headers("too long"));
            }
            block.reserve(1024);
            let (before_in, before_out) = (self.0.total_in(), block.len());
            let result = self.0.decompress_vec(input, &mut block, FlushDecompress::Sync);
            let used = usize::try_from(self.0.total_in() - before_in).unwrap_or(usize::MAX);
            input = input.get(used..).unwrap_or_default();
            match result {
                // Nothing more comes: either all is read, or the stream has ended before its input.
                Ok(_) if used == 0 && block.len() == before_out => break,
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| SpdyError::Headers("compressed with another dictionary"))?;
                }
                Err(_) => return Err(SpdyError::Headers("no zlib stream")),
            }
        }
        if !input.is_empty() {
            return Err(SpdyError::Headers("no zlib stream"));
        }
        if block.len() > MOST {
            return Err(SpdyError::Headers("too long"));
        }
        Headers::parse(&block).ok_or(SpdyError::Headers("not well-formed"))
    }
}

/// Writes header blocks, in the order in which they go out.
#[derive(Debug)]
pub(super) struct Writer(Compress);

impl Writer {
    /// # Errors
    /// [`SpdyError::Headers`] where zlib refuses the dictionary.
    pub(super) fn new() -> Result<Self, SpdyError> {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Headers("not compressible"))?;
        Ok(Self(zlib))
    }

    /// Compresses one block.
    ///
    /// # Errors
    /// [`SpdyError::Headers`] where zlib fails.
    pub(super) fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, SpdyError> {
        let block = headers.encode();
        let mut input = block.as_slice();
        let mut out = Vec::new();
        while !input.is_empty() || out.len() == out.capacity() {
            out.reserve(input.len() + 64);
            let before = self.0.total_in();
            self.0
                .compress_vec(input, &mut out, FlushCompress::Sync)
                .map_err(|_| SpdyError::Headers("not compressible"))?;
            let used = usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            input = input.get(used..).unwrap_or_default();
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The head of a zlib stream names its dictionary by a checksum; this is the one of SPDY/3.
    #[test]
    fn the_dictionary_is_the_one_of_spdy_3() {
        assert_eq!(DICTIONARY.len(), 1423);
        let block = Writer::new().unwrap().write(&Headers::default()).unwrap();
        assert_eq!(&block[2..6], &0xe3c6_a7c2_u32.to_be_bytes());
    }

    #[test]
    fn blocks_share_one_stream() {
        let (mut writer, mut reader) = (Writer::new().unwrap(), Reader::new());
        for i in 0..50 {
            let headers = Headers::of(&[("streamtype", "data"), ("requestid", &i.to_string())]);
            assert_eq!(reader.read(&writer.write(&headers).unwrap()).unwrap(), headers);
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = Headers::of(&[("x", &"0".repeat(10 * MOST))]);
        let block = Writer::new().unwrap().write(&bomb).unwrap();
        assert!(matches!(Reader::new().read(&block), Err(SpdyError::Headers("too long"))));
    }

    proptest! {
        #[test]
        fn any_headers_come_back(pairs in prop::collection::vec(("[a-z-]{0,20}", ".{0,40}"), 0..20)) {
            let headers = Headers(pairs);
            let block = Writer::new().unwrap().write(&headers).unwrap();
            prop_assert_eq!(Reader::new().read(&block).unwrap(), headers);
        }

        #[test]
        fn any_bytes_are_a_block_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Reader::new().read(&bytes);
            let _ = Headers::parse(&bytes);
            let mut known = Writer::new().unwrap().write(&Headers::default()).unwrap();
            known.extend_from_slice(&bytes);
            let _ = Reader::new().read(&known);
        }
    }
}
