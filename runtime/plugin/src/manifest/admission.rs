//! The manifest's section of an admission plugin: which requests it sees and what comes with them.

use super::{ManifestError, check_len, check_text, check_texts, field};
use serde::{Deserialize, Serialize};

/// What an admission plugin sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdmissionManifest {
    /// `mutate`, `validate` or both.
    pub phases: Vec<Phase>,
    /// A request is shown to the plugin where at least one rule matches it.
    pub rules: Vec<Rule>,
    /// Top-level paths of the object that are sent, such as `metadata` and `spec.containers`;
    /// empty for the whole object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub projection: Vec<String>,
    /// Whether updates carry the old object too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub old_object: bool,
    /// Further objects that the host looks up and sends along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<ContextObject>,
}

/// When the plugin is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// May change the object.
    Mutate,
    /// Sees the final object and may refuse it.
    Validate,
}

/// Which requests match. `*` matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT` or `*`.
    pub operations: Vec<String>,
    /// API groups; empty text is the core group.
    pub api_groups: Vec<String>,
    /// `pods`, `pods/status`, `*` (no subresource), `*/*` (everything), `pods/*`, `*/scale`.
    pub resources: Vec<String>,
    /// `Namespaced`, `Cluster` or `*`.
    #[serde(default = "any_scope")]
    pub scope: String,
}

fn any_scope() -> String {
    "*".into()
}

/// An object, or all objects of a namespace, that the host sends along with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContextObject {
    /// Under this name the plugin finds it.
    pub name: String,
    /// `v1` or `group/version`.
    pub api_version: String,
    /// Plural name.
    pub resource: String,
    /// Which one: `{namespace}` is the request's namespace, `{<path>}` a text of the object such as
    /// `{spec.serviceAccountName}`, with a default after a bar (`{spec.serviceAccountName|default}`).
    /// Absent: all objects of the request's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_name: Option<String>,
    /// Asks the store rather than the cache where the cache has no such object.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
}

const OPERATIONS: [&str; 5] = ["CREATE", "UPDATE", "DELETE", "CONNECT", "*"];

impl AdmissionManifest {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        if self.phases.is_empty() {
            return Err(field("admission.phases", "must name mutate, validate or both"));
        }
        check_len("admission.phases", self.phases.len())?;
        if self.rules.is_empty() {
            return Err(field("admission.rules", "must have at least one rule"));
        }
        check_len("admission.rules", self.rules.len())?;
        for (i, rule) in self.rules.iter().enumerate() {
            let at = |name: &str| format!("admission.rules[{i}].{name}");
            check_texts(&at("operations"), &rule.operations)?;
            check_texts(&at("apiGroups"), &rule.api_groups)?;
            check_texts(&at("resources"), &rule.resources)?;
            if let Some(unknown) = rule.operations.iter().find(|o| !OPERATIONS.contains(&o.as_str())) {
                return Err(field(
                    at("operations"),
                    format!("\"{unknown}\" is none of {}", OPERATIONS.join(", ")),
                ));
            }
            if rule.operations.is_empty() || rule.api_groups.is_empty() || rule.resources.is_empty() {
                return Err(field(at("*"), "operations, apiGroups and resources must not be empty"));
            }
            if !["Namespaced", "Cluster", "*"].contains(&rule.scope.as_str()) {
                return Err(field(at("scope"), "must be Namespaced, Cluster or *"));
            }
        }
        check_texts("admission.projection", &self.projection)?;
        check_len("admission.context", self.context.len())?;
        for (i, context) in self.context.iter().enumerate() {
            let at = |name: &str| format!("admission.context[{i}].{name}");
            check_text(&at("name"), &context.name)?;
            check_text(&at("apiVersion"), &context.api_version)?;
            check_text(&at("resource"), &context.resource)?;
            check_text(&at("objectName"), context.object_name.as_deref().unwrap_or_default())?;
            if context.name.is_empty() || context.resource.is_empty() || context.api_version.is_empty() {
                return Err(field(at("*"), "name, apiVersion and resource must not be empty"));
            }
            if self.context.iter().take(i).any(|c| c.name == context.name) {
                return Err(field(at("name"), format!("\"{}\" is there twice", context.name)));
            }
        }
        Ok(())
    }
}
