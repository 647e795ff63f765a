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

use super::policy::{LimitsSpec, check_limits, parse_failure_policy};
use super::set::FailurePolicy;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orlop_apimachinery::{Gvr, Object};
use orlop_plugin::{Digest, PluginError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Read;

/// `plugins.orlop.dev`
pub(crate) static PLUGINS: Gvr = Gvr::new("orlop.dev", "v1", "plugins");

/// Largest module after decompression.
const MAX_MODULE: u64 = 64 << 20;

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
            Self::Policy { .. } => "NotAllowed",
            Self::Plugin(error) => error.reason(),
        }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grants: Option<Value>,
}

/// `spec.source`; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Source {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) builtin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
}

/// A module's bytes, from wherever.
pub(crate) enum Module {
    Builtin(&'static [u8]),
    Owned(Vec<u8>),
}

impl AsRef<[u8]> for Module {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Builtin(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
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
        let Source { inline, file, builtin, image } = &self.source;
        let given = [inline, file, builtin, image].iter().filter(|s| s.is_some()).count();
        if given != 1 {
            return field("source", "exactly one of inline, file and builtin must be set");
        }
        if image.is_some() {
            return field("source.image", "modules from registries are not supported; use inline or file");
        }
        if self.config.as_ref().is_some_and(|c| !c.is_object()) {
            return field("config", "must be an object");
        }
        if self.failure_policy.as_deref().is_some_and(|p| parse_failure_policy(p).is_none()) {
            return field("failurePolicy", "must be Fail or Ignore");
        }
        check_limits("spec.limits", self.limits()?)?;
        Ok(())
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

    /// Fetches the bytes and checks their digest. Blocks on files.
    pub(crate) fn fetch(&self, builtins: &[(&'static str, &'static [u8])]) -> Result<Module, StageError> {
        let failed = |message: String| StageError::Fetch { message };
        let module = if let Some(name) = &self.source.builtin {
            let found = builtins.iter().find(|(n, _)| n == name);
            let (_, bytes) =
                found.ok_or_else(|| failed(format!("this program has no built-in plugin \"{name}\"")))?;
            Module::Builtin(bytes)
        } else if let Some(path) = &self.source.file {
            let file = std::fs::File::open(path).map_err(|e| failed(format!("{path}: {e}")))?;
            Module::Owned(unpack(read(file).map_err(|e| failed(format!("{path}: {e}")))?).map_err(failed)?)
        } else {
            let text: String =
                self.source.inline.as_deref().unwrap_or_default().split_ascii_whitespace().collect();
            let bytes =
                STANDARD.decode(text).map_err(|e| failed(format!("source.inline is not base64: {e}")))?;
            Module::Owned(unpack(bytes).map_err(failed)?)
        };
        let found = Digest::of(module.as_ref());
        if !self.digest.is_empty() && self.digest != found.to_string() {
            return Err(StageError::Digest { found, wanted: self.digest.clone() });
        }
        Ok(module)
    }
}

/// Gunzips what is gzip, and leaves alone what is not.
pub(crate) fn unpack(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    read(flate2::read::GzDecoder::new(bytes.as_slice()))
        .map_err(|e| format!("the module cannot be gunzipped: {e}"))
}

fn read(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_MODULE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_MODULE {
        return Err(std::io::Error::other(format!("it has more than {MAX_MODULE} bytes")));
    }
    Ok(bytes)
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
            (
                json!({ "source": { "image": "x" } }),
                "spec.source.image: modules from registries are not supported",
            ),
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

    #[test]
    fn inline_modules_may_be_compressed_and_must_have_the_digest() {
        use std::io::Write;
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"\0asm1234").unwrap();
        let text = STANDARD.encode(gz.finish().unwrap());
        let mut spec = spec(json!({ "source": { "inline": text } })).unwrap();
        assert_eq!(spec.fetch(&[]).unwrap().as_ref(), b"\0asm1234");
        spec.digest = Digest::of(b"\0asm1234").to_string();
        assert!(spec.fetch(&[]).is_ok());
        spec.digest = Digest::of(b"other").to_string();
        assert!(matches!(spec.fetch(&[]), Err(StageError::Digest { .. })));
    }
}
