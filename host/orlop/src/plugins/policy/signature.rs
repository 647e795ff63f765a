//! Who must have signed a plugin: `signatures` of `plugins.yaml`.
//!
//! What is signed, by ed25519, is [`DOMAIN`] followed by the 32 bytes of the module's SHA-256 (of the
//! module after gunzipping, as in `status.activeDigest`). The signature is the base64 of its 64 bytes.

use super::PolicyError;
use crate::plugins::object::Source;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use orlop_plugin::Digest;
use serde::Deserialize;

/// Comes before the digest in what is signed.
pub(crate) const DOMAIN: &[u8] = b"orlop.dev/v1 Plugin sha256\0";

/// What DER puts before the 32 bytes of an ed25519 public key.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// `signatures`, as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct File {
    keys: Vec<KeyFile>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyFile {
    name: String,
    public_key: String,
}

/// The first rule that names plugin and source decides.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    /// Names of `Plugin` objects; `*` stands for any text.
    #[serde(default)]
    plugins: Vec<String>,
    /// `image`, `file`, `inline`; all where there are none.
    #[serde(default)]
    sources: Vec<String>,
    require_signature: bool,
    /// Names of keys; all where there are none.
    #[serde(default)]
    keys: Vec<String>,
}

/// Keys and rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SignaturePolicy {
    keys: Vec<(String, VerifyingKey)>,
    rules: Vec<Rule>,
}

/// Why a module is refused for its signature. The user must have it signed, or the operator must trust the key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignatureError {
    /// There is none.
    #[error(
        "the plugin policy wants modules from {source_kind} signed, and this one is not: set spec.signature, or annotate the artifact"
    )]
    Missing {
        /// `image`, `file` or `inline`.
        source_kind: &'static str,
    },
    /// It is no base64 of 64 bytes.
    #[error("spec.signature is no ed25519 signature: it must be the base64 of 64 bytes")]
    Malformed,
    /// None of the keys made it.
    #[error("the signature of {digest} is of none of the keys that the plugin policy trusts for it ({keys})")]
    Wrong {
        /// Of the module.
        digest: Digest,
        /// Names.
        keys: String,
    },
}

impl SignaturePolicy {
    pub(super) fn new(file: File) -> Result<Self, PolicyError> {
        let wrong = |path: String, message: String| Err(PolicyError::Value { path, message });
        let mut keys: Vec<(String, VerifyingKey)> = Vec::new();
        for (i, key) in file.keys.into_iter().enumerate() {
            let path = format!("signatures.keys[{i}]");
            if key.name.is_empty() || keys.iter().any(|(name, _)| *name == key.name) {
                return wrong(format!("{path}.name"), "must be there, and only once".to_owned());
            }
            let Some(parsed) = public_key(&key.public_key) else {
                let message = "is no ed25519 public key: give its 32 bytes in base64, or PEM as `openssl pkey -pubout` writes it";
                return wrong(format!("{path}.publicKey"), message.to_owned());
            };
            keys.push((key.name, parsed));
        }
        for (i, rule) in file.rules.iter().enumerate() {
            let path = format!("signatures.rules[{i}]");
            if let Some(source) =
                rule.sources.iter().find(|s| !["image", "file", "inline"].contains(&s.as_str()))
            {
                return wrong(
                    format!("{path}.sources"),
                    format!("\"{source}\" is neither image, file nor inline"),
                );
            }
            if let Some(name) = rule.keys.iter().find(|n| !keys.iter().any(|(k, _)| k == *n)) {
                return wrong(format!("{path}.keys"), format!("\"{name}\" is not among signatures.keys"));
            }
            if rule.require_signature && keys.is_empty() {
                return wrong(
                    format!("{path}.requireSignature"),
                    "needs at least one of signatures.keys".to_owned(),
                );
            }
        }
        Ok(Self { keys, rules: file.rules })
    }

    /// Checks the signature of a module, as far as a rule wants one. Returns the name of the key that made it, where
    /// one that is known did.
    pub(crate) fn check(
        &self,
        object: &str,
        source: &Source,
        digest: Digest,
        signature: Option<&str>,
    ) -> Result<Option<String>, SignatureError> {
        let Some(source_kind) = source.kind() else { return Ok(None) };
        let rule = self.rules.iter().find(|r| r.is_for(object, source_kind));
        let required = rule.is_some_and(|r| r.require_signature);
        let trusted = |name: &String| rule.is_none_or(|r| r.keys.is_empty() || r.keys.contains(name));
        let Some(signature) = signature.map(str::trim).filter(|s| !s.is_empty()) else {
            return if required { Err(SignatureError::Missing { source_kind }) } else { Ok(None) };
        };
        let bytes = STANDARD.decode(signature).ok().and_then(|b| Signature::from_slice(&b).ok());
        let signer = bytes.as_ref().and_then(|signature| {
            let message = message(digest);
            let candidates = self.keys.iter().filter(|(name, _)| trusted(name));
            candidates.into_iter().find(|(_, key)| key.verify_strict(&message, signature).is_ok())
        });
        match signer {
            Some((name, _)) => Ok(Some(name.clone())),
            None if !required => Ok(None),
            None if bytes.is_none() => Err(SignatureError::Malformed),
            None => {
                let names = self.keys.iter().map(|(n, _)| n).filter(|n| trusted(n));
                let keys = names.cloned().collect::<Vec<_>>().join(", ");
                Err(SignatureError::Wrong { digest, keys })
            }
        }
    }
}

impl Rule {
    fn is_for(&self, object: &str, source: &str) -> bool {
        (self.plugins.is_empty() || self.plugins.iter().any(|p| matches(p, object)))
            && (self.sources.is_empty() || self.sources.iter().any(|s| s == source))
    }
}

/// What is signed.
pub(crate) fn message(digest: Digest) -> Vec<u8> {
    let mut message = DOMAIN.to_vec();
    message.extend(hex::decode(digest.hex()).unwrap_or_default());
    message
}

/// 32 bytes in base64, or DER or PEM around them.
fn public_key(text: &str) -> Option<VerifyingKey> {
    let lines = text.lines().map(str::trim).filter(|l| !l.starts_with("-----"));
    let bytes = STANDARD.decode(lines.collect::<String>()).ok()?;
    let raw = bytes.strip_prefix(&SPKI).unwrap_or(&bytes);
    VerifyingKey::from_bytes(raw.try_into().ok()?).ok()
}

/// Whether `text` is like `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::policy::PluginPolicy;
    use ed25519_dalek::{Signer, SigningKey};

    const HEAD: &str = "apiVersion: orlop.dev/v1\nkind: PluginPolicy\n";

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn public(key: &SigningKey) -> String {
        STANDARD.encode(key.verifying_key().as_bytes())
    }

    fn image() -> Source {
        Source { image: Some("localhost/p:1".into()), ..Source::default() }
    }

    fn policy(rules: &str) -> SignaturePolicy {
        let keys = format!(
            "[{{name: release, publicKey: \"{}\"}}, {{name: other, publicKey: \"{}\"}}]",
            public(&key(1)),
            public(&key(2))
        );
        let text = format!("{HEAD}signatures: {{keys: {keys}, rules: {rules}}}");
        PluginPolicy::parse(&text).unwrap().signatures().clone()
    }

    #[test]
    fn only_the_trusted_key_over_this_very_module_counts() {
        let policy = policy(
            "[{plugins: [\"team-*\"], requireSignature: true, keys: [release]}, {sources: [image], requireSignature: true}]",
        );
        let digest = Digest::of(b"module");
        let by = |seed: u8, digest| STANDARD.encode(key(seed).sign(&message(digest)).to_bytes());
        let check = |object: &str, source: &Source, signature: Option<String>| {
            policy.check(object, source, digest, signature.as_deref()).map_err(|e| e.to_string())
        };
        let inline = Source { inline: Some(String::new()), ..Source::default() };
        assert_eq!(check("team-a", &inline, Some(by(1, digest))), Ok(Some("release".into())));
        assert!(check("team-a", &inline, Some(by(2, digest))).unwrap_err().contains("(release)"));
        assert!(check("team-a", &inline, Some(by(1, Digest::of(b"other")))).is_err());
        assert!(check("team-a", &inline, None).unwrap_err().contains("from inline signed"));
        assert!(check("team-a", &inline, Some("junk".into())).unwrap_err().contains("64 bytes"));
        let bare = STANDARD.encode(key(1).sign(&hex::decode(digest.hex()).unwrap()).to_bytes());
        assert!(check("team-a", &inline, Some(bare)).is_err(), "without the domain");
        // Another rule, another source, no rule.
        assert_eq!(check("mine", &image(), Some(by(2, digest))), Ok(Some("other".into())));
        assert!(check("mine", &image(), None).is_err());
        assert_eq!(check("mine", &inline, None), Ok(None));
        assert_eq!(check("mine", &inline, Some("junk".into())), Ok(None));
        let builtin = Source { builtin: Some("x".into()), ..Source::default() };
        assert_eq!(check("team-x", &builtin, None), Ok(None));
    }

    #[test]
    fn keys_may_be_pem() {
        let mut der = SPKI.to_vec();
        der.extend(key(1).verifying_key().as_bytes());
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&der));
        assert_eq!(public_key(&pem), Some(key(1).verifying_key()));
        assert_eq!(public_key("AAAA"), None);
    }

    #[test]
    fn faults_are_named() {
        for (body, fault) in [
            ("keys: [{name: a, publicKey: x}]", "signatures.keys[0].publicKey: is no ed25519"),
            ("rules: [{requireSignature: true}]", "signatures.rules[0].requireSignature: needs"),
            ("rules: [{requireSignature: false, keys: [b]}]", "\"b\" is not among"),
            ("rules: [{requireSignature: false, sources: [url]}]", "\"url\" is neither"),
        ] {
            let error =
                PluginPolicy::parse(&format!("{HEAD}signatures: {{{body}}}")).unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "a", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
