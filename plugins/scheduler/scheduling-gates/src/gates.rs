//! The logic, natively testable.

use orlop_sdk::scheduler::{BatchPlugin, Delta, Prepared, Synced};
use orlop_sdk::serde_json::Value;

/// The plugin; it has no arguments and no state.
#[derive(Debug, Default)]
pub struct SchedulingGates;

impl BatchPlugin for SchedulingGates {
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

    fn pre_enqueue(&mut self, pod: &Value) -> Option<String> {
        let gates = pod.pointer("/spec/schedulingGates").and_then(Value::as_array)?;
        let names: Vec<&str> =
            gates.iter().map(|gate| gate.get("name").and_then(Value::as_str).unwrap_or("")).collect();
        (!names.is_empty()).then(|| format!("waiting for scheduling gates: [{}]", names.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::serde_json::json;

    #[test]
    fn waits_for_all_gates() {
        let ask = |spec: Value| SchedulingGates.pre_enqueue(&json!({ "spec": spec }));
        assert_eq!(ask(json!({})), None);
        assert_eq!(ask(json!({"schedulingGates": []})), None);
        assert_eq!(
            ask(json!({"schedulingGates": [{"name": "foo"}, {"name": "bar"}]})).as_deref(),
            Some("waiting for scheduling gates: [foo bar]")
        );
    }
}
