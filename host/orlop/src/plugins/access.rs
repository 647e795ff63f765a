//! Who a plugin is, and what it may see and write.
//!
//! A user's plugin acts as `system:plugin:<object>` in the groups `system:plugins` and
//! `system:authenticated`. It may do what its manifest asks for *and* what `spec.grants` or a role of RBAC
//! gives that user; neither is enough alone. What it watches and looks up is checked when it is
//! staged, what it writes is checked write by write, by the host and again by the API server.
//!
//! Built-in plugins come with the program, as do their manifests: for them `spec.grants` is what the
//! manifest asks for unless it is given, and built-in controllers keep upstream's service accounts.

use super::object::StageError;
use super::set::PluginSets;
use async_trait::async_trait;
use orlop_apimachinery::Gvr;
use orlop_apiserver::UserInfo;
use orlop_apiserver::authz::{Attributes, Authorizer, Decision};
use orlop_controller_manager::{Declaration, Grant};
use orlop_plugin::manifest::Permission;
use orlop_plugin::{Kind, Manifest};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Before the name of the object.
pub(crate) const USER_PREFIX: &str = "system:plugin:";
const GROUP: &str = "system:plugins";

/// The user that the plugin of this object is.
pub(crate) fn user(object: &str) -> UserInfo {
    UserInfo::new(format!("{USER_PREFIX}{object}"), [GROUP])
}

/// What is decided by the API server's authorizer.
#[async_trait]
pub(crate) trait Access: Send + Sync + 'static {
    /// Whether `user` may `verb` objects of `gvr` in all namespaces.
    async fn allows(&self, user: &UserInfo, verb: &str, gvr: &Gvr) -> bool;
}

/// Gives nothing: only `spec.grants` count.
#[cfg(test)]
pub(crate) struct GrantsOnly;

#[cfg(test)]
#[async_trait]
impl Access for GrantsOnly {
    async fn allows(&self, _user: &UserInfo, _verb: &str, _gvr: &Gvr) -> bool {
        false
    }
}

/// In the controller manager's terms.
pub(crate) fn grants(permissions: &[Permission]) -> Vec<Grant> {
    let grant = |p: &Permission| Grant {
        api_groups: p.api_groups.clone(),
        resources: p.resources.clone(),
        verbs: p.verbs.clone(),
    };
    permissions.iter().map(grant).collect()
}

/// The resources that a plugin is shown, as its manifest declares them.
fn shown(manifest: &Manifest) -> Result<BTreeSet<Gvr>, StageError> {
    let mut all = BTreeSet::new();
    let mut add = |api_version: &str, resource: &str| {
        if resource.is_empty() {
            all.insert(Gvr::new("*", "*", "*"));
        } else {
            all.insert(Gvr::from_api_version(api_version, resource));
        }
    };
    match manifest.kind {
        Kind::Controller => {
            let Some(section) = &manifest.controller else { return Ok(all) };
            let declaration = Declaration::parse(&section.0)
                .map_err(|e| orlop_plugin::PluginError::Incompatible { message: e.to_string() })?;
            declaration.primary.iter().for_each(|p| add(&p.api_version, &p.resource));
            declaration.watches.iter().for_each(|w| add(&w.api_version, &w.resource));
            declaration.inputs.iter().for_each(|i| add(&i.api_version, &i.resource));
        }
        Kind::Admission => {
            let section = manifest.admission.iter();
            section.flat_map(|s| &s.context).for_each(|c| add(&c.api_version, &c.resource));
        }
        Kind::Scheduler => {
            let section = manifest.scheduler.iter();
            section.flat_map(|s| &s.watches).for_each(|w| add(&w.api_version, &w.resource));
        }
    }
    Ok(all)
}

/// Checks what a user's plugin wants to be shown.
pub(crate) async fn check_shown(
    access: &dyn Access,
    object: &str,
    manifest: &Manifest,
    given: &[Permission],
) -> Result<(), StageError> {
    let (user, grants) = (user(object), grants(given));
    for gvr in shown(manifest)? {
        for verb in ["list", "watch"] {
            let granted = grants.iter().any(|g| g.allows(verb, &gvr.group, &gvr.resource, ""));
            if !granted && !access.allows(&user, verb, &gvr).await {
                let message = format!(
                    "it wants to be shown {} of API group \"{}\", which {} may not {verb}; give it that in spec.grants \
                     ({{apiGroups: [\"{}\"], resources: [{}], verbs: [list, watch]}}), or by a role",
                    gvr.resource, gvr.group, user.name, gvr.group, gvr.resource
                );
                return Err(StageError::Forbidden { message });
            }
        }
    }
    Ok(())
}

/// Tells the API server what `spec.grants` give to users' plugins that run.
pub(crate) struct PluginAuthorizer {
    sets: PluginSets,
}

impl PluginAuthorizer {
    pub(crate) const fn new(sets: PluginSets) -> Self {
        Self { sets }
    }

    fn given(&self, user: &UserInfo) -> Vec<Arc<super::set::ActivePlugin>> {
        let Some(object) = user.name.strip_prefix(USER_PREFIX).filter(|_| user.in_group(GROUP)) else {
            return Vec::new();
        };
        let set = self.sets.borrow();
        let candidate = set.candidates.get(object).map(|c| c.plugin.clone());
        set.plugins.get(object).cloned().into_iter().chain(candidate).collect()
    }
}

#[async_trait]
impl Authorizer for PluginAuthorizer {
    async fn authorize(&self, user: &UserInfo, a: &Attributes<'_>) -> Decision {
        let given = self.given(user);
        if given.is_empty() || a.resource.is_empty() {
            return Decision::NoOpinion(String::new());
        }
        let is_event = a.resource == "events" && ["create", "patch", "update"].contains(&a.verb);
        let allows = |permissions: &[Permission]| {
            grants(permissions).iter().any(|g| g.allows(a.verb, a.group, a.resource, a.subresource))
        };
        if is_event || given.iter().any(|p| allows(&p.grants) && allows(&p.manifest().permissions)) {
            return Decision::Allow("spec.grants of the plugin".to_owned());
        }
        Decision::NoOpinion(String::new())
    }

    async fn rules(&self, user: &UserInfo, _namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let rules = self.given(user).iter().flat_map(|p| p.grants.clone()).map(|p| json!(p)).collect();
        (rules, Vec::new(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let manifest = json!({
            "manifestVersion": 1, "name": "m", "kind": "admission", "world": "orlop:admission/admission@1.0.0",
            "admission": {
                "phases": ["validate"],
                "rules": [{ "operations": ["CREATE"], "apiGroups": [""], "resources": ["pods"] }],
                "context": [{ "name": "quotas", "apiVersion": "apps/v1", "resource": "deployments" }],
            },
        });
        Manifest::parse(manifest.to_string().as_bytes()).unwrap()
    }

    fn permission(resource: &str, verbs: &[&str]) -> Permission {
        Permission {
            api_groups: vec!["apps".into()],
            resources: vec![resource.into()],
            verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    #[tokio::test]
    async fn nothing_is_shown_that_was_not_given() {
        let manifest = manifest();
        let none = check_shown(&GrantsOnly, "mine", &manifest, &[]).await.unwrap_err();
        assert_eq!(none.reason(), "Forbidden");
        let text = none.to_string();
        assert!(
            text.contains("deployments of API group \"apps\", which system:plugin:mine may not list"),
            "{text}"
        );
        let half = [permission("deployments", &["list"])];
        assert!(check_shown(&GrantsOnly, "mine", &manifest, &half).await.is_err());
        let whole = [permission("deployments", &["list", "watch"])];
        assert!(check_shown(&GrantsOnly, "mine", &manifest, &whole).await.is_ok());

        struct Role;
        #[async_trait]
        impl Access for Role {
            async fn allows(&self, user: &UserInfo, _verb: &str, gvr: &Gvr) -> bool {
                user.name == "system:plugin:mine"
                    && user.in_group("system:plugins")
                    && gvr.resource == "deployments"
            }
        }
        assert!(check_shown(&Role, "mine", &manifest, &[]).await.is_ok());
        assert!(check_shown(&Role, "other", &manifest, &[]).await.is_err());
    }
}
