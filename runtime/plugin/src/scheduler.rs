//! Bindings of `orlop:scheduler@1`.
//!
//! A scheduler instance keeps a mirror and prepared classes, so it is never replaced behind its
//! caller's back: after a failure the caller makes a new [`Instance`] and tells it everything again.

use crate::error::PluginError;
use crate::instance::{Instance, Store, World};
use crate::manifest::Kind;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({ path: "../../wit/scheduler-1", world: "scheduler" });
}

pub use bindings::exports::orlop::scheduler::plugin::{
    Delta, Dictionary, Explanation, ListColumn, Prepared, Reason, S64Column, Synced, U32Column,
};

/// World of scheduler plugins.
pub struct SchedulerWorld(bindings::Scheduler);

impl World for SchedulerWorld {
    const KIND: Kind = Kind::Scheduler;

    fn new(store: &mut Store, instance: &wasmtime::component::Instance) -> wasmtime::Result<Self> {
        bindings::Scheduler::new(store, instance).map(Self)
    }
}

/// Bits of [`Prepared::flags`].
pub mod prepared {
    /// Every node passes.
    pub const SKIP_FILTER: u32 = 1;
    /// The score is 0 everywhere.
    pub const SKIP_SCORE: u32 = 1 << 1;
    /// No node fits, whatever its state.
    pub const REJECTED: u32 = 1 << 2;
    /// With [`REJECTED`]: evicting pods cannot help.
    pub const UNRESOLVABLE: u32 = 1 << 3;
}

impl Instance<SchedulerWorld> {
    /// Brings the mirror up to date.
    ///
    /// # Errors
    /// As [`Instance::call`].
    pub fn sync(&mut self, delta: &Delta) -> Result<Synced, PluginError> {
        let synced = self.call(|world, store| world.0.orlop_scheduler_plugin().call_sync(store, delta))?;
        if synced.stale > 1 {
            self.condemn();
            return Err(PluginError::bad_output(format!("stale is {}", synced.stale)));
        }
        Ok(synced)
    }

    /// Introduces a class; the inner error is the plugin's own.
    ///
    /// # Errors
    /// As [`Instance::call`].
    pub fn prepare(&mut self, class: u32, pod: &[u8]) -> Result<Result<Prepared, String>, PluginError> {
        let answer =
            self.call(|world, store| world.0.orlop_scheduler_plugin().call_prepare(store, class, pod))?;
        if let Ok(prepared) = &answer
            && prepared.flags >= prepared::UNRESOLVABLE << 1
        {
            self.condemn();
            return Err(PluginError::bad_output(format!("reserved flags are set: {:#x}", prepared.flags)));
        }
        Ok(answer)
    }

    /// Forgets a class.
    ///
    /// # Errors
    /// As [`Instance::call`].
    pub fn release(&mut self, class: u32) -> Result<(), PluginError> {
        self.call(|world, store| world.0.orlop_scheduler_plugin().call_release(store, class))
    }

    /// Which rows fit; all slots where `rows` is empty. The length is not checked here.
    ///
    /// # Errors
    /// As [`Instance::call`].
    pub fn filter(&mut self, class: u32, rows: &[u32]) -> Result<Vec<u64>, PluginError> {
        self.call(|world, store| world.0.orlop_scheduler_plugin().call_filter(store, class, rows))
    }

    /// 0 to 100 per row. Neither length nor range is checked here.
    ///
    /// # Errors
    /// As [`Instance::call`].
    pub fn score(&mut self, class: u32, rows: &[u32]) -> Result<Vec<u8>, PluginError> {
        self.call(|world, store| world.0.orlop_scheduler_plugin().call_score(store, class, rows))
    }

    /// A raw score per row. Neither length nor range is checked here.
    ///
    /// # Errors
    /// As [`Instance::call`].
    pub fn score_raw(&mut self, class: u32, rows: &[u32]) -> Result<Vec<i64>, PluginError> {
        self.call(|world, store| world.0.orlop_scheduler_plugin().call_score_raw(store, class, rows))
    }

    /// 0 to 100 per slot. Neither length nor range is checked here.
    ///
    /// # Errors
    /// As [`Instance::call`].
    pub fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Result<Vec<u8>, PluginError> {
        self.call(|world, store| world.0.orlop_scheduler_plugin().call_normalize(store, class, feasible, raw))
    }

    /// Why rows were rejected. The parts are not checked against each other here.
    ///
    /// # Errors
    /// As [`Instance::call`].
    pub fn explain(&mut self, class: u32, rows: &[u32]) -> Result<Explanation, PluginError> {
        self.call(|world, store| world.0.orlop_scheduler_plugin().call_explain(store, class, rows))
    }
}
