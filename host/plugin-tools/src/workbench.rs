//! Runs a plugin outside of a cluster, in the runtime that a cluster uses.

use crate::monitor::{answers, reconciled};
use crate::record::{Call, Failure, Outcome, perform};
use orlop_plugin::admission::AdmissionWorld;
use orlop_plugin::controller::ControllerWorld;
use orlop_plugin::{
    Compiled, Kind, Observer, PluginError, PluginOptions, Runtime, RuntimeError, RuntimeOptions, Slot,
};
use orlop_scheduler::framework::{self, SchedulerPlugin};
use parking_lot::Mutex;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Puts a scheduler plugin behind the host's trait. The host's own adapter is handed in, so that what
/// is tested here is what runs there.
pub type OpenScheduler =
    fn(&Runtime, &Compiled, PluginOptions) -> Result<Box<dyn SchedulerPlugin>, framework::PluginError>;

/// What a millisecond of a deadline is worth in fuel: some times what fast code burns.
const FUEL_PER_MILLISECOND: u64 = 4_000_000;

/// How many times its deadline a call may take where time is measured: one that a busy machine held up is slow, not
/// late, and a figure says so.
const PATIENCE: u32 = 100;

/// Lines of logs that are kept.
const LINES: usize = 1000;

/// What calls cost, and what plugins logged.
#[derive(Debug, Default)]
struct Meter {
    fuel: AtomicU64,
    memory: AtomicUsize,
    lines: Mutex<Vec<String>>,
}

impl Observer for Meter {
    fn log(&self, _plugin: &str, level: u32, message: &str) {
        let level = ["error", "warn", "info", "debug"].get(level as usize).unwrap_or(&"trace");
        let mut lines = self.lines.lock();
        if lines.len() < LINES {
            lines.push(format!("{level}: {message}"));
        }
    }

    fn called(&self, _plugin: &str, fuel: u64, memory_bytes: usize) {
        self.fuel.fetch_add(fuel, Ordering::Relaxed);
        self.memory.fetch_max(memory_bytes, Ordering::Relaxed);
    }
}

/// See the module.
pub struct Workbench {
    runtime: Runtime,
    meter: Arc<Meter>,
    open_scheduler: OpenScheduler,
    patience: u32,
}

/// An instance of any kind.
pub enum Guest {
    /// Behind the host's trait.
    Scheduler(Box<dyn SchedulerPlugin>),
    /// In its slot.
    Admission(Box<Slot<AdmissionWorld>>),
    /// In its slot.
    Controller(Box<Slot<ControllerWorld>>),
}

impl Workbench {
    /// A workbench on which deadlines count fuel: the same calls end the same way everywhere. `cache` is a folder for
    /// compiled code.
    ///
    /// # Errors
    /// Where the runtime cannot start.
    pub fn deterministic(
        open_scheduler: OpenScheduler,
        cache: Option<PathBuf>,
    ) -> Result<Self, RuntimeError> {
        Self::new(open_scheduler, cache, Some(FUEL_PER_MILLISECOND), 1)
    }

    /// A workbench to measure time on, with deadlines that are long enough for a busy machine.
    ///
    /// # Errors
    /// Where the runtime cannot start.
    pub fn timed(open_scheduler: OpenScheduler, cache: Option<PathBuf>) -> Result<Self, RuntimeError> {
        Self::new(open_scheduler, cache, None, PATIENCE)
    }

    fn new(
        open_scheduler: OpenScheduler,
        cache: Option<PathBuf>,
        fuel_per_millisecond: Option<u64>,
        patience: u32,
    ) -> Result<Self, RuntimeError> {
        let meter = Arc::new(Meter::default());
        let options = RuntimeOptions {
            cache,
            fuel_per_millisecond,
            observer: Some(meter.clone()),
            ..RuntimeOptions::default()
        };
        Ok(Self { runtime: Runtime::new(&options)?, meter, open_scheduler, patience })
    }

    /// Compiles a module.
    ///
    /// # Errors
    /// Where the host would refuse it.
    pub fn load(&self, wasm: &[u8]) -> Result<Compiled, PluginError> {
        self.runtime.compile(wasm)
    }

    /// Links a module, makes an instance and runs its self-test.
    ///
    /// # Errors
    /// Where the host would refuse it.
    pub fn self_test(&self, compiled: &Compiled, config: &Value) -> Result<(), PluginError> {
        let options = self.options(compiled, config);
        match compiled.manifest().kind {
            Kind::Scheduler => self
                .runtime
                .link::<orlop_plugin::scheduler::SchedulerWorld>(compiled, options)?
                .self_test()
                .map(drop),
            Kind::Admission => self.runtime.link::<AdmissionWorld>(compiled, options)?.self_test().map(drop),
            Kind::Controller => {
                self.runtime.link::<ControllerWorld>(compiled, options)?.self_test().map(drop)
            }
        }
    }

    /// Makes an instance.
    ///
    /// # Errors
    /// As recordings word it.
    pub fn open(&self, compiled: &Compiled, config: &Value) -> Result<Guest, Failure> {
        let options = self.options(compiled, config);
        let failed = |e: PluginError| Failure { reason: e.reason().to_owned(), message: e.to_string() };
        match compiled.manifest().kind {
            Kind::Scheduler => Ok(Guest::Scheduler(self.open_scheduler(compiled, config)?)),
            Kind::Admission => {
                let plugin = self.runtime.link(compiled, options).map_err(failed)?;
                let mut slot = Slot::new(Arc::new(plugin));
                slot.instance().map_err(failed)?;
                Ok(Guest::Admission(Box::new(slot)))
            }
            Kind::Controller => {
                let plugin = self.runtime.link(compiled, options).map_err(failed)?;
                let mut slot = Slot::new(Arc::new(plugin));
                slot.instance().map_err(failed)?;
                Ok(Guest::Controller(Box::new(slot)))
            }
        }
    }

    /// Makes an instance of a scheduler plugin.
    ///
    /// # Errors
    /// As recordings word it.
    pub fn open_scheduler(
        &self,
        compiled: &Compiled,
        config: &Value,
    ) -> Result<Box<dyn SchedulerPlugin>, Failure> {
        (self.open_scheduler)(&self.runtime, compiled, self.options(compiled, config))
            .map_err(|e| crate::record::failure_of(&e))
    }

    /// Fuel that all calls burnt since the last time; 0 where time is counted.
    pub fn take_fuel(&self) -> u64 {
        self.meter.fuel.swap(0, Ordering::Relaxed)
    }

    /// The most linear memory that an instance held since the last time, in bytes.
    pub fn take_memory(&self) -> usize {
        self.meter.memory.swap(0, Ordering::Relaxed)
    }

    /// What plugins logged since the last time.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.meter.lines.lock())
    }

    fn options(&self, compiled: &Compiled, config: &Value) -> PluginOptions {
        let config = if config.is_null() { "{}".to_owned() } else { config.to_string() };
        let asked = PluginOptions::from_manifest(compiled.manifest());
        let deadline = asked.deadline.saturating_mul(self.patience);
        PluginOptions { config: config.into_bytes(), deadline, ..asked }
    }
}

impl Guest {
    /// Makes a recorded call.
    pub fn perform(&mut self, call: &Call) -> Outcome {
        let failed = |e: PluginError| {
            Outcome::Failure(Failure { reason: e.reason().to_owned(), message: e.to_string() })
        };
        match (self, call) {
            (Self::Scheduler(plugin), call) => perform(plugin.as_mut(), call),
            (Self::Admission(slot), Call::Mutate { requests }) => {
                let requests: Vec<_> = requests.iter().map(Into::into).collect();
                slot.mutate(&requests).map_or_else(failed, |verdicts| answers(&verdicts))
            }
            (Self::Admission(slot), Call::Validate { requests }) => {
                let requests: Vec<_> = requests.iter().map(Into::into).collect();
                slot.validate(&requests).map_or_else(failed, |verdicts| answers(&verdicts))
            }
            (Self::Controller(slot), Call::Reconcile { request }) => {
                slot.reconcile(request.as_bytes()).map_or_else(failed, |answer| reconciled(&answer))
            }
            (_, call) => Outcome::Failure(Failure {
                reason: "Incompatible".to_owned(),
                message: format!("a plugin of this kind has no {}", call.hook()),
            }),
        }
    }
}
