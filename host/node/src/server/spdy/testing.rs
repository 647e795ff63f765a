//! A client's side of SPDY, as far as tests need it.

use super::frame::{self, FIN, Head, Kind};
use super::headers::{Headers, Writer};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Opens streams.
pub(in crate::server) struct Client(Writer);

impl Client {
    pub(in crate::server) fn new() -> Self {
        Self(Writer::new().unwrap())
    }

    pub(in crate::server) fn open(&mut self, id: u32, pairs: &[(&str, &str)]) -> Bytes {
        self.open_with(id, 0, pairs)
    }

    pub(in crate::server) fn open_and_end(&mut self, id: u32, pairs: &[(&str, &str)]) -> Bytes {
        self.open_with(id, FIN, pairs)
    }

    fn open_with(&mut self, id: u32, flags: u8, pairs: &[(&str, &str)]) -> Bytes {
        let block = self.0.write(&Headers::of(pairs)).unwrap();
        frame::control(Kind::SynStream, flags, &[&id.to_be_bytes(), &[0; 6], &block])
    }
}

/// The data of each stream, and whether it has ended.
pub(in crate::server) fn streams(mut bytes: &[u8]) -> BTreeMap<u32, (Vec<u8>, bool)> {
    let mut all: BTreeMap<u32, (Vec<u8>, bool)> = BTreeMap::new();
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let (Head::Data { length, .. } | Head::Control { length, .. }) = Head::parse(*head) else {
            panic!("another version");
        };
        let (payload, rest) = rest.split_at(length as usize);
        bytes = rest;
        if let Head::Data { id, fin, .. } = Head::parse(*head) {
            let stream = all.entry(id).or_default();
            stream.0.extend_from_slice(payload);
            stream.1 |= fin;
        }
    }
    all
}
