//! The rule. Source: `plugin/pkg/admission/defaulttolerationseconds`.

use orlop_sdk::admission::Patch;
use serde::Deserialize;
use serde_json::{Value, json};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// `spec.config`; the defaults are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Config {
    not_ready_toleration_seconds: u32,
    unreachable_toleration_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { not_ready_toleration_seconds: 300, unreachable_toleration_seconds: 300 }
    }
}

/// Adds the tolerations that `pod` does not have in some form.
pub(crate) fn patch(config: &Config, pod: &Value) -> Patch {
    let none = Vec::new();
    let present = pod.pointer("/spec/tolerations").and_then(Value::as_array).unwrap_or(&none);
    let wanted = [
        (NOT_READY, config.not_ready_toleration_seconds),
        (UNREACHABLE, config.unreachable_toleration_seconds),
    ];
    let missing: Vec<Value> = wanted
        .into_iter()
        .filter(|(key, _)| !present.iter().any(|t| tolerates(t, key)))
        .map(|(key, seconds)| {
            json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds })
        })
        .collect();
    let mut patch = Patch::new();
    if !missing.is_empty() {
        patch.append(pod, &["spec", "tolerations"], missing);
    }
    patch
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    let text = |name: &str| toleration.get(name).and_then(Value::as_str).unwrap_or_default();
    ["", key].contains(&text("key")) && ["", "NoExecute"].contains(&text("effect"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ops(config: &Config, pod: &Value) -> Value {
        serde_json::from_slice(&patch(config, pod).into_bytes()).unwrap_or(Value::Null)
    }

    #[test]
    fn every_case_of_the_table() {
        let cases: Value = serde_json::from_str(include_str!("../testdata/cases.json")).unwrap();
        for case in cases.as_array().unwrap() {
            assert_eq!(ops(&Config::default(), &case["pod"]), case["patch"], "{}", case["name"]);
        }
    }

    #[test]
    fn seconds_are_configurable_and_nothing_else_is() {
        let config: Config = orlop_sdk::parse_config(br#"{"notReadyTolerationSeconds": 7}"#).unwrap();
        let patch = ops(&config, &json!({ "spec": {} }));
        assert_eq!(patch.pointer("/0/value/0/tolerationSeconds"), Some(&json!(7)));
        assert_eq!(patch.pointer("/0/value/1/tolerationSeconds"), Some(&json!(300)));
        let error = orlop_sdk::parse_config::<Config>(br#"{"seconds": 7}"#).unwrap_err();
        assert!(error.contains("unknown field `seconds`"), "{error}");
    }
}
