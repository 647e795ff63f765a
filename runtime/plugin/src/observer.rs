//! Whoever wants to know what instances do: their log, and what calls cost.

use crate::admission::{Request, Verdict};
use crate::compile::Digest;
use crate::error::PluginError;
use std::fmt::Debug;

/// Is told of every instance of a runtime, on the thread that calls it. It must be quick and must not panic.
pub trait Observer: Debug + Send + Sync {
    /// A line of a plugin's log. `plugin` is the name in its options, `level` as in `orlop:types/log`.
    fn log(&self, plugin: &str, level: u32, message: &str) {
        let _ = (plugin, level, message);
    }

    /// A call ended, well or not. `fuel` is what it burnt, 0 where the runtime does not meter;
    /// `memory_bytes` is the linear memory that the instance holds now.
    fn called(&self, plugin: &str, fuel: u64, memory_bytes: usize) {
        let _ = (plugin, fuel, memory_bytes);
    }

    /// Whether [`Observer::exchanged`] is to be told of a plugin's calls at the moment.
    fn listens(&self, plugin: &str) -> bool {
        let _ = plugin;
        false
    }

    /// A call of an admission or controller plugin ended, with its whole input and output. Only where
    /// [`Observer::listens`].
    fn exchanged(&self, exchange: &Exchange<'_>) {
        let _ = exchange;
    }
}

/// One call with its answer.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// Name in the plugin's options.
    pub plugin: &'a str,
    /// Of the module.
    pub digest: Digest,
    /// What `init` got.
    pub config: &'a [u8],
    /// The call.
    pub call: Asked<'a>,
}

/// What was asked, and what came of it.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// Of an admission plugin.
    Mutate(&'a [Request], Result<&'a [Verdict], &'a PluginError>),
    /// Of an admission plugin.
    Validate(&'a [Request], Result<&'a [Verdict], &'a PluginError>),
    /// Of a controller plugin.
    Reconcile(&'a [u8], Result<&'a [u8], &'a PluginError>),
}
