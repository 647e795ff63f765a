//! OpenAPI v2 as protobuf, which kubectl before 1.27 asks for and cannot do without.
//!
//! Source of the field numbers: `OpenAPIv2.proto` of gnostic (`openapi.v2.Document`). Written are
//! the definitions, and of the paths what a client looks up in them: the parameters and kinds of
//! patches.

use serde_json::{Map, Value};

/// The media types by which clients ask for it.
pub(crate) const ASKED: &[&str] = &["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", MEDIA];
/// What it is sent as: the same without the `@`, which is not allowed in a media type.
pub(crate) const MEDIA: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Encodes the JSON form of a document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    if let Some(info) = document.get("info") {
        let mut message = Message::default();
        message.text(1, info.get("title"));
        message.text(2, info.get("version"));
        out.message(2, &message);
    }
    let mut paths = Message::default();
    for (path, item) in entries(document.get("paths")) {
        if let Some(patch) = item.get("patch") {
            let mut inner = Message::default();
            inner.message(8, &operation(patch));
            paths.message(2, &named(path, &inner));
        }
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, definition) in entries(document.get("definitions")) {
        definitions.message(1, &named(name, &schema(definition)));
    }
    out.message(9, &definitions);
    out.0
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

/// `NamedSchema`, `NamedPathItem` and `NamedAny` are alike.
fn named(name: &str, value: &Message) -> Message {
    let mut message = Message::default();
    message.bytes(1, name.as_bytes());
    message.message(2, value);
    message
}

/// `Any`: the value as YAML, of which JSON is a part.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, value.to_string().as_bytes());
    message
}

fn extensions(out: &mut Message, number: u32, object: &Value) {
    for (name, value) in entries(Some(object)).filter(|(name, _)| name.starts_with("x-")) {
        out.message(number, &named(name, &any(value)));
    }
}

fn operation(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(5, value.get("operationId"));
    for parameter in value.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        if parameter.get("in").and_then(Value::as_str) != Some("query") {
            continue;
        }
        // Four layers of "one of" say: a query parameter.
        let mut query = Message::default();
        query.text(2, parameter.get("in"));
        query.text(3, parameter.get("description"));
        query.text(4, parameter.get("name"));
        query.text(6, parameter.get("type"));
        out.message(8, &wrapped(1, &wrapped(2, &wrapped(3, &query))));
    }
    extensions(&mut out, 13, value);
    out
}

fn wrapped(number: u32, inner: &Message) -> Message {
    let mut message = Message::default();
    message.message(number, inner);
    message
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.get("$ref"));
    out.text(2, value.get("format"));
    out.text(4, value.get("description"));
    if let Some(default) = value.get("default") {
        out.message(5, &any(default));
    }
    for required in value.get("required").and_then(Value::as_array).into_iter().flatten() {
        out.text(19, Some(required));
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(allowed)) => {
            let mut item = Message::default();
            item.varint(2, u64::from(*allowed));
            out.message(21, &item);
        }
        Some(inner) => out.message(21, &wrapped(1, &schema(inner))),
        None => {}
    }
    if let Some(kind) = value.get("type") {
        let mut item = Message::default();
        item.text(1, Some(kind));
        out.message(22, &item);
    }
    if let Some(items) = value.get("items") {
        out.message(23, &wrapped(1, &schema(items)));
    }
    for part in value.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        out.message(24, &schema(part));
    }
    if let Some(Value::Object(properties)) = value.get("properties") {
        out.message(25, &named_schemas(properties));
    }
    extensions(&mut out, 31, value);
    out
}

fn named_schemas(properties: &Map<String, Value>) -> Message {
    let mut message = Message::default();
    for (name, property) in properties {
        message.message(1, &named(name, &schema(property)));
    }
    message
}

/// A protobuf message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, number: u32, value: u64) {
        self.raw_varint(u64::from(number) << 3);
        self.raw_varint(value);
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.raw_varint(u64::from(number) << 3 | 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, number: u32, message: &Self) {
        self.bytes(number, &message.0);
    }

    /// A string; nothing where there is none.
    fn text(&mut self, number: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|t| !t.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_reads_as_gnostic_writes_it() {
        let document = json!({
            "swagger": "2.0",
            "definitions": { "a": { "type": "object", "x-y": 1, "properties": { "b": { "$ref": "#/definitions/c" } } } },
        });
        let reference = b"\x0a\x01b\x12\x11\x0a\x0f#/definitions/c";
        let properties = [&[0x0a, reference.len() as u8][..], reference].concat();
        let extension = b"\x0a\x03x-y\x12\x03\x12\x011";
        let schema = [
            b"\xb2\x01\x08\x0a\x06object".as_slice(),
            &[0xca, 0x01, properties.len() as u8],
            &properties,
            &[0xfa, 0x01, extension.len() as u8],
            extension,
        ]
        .concat();
        let named = [b"\x0a\x01a\x12".as_slice(), &[schema.len() as u8], &schema].concat();
        let definitions = [&[0x0a, named.len() as u8][..], &named].concat();
        let whole =
            [b"\x0a\x032.0\x42\x00\x4a".as_slice(), &[definitions.len() as u8], &definitions].concat();
        assert_eq!(encode(&document), whole);
    }
}
