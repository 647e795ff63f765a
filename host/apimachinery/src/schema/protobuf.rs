//! Kubernetes' protobuf → the JSON value of a type, by the field numbers in the schema.
//!
//! Typed Go clients send their bodies so. Go's plain fields are on the wire even where they are
//! zero, its pointers only where they are set; the schema does not tell them apart, so zeros are
//! dropped but for fields that are known to be pointers ([`POINTERS`]) and required ones.
//!
//! Source: `k8s.io/apimachinery/pkg/runtime/serializer/protobuf`.

use super::{Field, Resolved, SchemaSet, Shape, StructType, TypeId};
use crate::gvk::Gvk;
use serde_json::{Map, Value};

/// Begins every body; `runtime.Unknown` follows.
const MAGIC: &[u8] = b"k8s\0";

/// Deepest nesting that is read; built-in types but JSON schemas stay far below.
const DEEPEST: usize = 64;

/// Fields whose zero differs from their absence.
const POINTERS: &[&str] = &[
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "backoffLimit",
    "backoffLimitPerIndex",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "leaseTransitions",
    "minReplicas",
    "mode",
    "optional",
    "parallelism",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seconds",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "started",
    "storageClassName",
    "successfulJobsHistoryLimit",
    "suspend",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
];

/// Why bytes are no object. Answered 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The four magic bytes are missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoPrefix,
    /// The bytes end too early, or a field has another form than its type.
    #[error("proto: illegal wireType or unexpected EOF in {place}")]
    Malformed {
        /// Type or field in which it was.
        place: String,
    },
}

/// What is around an object on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// As the sender says.
    pub gvk: Gvk,
    /// The object's own message.
    pub raw: &'a [u8],
}

fn malformed(place: &str) -> ProtobufError {
    ProtobufError::Malformed { place: place.to_owned() }
}

/// Opens `runtime.Unknown`.
///
/// # Errors
/// [`ProtobufError`]
pub fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    const PLACE: &str = "runtime.Unknown";
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoPrefix)?;
    let (mut api_version, mut kind, mut raw) = ("", "", &[][..]);
    for entry in Fields(body) {
        match entry.ok_or_else(|| malformed(PLACE))? {
            (1, Wire::Bytes(meta)) => {
                for entry in Fields(meta) {
                    match entry.ok_or_else(|| malformed(PLACE))? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text, PLACE)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text, PLACE)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    Ok(Envelope { gvk: Gvk::from_api_version(api_version, kind), raw })
}

impl SchemaSet {
    /// Reads an object's message (without envelope) as JSON. `apiVersion` and `kind` are not in
    /// it. The value must still be normalised.
    ///
    /// # Errors
    /// [`ProtobufError::Malformed`]
    pub fn decode_protobuf(&self, id: TypeId, raw: &[u8]) -> Result<Value, ProtobufError> {
        let mut object = Map::new();
        if let Some(one) = self.get(id) {
            Reader { set: self }.message(one, 0, raw, &mut object, 0)?;
        }
        Ok(Value::Object(object))
    }
}

/// One value on the wire.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// The fields of a message; an item is `None` where the bytes are broken, and the last one then.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u32, Wire<'a>)> {
        let head = self.varint()?;
        let number = u32::try_from(head >> 3).ok()?;
        let wire = match head & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return None,
        };
        Some((number, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u32, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn utf8<'a>(bytes: &'a [u8], place: &str) -> Result<&'a str, ProtobufError> {
    std::str::from_utf8(bytes).map_err(|_| malformed(place))
}

struct Reader<'a> {
    set: &'a SchemaSet,
}

impl Reader<'_> {
    /// Reads a message into `object`: the type's own (`embedded` 0) or that of the struct that is
    /// embedded under the number.
    fn message(
        &self,
        one: &StructType,
        embedded: u32,
        raw: &[u8],
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        if depth > DEEPEST {
            return Err(malformed(&one.name));
        }
        for entry in Fields(raw) {
            let (number, wire) = entry.ok_or_else(|| malformed(&one.name))?;
            let path = if embedded == 0 { (number, 0) } else { (embedded, number) };
            let is = |f: &&Field| (u32::from(f.number.0), u32::from(f.number.1)) == path;
            if let Some(field) = one.fields.iter().find(is) {
                self.field(field, wire, object, depth)?;
            } else if embedded == 0
                && one.fields.iter().any(|f| u32::from(f.number.0) == number && f.number.1 != 0)
                && let Wire::Bytes(inner) = wire
            {
                self.message(one, number, inner, object, depth + 1)?;
            }
        }
        Ok(())
    }

    fn field(
        &self,
        field: &Field,
        wire: Wire<'_>,
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        let name = field.name.as_ref();
        match (self.set.resolve(&field.node.shape), wire) {
            (Resolved::Shape(Shape::List(item)), wire) => {
                let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let Some(list) = list.as_array_mut() else { return Ok(()) };
                let numeric = matches!(item.shape, Shape::Int32 | Shape::Int64 | Shape::Bool);
                if let (Wire::Bytes(packed), true) = (wire, numeric) {
                    let mut rest = Fields(packed);
                    while !rest.0.is_empty() {
                        let number = rest.varint().ok_or_else(|| malformed(name))?;
                        list.push(self.value(&item.shape, Wire::Varint(number), name, depth)?);
                    }
                } else {
                    list.push(self.value(&item.shape, wire, name, depth)?);
                }
            }
            (Resolved::Shape(Shape::Map(item)), Wire::Bytes(entry)) => {
                let (mut key, mut value) = ("", None);
                for part in Fields(entry) {
                    match part.ok_or_else(|| malformed(name))? {
                        (1, Wire::Bytes(text)) => key = utf8(text, name)?,
                        (2, wire) => value = Some(self.map_value(&item.shape, wire, name, depth)?),
                        _ => {}
                    }
                }
                let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key.to_owned(), value.unwrap_or_else(|| Value::String(String::new())));
                }
            }
            (Resolved::Struct(_, one), Wire::Bytes(raw)) => {
                // A message that comes twice is merged, as protobuf demands.
                let inner = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(inner) = inner.as_object_mut() {
                    self.message(one, 0, raw, inner, depth + 1)?;
                }
            }
            (_, wire) => {
                let value = self.value(&field.node.shape, wire, name, depth)?;
                let is_zero = value.is_null() || value == "" || value == 0 || value == false;
                let kept = field.required || POINTERS.contains(&name);
                if !value.is_null() && (!is_zero || kept) {
                    object.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// A map's list is a message with the items as field 1 (`ExtraValue`).
    fn map_value(
        &self,
        shape: &Shape,
        wire: Wire<'_>,
        name: &str,
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        let (Shape::List(item), Wire::Bytes(raw)) = (shape, wire) else {
            return self.value(shape, wire, name, depth);
        };
        let mut items = Vec::new();
        for part in Fields(raw) {
            if let (1, wire) = part.ok_or_else(|| malformed(name))? {
                items.push(self.value(&item.shape, wire, name, depth)?);
            }
        }
        Ok(Value::Array(items))
    }

    fn value(&self, shape: &Shape, wire: Wire<'_>, name: &str, depth: usize) -> Result<Value, ProtobufError> {
        Ok(match (self.set.resolve(shape), wire) {
            (Resolved::Struct(_, one), Wire::Bytes(raw)) => {
                let mut object = Map::new();
                self.message(one, 0, raw, &mut object, depth + 1)?;
                Value::Object(object)
            }
            (Resolved::Shape(shape), Wire::Bytes(raw)) => match shape {
                Shape::String => utf8(raw, name)?.into(),
                Shape::Bytes => base64(raw).into(),
                Shape::Time | Shape::MicroTime => time(raw, matches!(shape, Shape::MicroTime), name)?,
                Shape::Quantity => match only(raw, name)? {
                    Some(text) if !text.is_empty() => utf8(text, name)?.into(),
                    _ => "0".into(),
                },
                Shape::IntOrString => int_or_string(raw, name)?,
                Shape::Any => match only(raw, name)? {
                    Some(json) => serde_json::from_slice(json).map_err(|_| malformed(name))?,
                    None => Value::Null,
                },
                _ => return Err(malformed(name)),
            },
            (Resolved::Shape(Shape::Bool), Wire::Varint(number)) => (number != 0).into(),
            (Resolved::Shape(Shape::Int32 | Shape::Int64), Wire::Varint(number)) => {
                number.cast_signed().into()
            }
            (Resolved::Shape(Shape::Number), Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
            _ => return Err(malformed(name)),
        })
    }
}

/// The bytes of field 1.
fn only<'a>(raw: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, ProtobufError> {
    let mut found = None;
    for part in Fields(raw) {
        if let (1, Wire::Bytes(bytes)) = part.ok_or_else(|| malformed(name))? {
            found = Some(bytes);
        }
    }
    Ok(found)
}

/// Seconds and nanoseconds; both zero is Go's zero time, which JSON leaves out.
fn time(raw: &[u8], micro: bool, name: &str) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    for part in Fields(raw) {
        match part.ok_or_else(|| malformed(name))? {
            (1, Wire::Varint(number)) => seconds = number.cast_signed(),
            (2, Wire::Varint(number)) => nanos = number.cast_signed(),
            _ => {}
        }
    }
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| malformed(name))?;
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| malformed(name))?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(time.strftime(format).to_string().into())
}

fn int_or_string(raw: &[u8], name: &str) -> Result<Value, ProtobufError> {
    let (mut is_string, mut number, mut text) = (false, 0_i64, "");
    for part in Fields(raw) {
        match part.ok_or_else(|| malformed(name))? {
            (1, Wire::Varint(kind)) => is_string = kind != 0,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(value)) => text = utf8(value, name)?,
            _ => {}
        }
    }
    Ok(if is_string { text.into() } else { number.into() })
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * at) & 63).unwrap_or(0);
            let known = at <= chunk.len();
            text.push(if known { ALPHABET.get(index).copied().map_or('=', char::from) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests;
