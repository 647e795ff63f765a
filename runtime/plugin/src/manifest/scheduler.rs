//! The manifest's section of a scheduler plugin.

use super::{ManifestError, check_len, check_text, check_texts, field};
use serde::{Deserialize, Serialize};

/// What a scheduler plugin implements and reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SchedulerManifest {
    /// Extension points that it implements, such as `filter` and `score`.
    pub hooks: Vec<String>,
    /// Columns of the node table that its mirror holds.
    pub columns: Vec<String>,
    /// Paths of the pod that it reads, such as `spec.nodeName`; pods equal in them share a class.
    pub pod_fields: Vec<String>,
    /// Paths of the pods on nodes that it reads; placed pods equal in them share an entry of its dictionary.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub placed_pod_fields: Vec<String>,
    /// Objects that it is sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub watches: Vec<Watch>,
    /// Label keys of nodes that it reads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_keys: Vec<String>,
    /// How its raw scores become 0 to 100: `none` (also where empty), `default`, `reverse`, `custom`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub normalize: String,
    /// What may make a pod fit that its filter rejected, such as `node/add`; every event where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
}

/// Objects that a plugin is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Watch {
    /// `v1`, `storage.k8s.io/v1`
    pub api_version: String,
    /// Plural.
    pub resource: String,
    /// Only objects there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Only objects that it selects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label_selector: String,
    /// Paths into the objects; all of each object where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}

/// Most entries of `watches`.
const MAX_WATCHES: usize = 32;

/// Hooks of 1.0.
const HOOKS_1: [&str; 2] = ["filter", "score"];

/// Hooks of 2.0.
const HOOKS_2: [&str; 11] = [
    "filter",
    "score",
    "overlay",
    "pre-enqueue",
    "queue-sort",
    "reserve",
    "permit",
    "pre-bind",
    "bind",
    "post-bind",
    "post-filter",
];

impl SchedulerManifest {
    /// `major` is that of the world.
    pub(super) fn check(&self, major: u64) -> Result<(), ManifestError> {
        check_texts("scheduler.hooks", &self.hooks)?;
        let hooks: &[&str] = if major == 1 { &HOOKS_1 } else { &HOOKS_2 };
        for (i, hook) in self.hooks.iter().enumerate() {
            let path = || format!("scheduler.hooks[{i}]");
            if !hooks.contains(&hook.as_str()) {
                let message = format!("\"{hook}\" is none of {} (world version {major})", hooks.join(", "));
                return Err(field(path(), message));
            }
            if self.hooks.iter().take(i).any(|other| other == hook) {
                return Err(field(path(), format!("\"{hook}\" is there twice")));
            }
        }
        check_texts("scheduler.columns", &self.columns)?;
        check_texts("scheduler.podFields", &self.pod_fields)?;
        check_texts("scheduler.placedPodFields", &self.placed_pod_fields)?;
        check_texts("scheduler.labelKeys", &self.label_keys)?;
        self.check_watches()?;
        if major == 1 {
            self.check_first()?;
        }
        if !["", "none", "default", "reverse", "custom"].contains(&self.normalize.as_str()) {
            return Err(field("scheduler.normalize", "must be none, default, reverse or custom"));
        }
        self.events.as_ref().map_or(Ok(()), |events| check_texts("scheduler.events", events))
    }

    fn check_watches(&self) -> Result<(), ManifestError> {
        check_len("scheduler.watches", self.watches.len())?;
        if self.watches.len() > MAX_WATCHES {
            let message = format!("has {} items, more than {MAX_WATCHES}", self.watches.len());
            return Err(field("scheduler.watches", message));
        }
        for (i, watch) in self.watches.iter().enumerate() {
            let at = |name: &str| format!("scheduler.watches[{i}].{name}");
            check_text(&at("apiVersion"), &watch.api_version)?;
            check_text(&at("resource"), &watch.resource)?;
            check_text(&at("namespace"), &watch.namespace)?;
            check_text(&at("labelSelector"), &watch.label_selector)?;
            check_texts(&at("fields"), &watch.fields)?;
            if watch.api_version.is_empty() || watch.resource.is_empty() {
                return Err(field(at("*"), "apiVersion and resource must not be empty"));
            }
        }
        Ok(())
    }

    /// Refuses what only 2.0 has.
    fn check_first(&self) -> Result<(), ManifestError> {
        for (path, used) in [
            ("scheduler.placedPodFields", !self.placed_pod_fields.is_empty()),
            ("scheduler.watches", !self.watches.is_empty()),
            ("scheduler.columns: node.pods", self.columns.iter().any(|column| column == "node.pods")),
            (
                "scheduler.columns: node.declared-features",
                self.columns.iter().any(|column| column == "node.declared-features"),
            ),
        ] {
            if used {
                return Err(field(path, "needs world version 2"));
            }
        }
        Ok(())
    }
}
