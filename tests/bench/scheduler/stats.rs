//! Least and median.

use std::fmt;
use std::time::{Duration, Instant};

/// Of several rounds of the same work, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stats {
    pub(crate) least: f64,
    pub(crate) median: f64,
}

impl Stats {
    pub(crate) fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |i: usize| times.get(i).copied().unwrap_or(0.0);
        Self { least: at(0), median: at(times.len() / 2) }
    }

    pub(crate) fn durations(times: &[Duration]) -> Self {
        Self::of(times.iter().map(|t| t.as_secs_f64() * 1e6).collect())
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.1}/{:.1}", self.least, self.median))
    }
}

/// Microseconds of one of `times` runs, on average.
pub(crate) fn each(times: u32, mut f: impl FnMut()) -> f64 {
    let began = Instant::now();
    for _ in 0..times {
        f();
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(times)
}
