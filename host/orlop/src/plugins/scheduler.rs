//! Gives the scheduler its plugins: whatever the set of active plugins holds, by name.

mod trial;
pub(crate) mod wasm;

use super::access;
use super::comparison::{Candidate, Mode};
use super::health::{Health, MemoryUse};
use super::set::{ActivePlugin, FailurePolicy, PluginSets};
use orlop_client::write::{Op, Write};
use orlop_controller_manager::Grant;
use orlop_plugin::{Kind, PluginOptions, Runtime};
use orlop_plugin_tools::monitor::Monitor;
use orlop_scheduler::Scheduler;
use orlop_scheduler::framework::{PluginError, PluginFactory, SchedulerPlugin};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use trial::{Canary, Shadow};
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

/// The record of a revision, and what it may do.
pub(crate) struct Record {
    health: Arc<Health>,
    memory: MemoryUse,
    /// Empty for what came with the program: it acts as the scheduler.
    user: String,
    /// What its manifest asks for; the API server knows what it was given.
    permissions: Vec<Grant>,
}

impl Record {
    /// Of a plugin that came with the program.
    pub(crate) fn new(health: Arc<Health>) -> Self {
        let memory = MemoryUse::new(health.clone());
        Self { health, memory, user: String::new(), permissions: Vec::new() }
    }

    fn of(plugin: &ActivePlugin) -> Self {
        let this = Self::new(plugin.health.clone());
        if plugin.builtin {
            return this;
        }
        let permissions = access::grants(&plugin.manifest().permissions);
        Self { user: access::user(&plugin.object).name, permissions, ..this }
    }
}

impl Supervisor for Record {
    fn ended(&self, outcome: Result<(), &orlop_plugin::PluginError>) {
        match outcome {
            Ok(()) => self.health.succeeded(),
            Err(error) => _ = self.health.failed(Instant::now(), error),
        }
    }

    fn admits(&self) -> bool {
        self.health.admits(Instant::now())
    }

    fn took(&mut self, duration: Duration) {
        self.health.latency.add(duration);
    }

    fn holds(&mut self, bytes: usize) {
        self.memory.set(bytes);
    }

    fn user(&self) -> &str {
        &self.user
    }

    fn refuses(&self, write: &[u8]) -> Option<String> {
        if self.user.is_empty() {
            return None;
        }
        let write: Write = match serde_json::from_slice(write) {
            Ok(write) => write,
            Err(error) => return Some(format!("the plugin asks for a malformed write: {error}")),
        };
        let (verb, gvr) = (write.op.verb(), write.gvr());
        let asked =
            self.permissions.iter().any(|p| p.allows(verb, &gvr.group, &gvr.resource, &write.subresource));
        (!asked && write.op != Op::Event).then(|| {
            format!(
                "the plugin wants to {verb} {} of API group \"{}\", which its manifest does not ask for in permissions",
                gvr.resource, gvr.group
            )
        })
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
        let config = configuration(&active.options, args);
        let opened = Box::new(start(&self.runtime, &active, config.clone()).map_err(|error| error.1)?);
        let opened = self.monitor.tap(&active.object, &active.digest().to_string(), &config, opened);
        let candidate = set.candidates_of_kind(Kind::Scheduler).find(|c| c.plugin.object == active.object);
        let Some(candidate) = candidate else { return Ok(opened) };
        try_out(&self.runtime, candidate, opened, args)
    }
}

/// Links a revision and starts an instance. The error comes in the terms of the runtime and of the scheduler.
fn start(
    runtime: &Runtime,
    plugin: &ActivePlugin,
    config: Vec<u8>,
) -> Result<WasmPlugin, (orlop_plugin::PluginError, PluginError)> {
    let options = PluginOptions { config, ..plugin.options.clone() };
    let linked = runtime.link(&plugin.compiled, options).map_err(|error| {
        let converted = wasm::convert_error(&error);
        (error, converted)
    })?;
    let required = plugin.failure_policy == FailurePolicy::Fail;
    WasmPlugin::new(linked, required, Box::new(Record::of(plugin)))
        .map_err(|error| (orlop_plugin::PluginError::bad_output(error.to_string()), error))
}

/// Puts a candidate beside the active revision.
fn try_out(
    runtime: &Arc<Runtime>,
    candidate: &Arc<Candidate>,
    active: Box<dyn SchedulerPlugin>,
    args: &Value,
) -> Result<Box<dyn SchedulerPlugin>, PluginError> {
    let open: trial::Open = {
        let (runtime, plugin) = (runtime.clone(), candidate.plugin.clone());
        let config = configuration(&plugin.options, args);
        Box::new(move || match start(&runtime, &plugin, config.clone()) {
            Ok(started) => Ok(Box::new(started)),
            Err((error, converted)) => {
                plugin.health.failed(Instant::now(), &error);
                Err(converted)
            }
        })
    };
    let comparison = candidate.comparison.clone();
    Ok(match candidate.mode {
        Mode::Shadow => {
            Box::new(Shadow::start(active, comparison, open).map_err(|error| PluginError::Refused {
                message: format!("the thread of its shadow could not be started: {error}"),
            })?)
        }
        Mode::Canary { .. } => {
            let candidate = candidate.clone();
            Box::new(Canary::new(active, comparison, open, Box::new(move |pod| candidate.decides(pod))))
        }
    })
}

/// What a scheduler was built from: it has to change when this does.
struct Stamp {
    active: Vec<(String, u64)>,
    candidates: Vec<Arc<Candidate>>,
}

impl Stamp {
    fn of(sets: &PluginSets) -> Self {
        let set = sets.borrow();
        let key = |p: &Arc<ActivePlugin>| (p.name().to_owned(), p.revision);
        Self {
            active: set.of_kind(Kind::Scheduler).map(key).collect(),
            candidates: set.candidates_of_kind(Kind::Scheduler).cloned().collect(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<Candidate>, &Arc<Candidate>)| Arc::ptr_eq(a, b);
        self.active == other.active
            && self.candidates.len() == other.candidates.len()
            && self.candidates.iter().zip(&other.candidates).all(same)
    }
}

/// Puts other plugins to work whenever the active set changes, and the same ones anew when one of them is to
/// be recorded, until `cancel`. Where that fails the plugins that ran before go on, and a warning says why.
pub(crate) async fn follow(
    mut sets: PluginSets,
    scheduler: Scheduler,
    monitor: Arc<Monitor>,
    cancel: CancellationToken,
) {
    let mut seen = Stamp::of(&sets);
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
        let now = Stamp::of(&sets);
        if now.is(&seen) && !recorded {
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
