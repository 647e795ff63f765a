//! Gives the scheduler its plugins: whatever the set of active plugins holds, by name.

pub(crate) mod wasm;

use super::health::Health;
use super::set::{ActivePlugin, FailurePolicy, PluginSets};
use orlop_plugin::{Kind, PluginOptions, Runtime};
use orlop_plugin_tools::monitor::Monitor;
use orlop_scheduler::Scheduler;
use orlop_scheduler::framework::{PluginError, PluginFactory, SchedulerPlugin};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use wasm::{Supervisor, WasmPlugin};

/// Opens scheduler plugins out of the active set.
pub(crate) struct ActiveSchedulerPlugins {
    runtime: Arc<Runtime>,
    sets: PluginSets,
    monitor: Arc<Monitor>,
}

impl ActiveSchedulerPlugins {
    pub(crate) const fn new(runtime: Arc<Runtime>, sets: PluginSets, monitor: Arc<Monitor>) -> Self {
        Self { runtime, sets, monitor }
    }
}

/// The configuration of the `Plugin` object, overlaid by the arguments of the profile.
fn configuration(options: &PluginOptions, args: &Value) -> Vec<u8> {
    let mut config: Map<String, Value> = serde_json::from_slice(&options.config).unwrap_or_default();
    if let Value::Object(args) = args {
        config.extend(args.clone());
    }
    Value::Object(config).to_string().into_bytes()
}

impl Supervisor for Arc<Health> {
    fn ended(&self, outcome: Result<(), &orlop_plugin::PluginError>) {
        match outcome {
            Ok(()) => self.succeeded(),
            Err(error) => _ = self.failed(Instant::now(), error),
        }
    }

    fn admits(&self) -> bool {
        Health::admits(self, Instant::now())
    }
}

impl PluginFactory for ActiveSchedulerPlugins {
    fn names(&self) -> Vec<String> {
        let set = self.sets.borrow().clone();
        set.of_kind(Kind::Scheduler).map(|p| p.name().to_owned()).collect()
    }

    fn open(&self, name: &str, args: &Value) -> Result<Box<dyn SchedulerPlugin>, PluginError> {
        let set = self.sets.borrow().clone();
        let active = set.of_kind(Kind::Scheduler).find(|p| p.name() == name).cloned();
        let active = active.ok_or_else(|| PluginError::Refused { message: "it is not active".to_owned() })?;
        let options =
            PluginOptions { config: configuration(&active.options, args), ..active.options.clone() };
        let config = options.config.clone();
        let plugin = self.runtime.link(&active.compiled, options).map_err(|e| wasm::convert_error(&e))?;
        let required = active.failure_policy == FailurePolicy::Fail;
        let supervisor = Box::new(active.health.clone());
        let opened = Box::new(WasmPlugin::new(plugin, required, supervisor)?);
        Ok(self.monitor.tap(&active.object, &active.digest().to_string(), &config, opened))
    }
}

/// What a scheduler was built from: it has to change when this does.
fn stamp(sets: &PluginSets) -> Vec<(String, u64)> {
    let key = |p: &Arc<ActivePlugin>| (p.name().to_owned(), p.revision);
    sets.borrow().of_kind(Kind::Scheduler).map(key).collect()
}

/// Puts other plugins to work whenever the active set changes, and the same ones anew when one of them is to
/// be recorded, until `cancel`. Where that fails the plugins that ran before go on, and a warning says why.
pub(crate) async fn follow(
    mut sets: PluginSets,
    scheduler: Scheduler,
    monitor: Arc<Monitor>,
    cancel: CancellationToken,
) {
    let mut seen = stamp(&sets);
    let mut recordings = monitor.begun();
    loop {
        let recorded = tokio::select! {
            () = cancel.cancelled() => return,
            changed = sets.changed() => if changed.is_err() { return } else { false },
            changed = recordings.changed() => {
                let set = sets.borrow().clone();
                changed.is_ok() && set.of_kind(Kind::Scheduler).any(|p| monitor.records(&p.object))
            }
        };
        let now = stamp(&sets);
        if now == seen && !recorded {
            continue;
        }
        seen = now;
        let scheduler = scheduler.clone();
        let swapped = tokio::task::spawn_blocking(move || scheduler.plugins_changed());
        match swapped.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = anyhow::Error::from(error);
                tracing::warn!(
                    error = format!("{error:#}"),
                    "scheduler plugins refused, the previous ones stay"
                );
            }
            Err(error) => tracing::warn!(%error, "scheduler plugins could not be exchanged"),
        }
    }
}
