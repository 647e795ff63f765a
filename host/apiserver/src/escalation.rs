//! Nobody gives away what he has not: the check of writes to roles, bindings, and plugins with grants.
//!
//! Source: `pkg/registry/rbac/*/policybased`, `pkg/registry/rbac/escalation_check.go`. Who may
//! `escalate` a role or `bind` it is let through; masters always.

use crate::authz::{Attributes, Decision, GROUP, RoleRef, Rule, describe, missing};
use crate::core::{Core, RequestCx, Target};
use crate::registry::Guard;
use crate::user::GROUP_MASTERS;
use orlop_apimachinery::{Gvr, Status};
use serde::Deserialize;
use serde_json::Value;

impl Core {
    /// Refuses a write that gives away more than its author has.
    ///
    /// # Errors
    /// 403 with what is missing; 404 for a binding to a role that does not exist.
    pub(crate) async fn guard(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let guard = target.row.strategy.guard();
        if guard == Guard::None || cx.user.in_group(GROUP_MASTERS) {
            return Ok(());
        }
        let keys: &[&str] = match guard {
            Guard::Role => &["rules", "aggregationRule"],
            Guard::Grants => &["spec"],
            _ => &["roleRef", "subjects"],
        };
        if old.is_some_and(|old| keys.iter().all(|key| old.get(key) == new.get(key))) {
            return Ok(());
        }
        let name = crate::metadata::text(new, "name");
        let wanted = match guard {
            Guard::Role => {
                if self.may(cx, "escalate", &target.row.gvr.resource, target.namespace, name).await {
                    return Ok(());
                }
                let aggregates = |o: &Value| o.get("aggregationRule").is_some_and(Value::is_object);
                if aggregates(new) || old.is_some_and(aggregates) {
                    self.must_hold(
                        cx,
                        target,
                        name,
                        &everything(),
                        "must have cluster-admin privileges to use the aggregationRule: ",
                    )?;
                }
                Vec::deserialize(new.get("rules").unwrap_or(&Value::Null)).unwrap_or_default()
            }
            Guard::Grants => {
                let grants = new.pointer("/spec/grants").filter(|g| !g.is_null());
                let Some(grants) = grants else { return Ok(()) };
                Vec::deserialize(grants).map_err(|e| {
                    Status::bad_request(format!(
                        "spec.grants must be a list of rules as in a ClusterRole: {e}"
                    ))
                })?
            }
            _ => {
                let role = new.get("roleRef").and_then(|r| RoleRef::deserialize(r).ok());
                let role = role.ok_or_else(|| Status::bad_request("roleRef is missing"))?;
                let (resource, namespace) =
                    if role.kind == "Role" { ("roles", target.namespace) } else { ("clusterroles", "") };
                // The right to bind is looked for where the binding is.
                if self.may(cx, "bind", resource, target.namespace, &role.name).await {
                    return Ok(());
                }
                let rules = self.rbac.role(&role, namespace);
                rules.ok_or_else(|| Status::not_found(&Gvr::new(GROUP, "v1", resource), &role.name))?.to_vec()
            }
        };
        self.must_hold(cx, target, name, &wanted, "")
    }

    async fn may(&self, cx: &RequestCx, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let attributes = Attributes {
            verb,
            group: GROUP,
            version: "v1",
            resource,
            namespace,
            name,
            ..Attributes::default()
        };
        matches!(self.authorizer.authorize(&cx.user, &attributes).await, Decision::Allow(_))
    }

    fn must_hold(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        name: &str,
        wanted: &[Rule],
        intro: &str,
    ) -> Result<(), Status> {
        let (held, absent) = self.rbac.rules(&cx.user, target.namespace);
        let lacking = missing(&held, wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = cx.user.groups.iter().map(|g| format!("{g:?}")).collect();
        let mut why = format!(
            "{intro}user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            cx.user.name,
            groups.join(" "),
            describe(&lacking)
        );
        if !absent.is_empty() {
            why.push_str(&format!("; resolution errors: [{}]", absent.join(", ")));
        }
        Err(Status::forbidden(&target.row.gvr, name, &why))
    }
}

/// What an aggregated role may come to hold.
fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}
