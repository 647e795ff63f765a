//! Scheduler plugins outside of a cluster, behind the adapter that a cluster uses.

use crate::plugins::scheduler::wasm::{Supervisor, WasmPlugin, convert_error};
use orlop_plugin::{Compiled, PluginOptions, Runtime};
use orlop_scheduler::framework::{PluginError, SchedulerPlugin};

/// Nobody counts failures here: each one is seen by who asked.
struct Unsupervised;

impl Supervisor for Unsupervised {
    fn ended(&self, _outcome: Result<(), &orlop_plugin::PluginError>) {}

    fn admits(&self) -> bool {
        true
    }
}

pub(super) fn open(
    runtime: &Runtime,
    compiled: &Compiled,
    options: PluginOptions,
) -> Result<Box<dyn SchedulerPlugin>, PluginError> {
    let plugin = runtime.link(compiled, options).map_err(|e| convert_error(&e))?;
    Ok(Box::new(WasmPlugin::new(plugin, true, Box::new(Unsupervised))?))
}
