//! The plugins in force, linked, in their order, with their rules.

use super::memo::Memo;
use crate::plugins::policy::PluginPolicy;
use crate::plugins::set::{ActivePlugin, PluginSet};
use orlop_apimachinery::Gvr;
use orlop_apiserver::admission::{AdmissionRequest, Operation};
use orlop_plugin::admission::AdmissionWorld;
use orlop_plugin::manifest::admission::{AdmissionManifest, Phase, Rule};
use orlop_plugin::{Kind, Plugin, Runtime};
use std::sync::Arc;

/// A chain. Immutable.
#[derive(Default)]
pub(super) struct Chain {
    set: Arc<PluginSet>,
    policy: Option<Arc<PluginPolicy>>,
    links: Vec<Arc<Link>>,
}

/// One plugin of it.
pub(super) struct Link {
    pub(super) active: Arc<ActivePlugin>,
    pub(super) plugin: Arc<Plugin<AdmissionWorld>>,
    /// What it said before; only used where its manifest allows that.
    pub(super) memo: Memo,
}

impl Chain {
    /// The listed plugins in the order of the policy, then, where the policy allows, the others.
    pub(super) fn link(runtime: &Runtime, set: Arc<PluginSet>, policy: Arc<PluginPolicy>) -> Self {
        let listed = policy.admission.iter().filter_map(|name| set.named(name));
        let unlisted = set.of_kind(Kind::Admission).filter(|p| {
            policy.user_admission && !p.builtin && !policy.admission.iter().any(|n| n == p.name())
        });
        let links = listed
            .chain(unlisted)
            .filter_map(|active| {
                match runtime.link::<AdmissionWorld>(&active.compiled, active.options.clone()) {
                    Ok(plugin) => Some(Arc::new(Link {
                        active: active.clone(),
                        plugin: Arc::new(plugin),
                        memo: Memo::default(),
                    })),
                    Err(error) => {
                        // Cannot be: it was linked before it became active.
                        tracing::error!(plugin = %active.object, %error, "admission plugin cannot be linked");
                        None
                    }
                }
            })
            .collect();
        Self { set, policy: Some(policy), links }
    }

    pub(super) fn is_of(&self, set: &Arc<PluginSet>, policy: &Arc<PluginPolicy>) -> bool {
        Arc::ptr_eq(&self.set, set) && self.policy.as_ref().is_some_and(|p| Arc::ptr_eq(p, policy))
    }

    /// Whether any plugin may want such requests; scopes are looked at later.
    pub(super) fn handles(&self, operation: Operation, gvr: &Gvr, subresource: &str) -> bool {
        self.links.iter().any(|l| {
            l.manifest().is_some_and(|m| m.rules.iter().any(|r| rule(r, operation, gvr, subresource)))
        })
    }

    pub(super) fn links(&self) -> &[Arc<Link>] {
        &self.links
    }

    /// The plugins that are asked about `request`, with their place in the chain.
    pub(super) fn matching(
        &self,
        phase: Phase,
        request: &AdmissionRequest,
    ) -> impl Iterator<Item = (usize, &Arc<Link>)> {
        self.links.iter().enumerate().filter(move |(_, l)| l.wants(phase, request))
    }
}

impl Link {
    pub(super) fn manifest(&self) -> Option<&AdmissionManifest> {
        self.active.manifest().admission.as_ref()
    }

    pub(super) fn wants(&self, phase: Phase, request: &AdmissionRequest) -> bool {
        self.manifest().is_some_and(|m| {
            m.phases.contains(&phase)
                && m.rules.iter().any(|r| {
                    rule(r, request.operation, &request.gvr, &request.subresource)
                        && r.matches_scope(!request.namespace.is_empty() && !is_namespace(request))
                })
        })
    }
}

/// A Namespace lies in no namespace, though Kubernetes sets the request's to its own name.
fn is_namespace(request: &AdmissionRequest) -> bool {
    request.gvr.group.is_empty() && request.gvr.resource == "namespaces"
}

fn rule(rule: &Rule, operation: Operation, gvr: &Gvr, subresource: &str) -> bool {
    rule.matches(operation.as_str(), &gvr.group, &gvr.resource, subresource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_as_those_of_webhooks() {
        let pods = Gvr::new("", "v1", "pods");
        let with = |resources: &[&str]| Rule {
            operations: vec!["CREATE".into()],
            api_groups: vec![String::new()],
            resources: resources.iter().map(|r| (*r).to_owned()).collect(),
            scope: "*".into(),
        };
        for (resources, subresource, expected) in [
            (&["pods"][..], "", true),
            (&["pods"], "status", false),
            (&["pods/status"], "status", true),
            (&["pods/*"], "status", true),
            (&["pods/*"], "", true),
            (&["*"], "", true),
            (&["*"], "status", false),
            (&["*/*"], "status", true),
            (&["*/scale"], "status", false),
            (&["services"], "", false),
        ] {
            assert_eq!(
                rule(&with(resources), Operation::Create, &pods, subresource),
                expected,
                "{resources:?} {subresource}"
            );
        }
        assert!(!rule(&with(&["pods"]), Operation::Update, &pods, ""));
        assert!(!rule(
            &with(&["deployments"]),
            Operation::Create,
            &Gvr::new("apps", "v1", "deployments"),
            ""
        ));
    }
}
