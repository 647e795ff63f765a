//! Sets of field paths, and their form `FieldsV1`.

use super::ManagedFieldsError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// One step of a path. Keys and values are canonical JSON text, so that they compare as bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathElement {
    /// `f:name`: a field of a struct or a key of a map.
    Field(Box<str>),
    /// `k:{"name":"x"}`: an item of a list of type map.
    Key(Box<str>),
    /// `v:"x"`: an item of a set.
    Value(Box<str>),
    /// `i:0`
    Index(usize),
}

/// A set of paths, as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    entries: BTreeMap<PathElement, Branch>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Branch {
    /// Whether the path that ends here is in the set.
    member: bool,
    below: FieldSet,
}

impl Branch {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl PathElement {
    /// A field by name.
    #[must_use]
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// An item by its keys.
    #[must_use]
    pub fn key(keys: Map<String, Value>) -> Self {
        Self::Key(Value::Object(keys).to_string().into())
    }

    /// An item of a set.
    #[must_use]
    pub fn value(value: &Value) -> Self {
        Self::Value(value.to_string().into())
    }

    fn parse(text: &str) -> Result<Self, ManagedFieldsError> {
        let bad = || ManagedFieldsError::Malformed(format!("unable to parse path element {text:?}"));
        let canonical =
            |rest: &str| serde_json::from_str::<Value>(rest).map(|v| v.to_string().into()).map_err(|_| bad());
        match text.split_once(':') {
            Some(("f", name)) => Ok(Self::field(name)),
            Some(("k", keys)) => Ok(Self::Key(canonical(keys)?)),
            Some(("v", value)) => Ok(Self::Value(canonical(value)?)),
            Some(("i", index)) => Ok(Self::Index(index.parse().map_err(|_| bad())?)),
            _ => Err(bad()),
        }
    }
}

/// As in `fieldsV1`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, "f:{name}"),
            Self::Key(keys) => write!(f, "k:{keys}"),
            Self::Value(value) => write!(f, "v:{value}"),
            Self::Index(index) => write!(f, "i:{index}"),
        }
    }
}

/// A path as conflicts name it: `.spec.containers[name="a"].image`.
#[must_use]
pub fn render(path: &[PathElement]) -> String {
    let mut text = String::new();
    for element in path {
        let _ = match element {
            PathElement::Field(name) => write!(text, ".{name}"),
            PathElement::Index(index) => write!(text, "[{index}]"),
            PathElement::Value(value) => write!(text, "[={value}]"),
            PathElement::Key(keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(text, "[{}]", pairs.join(","))
            }
        };
    }
    text
}

impl FieldSet {
    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a path; the empty path is not added.
    pub fn insert(&mut self, path: &[PathElement]) {
        if let Some((first, rest)) = path.split_first() {
            // The steps of a path are there already, but for its last ones.
            if !self.entries.contains_key(first) {
                self.entries.insert(first.clone(), Branch::default());
            }
            let Some(branch) = self.entries.get_mut(first) else { return };
            if rest.is_empty() {
                branch.member = true;
            } else {
                branch.below.insert(rest);
            }
        }
    }

    /// Adds a path of plain fields.
    pub fn insert_fields(&mut self, path: &[&str]) {
        let path: Vec<PathElement> = path.iter().map(|name| PathElement::field(name)).collect();
        self.insert(&path);
    }

    /// Adds one element at the root, and what is below it.
    pub(crate) fn put(&mut self, element: PathElement, member: bool, below: Self) {
        if member || !below.is_empty() {
            let branch = self.entries.entry(element).or_default();
            branch.member |= member;
            branch.below = if branch.below.is_empty() { below } else { branch.below.union(&below) };
        }
    }

    /// Whether the one-element path is in the set.
    pub(crate) fn has_member(&self, element: &PathElement) -> bool {
        self.entries.get(element).is_some_and(|b| b.member)
    }

    /// The paths that begin with the element, without it.
    pub(crate) fn below(&self, element: &PathElement) -> Option<&Self> {
        self.entries.get(element).map(|b| &b.below).filter(|b| !b.is_empty())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PathElement, bool, &Self)> {
        self.entries.iter().map(|(e, b)| (e, b.member, &b.below))
    }

    /// Whether the path is in the set.
    #[must_use]
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path.split_first() {
            None => false,
            Some((first, [])) => self.has_member(first),
            Some((first, rest)) => self.entries.get(first).is_some_and(|b| b.below.has(rest)),
        }
    }

    /// Paths of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut result = self.clone();
        for (element, branch) in &other.entries {
            match result.entries.get_mut(element) {
                Some(own) => {
                    own.member |= branch.member;
                    own.below = own.below.union(&branch.below);
                }
                None => {
                    result.entries.insert(element.clone(), branch.clone());
                }
            }
        }
        result
    }

    /// Paths of either.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (_, true) => self,
            (true, false) => other,
            (false, false) => self.union(&other),
        }
    }

    /// Takes away the paths of `other`, with what begins with them where `deep`.
    pub fn subtract(&mut self, other: &Self, deep: bool) {
        for (element, theirs) in &other.entries {
            let Some(own) = self.entries.get_mut(element) else { continue };
            if theirs.member {
                own.member = false;
                if deep {
                    own.below = Self::default();
                }
            }
            own.below.subtract(&theirs.below, deep);
            if own.is_empty() {
                self.entries.remove(element);
            }
        }
    }

    /// Paths of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |own, other| {
            let other = other?;
            Some(Branch { member: own.member && other.member, below: own.below.intersection(&other.below) })
        })
    }

    /// Paths that `other` does not have.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = self.clone();
        left.subtract(other, false);
        left
    }

    /// Paths that neither are in `other` nor begin with one of its paths.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        let mut left = self.clone();
        left.subtract(other, true);
        left
    }

    fn combine(&self, other: &Self, with: impl Fn(&Branch, Option<&Branch>) -> Option<Branch>) -> Self {
        let mut entries = BTreeMap::new();
        for (element, own) in &self.entries {
            if let Some(branch) = with(own, other.entries.get(element)).filter(|b| !b.is_empty()) {
                entries.insert(element.clone(), branch);
            }
        }
        Self { entries }
    }

    /// All paths.
    #[must_use]
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, paths: &mut Vec<Vec<PathElement>>) {
        for (element, branch) in &self.entries {
            prefix.push(element.clone());
            if branch.member {
                paths.push(prefix.clone());
            }
            branch.below.collect(prefix, paths);
            prefix.pop();
        }
    }

    /// As `fieldsV1`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        for (element, branch) in &self.entries {
            let mut below = branch.below.to_value();
            if branch.member
                && !branch.below.is_empty()
                && let Some(below) = below.as_object_mut()
            {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            object.insert(element.to_string(), below);
        }
        Value::Object(object)
    }

    /// From `fieldsV1`.
    ///
    /// # Errors
    /// [`ManagedFieldsError::Malformed`]
    pub fn from_value(value: &Value) -> Result<Self, ManagedFieldsError> {
        let Some(object) = value.as_object() else {
            return Err(ManagedFieldsError::Malformed(format!("expected an object, got {value}")));
        };
        let mut set = Self::default();
        for (key, inner) in object {
            if key == "." {
                continue;
            }
            let member = inner.get(".").is_some() || inner.as_object().is_some_and(Map::is_empty);
            let branch = Branch { member, below: Self::from_value(inner)? };
            set.entries.insert(PathElement::parse(key)?, branch);
        }
        Ok(set)
    }
}
