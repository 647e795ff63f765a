//! InterPodAffinity.

use super::{State, items, label, quantity, selects, text};
use serde_json::Value;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn required<'a>(pod: &'a Value, kind: &str) -> Vec<&'a Value> {
    items(pod, &format!("/spec/affinity/{kind}/{REQUIRED}"))
}

/// Terms with their weights.
fn preferred<'a>(pod: &'a Value, kind: &str) -> Vec<(&'a Value, i64)> {
    let terms = items(pod, &format!("/spec/affinity/{kind}/{PREFERRED}"));
    terms.into_iter().map(|t| (&t["podAffinityTerm"], quantity(t.get("weight")))).collect()
}

fn same_domain(term: &Value, node: &Value, other: &Value) -> bool {
    let key = text(term, "/topologyKey");
    label(node, key).is_some() && label(node, key) == label(other, key)
}

impl State {
    /// Whether the term of `owner` is about `other`.
    fn is_about(&self, term: &Value, owner: &Value, other: &Value) -> bool {
        let (namespaces, selector) = (items(term, "/namespaces"), term.get("namespaceSelector"));
        let theirs = &other["metadata"]["namespace"];
        let there = if namespaces.is_empty() && selector.is_none() {
            *theirs == owner["metadata"]["namespace"]
        } else {
            let labels = self.namespaces.get(theirs.as_str().unwrap()).cloned().unwrap_or_default();
            namespaces.contains(&theirs) || selector.is_some_and(|s| selects(s, &labels))
        };
        there && selects(&term["labelSelector"], &other["metadata"]["labels"])
    }

    /// All placed pods with their nodes.
    fn everywhere(&self) -> Vec<(&Value, &Value)> {
        let mut all = Vec::new();
        for (name, node) in &self.nodes {
            all.extend(self.on(name).map(|pod| (pod, node)));
        }
        all
    }

    /// Why the node is rejected, and whether evicting cannot help.
    pub(super) fn affinity_rejects(&self, pod: &Value, node: &Value) -> Option<(&'static str, bool)> {
        let wanted = required(pod, "podAffinity");
        let all = |other: &Value| wanted.iter().all(|t| self.is_about(t, pod, other));
        let company: Vec<_> = self.everywhere().into_iter().filter(|(other, _)| all(other)).collect();
        let has_labels = wanted.iter().all(|t| label(node, text(t, "/topologyKey")).is_some());
        let met = wanted.iter().all(|t| company.iter().any(|(_, there)| same_domain(t, node, there)));
        // Only domains count: company on a node without any of the labels is none.
        let none = !company
            .iter()
            .any(|(_, there)| wanted.iter().any(|t| label(there, text(t, "/topologyKey")).is_some()));
        if !has_labels || !(met || (none && all(pod))) {
            return Some(("node(s) didn't match pod affinity rules", true));
        }
        let shunned = |other: &Value, there: &Value| {
            let mut terms = required(pod, "podAntiAffinity").into_iter();
            terms.any(|t| self.is_about(t, pod, other) && same_domain(t, node, there))
        };
        if self.everywhere().into_iter().any(|(other, there)| shunned(other, there)) {
            return Some(("node(s) didn't match pod anti-affinity rules", false));
        }
        let shuns = |other: &Value, there: &Value| {
            let mut terms = required(other, "podAntiAffinity").into_iter();
            terms.any(|t| self.is_about(t, other, pod) && same_domain(t, node, there))
        };
        if self.everywhere().into_iter().any(|(other, there)| shuns(other, there)) {
            return Some(("node(s) didn't satisfy existing pods anti-affinity rules", false));
        }
        None
    }

    /// 0 to 100 for each node that fits.
    pub(super) fn affinity_scores(&self, pod: &Value, fit: &[(&String, &Value)]) -> Vec<i64> {
        let raw = |node: &Value| {
            let mut sum = 0;
            for (other, there) in self.everywhere() {
                for (kind, sign) in [("podAffinity", 1), ("podAntiAffinity", -1)] {
                    for (term, weight) in preferred(pod, kind) {
                        if self.is_about(term, pod, other) && same_domain(term, node, there) {
                            sum += sign * weight;
                        }
                    }
                    for (term, weight) in preferred(other, kind) {
                        if self.is_about(term, other, pod) && same_domain(term, node, there) {
                            sum += sign * weight;
                        }
                    }
                }
                for term in required(other, "podAffinity") {
                    if self.is_about(term, other, pod) && same_domain(term, node, there) {
                        sum += 1;
                    }
                }
            }
            sum
        };
        let raw: Vec<i64> = fit.iter().map(|(_, node)| raw(node)).collect();
        let (most, least) = (raw.iter().copied().max().unwrap_or(0), raw.iter().copied().min().unwrap_or(0));
        let share = |raw: i64| 100.0 * ((raw - least) as f64 / (most - least) as f64);
        raw.into_iter().map(|raw| if most == least { 0 } else { share(raw) as i64 }).collect()
    }
}
