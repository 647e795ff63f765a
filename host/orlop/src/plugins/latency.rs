//! Durations, counted without locks: a histogram with four buckets for each doubling.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Doublings from one microsecond to about a minute.
const OCTAVES: usize = 26;
const BUCKETS: usize = OCTAVES * 4;

/// A histogram. Adding costs three relaxed additions.
pub(crate) struct Latency {
    count: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

fn bucket(micros: u64) -> usize {
    let micros = micros.max(1);
    let octave = micros.ilog2();
    let quarter = if octave >= 2 { (micros >> (octave - 2)) & 3 } else { (micros << (2 - octave)) & 3 };
    (octave as usize * 4 + usize::try_from(quarter).unwrap_or(0)).min(BUCKETS - 1)
}

/// Microseconds that everything in a bucket is below.
fn upper(bucket: usize) -> f64 {
    let octave = i32::try_from(bucket / 4).unwrap_or(0);
    let quarter = u32::try_from(bucket % 4).unwrap_or(0);
    2f64.powi(octave) * (1.0 + f64::from(quarter + 1) / 4.0)
}

impl Latency {
    /// Counts one duration.
    pub(crate) fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.buckets.get(bucket(micros)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Sum of all, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64()
    }

    /// Mean in microseconds; 0 without any.
    pub(crate) fn mean(&self) -> f64 {
        match self.count() {
            0 => 0.0,
            count => self.seconds() * 1e6 / as_float(count),
        }
    }

    /// Microseconds within which the share `part` of all ended, to a quarter of a doubling; 0 without any.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let wanted = as_float(counts.iter().sum::<u64>()) * part;
        let mut seen = 0.0;
        for (i, count) in counts.into_iter().enumerate().filter(|(_, c)| *c > 0) {
            seen += as_float(count);
            if seen >= wanted {
                return upper(i);
            }
        }
        0.0
    }

    /// How many ended within `limit`, to a quarter of a doubling.
    pub(crate) fn within(&self, limit: Duration) -> u64 {
        let micros = limit.as_secs_f64() * 1e6;
        let below = self.buckets.iter().enumerate().filter(|(i, _)| upper(*i) <= micros * 1.001);
        below.map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }
}

fn as_float(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let float = count as f64;
    float
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_quarter_of_a_doubling() {
        let latency = Latency::default();
        for micros in 1..=1000 {
            latency.add(Duration::from_micros(micros));
        }
        assert_eq!(latency.count(), 1000);
        assert!((latency.mean() - 500.5).abs() < 0.1, "{}", latency.mean());
        for (part, exact) in [(0.5, 500.0), (0.99, 990.0), (0.01, 10.0)] {
            let found = latency.quantile(part);
            assert!(found >= exact && found <= exact * 1.3, "{part}: {found}");
        }
        assert_eq!(Latency::default().quantile(0.99), 0.0);
        assert_eq!(latency.within(Duration::from_secs(1)), 1000);
        let half = latency.within(Duration::from_micros(512));
        assert!((400..=512).contains(&half), "{half}");
    }

    #[test]
    fn extremes_have_a_bucket() {
        let latency = Latency::default();
        latency.add(Duration::ZERO);
        latency.add(Duration::from_secs(100_000));
        assert_eq!(latency.count(), 2);
    }
}
