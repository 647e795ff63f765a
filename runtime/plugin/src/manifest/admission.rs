//! The manifest's section of an admission plugin: which requests it sees and what comes with them.

use super::{ManifestError, check_len, check_text, check_texts, field};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// Whether an allowing verdict depends on the operation, resource, namespace (without one, the name), `object`,
    /// `old-object` and `context` alone, so that the host may repeat it for an equal request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memoize: bool,
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
    /// Which one: text in which `{…}` is replaced by the first alternative that is not empty.
    /// Alternatives are separated by `|` and are `namespace`, `name` (of the request), a path of
    /// the object such as `spec.serviceAccountName`, or a literal in single quotes.
    /// Absent: all objects of the request's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_name: Option<String>,
    /// Whether the object lies in no namespace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster_scoped: bool,
    /// Asks the store rather than the cache where the cache has no such object.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
    /// Names worth waiting for, up to 1.5 s, because a controller is about to make them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wait_for: Vec<String>,
}

impl ContextObject {
    /// The name to look up for a request; `None` asks for all objects of the namespace. Empty where
    /// the request names none.
    #[must_use]
    pub fn resolve(&self, namespace: &str, name: &str, object: &Value) -> Option<String> {
        let mut rest = self.object_name.as_deref()?;
        let mut out = String::new();
        while let Some((head, tail)) = rest.split_once('{') {
            out.push_str(head);
            let (expression, tail) = tail.split_once('}').unwrap_or((tail, ""));
            out.push_str(evaluate(expression, namespace, name, object));
            rest = tail;
        }
        out.push_str(rest);
        Some(out)
    }
}

fn evaluate<'a>(expression: &'a str, namespace: &'a str, name: &'a str, object: &'a Value) -> &'a str {
    let values = expression.split('|').map(|alternative| match alternative.trim() {
        "namespace" => namespace,
        "name" => name,
        quoted if quoted.starts_with('\'') => quoted.trim_matches('\''),
        path => path
            .split('.')
            .try_fold(object, |at, key| at.get(key))
            .and_then(Value::as_str)
            .unwrap_or_default(),
    });
    values.into_iter().find(|v| !v.is_empty()).unwrap_or_default()
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
            check_texts(&at("waitFor"), &context.wait_for)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(template: &str) -> ContextObject {
        ContextObject {
            name: "c".into(),
            api_version: "v1".into(),
            resource: "serviceaccounts".into(),
            object_name: Some(template.into()),
            cluster_scoped: false,
            live: false,
            wait_for: Vec::new(),
        }
    }

    #[test]
    fn names_are_taken_from_the_request() {
        let pod = json!({ "spec": { "serviceAccount": "robot", "serviceAccountName": "" } });
        let resolve = |t: &str| named(t).resolve("shop", "web", &pod).unwrap();
        assert_eq!(resolve("{namespace}"), "shop");
        assert_eq!(resolve("a-{name}-{namespace}"), "a-web-shop");
        assert_eq!(resolve("{spec.serviceAccountName|spec.serviceAccount|'default'}"), "robot");
        assert_eq!(resolve("{spec.nothing|'default'}"), "default");
        assert_eq!(resolve("{spec.nothing}"), "");
        assert_eq!(resolve("{name"), "web");
        let all = ContextObject { object_name: None, ..named("") };
        assert_eq!(all.resolve("shop", "web", &pod), None);
    }
}
