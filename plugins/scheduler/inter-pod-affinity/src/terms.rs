//! Affinity terms, and the pods that they are tried on.
//!
//! Source: `AffinityTerm` of `pkg/scheduler/framework/types.go`.

use orlop_sdk::apimachinery::selector::Selector;
use orlop_sdk::serde_json::{Value, json};

/// What terms look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject {
    namespace: String,
    namespace_labels: Value,
    labels: Value,
}

/// One term.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    pub(crate) topology_key: String,
    namespaces: Vec<String>,
    namespace_selector: Selector,
    selector: Selector,
}

/// All terms of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) affinity: Vec<Term>,
    pub(crate) anti_affinity: Vec<Term>,
    /// With their weights; those of anti-affinity are negative.
    pub(crate) preferred: Vec<(i64, Term)>,
}

/// A pod, placed or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pod {
    pub(crate) subject: Subject,
    pub(crate) terms: Terms,
}

impl Term {
    fn read(term: &Value, owner: &Subject) -> Result<Self, String> {
        let null = Value::Null;
        let namespaces = term.get("namespaces").and_then(Value::as_array).into_iter().flatten();
        let mut namespaces: Vec<String> = namespaces.filter_map(|n| n.as_str().map(str::to_owned)).collect();
        let namespace_selector = term.get("namespaceSelector").unwrap_or(&null);
        if namespaces.is_empty() && namespace_selector.is_null() {
            namespaces.push(owner.namespace.clone());
        }
        let selector = narrowed(term, &owner.labels);
        Ok(Self {
            topology_key: term.get("topologyKey").and_then(Value::as_str).unwrap_or("").to_owned(),
            namespaces,
            namespace_selector: Selector::from_label_selector(namespace_selector)
                .map_err(|e| e.to_string())?,
            selector: Selector::from_label_selector(&selector).map_err(|e| e.to_string())?,
        })
    }

    /// Whether the term means the pod.
    pub(crate) fn matches(&self, pod: &Subject) -> bool {
        let here = self.namespaces.contains(&pod.namespace)
            || self.namespace_selector.matches_value(&pod.namespace_labels);
        here && self.selector.matches_value(&pod.labels)
    }
}

/// The term's selector with `matchLabelKeys` and `mismatchLabelKeys`. The API server may have put them in
/// already; a second time changes nothing.
fn narrowed(term: &Value, labels: &Value) -> Value {
    let mut selector = term.get("labelSelector").cloned().unwrap_or_default();
    if !selector.is_object() {
        return selector;
    }
    let mut expressions =
        selector.get("matchExpressions").and_then(Value::as_array).cloned().unwrap_or_default();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.get(field).and_then(Value::as_array).into_iter().flatten() {
            if let Some(value) = key.as_str().and_then(|key| labels.get(key)) {
                expressions.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if !expressions.is_empty() {
        selector["matchExpressions"] = Value::Array(expressions);
    }
    selector
}

fn required(pod: &Value, kind: &str, owner: &Subject) -> Vec<Result<Term, String>> {
    let path = format!("/spec/affinity/{kind}/requiredDuringSchedulingIgnoredDuringExecution");
    let terms = pod.pointer(&path).and_then(Value::as_array).into_iter().flatten();
    terms.map(|term| Term::read(term, owner)).collect()
}

fn preferred(pod: &Value, kind: &str, sign: i64, owner: &Subject) -> Vec<Result<(i64, Term), String>> {
    let path = format!("/spec/affinity/{kind}/preferredDuringSchedulingIgnoredDuringExecution");
    let terms = pod.pointer(&path).and_then(Value::as_array).into_iter().flatten();
    let weighed = |term: &Value| {
        let weight = term.get("weight").and_then(Value::as_i64).unwrap_or(0);
        Ok((sign * weight, Term::read(term.get("podAffinityTerm").unwrap_or(&Value::Null), owner)?))
    };
    terms.map(weighed).collect()
}

impl Pod {
    fn subject(pod: &Value) -> Subject {
        let at = |path: &str| pod.pointer(path).cloned().unwrap_or_default();
        Subject {
            namespace: at("/metadata/namespace").as_str().unwrap_or("").to_owned(),
            namespace_labels: at("/computed/namespaceLabels"),
            labels: at("/metadata/labels"),
        }
    }

    /// Reads a pod that waits; a term that makes no sense is an error.
    pub(crate) fn read(pod: &Value) -> Result<Self, String> {
        let subject = Self::subject(pod);
        let terms = Terms {
            affinity: required(pod, "podAffinity", &subject).into_iter().collect::<Result<_, _>>()?,
            anti_affinity: required(pod, "podAntiAffinity", &subject)
                .into_iter()
                .collect::<Result<_, _>>()?,
            preferred: preferred(pod, "podAffinity", 1, &subject)
                .into_iter()
                .chain(preferred(pod, "podAntiAffinity", -1, &subject))
                .collect::<Result<_, _>>()?,
        };
        Ok(Self { subject, terms })
    }

    /// Reads a placed pod; terms that make no sense are left out.
    pub(crate) fn read_placed(pod: &Value) -> Self {
        let subject = Self::subject(pod);
        let terms = Terms {
            affinity: required(pod, "podAffinity", &subject).into_iter().flatten().collect(),
            anti_affinity: required(pod, "podAntiAffinity", &subject).into_iter().flatten().collect(),
            preferred: preferred(pod, "podAffinity", 1, &subject)
                .into_iter()
                .chain(preferred(pod, "podAntiAffinity", -1, &subject))
                .flatten()
                .collect(),
        };
        Self { subject, terms }
    }
}

impl Terms {
    /// Whether there are none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred.is_empty()
    }

    /// Whether the pod is meant by every required affinity term, and there is one.
    pub(crate) fn attract(&self, pod: &Subject) -> bool {
        !self.affinity.is_empty() && self.affinity.iter().all(|term| term.matches(pod))
    }
}
