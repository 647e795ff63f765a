//! The logic, natively testable.

use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, Prepared, Reason, Synced, column, dictionary,
};
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

/// Whether a pod with this spec needs a feature.
type Needs = fn(&Value) -> bool;

/// What the features are called, and which pods need them. Those that only concern updates of pods are
/// not here.
const FEATURES: [(&str, Needs); 2] = [
    ("RestartAllContainersOnContainerExits", restarts_all_containers),
    ("UserNamespacesHostNetworkSupport", user_namespace_on_host_network),
];

fn items<'a>(of: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    of.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn restarts_all_containers(spec: &Value) -> bool {
    items(spec, "containers")
        .chain(items(spec, "initContainers"))
        .flat_map(|container| items(container, "restartPolicyRules"))
        .any(|rule| rule.get("action").and_then(Value::as_str) == Some("RestartAllContainers"))
}

fn user_namespace_on_host_network(spec: &Value) -> bool {
    let flag = |key: &str| spec.get(key).and_then(Value::as_bool);
    flag("hostNetwork") == Some(true) && flag("hostUsers") == Some(false)
}

/// The plugin; it has no arguments.
#[derive(Debug, Default)]
pub struct NodeDeclaredFeatures {
    mirror: Mirror,
    /// What the pods of each class need; nothing for those that need nothing.
    classes: HashMap<u32, Vec<&'static str>>,
}

impl BatchPlugin for NodeDeclaredFeatures {
    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        self.mirror.apply(delta);
        Synced::rows(self.mirror.checksum())
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        let spec = pod.get("spec").unwrap_or(&Value::Null);
        let needed: Vec<&str> =
            FEATURES.iter().filter(|(_, needs)| needs(spec)).map(|(name, _)| *name).collect();
        if needed.is_empty() {
            return Ok(Prepared::skip());
        }
        self.classes.insert(class, needed);
        Ok(Prepared { skip_score: true, skip_placing: true, ..Prepared::default() })
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let needed = self.classes.get(&class).map_or(&[][..], |n| n);
        let entries = self.mirror.entries(dictionary::FEATURES);
        // A feature that no node ever declared has no number.
        let numbers: Option<Vec<u64>> = needed
            .iter()
            .map(|name| entries.iter().position(|e| e == name).and_then(|at| u64::try_from(at).ok()))
            .collect();
        Asked::new(rows, self.mirror.slots()).mask(|slot| {
            let declared = self.mirror.list(column::FEATURES, slot);
            numbers.as_ref().is_some_and(|numbers| numbers.iter().all(|n| declared.contains(n)))
        })
    }

    fn explain(&mut self, _class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        for _ in rows {
            explanation.because(Reason::unresolvable("node(s) didn't match Pod's required features"));
            explanation.end_row();
        }
        explanation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::scheduler::testing::{Bench, Nodes};
    use orlop_sdk::serde_json::json;

    fn bench(spec: Value) -> Bench<NodeDeclaredFeatures> {
        let features = ["Other", "UserNamespacesHostNetworkSupport", "RestartAllContainersOnContainerExits"];
        let nodes = Nodes::new(4)
            .dictionary(dictionary::FEATURES, &features)
            .lists(column::FEATURES, &[&[], &[0, 2], &[1], &[0, 1, 2]]);
        Bench::new(&json!({}), nodes, &json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn pods_without_needs_are_left_alone() {
        for spec in [
            json!({}),
            json!({"hostNetwork": true}),
            json!({"hostNetwork": true, "hostUsers": true}),
            json!({"hostUsers": false}),
            json!({"containers": [{"restartPolicyRules": [{"action": "Restart"}]}]}),
        ] {
            assert_eq!(bench(spec.clone()).prepared, Prepared::skip(), "{spec}");
        }
    }

    #[test]
    fn all_features_must_be_declared() {
        let rules =
            json!([{"restartPolicyRules": [{"action": "Restart"}, {"action": "RestartAllContainers"}]}]);
        assert_eq!(bench(json!({"containers": rules})).fits(4), [false, true, false, true]);
        assert_eq!(bench(json!({"initContainers": rules})).fits(4), [false, true, false, true]);
        let namespace = json!({"hostNetwork": true, "hostUsers": false});
        assert_eq!(bench(namespace).fits(4), [false, false, true, true]);
        let mut both = bench(json!({"hostNetwork": true, "hostUsers": false, "containers": rules}));
        assert_eq!(both.fits(4), [false, false, false, true]);
        assert_eq!(both.reasons(0), ["node(s) didn't match Pod's required features"]);
    }

    #[test]
    fn what_no_node_declares_fits_nowhere() {
        let pod = json!({"spec": {"hostNetwork": true, "hostUsers": false}});
        let mut bench = Bench::<NodeDeclaredFeatures>::new(&json!({}), Nodes::new(2), &pod).unwrap();
        assert_eq!(bench.fits(2), [false, false]);
    }
}
