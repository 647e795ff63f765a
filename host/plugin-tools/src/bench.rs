//! What a plugin costs: time, fuel and memory, hook by hook, over many synthetic nodes.
//!
//! The inputs are those of the golden tests, with their nodes multiplied; so a plugin is measured on what
//! it is for. Time is the shortest of many calls in the runtime as a cluster has it. Fuel and memory are
//! exact: the same on every machine.

mod measure;
mod synthetic;

use crate::golden::{Golden, GoldenError};
use crate::workbench::{OpenScheduler, Workbench};
use orlop_plugin::{Kind, PluginError, RuntimeError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `format` of a saved report.
pub const FORMAT: &str = "orlop.dev/plugin-bench/v1";

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The runtime cannot start.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The module is refused.
    #[error("the module would be refused by the host")]
    Plugin(#[from] PluginError),
    /// The inputs are not usable.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The plugin failed where it should have answered.
    #[error("{hook} failed: {message}")]
    Failed {
        /// Which call.
        hook: String,
        /// How.
        message: String,
    },
    /// There is no input that asks the plugin anything.
    #[error("no golden test asks the plugin anything, so there is nothing to measure")]
    Nothing,
    /// The saved figures are of something else.
    #[error("{}: no figures of `orlop plugin bench --save`", .path.display())]
    NotSaved {
        /// The file.
        path: PathBuf,
    },
}

/// Cost of one hook: of the most expensive input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// By so much the figures are divided: nodes, or 1.
    pub units: u64,
    /// For one unit.
    pub nanoseconds: f64,
    /// For one unit.
    pub fuel: f64,
}

/// A report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`FORMAT`]
    pub format: String,
    /// Name in the manifest.
    pub plugin: String,
    /// Of the module.
    pub digest: String,
    /// Synthetic nodes; 0 for plugins that see none.
    pub nodes: u32,
    /// By hook.
    pub hooks: BTreeMap<String, Cost>,
    /// The most linear memory that an instance held.
    pub memory_bytes: u64,
}

/// One figure that got worse.
#[derive(Clone, Debug, PartialEq)]
pub struct Regression {
    /// Such as `filter: fuel`.
    pub what: String,
    /// Before.
    pub before: f64,
    /// Now.
    pub now: f64,
}

/// By how much figures may grow, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Fuel and memory.
    pub exact: f64,
    /// Time, which is noisy.
    pub time: f64,
}

/// What to measure.
pub struct Bench<'a> {
    /// The module.
    pub wasm: &'a [u8],
    /// Inputs.
    pub tests: &'a [Golden],
    /// Synthetic nodes.
    pub nodes: u32,
    /// The host's adapter.
    pub open_scheduler: OpenScheduler,
    /// Folder of compiled code.
    pub cache: Option<PathBuf>,
}

impl Bench<'_> {
    /// Measures.
    ///
    /// # Errors
    /// [`BenchError`]
    pub fn run(&self) -> Result<Report, BenchError> {
        let timed = Workbench::timed(self.open_scheduler, self.cache.clone())?;
        let metered = Workbench::deterministic(self.open_scheduler, self.cache.clone())?;
        let (fast, exact) = (timed.load(self.wasm)?, metered.load(self.wasm)?);
        let manifest = fast.manifest().clone();
        let mut hooks: BTreeMap<String, Cost> = BTreeMap::new();
        let mut worst = |hook: &str, units: u64, nanoseconds: f64, fuel: f64| {
            let cost = hooks.entry(hook.to_owned()).or_default();
            cost.units = cost.units.max(units);
            cost.nanoseconds = cost.nanoseconds.max(nanoseconds);
            cost.fuel = cost.fuel.max(fuel);
        };
        for test in self.tests {
            match manifest.kind {
                Kind::Scheduler => {
                    measure::scheduler(&timed, &fast, test, self.nodes, &mut |hook, units, cost| {
                        worst(hook, units, cost, 0.0);
                    })?;
                    measure::scheduler_fuel(&metered, &exact, test, self.nodes, &mut |hook, units, fuel| {
                        worst(hook, units, 0.0, fuel);
                    })?;
                }
                Kind::Admission | Kind::Controller => {
                    measure::requests(&timed, &fast, &metered, &exact, test, &mut |hook, cost, fuel| {
                        worst(hook, 1, cost, fuel);
                    })?;
                }
            }
        }
        if hooks.is_empty() {
            return Err(BenchError::Nothing);
        }
        let nodes = if manifest.kind == Kind::Scheduler { self.nodes } else { 0 };
        Ok(Report {
            format: FORMAT.to_owned(),
            plugin: manifest.name.clone(),
            digest: fast.digest().to_string(),
            nodes,
            hooks,
            memory_bytes: u64::try_from(metered.take_memory()).unwrap_or(u64::MAX),
        })
    }
}

impl Report {
    /// Reads a saved report.
    ///
    /// # Errors
    /// Where the file is missing or something else.
    pub fn read(path: &std::path::Path) -> Result<Self, BenchError> {
        let not_saved = || BenchError::NotSaved { path: path.to_owned() };
        let text = std::fs::read(path).map_err(|_| not_saved())?;
        let report: Self = serde_json::from_slice(&text).map_err(|_| not_saved())?;
        if report.format == FORMAT { Ok(report) } else { Err(not_saved()) }
    }

    /// What is worse than `before` by more than the tolerance.
    #[must_use]
    pub fn regressions(&self, before: &Self, tolerance: Tolerance) -> Vec<Regression> {
        let mut out = Vec::new();
        let mut check = |what: String, before: f64, now: f64, percent: f64| {
            if now > before * (1.0 + percent / 100.0) {
                out.push(Regression { what, before, now });
            }
        };
        for (hook, now) in &self.hooks {
            let Some(old) = before.hooks.get(hook) else { continue };
            check(format!("{hook}: fuel"), old.fuel, now.fuel, tolerance.exact);
            check(format!("{hook}: nanoseconds"), old.nanoseconds, now.nanoseconds, tolerance.time);
        }
        #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53")]
        let bytes = |b: u64| b as f64;
        check(
            "memory: bytes".to_owned(),
            bytes(before.memory_bytes),
            bytes(self.memory_bytes),
            tolerance.exact,
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(nanoseconds: f64, fuel: f64, memory_bytes: u64) -> Report {
        let cost = Cost { units: 5000, nanoseconds, fuel };
        Report {
            format: FORMAT.to_owned(),
            plugin: "p".to_owned(),
            digest: "d".to_owned(),
            nodes: 5000,
            hooks: [("filter".to_owned(), cost)].into(),
            memory_bytes,
        }
    }

    #[test]
    fn what_got_worse_is_named_and_what_is_within_the_tolerance_is_not() {
        let tolerance = Tolerance { exact: 5.0, time: 50.0 };
        let before = report(10.0, 100.0, 1 << 20);
        assert_eq!(report(14.0, 104.0, 1 << 20).regressions(&before, tolerance), []);
        assert_eq!(report(1.0, 1.0, 1).regressions(&before, tolerance), []);
        let worse = report(16.0, 106.0, 2 << 20).regressions(&before, tolerance);
        let names: Vec<&str> = worse.iter().map(|r| r.what.as_str()).collect();
        assert_eq!(names, ["filter: fuel", "filter: nanoseconds", "memory: bytes"]);
    }
}
