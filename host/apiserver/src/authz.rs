//! May he? The authorizers and the words of a refusal.

mod joined;
mod node;
mod policy;
mod rbac;

pub(crate) use joined::Joined;
pub use policy::{Policies, PolicyError};
pub(crate) use rbac::{GROUP, Rbac, RoleRef, Rule, describe, missing};

use crate::cache::WatchCache;
use crate::user::{GROUP_MASTERS, UserInfo};
use async_trait::async_trait;
use orlop_apimachinery::{Gvr, Status};
use serde_json::Value;
use std::sync::Arc;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other
    /// paths the lower-case method.
    pub verb: &'a str,
    /// API group of the resource.
    pub group: &'a str,
    /// Version of the resource.
    pub version: &'a str,
    /// Plural; empty for other paths.
    pub resource: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for cluster-scoped and for all namespaces.
    pub namespace: &'a str,
    /// Empty for collections.
    pub name: &'a str,
    /// Path of a request that is not for a resource; else empty.
    pub path: &'a str,
}

impl Attributes<'_> {
    /// `pods` or `pods/log`.
    #[must_use]
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Whether nothing can change.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch" | "head" | "options")
    }
}

/// An answer. The text says why, for logs and reviews; it may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// He may.
    Allow(String),
    /// He may not, whatever others say.
    Deny(String),
    /// Nothing speaks for it; ends as a refusal.
    NoOpinion(String),
}

/// Decides who may do what.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// The decision. Must be quick: it is asked for every request.
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision;

    /// What `user` may do in `namespace`: `resourceRules` and `nonResourceRules` of a
    /// SelfSubjectRulesReview, and whether the lists are incomplete.
    async fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool);
}

/// Masters may do everything, nodes what nodes must, all others what the policies or RBAC allow.
pub(crate) struct ChainAuthorizer {
    policies: Arc<Policies>,
    rbac: Arc<Rbac>,
    node: node::NodeAuthorizer,
}

impl ChainAuthorizer {
    pub(crate) fn new(policies: Arc<Policies>, rbac: Arc<Rbac>, cache: Arc<WatchCache>) -> Self {
        Self { policies, rbac, node: node::NodeAuthorizer::new(cache) }
    }
}

#[async_trait]
impl Authorizer for ChainAuthorizer {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision {
        if user.in_group(GROUP_MASTERS) {
            return Decision::Allow(String::new());
        }
        if let Decision::Allow(reason) = self.node.authorize(user, attributes) {
            return Decision::Allow(reason);
        }
        match self.policies.authorize(user, attributes) {
            Decision::NoOpinion(_) => self.rbac.authorize(user, attributes),
            decided => decided,
        }
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        if user.in_group(GROUP_MASTERS) {
            let all = serde_json::json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
            let paths = serde_json::json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
            return (vec![all], vec![paths], false);
        }
        let (mut resources, mut paths) = self.policies.rules(user, namespace);
        let (rules, absent) = self.rbac.rules(user, namespace);
        for rule in rules {
            let shown = serde_json::to_value(&rule).unwrap_or_default();
            if rule.non_resource_urls.is_empty() { resources.push(shown) } else { paths.push(shown) }
        }
        (resources, paths, node::name(user).is_some() || !absent.is_empty())
    }
}

/// 403 in RBAC's words.
pub(crate) fn forbidden(user: &UserInfo, a: &Attributes<'_>, reason: &str) -> Status {
    let who = format!("User {:?} cannot {}", user.name, a.verb);
    if a.resource.is_empty() {
        let mut status = Status::failure(
            orlop_apimachinery::Reason::Forbidden,
            format!("forbidden: {who} path {:?}{}", a.path, tail(reason)),
        );
        status.details = Some(Box::default());
        return status;
    }
    let place = if a.namespace.is_empty() || a.resource == "namespaces" {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", a.namespace)
    };
    let why =
        format!("{who} resource {:?} in API group {:?} {place}{}", a.full_resource(), a.group, tail(reason));
    Status::forbidden(&Gvr::from_api_version(&api_version(a), a.resource), a.name, &why)
}

fn api_version(a: &Attributes<'_>) -> String {
    if a.group.is_empty() { a.version.to_owned() } else { format!("{}/{}", a.group, a.version) }
}

fn tail(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}
