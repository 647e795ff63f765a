//! The plugins in force, linked, in their order, with their rules.

use super::memo::Memo;
use super::trial::Trial;
use crate::plugins::policy::PluginPolicy;
use crate::plugins::set::{ActivePlugin, PluginSet};
use orlop_apimachinery::Gvr;
use orlop_apiserver::admission::{AdmissionRequest, Operation};
use orlop_plugin::admission::AdmissionWorld;
use orlop_plugin::manifest::admission::{AdmissionManifest, Phase, Rule};
use orlop_plugin::{Kind, Plugin, Runtime};
use std::collections::BTreeMap;
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
    /// The active revision; where there is none yet, the candidate.
    pub(super) active: Arc<ActivePlugin>,
    pub(super) plugin: Arc<Plugin<AdmissionWorld>>,
    /// What it said before; only used where its manifest allows that.
    pub(super) memo: Memo,
    /// Nothing is active: there is only a candidate.
    idle: bool,
    /// The candidate.
    pub(super) trial: Option<Arc<Trial>>,
}

impl Chain {
    /// The listed plugins in the order of the policy, then, where the policy allows, the others.
    pub(super) fn link(runtime: &Runtime, set: Arc<PluginSet>, policy: Arc<PluginPolicy>) -> Self {
        // By object; the candidates of which nothing is active are among them.
        let mut all: BTreeMap<&str, (&Arc<ActivePlugin>, bool)> = set
            .candidates_of_kind(Kind::Admission)
            .map(|c| (c.plugin.object.as_str(), (&c.plugin, true)))
            .collect();
        all.extend(set.of_kind(Kind::Admission).map(|p| (p.object.as_str(), (p, false))));
        let listed =
            policy.admission.iter().filter_map(|name| all.values().find(|(plugin, _)| plugin.name() == name));
        let unlisted = all.values().filter(|(plugin, _)| {
            policy.user_admission && !plugin.builtin && !policy.admission.iter().any(|n| n == plugin.name())
        });
        let links = listed
            .chain(unlisted)
            .filter_map(|(plugin, idle)| {
                let trial = set.candidates.get(&plugin.object).and_then(|candidate| {
                    let link = Link::new(runtime, &candidate.plugin)?;
                    Some(Arc::new(Trial { candidate: candidate.clone(), link: Arc::new(link) }))
                });
                Some(Arc::new(Link { idle: *idle, trial, ..Link::new(runtime, plugin)? }))
            })
            .collect();
        Self { set, policy: Some(policy), links }
    }

    pub(super) fn is_of(&self, set: &Arc<PluginSet>, policy: &Arc<PluginPolicy>) -> bool {
        Arc::ptr_eq(&self.set, set) && self.policy.as_ref().is_some_and(|p| Arc::ptr_eq(p, policy))
    }

    /// Whether any plugin may want such requests; scopes are looked at later.
    pub(super) fn handles(&self, operation: Operation, gvr: &Gvr, subresource: &str) -> bool {
        let wants = |link: &Link| {
            link.manifest().is_some_and(|m| m.rules.iter().any(|r| rule(r, operation, gvr, subresource)))
        };
        self.links.iter().any(|l| wants(l) || l.trial.as_ref().is_some_and(|t| wants(&t.link)))
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
        self.links.iter().enumerate().filter(move |(_, l)| l.concerns(phase, request))
    }
}

impl Link {
    fn new(runtime: &Runtime, active: &Arc<ActivePlugin>) -> Option<Self> {
        match runtime.link::<AdmissionWorld>(&active.compiled, active.options.clone()) {
            Ok(plugin) => Some(Self {
                active: active.clone(),
                plugin: Arc::new(plugin),
                memo: Memo::default(),
                idle: false,
                trial: None,
            }),
            Err(error) => {
                // Cannot be: it was linked before it became active.
                tracing::error!(plugin = %active.object, %error, "admission plugin cannot be linked");
                None
            }
        }
    }

    /// Whether the plugin or its candidate is to be asked.
    pub(super) fn concerns(&self, phase: Phase, request: &AdmissionRequest) -> bool {
        self.wants(phase, request) || self.is_tried(phase, request)
    }

    /// Whether the candidate is to be asked.
    pub(super) fn is_tried(&self, phase: Phase, request: &AdmissionRequest) -> bool {
        self.trial.as_ref().is_some_and(|t| t.link.wants(phase, request))
    }

    pub(super) fn manifest(&self) -> Option<&AdmissionManifest> {
        self.active.manifest().admission.as_ref()
    }

    pub(super) fn wants(&self, phase: Phase, request: &AdmissionRequest) -> bool {
        !self.idle
            && self.manifest().is_some_and(|m| {
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
