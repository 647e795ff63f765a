//! Schemas of API types, held small, and what is computed from them: decoding with upstream's
//! errors, defaults, merge rules, OpenAPI.
//!
//! A [`SchemaSet`] is a flat table of struct types that refer to each other by [`TypeId`]; names
//! of built-in types are slices of the embedded text. All of Kubernetes' types take about 300 KB.
//! A CustomResourceDefinition's structural schema becomes types of the same shape (nested objects
//! are anonymous types) through [`SchemaSet::add`], in a set of its own.
//!
//! What is not here: validation beyond types, which strategies do for built-in types.

use crate::gvk::Gvk;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;

pub mod decode;
mod load;
pub mod openapi;
pub mod protobuf;

pub use decode::{DecodeError, Decoded};
pub use load::LoadError;

/// A name: a slice of embedded text, or owned where it came at run time.
pub type Text = Cow<'static, str>;

/// A struct type of one [`SchemaSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u32);

/// A table of types.
#[derive(Debug, Default)]
pub struct SchemaSet {
    types: Vec<StructType>,
    names: HashMap<Text, TypeId>,
    kinds: HashMap<Gvk, TypeId>,
}

/// An object with named fields, or a named alias of something else.
#[derive(Debug)]
pub struct StructType {
    /// Without `io.k8s.`, such as `api.apps.v1.DeploymentSpec`; unique in the set.
    pub name: Text,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// For server-side apply its values are one unit.
    pub atomic: bool,
    /// Unknown fields are kept (`x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
    /// The type is not an object but this.
    pub alias: Option<Shape>,
    /// Set for types that clients name by `apiVersion` and `kind`.
    pub kind: Option<Box<Kind>>,
}

/// How clients name a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Group, version and kind.
    pub gvk: Gvk,
    /// Kind of its list; empty for none.
    pub list: Text,
    /// Plural resource name; empty for none.
    pub plural: Text,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

/// One field of a struct.
#[derive(Debug)]
pub struct Field {
    /// JSON name.
    pub name: Text,
    /// Listed under `required` in OpenAPI, and kept when empty.
    pub required: bool,
    /// Protobuf number; where the field is one of an embedded struct, that struct's number and the
    /// field's there. Zeros for none.
    pub number: (u16, u16),
    /// What the field holds.
    pub node: Node,
}

/// A type in its place, with what the place says of merging and defaulting.
#[derive(Debug)]
pub struct Node {
    /// What values are.
    pub shape: Shape,
    /// `None` where nothing is said.
    pub merge: Option<Box<Merge>>,
}

/// What values look like.
#[derive(Debug)]
pub enum Shape {
    /// Any JSON.
    Any,
    /// String.
    String,
    /// Base64.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Boolean.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Float.
    Number,
    /// 32-bit integer or string.
    IntOrString,
    /// Quantity, kept in its canonical text.
    Quantity,
    /// Array.
    List(Box<Node>),
    /// Object with free keys.
    Map(Box<Node>),
    /// Object with named fields.
    Struct(TypeId),
}

/// `x-kubernetes-list-type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// One unit.
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects told apart by keys.
    Map,
}

/// Merge rules and default of a field.
#[derive(Clone, Debug, Default)]
pub struct Merge {
    /// Server-side apply of lists; `None` means atomic.
    pub list: Option<ListType>,
    /// Keys of a list of type map.
    pub keys: Vec<Text>,
    /// Server-side apply of maps and structs; `None` leaves it to the type.
    pub atomic: Option<bool>,
    /// Strategic merge: lists are merged (and not replaced).
    pub patch_merge: bool,
    /// Strategic merge: a struct or map is replaced (and not merged).
    pub patch_replace: bool,
    /// Strategic merge: fields that a patch does not name are cleared.
    pub retain_keys: bool,
    /// Strategic merge: key of list items.
    pub merge_key: Option<Text>,
    /// Schema default.
    pub default: Option<Value>,
    /// `nullable`: an explicit null is kept (CustomResourceDefinitions only).
    pub nullable: bool,
}

static NO_MERGE: Merge = Merge {
    list: None,
    keys: Vec::new(),
    atomic: None,
    patch_merge: false,
    patch_replace: false,
    retain_keys: false,
    merge_key: None,
    default: None,
    nullable: false,
};

impl Node {
    /// A node without merge rules.
    #[must_use]
    pub const fn plain(shape: Shape) -> Self {
        Self { shape, merge: None }
    }

    /// The merge rules, or those of a place that says nothing.
    #[must_use]
    pub fn merge(&self) -> &Merge {
        self.merge.as_deref().unwrap_or(&NO_MERGE)
    }
}

impl StructType {
    /// The field of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok()?;
        self.fields.get(at)
    }

    /// The name after the package: `DeploymentSpec`.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

impl SchemaSet {
    /// Loads structure files in the format of `tools/schemagen`; types may refer to types of
    /// other files of the same call.
    ///
    /// # Errors
    /// [`LoadError`] names the line.
    pub fn load(files: &[&'static str]) -> Result<Self, LoadError> {
        load::load(files)
    }

    /// Adds a type made at run time. Replaces none: names must be new.
    pub fn add(&mut self, mut one: StructType) -> TypeId {
        one.fields.sort_by(|a, b| a.name.cmp(&b.name));
        let id = TypeId(u32::try_from(self.types.len()).unwrap_or(u32::MAX));
        if let Some(kind) = &one.kind {
            self.kinds.insert(kind.gvk.clone(), id);
        }
        self.names.insert(one.name.clone(), id);
        self.types.push(one);
        id
    }

    /// The type of an id of this set.
    #[must_use]
    pub fn get(&self, id: TypeId) -> Option<&StructType> {
        self.types.get(id.0 as usize)
    }

    /// The type that objects of this kind have.
    #[must_use]
    pub fn by_kind(&self, gvk: &Gvk) -> Option<TypeId> {
        self.kinds.get(gvk).copied()
    }

    /// The type of this name, with or without `io.k8s.`.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        self.names.get(name.strip_prefix("io.k8s.").unwrap_or(name)).copied()
    }

    /// All types, in the order of the files.
    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &StructType)> {
        self.types.iter().enumerate().map(|(at, t)| (TypeId(u32::try_from(at).unwrap_or(u32::MAX)), t))
    }

    /// What is behind aliases, where the shape is a struct.
    #[must_use]
    pub fn resolve<'a>(&'a self, shape: &'a Shape) -> Resolved<'a> {
        match shape {
            Shape::Struct(id) => match self.get(*id) {
                Some(StructType { alias: Some(alias), .. }) => Resolved::Shape(alias),
                Some(one) => Resolved::Struct(*id, one),
                None => Resolved::Shape(&Shape::Any),
            },
            other => Resolved::Shape(other),
        }
    }

    /// Fills in the schema's static defaults wherever the parent object is present.
    pub fn apply_defaults(&self, id: TypeId, value: &mut Value) {
        self.default_struct(id, value);
    }

    fn default_struct(&self, id: TypeId, value: &mut Value) {
        let (Some(one), Some(object)) = (self.get(id), value.as_object_mut()) else { return };
        for field in &one.fields {
            if let Some(default) = &field.node.merge().default
                && !object.contains_key(field.name.as_ref())
            {
                object.insert(field.name.to_string(), default.clone());
            }
            if let Some(inner) = object.get_mut(field.name.as_ref()) {
                self.default_shape(&field.node.shape, inner);
            }
        }
    }

    fn default_shape(&self, shape: &Shape, value: &mut Value) {
        match shape {
            Shape::Struct(id) => self.default_struct(*id, value),
            Shape::List(item) => {
                for inner in value.as_array_mut().into_iter().flatten() {
                    self.default_shape(&item.shape, inner);
                }
            }
            Shape::Map(item) => {
                for (_, inner) in value.as_object_mut().into_iter().flatten() {
                    self.default_shape(&item.shape, inner);
                }
            }
            _ => {}
        }
    }
}

/// A shape whose aliases are followed.
#[derive(Clone, Copy, Debug)]
pub enum Resolved<'a> {
    /// An object with named fields.
    Struct(TypeId, &'a StructType),
    /// Anything else.
    Shape(&'a Shape),
}

#[cfg(test)]
pub(crate) mod tests;
