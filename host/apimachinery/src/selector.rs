//! Label selectors, node selectors and field selectors.
//!
//! The grammar and the words of its faults are `k8s.io/apimachinery/pkg/labels` and `pkg/fields`.

use crate::names;
use serde_json::Value;
use std::fmt;

pub mod field_selector;
mod lexer;
pub mod node_selector;

pub use field_selector::FieldSelector;
pub use node_selector::NodeSelector;

/// Why a text or a JSON value is no selector; the text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `a in (x,y)`
    In,
    /// `a notin (x,y)`; also holds where the label is missing.
    NotIn,
    /// `a=x` or `a==x`
    Equals,
    /// `a!=x`; also holds where the label is missing.
    NotEquals,
    /// `a`
    Exists,
    /// `!a`
    DoesNotExist,
    /// `a>5`
    GreaterThan,
    /// `a<5`
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: Box<str>,
    /// What is asked.
    pub operator: Operator,
    /// Sorted, without duplicates.
    pub values: Vec<Box<str>>,
}

/// A label selector: all requirements must hold. Empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Requirement {
    /// Checks key, operator and values against each other, as `labels.NewRequirement`.
    ///
    /// # Errors
    /// [`SelectorError`] with upstream's text.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let fail = |text: String| Err(SelectorError(text));
        if let Some(fault) = join(&names::qualified_name(key)) {
            return fail(format!("key: Invalid value: {key:?}: {fault}"));
        }
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return fail(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                        .into(),
                );
            }
            Operator::Equals | Operator::NotEquals if values.len() != 1 => {
                return fail(format!(
                    "values: Invalid value: {}: exact-match compatibility requires one single value",
                    Value::from(values)
                ));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                return fail(format!(
                    "values: Invalid value: {}: values set must be empty for exists and does not exist",
                    Value::from(values)
                ));
            }
            Operator::GreaterThan | Operator::LessThan => {
                let [value] = values.as_slice() else {
                    return fail(format!(
                        "values: Invalid value: {}: for 'Gt', 'Lt' operators, exactly one value is required",
                        Value::from(values)
                    ));
                };
                if value.parse::<i64>().is_err() {
                    return fail(format!(
                        "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                    ));
                }
            }
            _ => {}
        }
        for (at, value) in values.iter().enumerate() {
            if let Some(fault) = join(&names::label_value(value)) {
                return fail(format!("values[{at}][{key}]: Invalid value: {value:?}: {fault}"));
            }
        }
        let mut values: Vec<Box<str>> = values.into_iter().map(String::into_boxed_str).collect();
        values.sort_unstable();
        values.dedup();
        Ok(Self { key: key.into(), operator, values })
    }

    /// Whether the label's value, or its absence, satisfies the requirement.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v.as_ref() == value);
        let ordered = |holds: fn(i64, i64) -> bool| {
            let left = value.and_then(|v| v.parse::<i64>().ok());
            let right = self.values.first().and_then(|v| v.parse::<i64>().ok());
            matches!((left, right), (Some(l), Some(r)) if holds(l, r))
        };
        match self.operator {
            Operator::In | Operator::Equals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => ordered(|l, r| l > r),
            Operator::LessThan => ordered(|l, r| l < r),
        }
    }
}

fn join(faults: &[String]) -> Option<String> {
    (!faults.is_empty()).then(|| faults.join("; "))
}

impl Selector {
    /// Selects every object.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    #[must_use]
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Parses the query parameter: `a=b,c!=d,e in (f,g),!h`.
    ///
    /// # Errors
    /// [`SelectorError`] with the text that kubectl shows.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = lexer::parse(text)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// A plain map, as `spec.selector` of a Service or ReplicationController. `null` and `{}`
    /// select everything here; callers decide whether such a map counts.
    #[must_use]
    pub fn from_map(map: &Value) -> Self {
        let mut requirements = Vec::new();
        for (key, value) in map.as_object().into_iter().flatten() {
            let values = vec![value.as_str().unwrap_or_default().into()];
            requirements.push(Requirement { key: key.as_str().into(), operator: Operator::Equals, values });
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// `meta/v1.LabelSelector`: `matchLabels` and `matchExpressions`. `null` selects nothing, an
    /// empty object everything.
    ///
    /// # Errors
    /// [`SelectorError`] for unknown operators and impossible values.
    pub fn from_label_selector(selector: &Value) -> Result<Self, SelectorError> {
        let Some(object) = selector.as_object() else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in object.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
            let operator = match expression.get("operator").and_then(Value::as_str).unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{other:?} is not a valid label selector operator")));
                }
            };
            requirements.push(Requirement::new(key, operator, strings(expression.get("values")))?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Whether the selector selects everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it can select nothing at all.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The conditions, sorted by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether labels sorted by key (as `ObjectMeta::labels`) are selected.
    #[must_use]
    pub fn matches(&self, labels: &[(Box<str>, Box<str>)]) -> bool {
        self.matches_with(|key| {
            let at = labels.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
            labels.get(at).map(|(_, v)| v.as_ref())
        })
    }

    /// Whether labels in a JSON object are selected.
    #[must_use]
    pub fn matches_value(&self, labels: &Value) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether labels that `get` looks up are selected.
    #[must_use]
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }
}

/// The strings of a JSON array.
fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match self.operator {
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals => write!(f, "{key}={}", self.values.join(",")),
            Operator::NotEquals => write!(f, "{key}!={}", self.values.join(",")),
            Operator::GreaterThan => write!(f, "{key}>{}", self.values.join(",")),
            Operator::LessThan => write!(f, "{key}<{}", self.values.join(",")),
            Operator::In => write!(f, "{key} in ({})", self.values.join(",")),
            Operator::NotIn => write!(f, "{key} notin ({})", self.values.join(",")),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

/// `kubectl`'s print of a `meta/v1.LabelSelector`: `<none>`, `a=b,c in (d)`, `<error>`.
#[must_use]
pub fn format_label_selector(selector: &Value) -> String {
    match Selector::from_label_selector(selector) {
        Err(_) => "<error>".to_owned(),
        Ok(selector) if selector.requirements.is_empty() => "<none>".to_owned(),
        Ok(selector) => selector.to_string(),
    }
}

#[cfg(test)]
mod tests;
