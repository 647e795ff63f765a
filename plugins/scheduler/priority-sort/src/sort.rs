//! The logic, natively testable.

use orlop_sdk::scheduler::{BatchPlugin, Delta, Prepared, Synced};
use orlop_sdk::serde_json::Value;

/// The plugin; it has no arguments and no state.
#[derive(Debug, Default)]
pub struct PrioritySort;

impl BatchPlugin for PrioritySort {
    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn sync(&mut self, _delta: Delta) -> Synced {
        Synced::default()
    }

    fn prepare(&mut self, _class: u32, _pod: &Value) -> Result<Prepared, String> {
        Ok(Prepared::skip())
    }

    fn release(&mut self, _class: u32) {}

    fn sort_key(&mut self, pod: &Value) -> Vec<i64> {
        vec![-pod.pointer("/computed/priority").and_then(Value::as_i64).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::serde_json::json;

    #[test]
    fn higher_priority_sorts_first() {
        let key = |priority: i64| PrioritySort.sort_key(&json!({"computed": {"priority": priority}}));
        let mut keys = [key(0), key(-5), key(2_000_001_000), key(1)];
        keys.sort();
        assert_eq!(keys, [key(2_000_001_000), key(1), key(0), key(-5)]);
        assert_eq!(PrioritySort.sort_key(&json!({})), key(0), "no priority is priority 0");
    }
}
