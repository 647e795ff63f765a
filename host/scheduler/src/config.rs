//! Configuration in Kubernetes' vocabulary: `KubeSchedulerConfiguration` of
//! `kubescheduler.config.k8s.io/v1`.
//!
//! The default set of plugins is added to every profile, as upstream does; a profile enables,
//! re-weighs or disables, per extension point or at `multiPoint`. Fields that only make sense for
//! Kubernetes' own process are accepted and say nothing here: `parallelism`,
//! `percentageOfNodesToScore` (every node is always scored), `leaderElection`, `clientConnection`,
//! `enableProfiling`, `enableContentionProfiling`. Extenders are refused.

mod points;

use crate::framework::Hooks;
use crate::queue::Backoff;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// The default plugins in Kubernetes' order, with their weights.
pub const DEFAULT_PLUGINS: [(&str, i64); 20] = [
    ("SchedulingGates", 0),
    ("PrioritySort", 0),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("NodeResourcesFit", 1),
    ("VolumeRestrictions", 0),
    ("NodeVolumeLimits", 0),
    ("VolumeBinding", 0),
    ("VolumeZone", 0),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("DynamicResources", 2),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
    ("NodeDeclaredFeatures", 0),
];

/// The configuration that is used without a file.
pub const DEFAULT_CONFIG: &str = include_str!("../../../policies/scheduler.yaml");

/// Why a configuration is refused. The user must repair it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML, or unknown fields or wrong types.
    #[error("the scheduler configuration is malformed")]
    Malformed(#[source] serde_yaml::Error),
    /// Well formed, but not possible.
    #[error("the scheduler configuration is invalid: {path}: {message}")]
    Invalid {
        /// Where.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// One plugin of a profile, as it will be used.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginSpec {
    /// `NodeResourcesFit`
    pub name: String,
    /// The extension points that are enabled; the plugin need not implement all of them.
    pub hooks: Hooks,
    /// Of its score, at least 1.
    pub weight: i64,
    /// A JSON object.
    pub args: Value,
}

/// One profile.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileSpec {
    /// `spec.schedulerName` of its pods.
    pub scheduler_name: String,
    /// In the order in which they filter.
    pub plugins: Vec<PluginSpec>,
    /// The order at other extension points, where it is another one.
    pub orders: Vec<(Hooks, Vec<String>)>,
}

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// At least one; names differ.
    pub profiles: Vec<ProfileSpec>,
    /// Times of the queue.
    pub backoff: Backoff,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Vec<FileProfile>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    #[serde(default)]
    extenders: Vec<Value>,
    percentage_of_nodes_to_score: Option<i32>,
    #[serde(default, rename = "parallelism")]
    _parallelism: Option<i32>,
    #[serde(default, rename = "leaderElection")]
    _leader_election: Option<Value>,
    #[serde(default, rename = "clientConnection")]
    _client_connection: Option<Value>,
    #[serde(default, rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(default, rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i32>,
    #[serde(default)]
    plugins: FilePlugins,
    #[serde(default)]
    plugin_config: Vec<FileArgs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct FilePlugins {
    multi_point: FileSet,
    pre_enqueue: FileSet,
    queue_sort: FileSet,
    pre_filter: FileSet,
    filter: FileSet,
    post_filter: FileSet,
    pre_score: FileSet,
    score: FileSet,
    reserve: FileSet,
    permit: FileSet,
    pre_bind: FileSet,
    bind: FileSet,
    post_bind: FileSet,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct FileSet {
    enabled: Vec<FilePlugin>,
    disabled: Vec<FilePlugin>,
}

impl FileSet {
    fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|p| p.name == "*" || p.name == name)
    }

    fn enables(&self, name: &str) -> bool {
        self.enabled.iter().any(|p| p.name == name)
    }
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FilePlugin {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileArgs {
    name: String,
    #[serde(default)]
    args: Map<String, Value>,
}

fn invalid(path: impl Into<String>, message: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { path: path.into(), message: message.into() }
}

impl SchedulerConfig {
    /// Reads a configuration. `known` are the plugins that exist.
    ///
    /// # Errors
    /// [`ConfigError`] with the field that is wrong.
    pub fn parse(yaml: &str, known: &[String]) -> Result<Self, ConfigError> {
        let file: File = serde_yaml::from_str(yaml).map_err(ConfigError::Malformed)?;
        if file.api_version != "kubescheduler.config.k8s.io/v1" {
            let message =
                format!("{:?} is not supported, want kubescheduler.config.k8s.io/v1", file.api_version);
            return Err(invalid("apiVersion", message));
        }
        if file.kind != "KubeSchedulerConfiguration" {
            return Err(invalid("kind", format!("{:?} is not KubeSchedulerConfiguration", file.kind)));
        }
        if !file.extenders.is_empty() {
            return Err(invalid("extenders", "not supported"));
        }
        check_percentage("percentageOfNodesToScore", file.percentage_of_nodes_to_score)?;
        let defaults = Backoff::default();
        let seconds = |value: Option<u64>, default| value.map_or(default, Duration::from_secs);
        let backoff = Backoff {
            initial: seconds(file.pod_initial_backoff_seconds, defaults.initial),
            max: seconds(file.pod_max_backoff_seconds, defaults.max),
            ..defaults
        };
        if backoff.initial.is_zero() {
            return Err(invalid("podInitialBackoffSeconds", "must be greater than 0"));
        }
        if backoff.max < backoff.initial {
            return Err(invalid(
                "podMaxBackoffSeconds",
                "must be greater than or equal to podInitialBackoffSeconds",
            ));
        }
        let profiles = if file.profiles.is_empty() { vec![FileProfile::default()] } else { file.profiles };
        let profiles: Vec<ProfileSpec> = profiles
            .iter()
            .enumerate()
            .map(|(i, profile)| resolve(profile, &format!("profiles[{i}]"), known))
            .collect::<Result<_, _>>()?;
        let mut names = BTreeSet::new();
        for (i, profile) in profiles.iter().enumerate() {
            if !names.insert(&profile.scheduler_name) {
                let message = format!("Duplicate value: {:?}", profile.scheduler_name);
                return Err(invalid(format!("profiles[{i}].schedulerName"), message));
            }
        }
        Ok(Self { profiles, backoff })
    }
}

fn check_percentage(path: &str, value: Option<i32>) -> Result<(), ConfigError> {
    match value {
        Some(p) if !(0..=100).contains(&p) => Err(invalid(path, "not in valid range [0-100]")),
        _ => Ok(()),
    }
}

fn resolve(profile: &FileProfile, path: &str, known: &[String]) -> Result<ProfileSpec, ConfigError> {
    check_percentage(&format!("{path}.percentageOfNodesToScore"), profile.percentage_of_nodes_to_score)?;
    let points = points::resolve(&profile.plugins, path, known)?;
    let mut args: BTreeMap<&str, &Map<String, Value>> = BTreeMap::new();
    for (i, config) in profile.plugin_config.iter().enumerate() {
        if args.insert(&config.name, &config.args).is_some() {
            return Err(invalid(
                format!("{path}.pluginConfig[{i}]"),
                format!("repeated config for plugin {}", config.name),
            ));
        }
    }
    let plugins = points.plugins.into_iter().map(|(name, hooks, weight)| {
        let mut given = args.get(name.as_str()).map_or_else(Map::new, |a| (*a).clone());
        given.remove("apiVersion");
        given.remove("kind");
        PluginSpec { hooks, weight, args: Value::Object(given), name }
    });
    let plugins = plugins.collect();
    let scheduler_name = profile.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".to_owned());
    if scheduler_name.is_empty() {
        return Err(invalid(format!("{path}.schedulerName"), "Required value"));
    }
    Ok(ProfileSpec { scheduler_name, plugins, orders: points.orders })
}
