//! PodTopologySpread.

use super::{State, items, label, node_matches, quantity, selects, taints_tolerated, text};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const HOSTNAME: &str = "kubernetes.io/hostname";

impl State {
    /// The pod's constraints of one kind, and whether they are its own.
    fn constraints(&self, pod: &Value, effect: &str) -> (Vec<Value>, bool) {
        let own = items(pod, "/spec/topologySpreadConstraints");
        if !own.is_empty() {
            let own = own.into_iter().filter(|c| c["whenUnsatisfiable"] == effect).cloned();
            return (own.collect(), true);
        }
        let mut labels = json!({});
        for service in
            self.services.iter().filter(|s| s["metadata"]["namespace"] == pod["metadata"]["namespace"])
        {
            let selector = &service["spec"]["selector"];
            if selects(&json!({"matchLabels": selector}), &pod["metadata"]["labels"]) {
                for (key, value) in selector.as_object().unwrap() {
                    labels[key] = value.clone();
                }
            }
        }
        if effect != "ScheduleAnyway" || labels == json!({}) {
            return (Vec::new(), false);
        }
        let selector = json!({"matchLabels": labels});
        let default =
            |key: &str, skew: i64| json!({"maxSkew": skew, "topologyKey": key, "labelSelector": selector});
        (vec![default(HOSTNAME, 3), default("topology.kubernetes.io/zone", 5)], false)
    }

    fn counted(constraint: &Value, pod: &Value, name: &str, node: &Value) -> bool {
        (text(constraint, "/nodeAffinityPolicy") == "Ignore" || node_matches(pod, name, node))
            && (text(constraint, "/nodeTaintsPolicy") != "Honor" || taints_tolerated(pod, node))
    }

    fn matching(&self, constraint: &Value, pod: &Value, name: &str) -> i64 {
        let same = |other: &&Value| {
            other["metadata"]["namespace"] == pod["metadata"]["namespace"]
                && other["metadata"].get("deletionTimestamp").is_none()
                && selects(&constraint["labelSelector"], &other["metadata"]["labels"])
        };
        i64::try_from(self.on(name).filter(same).count()).unwrap()
    }

    /// Why the node is rejected, and whether evicting cannot help.
    pub(super) fn spread_rejects(&self, pod: &Value, node: &Value) -> Option<(&'static str, bool)> {
        let (constraints, _) = self.constraints(pod, "DoNotSchedule");
        let has_all =
            |node: &Value| constraints.iter().all(|c| label(node, text(c, "/topologyKey")).is_some());
        for constraint in &constraints {
            let key = text(constraint, "/topologyKey");
            let Some(here) = label(node, key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Some((reason, true));
            };
            let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
            for (name, other) in &self.nodes {
                if has_all(other) && Self::counted(constraint, pod, name, other) {
                    *domains.entry(label(other, key).unwrap()).or_insert(0) +=
                        self.matching(constraint, pod, name);
                }
            }
            let wanted = constraint.get("minDomains").map_or(1, |n| quantity(Some(n)));
            let enough = i64::try_from(domains.len()).unwrap() >= wanted;
            let fewest = if enough { domains.values().copied().min().unwrap() } else { 0 };
            let itself = i64::from(selects(&constraint["labelSelector"], &pod["metadata"]["labels"]));
            let skew = domains.get(here).copied().unwrap_or(0) + itself - fewest;
            if skew > quantity(constraint.get("maxSkew")) {
                return Some(("node(s) didn't match pod topology spread constraints", false));
            }
        }
        None
    }

    /// 0 to 100 for each node that fits.
    pub(super) fn spread_scores(&self, pod: &Value, fit: &[(&String, &Value)]) -> Vec<i64> {
        let (constraints, own) = self.constraints(pod, "ScheduleAnyway");
        if constraints.is_empty() {
            return vec![0; fit.len()];
        }
        let has_all =
            |node: &Value| constraints.iter().all(|c| label(node, text(c, "/topologyKey")).is_some());
        let ignored = |node: &Value| own && !has_all(node);
        let candidates: Vec<_> = fit.iter().filter(|(_, node)| !ignored(node)).collect();
        let mut raw: Vec<Option<f64>> = fit.iter().map(|(_, node)| (!ignored(node)).then_some(0.0)).collect();
        for constraint in &constraints {
            let key = text(constraint, "/topologyKey");
            let mut domains: BTreeMap<Option<&str>, i64> = BTreeMap::new();
            for (_, node) in &candidates {
                domains.insert(label(node, key), 0);
            }
            for (name, node) in &self.nodes {
                if (!own || has_all(node))
                    && Self::counted(constraint, pod, name, node)
                    && let Some(count) = domains.get_mut(&label(node, key))
                {
                    *count += self.matching(constraint, pod, name);
                }
            }
            let size = if key == HOSTNAME { candidates.len() } else { domains.len() };
            let weight = (size as f64 + 2.0).ln();
            for ((name, node), raw) in fit.iter().zip(&mut raw) {
                let (Some(raw), Some(value)) = (raw, label(node, key)) else { continue };
                let count = if key == HOSTNAME {
                    self.matching(constraint, pod, name)
                } else {
                    domains[&Some(value)]
                };
                *raw += count as f64 * weight + (quantity(constraint.get("maxSkew")) - 1) as f64;
            }
        }
        let raw: Vec<Option<i64>> = raw.into_iter().map(|r| r.map(|r| r.round() as i64)).collect();
        let most = raw.iter().flatten().copied().max().unwrap_or(0);
        let least = raw.iter().flatten().copied().min().unwrap_or(0);
        raw.into_iter()
            .map(|raw| match raw {
                None => 0,
                Some(_) if most == 0 => 100,
                Some(raw) => 100 * (most + least - raw) / most,
            })
            .collect()
    }
}
