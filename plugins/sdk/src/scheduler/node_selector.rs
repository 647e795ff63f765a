//! Node selector terms: requirements that are ANDed, terms that are ORed.
//!
//! Source: `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`. What cannot be parsed (an
//! unknown operator, `Gt` without one integer) matches no node.

mod postings;

pub use postings::Postings;

use super::{Mirror, Node, column, dictionary, pack};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// One requirement on a label or, in `matchFields`, on `metadata.name`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    fn read(value: &Value) -> Option<Self> {
        let operator = match value.get("operator").and_then(Value::as_str)? {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => return None,
        };
        let values = value.get("values").and_then(Value::as_array).into_iter().flatten();
        let values: Vec<String> = values.filter_map(|v| v.as_str().map(str::to_owned)).collect();
        let valid = match operator {
            Operator::In | Operator::NotIn => !values.is_empty(),
            Operator::Exists | Operator::DoesNotExist => values.is_empty(),
            Operator::Gt | Operator::Lt => matches!(&values[..], [v] if v.parse::<i64>().is_ok()),
        };
        let key = value.get("key").and_then(Value::as_str)?.to_owned();
        valid.then_some(Self { key, operator, values })
    }

    fn equals(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), operator: Operator::In, values: vec![value.to_owned()] }
    }

    /// Whether a node that has the key with this value is picked by the positive form of the
    /// operator: `In` for `NotIn`, `Exists` for `DoesNotExist`.
    fn picks(&self, value: &str) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        let pair = || number(value).zip(self.values.first().and_then(|v| number(v)));
        match self.operator {
            Operator::In | Operator::NotIn => self.values.iter().any(|v| v == value),
            Operator::Exists | Operator::DoesNotExist => true,
            Operator::Gt => pair().is_some_and(|(l, r)| l > r),
            Operator::Lt => pair().is_some_and(|(l, r)| l < r),
        }
    }

    const fn is_negated(&self) -> bool {
        matches!(self.operator, Operator::NotIn | Operator::DoesNotExist)
    }

    /// Clears the bits of slots that do not satisfy it.
    fn narrow(&self, mirror: &Mirror, postings: &Postings, mask: &mut [u64]) {
        let mut picked = vec![0_u64; mask.len()];
        for (label, value) in postings.with_key(&self.key, mirror.entries(dictionary::LABELS)) {
            if self.picks(value) {
                postings.collect(label, &mut picked);
            }
        }
        for (word, picked) in mask.iter_mut().zip(&picked) {
            *word &= if self.is_negated() { !picked } else { *picked };
        }
    }

    fn holds(&self, mirror: &Mirror, slot: usize) -> bool {
        let value = Node::new(mirror, slot).label(&self.key);
        value.is_some_and(|v| self.picks(v)) != self.is_negated()
    }

    fn holds_for_name(&self, mirror: &Mirror, slot: usize) -> bool {
        let name = mirror.u32(column::NAME).get(slot).copied().unwrap_or(u32::MAX);
        self.picks(mirror.entry(dictionary::NAMES, name)) != self.is_negated()
    }
}

/// One `NodeSelectorTerm`. Needs the columns `node.labels` and `node.name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Term {
    expressions: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl Term {
    /// Reads a `NodeSelectorTerm`. `None` where it is empty or cannot be parsed: it matches nothing.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        let list = |key: &str| {
            let items = value.get(key).and_then(Value::as_array).into_iter().flatten();
            items.map(Requirement::read).collect::<Option<Vec<_>>>()
        };
        let term = Self { expressions: list("matchExpressions")?, fields: list("matchFields")? };
        let fields_ok = term.fields.iter().all(|f| {
            f.key == "metadata.name"
                && f.values.len() == 1
                && matches!(f.operator, Operator::In | Operator::NotIn)
        });
        (fields_ok && !(term.expressions.is_empty() && term.fields.is_empty())).then_some(term)
    }

    /// A term of a pod's `nodeSelector`; `None` without one.
    #[must_use]
    pub fn of_selector(selector: Option<&Value>) -> Option<Self> {
        let map = selector?.as_object().filter(|m| !m.is_empty())?;
        let expressions = map.iter().map(|(k, v)| Requirement::equals(k, v.as_str().unwrap_or(""))).collect();
        Some(Self { expressions, fields: Vec::new() })
    }

    /// Clears the bits of slots that the term does not match.
    pub fn narrow(&self, mirror: &Mirror, postings: &Postings, mask: &mut [u64]) {
        for requirement in &self.expressions {
            requirement.narrow(mirror, postings, mask);
        }
        for field in &self.fields {
            let named = pack(mirror.slots(), |slot| field.holds_for_name(mirror, slot));
            mask.iter_mut().zip(named).for_each(|(word, named)| *word &= named);
        }
    }

    /// Whether the term matches one slot.
    #[must_use]
    pub fn matches(&self, mirror: &Mirror, slot: usize) -> bool {
        self.expressions.iter().all(|r| r.holds(mirror, slot))
            && self.fields.iter().all(|f| f.holds_for_name(mirror, slot))
    }

    /// The node name that the term asks for, where it asks for one.
    #[must_use]
    pub fn names(&self) -> Option<Vec<&str>> {
        let mut named: Option<Vec<&str>> = None;
        for field in self.fields.iter().filter(|f| f.operator == Operator::In) {
            let values = field.values.iter().map(String::as_str);
            named = Some(match named {
                None => values.collect(),
                Some(before) => values.filter(|v| before.contains(v)).collect(),
            });
        }
        named
    }
}

/// What a pod requires of nodes: its `nodeSelector` and the required terms of its node affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredNodeAffinity {
    /// Of `spec.nodeSelector`; `None` without one.
    pub selector: Option<Term>,
    /// Terms that are ORed, where there are any; no terms match nothing.
    pub terms: Option<Vec<Term>>,
}

impl RequiredNodeAffinity {
    /// Reads `spec.nodeSelector` and `spec.affinity.nodeAffinity` of a pod.
    #[must_use]
    pub fn read(pod: &Value) -> Self {
        Self {
            selector: Term::of_selector(pod.pointer("/spec/nodeSelector")),
            terms: Self::terms_of(pod.pointer("/spec/affinity/nodeAffinity")),
        }
    }

    /// Reads the required terms of a `NodeAffinity`.
    #[must_use]
    pub fn terms_of(affinity: Option<&Value>) -> Option<Vec<Term>> {
        let required =
            affinity?.get("requiredDuringSchedulingIgnoredDuringExecution").filter(|r| !r.is_null())?;
        let terms = required.get("nodeSelectorTerms").and_then(Value::as_array).into_iter().flatten();
        Some(terms.filter_map(Term::read).collect())
    }

    /// Whether every node matches.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.selector.is_none() && self.terms.is_none()
    }

    /// Whether the node in a slot matches.
    #[must_use]
    pub fn matches(&self, mirror: &Mirror, slot: usize) -> bool {
        self.selector.as_ref().is_none_or(|term| term.matches(mirror, slot))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(mirror, slot)))
    }
}
