//! The logic, natively testable.

use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, Prepared, Reason, Synced, Taint, column, tolerates,
};
use orlop_sdk::serde_json::Value;

/// The plugin; it has no arguments.
#[derive(Debug, Default)]
pub struct NodeUnschedulable {
    mirror: Mirror,
    /// By slot: whether it holds a node that is not cordoned.
    open: Vec<u64>,
}

fn is_open(mirror: &Mirror, slot: usize) -> bool {
    mirror.is_live(slot) && mirror.u32(column::UNSCHEDULABLE).get(slot).is_none_or(|cordoned| *cordoned == 0)
}

fn bit(set: &[u64], slot: usize) -> bool {
    set.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
}

impl BatchPlugin for NodeUnschedulable {
    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        if delta.full {
            self.open.clear();
        }
        let rows = self.mirror.apply(delta);
        self.open.resize(self.mirror.slots().div_ceil(64), 0);
        for slot in rows {
            let slot = slot as usize;
            let open = u64::from(is_open(&self.mirror, slot));
            if let Some(word) = self.open.get_mut(slot / 64) {
                *word = *word & !(1 << (slot % 64)) | open << (slot % 64);
            }
        }
        Synced::rows(self.mirror.checksum())
    }

    fn prepare(&mut self, _class: u32, pod: &Value) -> Result<Prepared, String> {
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        };
        let tolerations = pod.pointer("/spec/tolerations").unwrap_or(&Value::Null);
        let skip_filter = tolerates(tolerations, &cordon);
        Ok(Prepared { skip_filter, skip_score: true, ..Prepared::default() })
    }

    fn release(&mut self, _class: u32) {}

    fn filter(&mut self, _class: u32, rows: &[u32]) -> Vec<u64> {
        if rows.is_empty() {
            return self.open.clone();
        }
        Asked::new(rows, self.mirror.slots()).mask(|slot| bit(&self.open, slot))
    }

    fn overlay(&mut self, _class: u32, delta: Delta) -> Vec<u64> {
        self.mirror.overlay(delta, is_open)
    }

    fn explain(&mut self, _class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        for slot in rows {
            if !bit(&self.open, *slot as usize) {
                explanation.because(Reason::unresolvable("node(s) were unschedulable"));
            }
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

    fn bench(pod: Value) -> Bench<NodeUnschedulable> {
        Bench::new(&json!({}), Nodes::new(2).u32(column::UNSCHEDULABLE, &[1, 0]), &pod).unwrap()
    }

    #[test]
    fn cordoned_nodes_are_left_out_unless_tolerated() {
        let mut plain = bench(json!({}));
        assert_eq!(plain.fits(2), [false, true]);
        assert_eq!(plain.plugin.filter(1, &[1, 0]), [0b01]);
        assert_eq!(plain.reasons(0), ["node(s) were unschedulable"]);
        let toleration = json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"});
        assert!(bench(json!({"spec": {"tolerations": [toleration]}})).prepared.skip_filter);
    }

    #[test]
    fn a_cordon_comes_and_goes() {
        let mut plain = bench(json!({}));
        plain.plugin.sync(Nodes::rows(2, &[0]).u32(column::UNSCHEDULABLE, &[0]).delta());
        assert_eq!(plain.plugin.filter(1, &[]), [0b11]);
        plain.plugin.sync(Nodes::rows(2, &[1]).u32(column::UNSCHEDULABLE, &[1]).delta());
        assert_eq!(plain.plugin.filter(1, &[]), [0b01]);
        let overlay = Nodes::rows(2, &[0, 1]).u32(column::UNSCHEDULABLE, &[1, 0]).delta();
        assert_eq!(plain.plugin.overlay(1, overlay), [0b10]);
        assert_eq!(plain.plugin.filter(1, &[]), [0b01]);
    }
}
