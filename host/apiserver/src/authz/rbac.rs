//! Roles and bindings as an index by subject, kept by the watch cache.
//!
//! A question costs as much as the bindings of its user and his groups, whatever else is bound.
//! The index changes with each change of a role or binding, before the cache publishes its revision.

mod rule;

pub(crate) use rule::{Rule, describe, missing};

use super::{Attributes, Decision};
use crate::cache::{Entry, WatchCache};
use crate::registry::find;
use crate::user::{SERVICE_ACCOUNT_PREFIX, UserInfo};
use parking_lot::RwLock;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Group of roles and bindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// Whom a binding is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// A user; a service account by the name of its user.
    User(Box<str>),
    Group(Box<str>),
}

/// Which rules a binding grants.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct RoleRef {
    /// `Role` or `ClusterRole`.
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingBody {
    role_ref: RoleRef,
    #[serde(default)]
    subjects: Option<Vec<SubjectBody>>,
}

#[derive(Deserialize)]
struct SubjectBody {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct RoleBody {
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

impl SubjectBody {
    fn subject(&self) -> Option<Subject> {
        match self.kind.as_str() {
            "User" => Some(Subject::User(self.name.as_str().into())),
            "Group" => Some(Subject::Group(self.name.as_str().into())),
            "ServiceAccount" => {
                let user = format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", self.namespace, self.name);
                Some(Subject::User(user.into()))
            }
            _ => None,
        }
    }

    /// As upstream names it in its reasons.
    fn describe(&self) -> String {
        match self.kind.as_str() {
            "ServiceAccount" => format!("ServiceAccount \"{}/{}\"", self.name, self.namespace),
            kind => format!("{kind} {:?}", self.name),
        }
    }
}

/// One subject of one binding.
#[derive(Clone, Debug)]
struct Grant {
    role: RoleRef,
    /// How the subject is named in reasons.
    subject: String,
}

/// The grants of each subject in one namespace, or in all; by the binding's name.
type Grants = HashMap<Subject, BTreeMap<Box<str>, Grant>>;

#[derive(Default)]
struct State {
    /// Of each ClusterRole by `name`, of each Role by `namespace/name`.
    roles: HashMap<Box<str>, Arc<[Rule]>>,
    cluster: Grants,
    namespaced: HashMap<Box<str>, Grants>,
}

/// The index.
#[derive(Default)]
pub(crate) struct Rbac {
    state: RwLock<State>,
}

#[derive(Clone, Copy)]
enum Part {
    Role,
    Binding,
}

impl Rbac {
    /// An index that follows `cache`; call it before the cache is loaded.
    pub(crate) fn follow(cache: &WatchCache) -> Arc<Self> {
        let index = Arc::new(Self::default());
        for (resource, part) in [
            ("clusterroles", Part::Role),
            ("roles", Part::Role),
            ("clusterrolebindings", Part::Binding),
            ("rolebindings", Part::Binding),
        ] {
            let Some(shelf) = find(GROUP, "v1", resource).and_then(|row| cache.shelf(row)) else { continue };
            let index = index.clone();
            shelf.observe(Box::new(move |key, old, new| {
                let mut state = index.state.write();
                match part {
                    Part::Role => state.role(key, new),
                    Part::Binding => state.binding(key, old, new),
                }
            }));
        }
        index
    }

    /// Whether a role or binding allows it.
    pub(super) fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision {
        let mut absent = Vec::new();
        let found = self.state.read().visit(user, attributes.namespace, &mut absent, |rules, why| {
            rules.iter().any(|rule| rule.allows(attributes)).then(|| format!("RBAC: allowed by {}", why()))
        });
        match found {
            Some(reason) => Decision::Allow(reason),
            None if absent.is_empty() => Decision::NoOpinion(String::new()),
            None => Decision::NoOpinion(format!("RBAC: {}", listed(&absent))),
        }
    }

    /// All rules that hold for `user` in `namespace`, and which roles could not be found.
    pub(crate) fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let mut absent = Vec::new();
        let mut all = Vec::new();
        self.state.read().visit(user, namespace, &mut absent, |rules, _| {
            all.extend(rules.iter().cloned());
            None::<()>
        });
        (all, absent)
    }

    /// The rules of a role; `None` where it does not exist.
    pub(crate) fn role(&self, role: &RoleRef, namespace: &str) -> Option<Arc<[Rule]>> {
        self.state.read().rules_of(role, namespace).cloned()
    }
}

/// As Go prints an aggregate of errors.
fn listed(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

impl State {
    fn role(&mut self, key: &str, new: Option<&Arc<Entry>>) {
        let body = new.and_then(|entry| entry.object().parse::<RoleBody>().ok());
        match body {
            Some(body) => {
                self.roles.insert(key.into(), body.rules.unwrap_or_default().into());
            }
            None => {
                self.roles.remove(key);
            }
        }
    }

    fn binding(&mut self, key: &str, old: Option<&Arc<Entry>>, new: Option<&Arc<Entry>>) {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let grants = match namespace {
            "" => &mut self.cluster,
            _ => self.namespaced.entry(namespace.into()).or_default(),
        };
        let parse = |entry: &Arc<Entry>| entry.object().parse::<BindingBody>().ok();
        for subject in old.and_then(parse).and_then(|b| b.subjects).into_iter().flatten() {
            let Some(subject) = subject.subject() else { continue };
            if let Some(held) = grants.get_mut(&subject) {
                held.remove(name);
                if held.is_empty() {
                    grants.remove(&subject);
                }
            }
        }
        if let Some(body) = new.and_then(parse) {
            for subject in body.subjects.into_iter().flatten() {
                let grant = Grant { role: body.role_ref.clone(), subject: subject.describe() };
                if let Some(subject) = subject.subject() {
                    grants.entry(subject).or_default().insert(name.into(), grant);
                }
            }
        }
        if !namespace.is_empty() && self.namespaced.get(namespace).is_some_and(HashMap::is_empty) {
            self.namespaced.remove(namespace);
        }
    }

    fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<&Arc<[Rule]>> {
        match role.kind.as_str() {
            "Role" => self.roles.get(format!("{namespace}/{}", role.name).as_str()),
            _ => self.roles.get(role.name.as_str()),
        }
    }

    /// Calls `f` with the rules of each role that is bound to `user`, and a way to name the
    /// binding, until it returns something.
    fn visit<T>(
        &self,
        user: &UserInfo,
        namespace: &str,
        absent: &mut Vec<String>,
        mut f: impl FnMut(&[Rule], &dyn Fn() -> String) -> Option<T>,
    ) -> Option<T> {
        let subjects = std::iter::once(Subject::User(user.name.as_str().into()))
            .chain(user.groups.iter().map(|g| Subject::Group(g.as_str().into())));
        let subjects: Vec<Subject> = subjects.collect();
        let places = [
            (Some(&self.cluster), "", "ClusterRoleBinding"),
            (self.namespaced.get(namespace), namespace, "RoleBinding"),
        ];
        for (grants, place, kind) in places {
            let Some(grants) = grants else { continue };
            for (name, grant) in subjects.iter().filter_map(|s| grants.get(s)).flatten() {
                let Some(rules) = self.rules_of(&grant.role, place) else {
                    let resource = grant.role.kind.to_lowercase();
                    absent.push(format!("{resource}.{GROUP} {:?} not found", grant.role.name));
                    continue;
                };
                let why = || {
                    let shown = if place.is_empty() { name.to_string() } else { format!("{name}/{place}") };
                    let RoleRef { kind: role, name } = &grant.role;
                    format!("{kind} {shown:?} of {role} {name:?} to {}", grant.subject)
                };
                if let Some(found) = f(rules, &why) {
                    return Some(found);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
