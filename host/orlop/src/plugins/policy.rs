//! `plugins.yaml`: what the operator says about plugins.
//!
//! Strict: an unknown field or an impossible value is an error that names it, and the policy in force stays.

pub(crate) mod signature;

use super::set::FailurePolicy;
use orlop_plugin::{Limits, Manifest, PluginOptions};
use serde::{Deserialize, Serialize};
use signature::SignaturePolicy;
use std::collections::BTreeMap;
use std::time::Duration;

/// The policy that the program carries.
pub(crate) const DEFAULT: &str = include_str!("../../../../policies/plugins.yaml");

/// Why a policy is not taken. The user must repair the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    /// No YAML, or not of the expected shape.
    #[error("plugins.yaml cannot be read: {message}")]
    Syntax {
        /// Line and field.
        message: String,
    },
    /// A value makes no sense.
    #[error("plugins.yaml: {path}: {message}")]
    Value {
        /// Where.
        path: String,
        /// What.
        message: String,
    },
}

/// The policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PluginPolicy {
    /// Enabled admission plugins by name, in their order. Others are loaded but never asked.
    pub(crate) admission: Vec<String>,
    /// Whether admission plugins that users install are asked too, after those listed, in the order of their names.
    pub(crate) user_admission: bool,
    rules: BTreeMap<String, Rule>,
    ceiling: LimitsSpec,
    user_plugins: bool,
    signatures: SignaturePolicy,
}

/// Limits as files and objects spell them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct LimitsSpec {
    /// Memory of one instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bytes: Option<u64>,
    /// Deadline of one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deadline_milliseconds: Option<u64>,
}

/// About one plugin by name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Rule {
    failure_policy: Option<String>,
    limits: LimitsSpec,
    config: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default)]
    admission: AdmissionFile,
    #[serde(default)]
    limits: LimitsSpec,
    #[serde(default = "yes")]
    user_plugins: bool,
    #[serde(default)]
    plugins: BTreeMap<String, Rule>,
    #[serde(default)]
    signatures: signature::File,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AdmissionFile {
    #[serde(default)]
    order: Vec<String>,
    #[serde(default = "yes")]
    user_plugins: bool,
}

const fn yes() -> bool {
    true
}

impl PluginPolicy {
    /// Parses and checks a policy.
    pub(crate) fn parse(yaml: &str) -> Result<Self, PolicyError> {
        let file: File =
            serde_yaml::from_str(yaml).map_err(|e| PolicyError::Syntax { message: e.to_string() })?;
        let wrong = |path: &str, message: String| PolicyError::Value { path: path.to_owned(), message };
        if (file.api_version.as_str(), file.kind.as_str()) != ("orlop.dev/v1", "PluginPolicy") {
            return Err(wrong(
                "apiVersion",
                "must be orlop.dev/v1, and kind must be PluginPolicy".to_owned(),
            ));
        }
        for (i, name) in file.admission.order.iter().enumerate() {
            if file.admission.order.iter().take(i).any(|n| n == name) {
                return Err(wrong(&format!("admission.order[{i}]"), format!("{name} is there twice")));
            }
        }
        for (name, rule) in &file.plugins {
            let path = |field: &str| format!("plugins.{name}.{field}");
            if let Some(policy) = &rule.failure_policy
                && parse_failure_policy(policy).is_none()
            {
                return Err(wrong(
                    &path("failurePolicy"),
                    format!("\"{policy}\" is neither Fail nor Ignore"),
                ));
            }
            if rule.config.as_ref().is_some_and(|c| !c.is_object()) {
                return Err(wrong(&path("config"), "must be an object".to_owned()));
            }
            check_limits(&path("limits"), rule.limits)?;
        }
        check_limits("limits", file.limits)?;
        Ok(Self {
            admission: file.admission.order,
            user_admission: file.admission.user_plugins,
            rules: file.plugins,
            ceiling: file.limits,
            user_plugins: file.user_plugins,
            signatures: SignaturePolicy::new(file.signatures)?,
        })
    }

    /// Who must have signed what.
    pub(crate) const fn signatures(&self) -> &SignaturePolicy {
        &self.signatures
    }

    /// Whether `Plugin` objects may bring code of their own.
    pub(crate) const fn allows_user_plugins(&self) -> bool {
        self.user_plugins
    }

    /// How a plugin is run: the object's wish before the policy's rule before the manifest's wish, and
    /// nothing above the policy's ceiling.
    pub(crate) fn options(
        &self,
        object: &str,
        manifest: &Manifest,
        limits: LimitsSpec,
        config: Option<&serde_json::Value>,
    ) -> PluginOptions {
        let rule = self.rules.get(&manifest.name);
        let ruled = rule.map(|r| r.limits).unwrap_or_default();
        let wish = PluginOptions::from_manifest(manifest);
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let memory = limits.memory_bytes.or(ruled.memory_bytes).map_or(wish.limits.memory_bytes, size);
        let deadline = limits
            .deadline_milliseconds
            .or(ruled.deadline_milliseconds)
            .map_or(wish.deadline, Duration::from_millis);
        let memory = self.ceiling.memory_bytes.map_or(memory, |most| memory.min(size(most)));
        let deadline = self
            .ceiling
            .deadline_milliseconds
            .map_or(deadline, |most| deadline.min(Duration::from_millis(most)));
        let config = config.or_else(|| rule.and_then(|r| r.config.as_ref()));
        PluginOptions {
            name: object.to_owned(),
            config: config.and_then(|c| serde_json::to_vec(c).ok()).unwrap_or_else(|| b"{}".to_vec()),
            limits: Limits { memory_bytes: memory, ..wish.limits },
            deadline,
        }
    }

    /// Gives a plugin a configuration where the file gives it none.
    pub(crate) fn default_config(&mut self, name: &str, config: &serde_json::Value) {
        self.rules.entry(name.to_owned()).or_default().config.get_or_insert_with(|| config.clone());
    }

    /// The object's word, then the policy's, then `Fail`.
    pub(crate) fn failure_policy(&self, name: &str, said: Option<FailurePolicy>) -> FailurePolicy {
        let ruled =
            || self.rules.get(name).and_then(|r| r.failure_policy.as_deref()).and_then(parse_failure_policy);
        said.or_else(ruled).unwrap_or_default()
    }
}

/// `Fail` or `Ignore`.
pub(crate) fn parse_failure_policy(text: &str) -> Option<FailurePolicy> {
    match text {
        "Fail" => Some(FailurePolicy::Fail),
        "Ignore" => Some(FailurePolicy::Ignore),
        _ => None,
    }
}

/// Ranges of limits, for files and objects.
pub(crate) fn check_limits(path: &str, limits: LimitsSpec) -> Result<(), PolicyError> {
    let faults = [
        ("memoryBytes", limits.memory_bytes, 128 << 10, 4 << 30),
        ("deadlineMilliseconds", limits.deadline_milliseconds, 1, 60_000),
    ];
    for (name, value, least, most) in faults {
        if let Some(value) = value.filter(|v| !(least..=most).contains(v)) {
            let message = format!("{value} is not within {least} to {most}");
            return Err(PolicyError::Value { path: format!("{path}.{name}"), message });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_in_upstreams_order() {
        let policy = PluginPolicy::parse(DEFAULT).unwrap();
        let expected =
            ["NamespaceLifecycle", "LimitRanger", "ServiceAccount", "Priority", "DefaultTolerationSeconds"];
        assert_eq!(policy.admission, expected);
        assert!(policy.allows_user_plugins());
    }

    #[test]
    fn faults_are_named() {
        let head = "apiVersion: orlop.dev/v1\nkind: PluginPolicy\n";
        for (body, fault) in [
            ("admision: {}", "unknown field `admision`"),
            ("admission: {order: [A, B, A]}", "admission.order[2]: A is there twice"),
            (
                "plugins: {X: {failurePolicy: Maybe}}",
                "plugins.X.failurePolicy: \"Maybe\" is neither Fail nor Ignore",
            ),
            ("plugins: {X: {limits: {memoryBytes: 1}}}", "plugins.X.limits.memoryBytes: 1 is not within"),
            ("limits: {deadlineMilliseconds: 0}", "limits.deadlineMilliseconds: 0 is not within"),
        ] {
            let error = PluginPolicy::parse(&format!("{head}{body}")).unwrap_err().to_string();
            assert!(error.contains(fault), "{error} / {fault}");
        }
        assert!(PluginPolicy::parse("kind: PluginPolicy\napiVersion: v1").is_err());
        assert!(PluginPolicy::parse("").is_err());
    }
}
