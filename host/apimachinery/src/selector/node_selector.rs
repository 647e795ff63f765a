//! `core/v1.NodeSelector`: terms that are ORed, of requirements that are ANDed.
//!
//! Source: `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`.

use super::{Operator, SelectorError, strings};
use serde_json::Value;

/// One condition of a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRequirement {
    /// Label key, or `metadata.name` in `matchFields`.
    pub key: Box<str>,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `GreaterThan` or `LessThan`.
    pub operator: Operator,
    /// Values as given.
    pub values: Vec<Box<str>>,
}

/// Conditions that must all hold. A term without any matches no node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSelectorTerm {
    /// On labels.
    pub expressions: Vec<NodeRequirement>,
    /// On `metadata.name`.
    pub fields: Vec<NodeRequirement>,
}

/// At least one term must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSelector {
    /// The terms.
    pub terms: Vec<NodeSelectorTerm>,
}

impl NodeRequirement {
    fn from_value(value: &Value) -> Result<Self, SelectorError> {
        let operator = match value.get("operator").and_then(Value::as_str).unwrap_or_default() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            other => return Err(SelectorError(format!("{other:?} is not a valid node selector operator"))),
        };
        let key = value.get("key").and_then(Value::as_str).unwrap_or_default().into();
        let values = strings(value.get("values")).into_iter().map(String::into_boxed_str).collect();
        Ok(Self { key, operator, values })
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v.as_ref() == value);
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        let pair = || number(value).zip(number(self.values.first().map(AsRef::as_ref)));
        match self.operator {
            Operator::In | Operator::Equals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => pair().is_some_and(|(l, r)| l > r),
            Operator::LessThan => pair().is_some_and(|(l, r)| l < r),
        }
    }
}

impl NodeSelectorTerm {
    /// A term from JSON.
    ///
    /// # Errors
    /// [`SelectorError`] for an unknown operator.
    pub fn from_value(value: &Value) -> Result<Self, SelectorError> {
        let list = |name: &str| {
            let items = value.get(name).and_then(Value::as_array).into_iter().flatten();
            items.map(NodeRequirement::from_value).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { expressions: list("matchExpressions")?, fields: list("matchFields")? })
    }

    /// Whether a node of this name and labels fits the term.
    #[must_use]
    pub fn matches<'a>(&self, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        (!self.expressions.is_empty() || !self.fields.is_empty())
            && self.expressions.iter().all(|r| r.matches(label(&r.key)))
            && self.fields.iter().all(|r| r.matches((r.key.as_ref() == "metadata.name").then_some(name)))
    }
}

impl NodeSelector {
    /// From `requiredDuringSchedulingIgnoredDuringExecution` and the like.
    ///
    /// # Errors
    /// [`SelectorError`] for an unknown operator.
    pub fn from_value(value: &Value) -> Result<Self, SelectorError> {
        let terms = value.get("nodeSelectorTerms").and_then(Value::as_array).into_iter().flatten();
        Ok(Self { terms: terms.map(NodeSelectorTerm::from_value).collect::<Result<_, _>>()? })
    }

    /// Whether a node of this name and labels fits one of the terms.
    #[must_use]
    pub fn matches<'a>(&self, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().any(|term| term.matches(name, &label))
    }
}
