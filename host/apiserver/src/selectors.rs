//! Field selectors resolved against what a type declares as selectable.

use crate::cache::Entry;
use crate::registry::{Resource, SelectableField};
use orlop_apimachinery::Status;
use orlop_apimachinery::selector::{FieldSelector, Selector};

/// What a requirement looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// Index among the declared fields.
    Declared(usize),
}

/// A field selector whose fields are known to exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct FieldFilter {
    requirements: Vec<(Field, Box<str>, bool)>,
}

impl FieldFilter {
    /// Parses the query parameter for a type.
    ///
    /// # Errors
    /// 400 with upstream's words for a bad grammar or an unknown field.
    pub(crate) fn parse(text: &str, row: &Resource, stored: &Resource) -> Result<Self, Status> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let selector = FieldSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?;
        let mut requirements = Vec::new();
        for r in selector.requirements() {
            let field = match r.field.as_ref() {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                other => match declared(row, stored, other) {
                    Some(at) => Field::Declared(at),
                    None => {
                        return Err(Status::bad_request(format!("field label not supported: {other}")));
                    }
                },
            };
            requirements.push((field, r.value.clone(), r.negated));
        }
        Ok(Self { requirements })
    }

    /// Whether everything is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The name that every selected object must have.
    pub(crate) fn exact_name(&self) -> Option<&str> {
        self.exact(Field::Name)
    }

    /// The namespace that every selected object must have.
    pub(crate) fn exact_namespace(&self) -> Option<&str> {
        self.exact(Field::Namespace)
    }

    fn exact(&self, field: Field) -> Option<&str> {
        self.requirements.iter().find(|(f, _, negated)| *f == field && !negated).map(|(_, v, _)| v.as_ref())
    }

    /// A declared field with the one value that it must have.
    pub(crate) fn indexable(&self) -> Option<(usize, &str)> {
        self.requirements.iter().find_map(|(f, v, negated)| match f {
            Field::Declared(at) if !negated => Some((*at, v.as_ref())),
            _ => None,
        })
    }

    /// Whether an object is selected.
    pub(crate) fn matches(&self, entry: &Entry, declared: &[SelectableField]) -> bool {
        self.requirements.iter().all(|(field, value, negated)| {
            let actual = match field {
                Field::Name => entry.object().name(),
                Field::Namespace => entry.object().namespace(),
                Field::Declared(at) => entry.fields(declared).get(*at).map_or("", AsRef::as_ref),
            };
            (actual == value.as_ref()) != *negated
        })
    }
}

/// Where the stored form declares a field of `row`.
fn declared(row: &Resource, stored: &Resource, name: &str) -> Option<usize> {
    row.strategy.selectable_fields().iter().find(|f| f.name == name)?;
    let name = row.strategy.stored_field(name);
    stored.strategy.selectable_fields().iter().position(|f| f.name == name)
}

/// Parses a label selector of a query.
///
/// # Errors
/// 400 with upstream's words.
pub(crate) fn labels(text: &str) -> Result<Selector, Status> {
    Selector::parse(text).map_err(|e| Status::bad_request(e.to_string()))
}
