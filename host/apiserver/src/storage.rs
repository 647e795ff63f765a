//! How objects lie in the store: keys, the envelope, and the splice that adds a resourceVersion.
//!
//! A stored value is `o r l 0x01`, a little-endian u32, and the object's canonical JSON without
//! `metadata.resourceVersion`. The number is the offset in the JSON at which the resourceVersion
//! belongs, so that a read only joins bytes. The format is versioned by the fourth byte.

use bytes::{BufMut, Bytes, BytesMut};
use orlop_apimachinery::{Object, ObjectError};
use serde_json::Value;

const MAGIC: [u8; 4] = [b'o', b'r', b'l', 1];
const HEADER: usize = 8;

/// Prefix of every key that holds an object.
pub(crate) const ROOT: &str = "/registry/";

/// Why a stored value cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// Not our format, or that of a newer version. The operator must act.
    #[error("the stored value is not in a format that this version reads")]
    Format,
    /// The JSON is broken. The operator must act.
    #[error("the stored value is not a valid object")]
    Object(#[source] ObjectError),
    /// Could not be serialised.
    #[error("the object cannot be stored")]
    Encode(#[source] serde_json::Error),
    /// The object has no `metadata` with a name.
    #[error("the object has no metadata to store")]
    NoMetadata,
}

/// `/registry/<prefix>/<namespace>/<name>`, without the namespace for cluster-scoped objects.
pub(crate) fn key(prefix: &str, namespace: &str, name: &str) -> Bytes {
    let mut key = String::with_capacity(ROOT.len() + prefix.len() + namespace.len() + name.len() + 2);
    key.push_str(ROOT);
    key.push_str(prefix);
    key.push('/');
    if !namespace.is_empty() {
        key.push_str(namespace);
        key.push('/');
    }
    key.push_str(name);
    Bytes::from(key)
}

/// The key just after all keys that begin with `prefix`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bytes::from(end);
        }
    }
    Bytes::from_static(&[0])
}

/// Puts an object into its envelope. `metadata.resourceVersion` must be absent.
pub(crate) fn encode(object: &Value) -> Result<Bytes, StorageError> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut out, object).map_err(StorageError::Encode)?;
    let at = splice_offset(out.get(HEADER..).unwrap_or_default()).ok_or(StorageError::NoMetadata)?;
    let at = u32::try_from(at).map_err(|_| StorageError::NoMetadata)?;
    if let Some(slot) = out.get_mut(4..HEADER) {
        slot.copy_from_slice(&at.to_le_bytes());
    }
    Ok(Bytes::from(out))
}

/// The JSON in an envelope and its splice offset.
pub(crate) fn open(value: &Bytes) -> Result<(Bytes, u32), StorageError> {
    let header: [u8; HEADER] =
        value.get(..HEADER).and_then(|h| h.try_into().ok()).ok_or(StorageError::Format)?;
    let [m0, m1, m2, m3, o0, o1, o2, o3] = header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(StorageError::Format);
    }
    let at = u32::from_le_bytes([o0, o1, o2, o3]);
    let json = value.slice(HEADER..);
    if at as usize > json.len() {
        return Err(StorageError::Format);
    }
    Ok((json, at))
}

/// The object at a revision.
pub(crate) fn decode(value: &Bytes, revision: u64) -> Result<(Object, u32), StorageError> {
    let (json, at) = open(value)?;
    let object = Object::from_json(splice(&json, at, revision)).map_err(StorageError::Object)?;
    Ok((object, at))
}

/// Joins the JSON and its resourceVersion.
pub(crate) fn splice(json: &[u8], at: u32, revision: u64) -> Bytes {
    let (head, tail) = json.split_at(at as usize);
    let revision = revision.to_string();
    let mut out = BytesMut::with_capacity(json.len() + 24 + revision.len());
    out.put_slice(head);
    out.put_slice(b",\"resourceVersion\":\"");
    out.put_slice(revision.as_bytes());
    out.put_u8(b'"');
    out.put_slice(tail);
    out.freeze()
}

/// The same object with another resourceVersion: what a DELETED event shows.
pub(crate) fn with_revision(object: &Object, at: u32, revision: u64) -> Result<Object, StorageError> {
    let bytes = object.bytes();
    let old = object.meta().resource_version.to_string();
    let at = at as usize;
    let tail = at + b",\"resourceVersion\":\"\"".len() + old.len();
    let (Some(head), Some(tail)) = (bytes.get(..at), bytes.get(tail..)) else {
        return Err(StorageError::Format);
    };
    let mut json = Vec::with_capacity(bytes.len());
    json.extend_from_slice(head);
    json.extend_from_slice(tail);
    let at = u32::try_from(at).map_err(|_| StorageError::Format)?;
    Object::from_json(splice(&json, at, revision)).map_err(StorageError::Object)
}

/// Where in canonical JSON `,"resourceVersion":"…"` belongs: behind the last member of `metadata`
/// that sorts before it. `None` where there is no such place.
fn splice_offset(json: &[u8]) -> Option<usize> {
    let mut scan = Scan { json, at: 0 };
    scan.expect(b'{')?;
    loop {
        let key = scan.string()?;
        scan.expect(b':')?;
        if key == b"metadata" {
            return scan.metadata();
        }
        scan.value()?;
        scan.expect(b',')?;
    }
}

/// Walks over compact, well-formed JSON.
struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// The raw text between the quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        let text = self.json.get(start..self.at)?;
        self.at += 1;
        Some(text)
    }

    fn value(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => {
                self.string()?;
            }
            b'{' | b'[' => {
                let mut depth = 0_usize;
                loop {
                    match self.peek()? {
                        b'"' => {
                            self.string()?;
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                }
            }
            _ => {
                while !matches!(self.peek()?, b',' | b'}' | b']') {
                    self.at += 1;
                }
            }
        }
        Some(())
    }

    fn metadata(&mut self) -> Option<usize> {
        self.expect(b'{')?;
        let mut end = None;
        loop {
            let key = self.string()?;
            if key > b"resourceVersion".as_slice() && end.is_some() {
                return end;
            }
            self.expect(b':')?;
            self.value()?;
            end = Some(self.at);
            if self.peek()? == b'}' {
                return end;
            }
            self.expect(b',')?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn round(value: &Value) -> Object {
        let stored = encode(value).unwrap();
        decode(&stored, 42).unwrap().0
    }

    #[test]
    fn resource_version_is_spliced_where_it_sorts() {
        let value = json!({"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"a":"}\"{","resourceVersion":"x"},
            "name":"n","namespace":"d","uid":"u"},"spec":{"metadata":{}}});
        let object = round(&value);
        let text = std::str::from_utf8(object.bytes()).unwrap();
        assert!(text.contains(r#""namespace":"d","resourceVersion":"42","uid":"u""#), "{text}");
        assert_eq!(object.meta().resource_version, 42);
        let mut expected = value;
        expected["metadata"]["resourceVersion"] = json!("42");
        assert_eq!(object.to_value(), expected);
    }

    #[test]
    fn another_revision_replaces_the_first() {
        let value = json!({"kind":"Pod","metadata":{"name":"n"},"z":1});
        let stored = encode(&value).unwrap();
        let (object, at) = decode(&stored, 9).unwrap();
        let later = with_revision(&object, at, 1000).unwrap();
        assert_eq!(later.meta().resource_version, 1000);
        assert_eq!(later.to_value()["metadata"], json!({"name":"n","resourceVersion":"1000"}));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(matches!(open(&Bytes::from_static(b"{}")), Err(StorageError::Format)));
        assert!(matches!(open(&Bytes::from_static(b"orl\x02\0\0\0\0{}")), Err(StorageError::Format)));
        assert!(matches!(encode(&json!({"kind":"x"})), Err(StorageError::NoMetadata)));
    }

    #[test]
    fn prefix_ends_follow_all_their_keys() {
        assert_eq!(prefix_end(b"/registry/"), Bytes::from_static(b"/registry0"));
        assert_eq!(prefix_end(&[0xff]), Bytes::from_static(&[0]));
    }
}
