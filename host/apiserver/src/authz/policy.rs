//! Policies from a file, in the vocabulary of Kubernetes' ABAC: an empty field matches nothing but
//! empty, `*` matches everything.

use super::{Attributes, Decision};
use crate::user::{GROUP_AUTHENTICATED, GROUP_UNAUTHENTICATED, UserInfo};
use arc_swap::ArcSwap;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// What holds where no file is given.
const BUILT_IN: &str = include_str!("../../../../policies/authorization.yaml");

/// Why policies cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("the policy file {} cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no YAML, or a field is unknown or of a wrong type.
    #[error("document {document} of the policies is not valid")]
    Parse {
        /// From 1.
        document: usize,
        /// Why.
        #[source]
        source: serde_yaml::Error,
    },
    /// Another kind or version.
    #[error(
        "document {document} of the policies is {kind} of {api_version}, not Policy of abac.authorization.kubernetes.io/v1beta1"
    )]
    Kind {
        /// From 1.
        document: usize,
        /// What it says.
        kind: String,
        /// What it says.
        api_version: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    spec: Policy,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Policy {
    user: String,
    group: String,
    #[serde(rename = "apiGroup")]
    api_group: String,
    resource: String,
    namespace: String,
    #[serde(rename = "nonResourcePath")]
    non_resource_path: String,
    readonly: bool,
}

/// The policies in force, read again when their file changes.
pub struct Policies {
    active: ArcSwap<Vec<Policy>>,
    file: Option<PathBuf>,
    seen: parking_lot::Mutex<Option<SystemTime>>,
}

impl std::fmt::Debug for Policies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policies").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Policies {
    /// Reads `file`, or takes the built-in policies where there is none.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn load(file: Option<&Path>) -> Result<Self, PolicyError> {
        let (policies, seen) = match file {
            None => (parse(BUILT_IN)?, None),
            Some(path) => (parse(&read(path)?)?, modified(path)),
        };
        Ok(Self {
            active: ArcSwap::from_pointee(policies),
            file: file.map(Path::to_owned),
            seen: parking_lot::Mutex::new(seen),
        })
    }

    /// Reads the file again where it changed. What cannot be used changes nothing. Returns whether
    /// new policies are in force.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn reload(&self) -> Result<bool, PolicyError> {
        let Some(path) = &self.file else { return Ok(false) };
        let now = modified(path);
        {
            let mut seen = self.seen.lock();
            if *seen == now {
                return Ok(false);
            }
            *seen = now;
        }
        let policies = parse(&read(path)?)?;
        self.active.store(Arc::new(policies));
        Ok(true)
    }

    pub(super) fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision {
        if self.active.load().iter().any(|p| p.subject(user) && p.allows(attributes)) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }

    pub(super) fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>) {
        let mut resources = Vec::new();
        let mut paths = Vec::new();
        for policy in self.active.load().iter().filter(|p| p.subject(user)) {
            let verbs = if policy.readonly { json!(["get", "list", "watch"]) } else { json!(["*"]) };
            if !policy.resource.is_empty() && matches(&policy.namespace, namespace) {
                resources.push(json!({
                    "verbs": verbs, "apiGroups": [policy.api_group], "resources": [policy.resource],
                }));
            }
            if !policy.non_resource_path.is_empty() {
                paths.push(json!({"verbs": verbs, "nonResourceURLs": [policy.non_resource_path]}));
            }
        }
        (resources, paths)
    }
}

fn read(path: &Path) -> Result<String, PolicyError> {
    std::fs::read_to_string(path).map_err(|source| PolicyError::Read { path: path.to_owned(), source })
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn parse(text: &str) -> Result<Vec<Policy>, PolicyError> {
    let mut out = Vec::new();
    for (at, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let document = Option::<Document>::deserialize(document)
            .map_err(|source| PolicyError::Parse { document: at + 1, source })?;
        let Some(document) = document else { continue };
        if document.kind != "Policy" || document.api_version != "abac.authorization.kubernetes.io/v1beta1" {
            return Err(PolicyError::Kind {
                document: at + 1,
                kind: document.kind,
                api_version: document.api_version,
            });
        }
        out.push(document.spec);
    }
    Ok(out)
}

fn matches(pattern: &str, value: &str) -> bool {
    pattern == "*" || pattern == value
}

impl Policy {
    /// User and group must match where they are named; at least one must be.
    fn subject(&self, user: &UserInfo) -> bool {
        let known = user.in_group(GROUP_AUTHENTICATED) || user.in_group(GROUP_UNAUTHENTICATED);
        let by_user = match self.user.as_str() {
            "" => None,
            // As in upstream, `*` means every authenticated user.
            "*" => Some(known && user.in_group(GROUP_AUTHENTICATED)),
            name => Some(name == user.name),
        };
        let by_group = match self.group.as_str() {
            "" => None,
            "*" => Some(user.in_group(GROUP_AUTHENTICATED)),
            group => Some(user.in_group(group)),
        };
        match (by_user, by_group) {
            (None, None) => false,
            (a, b) => a.unwrap_or(true) && b.unwrap_or(true),
        }
    }

    fn allows(&self, a: &Attributes<'_>) -> bool {
        if self.readonly && !a.is_read_only() {
            return false;
        }
        if a.resource.is_empty() {
            return match self.non_resource_path.strip_suffix('*') {
                Some(prefix) => a.path.starts_with(prefix),
                None => !self.non_resource_path.is_empty() && self.non_resource_path == a.path,
            };
        }
        !self.resource.is_empty()
            && matches(&self.namespace, a.namespace)
            && (matches(&self.resource, a.resource) || self.resource == a.full_resource())
            && matches(&self.api_group, a.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(user: &UserInfo, verb: &str, resource: &str, path: &str) -> bool {
        let policies = Policies::load(None).unwrap();
        let a = Attributes { verb, resource, version: "v1", namespace: "ns", path, ..Attributes::default() };
        matches!(policies.authorize(user, &a), Decision::Allow(_))
    }

    #[test]
    fn the_built_in_policies_open_discovery_and_no_more() {
        let nobody = UserInfo::anonymous();
        let somebody = UserInfo::new("jane", Vec::<String>::new());
        assert!(may(&nobody, "get", "", "/healthz"));
        assert!(may(&nobody, "get", "", "/version"));
        assert!(!may(&nobody, "get", "", "/api"));
        assert!(may(&somebody, "get", "", "/apis/apps/v1"));
        assert!(!may(&somebody, "get", "", "/metrics"));
        assert!(!may(&somebody, "list", "pods", ""));
        assert!(may(&UserInfo::new("system:kube-scheduler", Vec::<String>::new()), "list", "pods", ""));
    }

    #[test]
    fn wrong_policies_are_refused_with_their_place() {
        let bad = "apiVersion: abac.authorization.kubernetes.io/v1beta1\nkind: Policy\nspec: {usr: x}\n";
        assert!(matches!(parse(bad), Err(PolicyError::Parse { document: 1, .. })));
        let other = "apiVersion: v1\nkind: Pod\nspec: {}\n";
        assert!(matches!(parse(other), Err(PolicyError::Kind { document: 1, .. })));
    }

    #[test]
    fn a_changed_file_takes_effect_and_a_broken_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authorization.yaml");
        let policy = |user: &str| {
            format!(
                "apiVersion: abac.authorization.kubernetes.io/v1beta1\nkind: Policy\nspec: {{user: {user}, resource: '*', namespace: '*', apiGroup: '*'}}\n"
            )
        };
        let write = |text: &str, age: u64| {
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 + age))
                .unwrap();
        };
        write(&policy("a"), 0);
        let policies = Policies::load(Some(&path)).unwrap();
        let may = |user: &str| {
            let a = Attributes { verb: "get", resource: "pods", ..Attributes::default() };
            matches!(policies.authorize(&UserInfo::new(user, Vec::<String>::new()), &a), Decision::Allow(_))
        };
        assert!(may("a") && !may("b"));
        assert!(!policies.reload().unwrap());
        write(&policy("b"), 1);
        assert!(policies.reload().unwrap());
        assert!(!may("a") && may("b"));
        write("nonsense: [", 2);
        assert!(policies.reload().is_err());
        assert!(may("b"));
    }
}
