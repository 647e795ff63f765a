//! What a candidate revision does, beside the active one: numbers, and examples of what differs.
//!
//! Whoever asks plugins (an adapter) looks for a [`Candidate`] of each plugin in the set:
//! - in [`Mode::Shadow`] the active revision decides; the same input goes to the candidate off the hot
//!   path, and the two answers are told to [`Comparison`]. Where the worker lags, the input is
//!   dropped and counted.
//! - in [`Mode::Canary`] the candidate decides what [`Candidate::decides`] says by the key of the
//!   request, work item or pod class; where it fails, the active revision is asked.
//!
//! Failures of the candidate go to the [`Health`](super::health::Health) of its own revision. Nobody but
//! the manager promotes or ends a candidate; it looks at these numbers about twice a second.

use super::latency::Latency;
use super::set::ActivePlugin;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Examples that are kept of one comparison.
const EXAMPLES: usize = 10;
/// Longest text of an example, in bytes.
const TEXT: usize = 400;

/// What a candidate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is asked, and its answers are only compared.
    Shadow,
    /// It decides about this share of the keys, 0 to 100.
    Canary {
        /// Of all keys.
        percent: u8,
    },
}

/// A revision on its way to become active.
pub(crate) struct Candidate {
    /// The revision.
    pub(crate) plugin: Arc<ActivePlugin>,
    /// What it may do.
    pub(crate) mode: Mode,
    /// Where adapters report; a new one for each mode.
    pub(crate) comparison: Arc<Comparison>,
}

impl Candidate {
    /// Whether the candidate decides about `key`. The same key always gets the same answer, in every
    /// process.
    pub(crate) fn decides(&self, key: &str) -> bool {
        match self.mode {
            Mode::Shadow => false,
            Mode::Canary { percent } => spread(key) % 100 < u64::from(percent),
        }
    }
}

/// FNV-1a with a final mix, so that near keys fall far apart.
fn spread(key: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// One input that was decided otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Example {
    /// What it was about, such as `create pods default/web-1`.
    pub(crate) key: String,
    /// What the active revision said, for a reader.
    pub(crate) active: String,
    /// What the candidate said.
    pub(crate) candidate: String,
}

/// The numbers of one mode of one candidate. All methods are cheap and may be called from any thread.
pub(crate) struct Comparison {
    began: Instant,
    compared: AtomicU64,
    different: AtomicU64,
    dropped: AtomicU64,
    /// Durations of the active revision's answers, as far as they were compared.
    pub(crate) active: Latency,
    /// Durations of the candidate's answers.
    pub(crate) candidate: Latency,
    examples: Mutex<Vec<Example>>,
}

impl Default for Comparison {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            compared: AtomicU64::new(0),
            different: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            active: Latency::default(),
            candidate: Latency::default(),
            examples: Mutex::default(),
        }
    }
}

impl Comparison {
    /// Both answered, and alike.
    pub(crate) fn same(&self) {
        self.compared.fetch_add(1, Ordering::Relaxed);
    }

    /// Both answered, and not alike. `example` is called only while there is room for examples.
    pub(crate) fn differs(&self, example: impl FnOnce() -> Example) {
        self.compared.fetch_add(1, Ordering::Relaxed);
        if self.different.fetch_add(1, Ordering::Relaxed) >= EXAMPLES as u64 {
            return;
        }
        let Example { key, active, candidate } = example();
        let mut examples = self.examples.lock();
        if examples.len() < EXAMPLES {
            examples.push(Example { key: cut(key), active: cut(active), candidate: cut(candidate) });
        }
    }

    /// An input was not compared, because the worker lags.
    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers so far.
    pub(crate) fn numbers(&self) -> Numbers {
        Numbers {
            elapsed: self.began.elapsed(),
            compared: self.compared.load(Ordering::Relaxed),
            different: self.different.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            active: Times::of(&self.active),
            candidate: Times::of(&self.candidate),
        }
    }

    /// The first inputs that were decided otherwise.
    pub(crate) fn examples(&self) -> Vec<Example> {
        self.examples.lock().clone()
    }
}

/// A snapshot of a [`Comparison`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Numbers {
    /// Since the mode began.
    pub(crate) elapsed: Duration,
    /// Inputs that both answered.
    pub(crate) compared: u64,
    /// Of these, decided otherwise.
    pub(crate) different: u64,
    /// Inputs that the worker had no room for.
    pub(crate) dropped: u64,
    /// Of the active revision.
    pub(crate) active: Times,
    /// Of the candidate; its count is that of its answers.
    pub(crate) candidate: Times,
}

/// Durations in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Times {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p99: f64,
}

impl Times {
    fn of(latency: &Latency) -> Self {
        Self { count: latency.count(), mean: latency.mean(), p99: latency.quantile(0.99) }
    }
}

fn cut(text: String) -> String {
    if text.len() <= TEXT {
        return text;
    }
    let mut end = TEXT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} …", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_evenly_and_always_alike() {
        let share = |percent: u64| {
            (0..10_000).filter(|i| spread(&format!("pods/default/web-{i}")) % 100 < percent).count()
        };
        assert!((800..1200).contains(&share(10)), "{}", share(10));
        assert_eq!(share(0), 0);
        assert_eq!(share(100), 10_000);
        assert_eq!(spread("a"), spread("a"));
    }

    #[test]
    fn a_few_examples_are_kept_and_all_are_counted() {
        let comparison = Comparison::default();
        for i in 0..50 {
            let text = "ä".repeat(500);
            comparison.differs(|| Example { key: i.to_string(), active: text.clone(), candidate: text });
        }
        comparison.same();
        comparison.dropped();
        let numbers = comparison.numbers();
        assert_eq!((numbers.compared, numbers.different, numbers.dropped), (51, 50, 1));
        let examples = comparison.examples();
        assert_eq!(examples.len(), EXAMPLES);
        assert!(examples.iter().all(|e| e.active.len() < 410));
    }
}
