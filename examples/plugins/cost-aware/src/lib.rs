//! CostAware: pods go to the cheapest nodes.
//!
//! What a node costs is said by a ConfigMap in `kube-system`: one entry for each value of a node label,
//! such as `m5.large: "0.096"`. A node without a price counts as dear as the dearest of the list.

use orlop_sdk::scheduler::{Node, NodePlugin, Objects, Preparation};
use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

/// Where the ConfigMap lies; the manifest watches no other namespace.
const NAMESPACE: &str = "kube-system";

#[derive(Deserialize)]
#[serde(crate = "orlop_sdk::serde", rename_all = "camelCase", deny_unknown_fields, default)]
struct Arguments {
    /// The label of nodes that prices refer to.
    label: String,
    /// Name of the ConfigMap.
    config_map: String,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { label: "node.kubernetes.io/instance-type".to_owned(), config_map: "node-prices".to_owned() }
    }
}

/// The plugin.
pub struct CostAware {
    arguments: Arguments,
    /// Millionths of the list's unit, by value of the label.
    prices: HashMap<String, i64>,
    dearest: i64,
}

/// A price in millionths; `None` where the text is no price.
fn price(text: &str) -> Option<i64> {
    let number: f64 = text.trim().parse().ok()?;
    // Beyond this range no sum of money is meant, and the number would not fit.
    (0.0..=1e12).contains(&number).then(|| (number * 1e6).round() as i64)
}

impl NodePlugin for CostAware {
    type Prepared = ();

    fn new(args: &[u8]) -> Result<Self, String> {
        Ok(Self { arguments: orlop_sdk::parse_config(args)?, prices: HashMap::new(), dearest: 0 })
    }

    // Called when the price list is first known and whenever it changes; all pods that wait are then
    // judged anew.
    fn objects(&mut self, objects: &Objects) {
        self.prices.clear();
        let list = objects.get(0, NAMESPACE, &self.arguments.config_map);
        let entries = list.and_then(|l| l["data"].as_object()).into_iter().flatten();
        for (kind, text) in entries {
            match text.as_str().and_then(price) {
                Some(price) => _ = self.prices.insert(kind.clone(), price),
                None => orlop_sdk::log::write(
                    orlop_sdk::log::Level::Warn,
                    &format!("ConfigMap {}: the price of {kind} is no number", self.arguments.config_map),
                ),
            }
        }
        self.dearest = self.prices.values().copied().max().unwrap_or(0);
    }

    fn prepare(&self, pod: &Value) -> Result<Preparation<()>, String> {
        let indifferent = pod.pointer("/metadata/annotations/cost").is_some_and(|v| v == "ignore");
        Ok(if indifferent || self.prices.is_empty() { Preparation::Skip } else { Preparation::ScoreOnly(()) })
    }

    // The price itself: the manifest says `normalize: reverse`, so the host makes the dearest
    // node 0 and a free one 100.
    fn score(&self, _: &(), node: &Node<'_>) -> i64 {
        let known = node.label(&self.arguments.label).and_then(|kind| self.prices.get(kind));
        known.copied().unwrap_or(self.dearest)
    }
}

orlop_sdk::export_scheduler!(per_node CostAware);

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::scheduler::testing::Cluster;
    use orlop_sdk::scheduler::{BatchPlugin, ObjectChange, PerNode};
    use orlop_sdk::serde_json::json;

    #[test]
    fn prices_are_parsed_or_left_out() {
        assert_eq!(price(" 0.096 "), Some(96_000));
        assert_eq!(price("12"), Some(12_000_000));
        for wrong in ["", "cheap", "-1", "NaN", "inf", "1e300"] {
            assert_eq!(price(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_new_list_makes_new_scores() {
        let mut cluster = Cluster::default();
        cluster.node("small", &[("kind", "s")]);
        cluster.node("large", &[("kind", "l")]);
        cluster.node("unknown", &[]);
        let mut plugin = PerNode::<CostAware>::new(br#"{"label": "kind"}"#).unwrap();
        let list = |data: Value| {
            let object = Some(json!({ "data": data }));
            vec![ObjectChange { watch: 0, namespace: NAMESPACE.into(), name: "node-prices".into(), object }]
        };
        plugin.objects(true, list(json!({"s": "0.5", "l": "2"})));
        plugin.sync(cluster.delta());
        assert!(plugin.prepare(1, &json!({})).unwrap().reads_objects);
        assert_eq!(plugin.score_raw(1, &[]), [500_000, 2_000_000, 2_000_000]);
        plugin.objects(false, list(json!({"s": "3", "l": "2", "x": "?"})));
        plugin.prepare(1, &json!({})).unwrap();
        assert_eq!(plugin.score_raw(1, &[]), [3_000_000, 2_000_000, 3_000_000]);
        let ignoring = json!({"metadata": {"annotations": {"cost": "ignore"}}});
        assert!(plugin.prepare(2, &ignoring).unwrap().skip_score);
    }
}
