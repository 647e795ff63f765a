//! JSON bytes → a typed value, with the faults that Go's decoder reports.
//!
//! Unknown and duplicate fields are collected (`fieldValidation` decides what they cost) and left
//! out; wrong types fail. What Go's round trip would drop is dropped: nulls and empty lists and
//! maps of optional fields. Times and quantities become canonical.

use super::{Resolved, SchemaSet, Shape, StructType, TypeId};
use crate::quantity::Quantity;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt::{self, Write};

/// Most faults that are collected of one body, as upstream.
const MOST_FAULTS: usize = 100;

/// Why a body cannot be an object of the type. All are answered 400 and are not retryable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no JSON.
    #[error("{message}")]
    Syntax {
        /// What the parser said.
        message: String,
    },
    /// A value has a wrong type; the words are those of Go's decoder.
    #[error("{message}")]
    Type {
        /// The words.
        message: String,
    },
    /// `fieldValidation=Strict` and there are unknown or duplicate fields.
    #[error("strict decoding error: {}", faults.join(", "))]
    Strict {
        /// Such as `unknown field "spec.foo"`.
        faults: Vec<String>,
    },
}

/// A decoded body.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The value, known fields only.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.bar"`: the warnings of
    /// `fieldValidation=Warn`.
    pub faults: Vec<String>,
}

impl Decoded {
    /// The value, where nothing was unknown or duplicate: `fieldValidation=Strict`.
    ///
    /// # Errors
    /// [`DecodeError::Strict`] with all the faults.
    pub fn strict(self) -> Result<Value, DecodeError> {
        if self.faults.is_empty() { Ok(self.value) } else { Err(DecodeError::Strict { faults: self.faults }) }
    }
}

/// Parses JSON and reports fields that are there twice; the last one counts.
///
/// # Errors
/// [`DecodeError::Syntax`]
pub fn parse_json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let scan = RefCell::new(Scan::default());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let syntax = |fault: serde_json::Error| DecodeError::Syntax { message: fault.to_string() };
    let value = Seed { scan: &scan }.deserialize(&mut deserializer).map_err(syntax)?;
    deserializer.end().map_err(syntax)?;
    Ok(Decoded { value, faults: scan.into_inner().faults })
}

impl SchemaSet {
    /// Parses and checks a body of the type.
    ///
    /// # Errors
    /// [`DecodeError::Syntax`] and [`DecodeError::Type`]; unknown and duplicate fields are in
    /// [`Decoded::faults`].
    pub fn decode(&self, id: TypeId, bytes: &[u8]) -> Result<Decoded, DecodeError> {
        let mut decoded = parse_json(bytes)?;
        let faults = self.normalize(id, &mut decoded.value)?;
        decoded.faults.extend(faults);
        decoded.faults.truncate(MOST_FAULTS);
        Ok(decoded)
    }

    /// Checks and cleans a value of the type in place; returns the unknown fields, which are
    /// removed, as `unknown field "…"`.
    ///
    /// # Errors
    /// [`DecodeError::Type`]
    pub fn normalize(&self, id: TypeId, value: &mut Value) -> Result<Vec<String>, DecodeError> {
        let mut walk = Walk { set: self, unknown: Vec::new() };
        let Some(one) = self.get(id) else { return Ok(Vec::new()) };
        walk.object(one, value)?;
        Ok(walk.unknown.into_iter().map(|path| format!("unknown field \"{path}\"")).collect())
    }
}

// === impl duplicate scan ===

#[derive(Default)]
struct Scan {
    path: Vec<Step>,
    faults: Vec<String>,
}

enum Step {
    Field(String),
    Index(usize),
}

fn render<'a>(steps: impl Iterator<Item = &'a Step>) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Step::Index(at) => {
                let _ = write!(text, "[{at}]");
            }
        }
    }
    text
}

struct Seed<'a> {
    scan: &'a RefCell<Scan>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Deserialize::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            self.scan.borrow_mut().path.push(Step::Index(items.len()));
            let item = seq.next_element_seed(Seed { scan: self.scan })?;
            self.scan.borrow_mut().path.pop();
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            {
                let mut scan = self.scan.borrow_mut();
                scan.path.push(Step::Field(key.clone()));
                if object.contains_key(&key) && scan.faults.len() < MOST_FAULTS {
                    let fault = format!("duplicate field \"{}\"", render(scan.path.iter()));
                    if !scan.faults.contains(&fault) {
                        scan.faults.push(fault);
                    }
                }
            }
            let value = map.next_value_seed(Seed { scan: self.scan })?;
            self.scan.borrow_mut().path.pop();
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

// === impl typed walk ===

struct Walk<'a> {
    set: &'a SchemaSet,
    /// Paths of unknown fields, relative to the object in hand; parents prefix them.
    unknown: Vec<String>,
}

/// A wrong type on its way up; every struct on the way adds its field.
enum Fault {
    Mismatch { found: String, wanted: String, owner: Option<String>, fields: Vec<String> },
    Custom(String),
}

impl Fault {
    fn mismatch(value: &Value, wanted: impl Into<String>) -> Self {
        Self::Mismatch { found: describe(value), wanted: wanted.into(), owner: None, fields: Vec::new() }
    }

    fn within(mut self, owner: &StructType, field: &str) -> Self {
        if let Self::Mismatch { owner: name, fields, .. } = &mut self {
            name.get_or_insert_with(|| owner.short_name().to_owned());
            fields.push(field.to_owned());
        }
        self
    }
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        let message = match fault {
            Fault::Custom(message) => message,
            Fault::Mismatch { found, wanted, owner: Some(owner), mut fields } => {
                fields.reverse();
                let path = fields.join(".");
                format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}")
            }
            Fault::Mismatch { found, wanted, owner: None, .. } => {
                format!("json: cannot unmarshal {found} into Go value of type {wanted}")
            }
        };
        Self::Type { message }
    }
}

/// What Go calls the JSON value.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if number.is_i64() => "number".to_owned(),
        Value::Number(number) => format!("number {number}"),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// Go's name of a struct type: the package is the version.
fn go_struct(one: &StructType) -> String {
    let mut parts = one.name.rsplit('.');
    let short = parts.next().unwrap_or_default();
    format!("{}.{short}", parts.next().unwrap_or_default())
}

impl Walk<'_> {
    fn go_type(&self, shape: &Shape) -> String {
        match shape {
            Shape::Any => "interface {}".to_owned(),
            Shape::String => "string".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::Time => "v1.Time".to_owned(),
            Shape::MicroTime => "v1.MicroTime".to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::Int32 => "int32".to_owned(),
            Shape::Int64 => "int64".to_owned(),
            Shape::Number => "float64".to_owned(),
            Shape::IntOrString => "intstr.IntOrString".to_owned(),
            Shape::Quantity => "resource.Quantity".to_owned(),
            Shape::List(item) => format!("[]{}", self.go_type(&item.shape)),
            Shape::Map(item) => format!("map[string]{}", self.go_type(&item.shape)),
            Shape::Struct(_) => match self.set.resolve(shape) {
                Resolved::Struct(_, one) => go_struct(one),
                Resolved::Shape(alias) => self.go_type(alias),
            },
        }
    }

    /// Prefixes what was found since `before`.
    fn prefix(&mut self, before: usize, step: &str) {
        for path in self.unknown.iter_mut().skip(before) {
            let dot = if path.starts_with('[') { "" } else { "." };
            *path = format!("{step}{dot}{path}");
        }
    }

    fn object(&mut self, one: &StructType, value: &mut Value) -> Result<(), Fault> {
        let Some(object) = value.as_object_mut() else {
            return Err(Fault::mismatch(value, go_struct(one)));
        };
        let mut result = Ok(());
        object.retain(|key, value| {
            if result.is_err() {
                return true;
            }
            let Some(field) = one.field(key) else {
                if !one.open && self.unknown.len() < MOST_FAULTS {
                    self.unknown.push(key.clone());
                }
                return one.open;
            };
            if value.is_null() {
                return field.node.merge().nullable;
            }
            let before = self.unknown.len();
            if let Err(fault) = self.shape(&field.node.shape, value) {
                result = Err(fault.within(one, key));
                return true;
            }
            self.prefix(before, key);
            let empty = match &*value {
                Value::Array(items) => items.is_empty(),
                Value::Object(entries) => entries.is_empty() && matches!(field.node.shape, Shape::Map(_)),
                _ => false,
            };
            !empty || field.required || one.open || matches!(field.node.shape, Shape::Any)
        });
        result
    }

    fn shape(&mut self, shape: &Shape, value: &mut Value) -> Result<(), Fault> {
        match shape {
            Shape::Any => {}
            Shape::String if value.is_string() => {}
            Shape::Bool if value.is_boolean() => {}
            Shape::Number if value.is_number() => {}
            Shape::Int32 if value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            Shape::Int32 if value.is_i64() => {
                return Err(Fault::Mismatch {
                    found: format!("number {value}"),
                    wanted: "int32".to_owned(),
                    owner: None,
                    fields: Vec::new(),
                });
            }
            Shape::Int64 if value.is_i64() => {}
            Shape::IntOrString => int_or_string(value)?,
            Shape::Quantity => quantity(value)?,
            Shape::Bytes if value.is_string() => {
                base64(value.as_str().unwrap_or_default())
                    .map_err(|at| Fault::Custom(format!("illegal base64 data at input byte {at}")))?;
            }
            Shape::Time => time(value, "2006-01-02T15:04:05Z07:00", "%Y-%m-%dT%H:%M:%SZ")?,
            Shape::MicroTime => time(value, "2006-01-02T15:04:05.000000Z07:00", "%Y-%m-%dT%H:%M:%S.%6fZ")?,
            Shape::List(item) => {
                let Some(items) = value.as_array_mut() else {
                    return Err(Fault::mismatch(value, self.go_type(shape)));
                };
                for (at, inner) in items.iter_mut().enumerate() {
                    let before = self.unknown.len();
                    self.element(&item.shape, inner)?;
                    if self.unknown.len() > before {
                        self.prefix(before, &format!("[{at}]"));
                    }
                }
            }
            Shape::Map(item) => {
                let Some(entries) = value.as_object_mut() else {
                    return Err(Fault::mismatch(value, self.go_type(shape)));
                };
                for (key, inner) in entries.iter_mut() {
                    let before = self.unknown.len();
                    self.element(&item.shape, inner)?;
                    self.prefix(before, key);
                }
            }
            Shape::Struct(_) => match self.set.resolve(shape) {
                Resolved::Struct(_, one) => self.object(one, value)?,
                Resolved::Shape(alias) => self.shape(alias, value)?,
            },
            _ => return Err(Fault::mismatch(value, self.go_type(shape))),
        }
        Ok(())
    }

    /// An item of a list or map, where null is Go's zero value.
    fn element(&mut self, shape: &Shape, value: &mut Value) -> Result<(), Fault> {
        if value.is_null() {
            match self.set.resolve(shape) {
                Resolved::Struct(..) | Resolved::Shape(Shape::Map(_)) => *value = Value::Object(Map::new()),
                Resolved::Shape(Shape::String | Shape::Bytes) => *value = Value::String(String::new()),
                Resolved::Shape(Shape::Int32 | Shape::Int64 | Shape::IntOrString) => *value = 0.into(),
                Resolved::Shape(Shape::Bool) => *value = false.into(),
                Resolved::Shape(Shape::Quantity) => *value = "0".into(),
                Resolved::Shape(_) => return Ok(()),
            }
        }
        self.shape(shape, value)
    }
}

fn int_or_string(value: &Value) -> Result<(), Fault> {
    if value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) {
        return Ok(());
    }
    let found = if value.is_number() { format!("number {value}") } else { describe(value) };
    Err(Fault::Custom(format!("json: cannot unmarshal {found} into Go value of type int32")))
}

fn quantity(value: &mut Value) -> Result<(), Fault> {
    let parsed = match &*value {
        Value::String(text) => Quantity::parse(text.trim()),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => Err(crate::quantity::QuantityError::Format),
    };
    *value = Value::String(parsed.map_err(|fault| Fault::Custom(fault.to_string()))?.to_string());
    Ok(())
}

fn time(value: &mut Value, layout: &str, format: &str) -> Result<(), Fault> {
    let Some(text) = value.as_str() else {
        let found = describe(value);
        return Err(Fault::Custom(format!("json: cannot unmarshal {found} into Go value of type string")));
    };
    let parsed: jiff::Timestamp = text.parse().map_err(|_| {
        Fault::Custom(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""))
    })?;
    *value = Value::String(parsed.strftime(format).to_string());
    Ok(())
}

/// Checks standard base64 with padding, line breaks allowed; `Err` is the offset that Go names.
fn base64(text: &str) -> Result<(), usize> {
    let mut count = 0_usize;
    let mut padding = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\n' | b'\r' => {}
            b'=' if count % 4 >= 2 && padding < 2 => {
                count += 1;
                padding += 1;
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => count += 1,
            _ => return Err(at),
        }
    }
    if count.is_multiple_of(4) { Ok(()) } else { Err(text.len()) }
}
