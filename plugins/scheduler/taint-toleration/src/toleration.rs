//! The logic, natively testable.

use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, Prepared, Reason, Synced, Taint, column, tolerates,
};
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

/// What a class makes of one taint set.
#[derive(Clone, Copy, Debug, Default)]
struct Verdict {
    fits: bool,
    /// Taints with PreferNoSchedule that are not tolerated.
    intolerable: i64,
}

#[derive(Debug)]
struct Class {
    tolerations: Value,
    /// By number of the taint set.
    verdicts: Vec<Verdict>,
}

impl Class {
    fn judge(&self, taints: &[Taint]) -> Verdict {
        let hard = |t: &&Taint| t.effect == "NoSchedule" || t.effect == "NoExecute";
        let soft = |t: &&Taint| t.effect == "PreferNoSchedule";
        let untolerated = |t: &&Taint| !tolerates(&self.tolerations, t);
        Verdict {
            fits: !taints.iter().filter(hard).any(|t| untolerated(&t)),
            intolerable: i64::try_from(taints.iter().filter(soft).filter(untolerated).count())
                .unwrap_or(i64::MAX),
        }
    }

    fn extend(&mut self, sets: &[Vec<Taint>]) {
        for set in sets.iter().skip(self.verdicts.len()) {
            let verdict = self.judge(set);
            self.verdicts.push(verdict);
        }
    }
}

/// The plugin; it has no arguments.
#[derive(Debug, Default)]
pub struct TaintToleration {
    mirror: Mirror,
    classes: HashMap<u32, Class>,
}

impl TaintToleration {
    fn each<T>(&self, class: u32, f: impl FnOnce(&[Verdict], &[u32]) -> Vec<T>) -> Vec<T> {
        let verdicts = self.classes.get(&class).map_or(&[][..], |c| &c.verdicts);
        f(verdicts, self.mirror.u32(column::TAINTS))
    }
}

impl BatchPlugin for TaintToleration {
    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        let full = delta.full;
        self.mirror.apply(delta);
        for class in self.classes.values_mut() {
            if full {
                class.verdicts.clear();
            }
            class.extend(self.mirror.taint_sets());
        }
        Synced::rows(self.mirror.checksum())
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        let tolerations = pod.pointer("/spec/tolerations").cloned().unwrap_or(Value::Null);
        let mut entry = Class { tolerations, verdicts: Vec::new() };
        entry.extend(self.mirror.taint_sets());
        self.classes.insert(class, entry);
        Ok(Prepared::default())
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let slots = self.mirror.slots();
        self.each(class, |verdicts, sets| {
            if verdicts.iter().all(|v| v.fits) {
                // The usual case: nothing in the cluster that this class does not tolerate.
                return vec![u64::MAX; Asked::new(rows, slots).len().div_ceil(64)];
            }
            let fits = |set: &u32| verdicts.get(*set as usize).is_some_and(|v| v.fits);
            Asked::new(rows, slots).mask(|slot| sets.get(slot).is_some_and(fits))
        })
    }

    fn score_raw(&mut self, class: u32, rows: &[u32]) -> Vec<i64> {
        let slots = self.mirror.slots();
        self.each(class, |verdicts, sets| {
            if verdicts.iter().all(|v| v.intolerable == 0) {
                return vec![0; Asked::new(rows, slots).len()];
            }
            let count = |set: &u32| verdicts.get(*set as usize).map_or(0, |v| v.intolerable);
            Asked::new(rows, slots).map(|slot| sets.get(slot).map_or(0, count))
        })
    }

    fn explain(&mut self, _class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        for _ in rows {
            explanation.because(Reason::unresolvable("node(s) had untolerated taint(s)"));
            explanation.end_row();
        }
        explanation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::scheduler::dictionary;
    use orlop_sdk::scheduler::testing::{Bench, Nodes};
    use orlop_sdk::serde_json::json;

    fn bench(tolerations: Value) -> Bench<TaintToleration> {
        let sets = [
            "[]",
            r#"[{"key":"a","value":"1","effect":"NoSchedule"}]"#,
            r#"[{"key":"a","value":"1","effect":"PreferNoSchedule"},{"key":"b","value":"","effect":"PreferNoSchedule"}]"#,
            r#"[{"key":"b","value":"","effect":"NoExecute"}]"#,
        ];
        let nodes =
            Nodes::new(4).dictionary(dictionary::TAINT_SETS, &sets).u32(column::TAINTS, &[0, 1, 2, 3]);
        Bench::new(&json!({}), nodes, &json!({"spec": {"tolerations": tolerations}})).unwrap()
    }

    #[test]
    fn hard_taints_filter_and_soft_ones_count() {
        let mut plain = bench(json!([]));
        assert_eq!(plain.fits(4), [true, false, true, false]);
        assert_eq!(plain.plugin.score_raw(1, &[]), [0, 0, 2, 0]);
        assert_eq!(plain.reasons(1), ["node(s) had untolerated taint(s)"]);
    }

    #[test]
    fn tolerations_by_operator_key_value_and_effect() {
        for (toleration, fits) in [
            (json!({"operator": "Exists"}), [true, true, true, true]),
            (json!({"key": "a", "operator": "Exists"}), [true, true, true, false]),
            (json!({"key": "a", "value": "1"}), [true, true, true, false]),
            (json!({"key": "a", "value": "2"}), [true, false, true, false]),
            (json!({"key": "a", "value": "1", "effect": "NoExecute"}), [true, false, true, false]),
            (json!({"key": "b", "operator": "Equal", "effect": "NoExecute"}), [true, false, true, true]),
        ] {
            assert_eq!(bench(json!([toleration])).fits(4), fits, "{toleration}");
        }
        assert_eq!(bench(json!([{"key": "a", "operator": "Exists"}])).plugin.score_raw(1, &[2]), [1]);
    }
}
