//! The `Plugin` object: what users write, and the bytes that it names.
//!
//! Every change of `spec` that changes what runs makes an immutable `PluginRevision` (`orlop.dev/v1`,
//! cluster-scoped, named `<plugin>-<number>`, owned by the `Plugin`); `status.activeRevision` is the
//! number of the one that runs, `spec.revisionHistoryLimit` (10) says how many are kept beside those in use.
//!
//! Rolling back: `spec.revision: <number>` makes the plugin run that `PluginRevision`, with the module,
//! configuration, limits, grants and failure policy that it records, whatever else the spec says, at once
//! and without shadow or canary. `spec.revision: null` (or 0) returns to what the spec says; whoever
//! changes the source otherwise (`apply`) sets it to null in the same patch. A number that has no
//! revision is refused with the reason `RevisionNotFound`, and what runs runs on.

mod source;

use super::policy::signature::SignatureError;
use super::policy::{LimitsSpec, check_limits, parse_failure_policy};
use super::rollout::Rollout;
use super::set::FailurePolicy;
use orlop_apimachinery::{Gvr, Object};
use orlop_plugin::manifest::Permission;
use orlop_plugin::{Digest, PluginError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
pub(crate) use source::{Fetched, Source, pack, unpack, unpack_text};

/// `plugins.orlop.dev`
pub(crate) static PLUGINS: Gvr = Gvr::new("orlop.dev", "v1", "plugins");

/// Revisions that are kept beside those in use, where `spec.revisionHistoryLimit` says nothing.
const HISTORY: u64 = 10;

/// Why a `Plugin` object is refused before its code is looked at. The user must change the object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    /// A field is unknown or of another type.
    #[error("spec: {message}")]
    Syntax {
        /// What and where.
        message: String,
    },
    /// A field has a value that it may not have.
    #[error("spec.{path}: {message}")]
    Field {
        /// Which.
        path: &'static str,
        /// Why.
        message: String,
    },
    /// A limit is out of range.
    #[error(transparent)]
    Limit(#[from] super::policy::PolicyError),
}

/// Why no active plugin could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    /// The object is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The bytes could not be had.
    #[error("the module cannot be fetched: {message}")]
    Fetch {
        /// Why.
        message: String,
    },
    /// The bytes are not those that the object asks for.
    #[error("the module has digest {found}, but spec.digest asks for {wanted}")]
    Digest {
        /// Of the bytes.
        found: Digest,
        /// As written.
        wanted: String,
    },
    /// It is not signed as the operator wants it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It wants to see or write what its user may not.
    #[error("{message}")]
    Forbidden {
        /// What, and how it can be allowed.
        message: String,
    },
    /// `spec.revision` names a revision that is not there.
    #[error("spec.revision: there is no PluginRevision \"{name}\"")]
    RevisionNotFound {
        /// Of the object.
        name: String,
    },
    /// It cannot go through shadow or canary.
    #[error("{message}")]
    Rollout {
        /// Why, and what to do.
        message: String,
    },
    /// The operator or another plugin stands in the way.
    #[error("{message}")]
    Policy {
        /// Why.
        message: String,
    },
    /// The code is refused.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

impl StageError {
    /// A CamelCase word for conditions and events.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Spec(_) => "InvalidSpec",
            Self::Fetch { .. } => "FetchFailed",
            Self::Digest { .. } => "DigestMismatch",
            Self::Signature(_) => "SignatureRefused",
            Self::Forbidden { .. } => "Forbidden",
            Self::RevisionNotFound { .. } => "RevisionNotFound",
            Self::Rollout { .. } => "RolloutImpossible",
            Self::Policy { .. } => "NotAllowed",
            Self::Plugin(error) => error.reason(),
        }
    }

    /// Whether it may come right without a change of the object.
    pub(crate) const fn is_retryable(&self) -> bool {
        matches!(self, Self::Fetch { .. } | Self::Forbidden { .. } | Self::RevisionNotFound { .. })
    }
}

/// `spec`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct PluginSpec {
    pub(crate) source: Source,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) world: String,
    /// What it may do, as far as its manifest asks for it; see [`super::access`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grants: Option<Vec<Permission>>,
    /// See [`super::policy::signature`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) signature: String,
    /// How a change takes effect; at once where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rollout: Option<Rollout>,
    /// See the module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revision_history_limit: Option<u64>,
}

impl PluginSpec {
    /// The spec of a built-in plugin that nobody changed.
    pub(crate) fn builtin(name: &str) -> Self {
        Self { source: Source { builtin: Some(name.to_owned()), ..Source::default() }, ..Self::default() }
    }

    /// Reads and checks the spec of an object.
    pub(crate) fn of(object: &Object) -> Result<Self, SpecError> {
        let value = object.to_value();
        let spec = value.get("spec").cloned().unwrap_or(Value::Null);
        let syntax = |e: serde_json::Error| SpecError::Syntax { message: e.to_string() };
        let spec: Self =
            if spec.is_null() { Self::default() } else { serde_json::from_value(spec).map_err(syntax)? };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), SpecError> {
        let field = |path, message: &str| Err(SpecError::Field { path, message: message.to_owned() });
        self.source.check()?;
        if self.config.as_ref().is_some_and(|c| !c.is_object()) {
            return field("config", "must be an object");
        }
        if self.failure_policy.as_deref().is_some_and(|p| parse_failure_policy(p).is_none()) {
            return field("failurePolicy", "must be Fail or Ignore");
        }
        check_limits("spec.limits", self.limits()?)?;
        self.rollout.as_ref().map_or(Ok(()), Rollout::check)
    }

    /// The revision that is asked for, where one is.
    pub(crate) fn pinned(&self) -> Option<u64> {
        self.revision.filter(|n| *n > 0)
    }

    /// `revisionHistoryLimit`, or its default.
    pub(crate) fn history(&self) -> usize {
        usize::try_from(self.revision_history_limit.unwrap_or(HISTORY)).unwrap_or(usize::MAX)
    }

    /// What decides what runs: without the rollout and the like, which say how.
    pub(crate) fn content(&self) -> Self {
        Self { rollout: None, revision_history_limit: None, enabled: None, ..self.clone() }
    }

    /// `limits`, typed.
    pub(crate) fn limits(&self) -> Result<LimitsSpec, SpecError> {
        let Some(limits) = &self.limits else { return Ok(LimitsSpec::default()) };
        serde_json::from_value(limits.clone())
            .map_err(|e| SpecError::Syntax { message: format!("limits: {e}") })
    }

    /// `failurePolicy`, typed.
    pub(crate) fn failure_policy(&self) -> Option<FailurePolicy> {
        self.failure_policy.as_deref().and_then(parse_failure_policy)
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled != Some(false)
    }

    /// Whether the code came with this program.
    pub(crate) const fn is_builtin(&self) -> bool {
        self.source.builtin.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(spec: Value) -> Result<PluginSpec, SpecError> {
        PluginSpec::of(&Object::from_value(&json!({ "metadata": { "name": "p" }, "spec": spec })).unwrap())
    }

    #[test]
    fn faults_of_the_spec_are_named() {
        for (value, fault) in [
            (json!({}), "spec.source: exactly one of"),
            (json!({ "source": { "file": "a", "builtin": "b" } }), "spec.source: exactly one of"),
            (json!({ "source": { "builtin": "b" }, "rollout": { "canary": { "percent": 0 } } }), "percent"),
            (json!({ "source": { "builtin": "b" }, "grants": [{ "verbs": ["get"] }] }), "apiGroups"),
            (json!({ "source": { "url": "x" } }), "unknown field `url`"),
            (json!({ "source": { "builtin": "b" }, "failurePolicy": "No" }), "spec.failurePolicy: must be"),
            (
                json!({ "source": { "builtin": "b" }, "limits": { "memoryBytes": 5 } }),
                "spec.limits.memoryBytes: 5 is not",
            ),
        ] {
            let error = spec(value.clone()).unwrap_err().to_string();
            assert!(error.contains(fault), "{value}: {error}");
        }
    }
}
