//! Rules of a role: what they allow, and whether some of them cover others.

use crate::authz::Attributes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// `rbac/v1.PolicyRule`
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) non_resource_urls: Vec<String>,
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|item| item == "*" || item == value)
}

fn url_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

impl Rule {
    /// Whether the rule allows what is asked for.
    pub(crate) fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has(&self.verbs, a.verb) {
            return false;
        }
        if a.resource.is_empty() {
            return self.non_resource_urls.iter().any(|url| url_matches(url, a.path));
        }
        has(&self.api_groups, a.group)
            && self.covers_resource(a.resource, a.subresource)
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == a.name))
    }

    /// `pods`, `pods/log`, `*`, `*/log`
    fn covers_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|pattern| {
            if pattern == "*" {
                return true;
            }
            match pattern.split_once('/') {
                None => subresource.is_empty() && pattern == resource,
                Some((head, tail)) => {
                    tail == subresource && !tail.is_empty() && (head == "*" || head == resource)
                }
            }
        })
    }

    /// Whether all of `part`, which has at most one of everything, is in this rule.
    fn covers(&self, part: &Self) -> bool {
        let all = |mine: &[String], wanted: &[String]| wanted.iter().all(|w| has(mine, w));
        if !all(&self.verbs, &part.verbs) {
            return false;
        }
        if !part.non_resource_urls.is_empty() {
            let covered = |url: &String| self.non_resource_urls.iter().any(|mine| url_matches(mine, url));
            return part.non_resource_urls.iter().all(covered);
        }
        let resource = |wanted: &String| {
            let (head, tail) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.covers_resource(head, tail)
        };
        let names = self.resource_names.is_empty()
            || (!part.resource_names.is_empty()
                && part.resource_names.iter().all(|n| self.resource_names.contains(n)));
        all(&self.api_groups, &part.api_groups) && part.resources.iter().all(resource) && names
    }

    /// The rule in parts with one verb, group, resource and name each.
    fn parts(&self) -> Vec<Self> {
        let one = |value: &String| vec![value.clone()];
        let mut out = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                out.push(Self { verbs: one(verb), non_resource_urls: one(url), ..Self::default() });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let part = Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(part);
                        continue;
                    }
                    let named =
                        self.resource_names.iter().map(|n| Self { resource_names: one(n), ..part.clone() });
                    out.extend(named);
                }
            }
        }
        out
    }
}

/// What is in `wanted` and not in `held`, in parts.
pub(crate) fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts: BTreeSet<Rule> = wanted.iter().flat_map(Rule::parts).collect();
    parts.into_iter().filter(|part| !held.iter().any(|rule| rule.covers(part))).collect()
}

/// The parts put together again, as upstream prints them, one line each.
pub(crate) fn describe(parts: &[Rule]) -> String {
    let mut whole: BTreeMap<Rule, Vec<String>> = BTreeMap::new();
    for part in parts {
        let key = Rule { verbs: Vec::new(), ..part.clone() };
        whole.entry(key).or_default().extend(part.verbs.iter().cloned());
    }
    let mut lines: Vec<String> = Vec::new();
    for (rule, verbs) in whole {
        let mut line = String::from("{");
        for (name, list) in [
            ("APIGroups", &rule.api_groups),
            ("Resources", &rule.resources),
            ("ResourceNames", &rule.resource_names),
            ("NonResourceURLs", &rule.non_resource_urls),
            ("Verbs", &verbs),
        ] {
            if list.is_empty() {
                continue;
            }
            let comma = if line.len() > 1 { ", " } else { "" };
            let items: Vec<String> = list.iter().map(|i| format!("{i:?}")).collect();
            let _ = write!(line, "{comma}{name}:[{}]", items.join(" "));
        }
        line.push('}');
        lines.push(line);
    }
    lines.sort();
    lines.join("\n")
}
