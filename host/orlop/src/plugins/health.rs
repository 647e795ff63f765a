//! Health of one active plugin: counts failures, opens the breaker, lets probes through.
//!
//! Closed: every call is let through. Three failures within a minute open it: calls are refused
//! (the failure policy applies) until the back-off is over, then one probe is let through; its success
//! closes the breaker, its failure doubles the back-off.

use super::latency::Latency;
use orlop_plugin::PluginError;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// So many failures …
pub(crate) const FAILURES: usize = 3;
/// … within this time are too many.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(120);

/// What happened, as the manager and the user see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Failures since the revision became active.
    pub(crate) failures: u64,
    /// The last failure: a CamelCase reason and a sentence.
    pub(crate) last: Option<(&'static str, String)>,
    /// Whether calls are refused at the moment.
    pub(crate) open: bool,
}

/// Shared by whoever calls the plugin and by the manager.
pub(crate) struct Health {
    open: AtomicBool,
    calls: AtomicU64,
    failures: AtomicU64,
    reasons: Mutex<BTreeMap<&'static str, u64>>,
    memory: AtomicI64,
    /// Durations of calls, as far as adapters tell them.
    pub(crate) latency: Latency,
    state: Mutex<State>,
    report: Mutex<Report>,
    changed: Arc<Notify>,
}

struct State {
    recent: Vec<Instant>,
    until: Instant,
    backoff: Duration,
    probing: bool,
}

impl Health {
    /// `changed` is notified of every failure and recovery.
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        let state =
            State { recent: Vec::new(), until: Instant::now(), backoff: FIRST_BACKOFF, probing: false };
        Self {
            open: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            reasons: Mutex::default(),
            memory: AtomicI64::new(0),
            latency: Latency::default(),
            state: Mutex::new(state),
            report: Mutex::new(Report::default()),
            changed,
        }
    }

    /// Whether a call may be made now. After `true` from an open breaker the caller must report
    /// [`Health::succeeded`] or [`Health::failed`]. Costs one load where all is well.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        if !self.open.load(Ordering::Acquire) {
            return true;
        }
        let mut state = self.state.lock();
        // A probe that never reported (its caller was dropped) is given up after the back-off.
        if now < state.until {
            return false;
        }
        state.probing = true;
        state.until = now + state.backoff;
        true
    }

    /// A call gave a valid answer.
    pub(crate) fn succeeded(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if !self.open.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state.lock();
        state.recent.clear();
        state.backoff = FIRST_BACKOFF;
        state.probing = false;
        self.open.store(false, Ordering::Release);
        drop(state);
        self.report.lock().open = false;
        self.changed.notify_one();
    }

    /// A call failed. Returns whether the breaker is open now.
    pub(crate) fn failed(&self, now: Instant, error: &PluginError) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        *self.reasons.lock().entry(error.reason()).or_default() += 1;
        let open = {
            let mut state = self.state.lock();
            state.recent.retain(|t| now.duration_since(*t) < WINDOW);
            state.recent.push(now);
            if state.probing {
                state.probing = false;
                state.backoff = (state.backoff * 2).min(MAX_BACKOFF);
                state.until = now + state.backoff;
            } else if state.recent.len() >= FAILURES && !self.open.load(Ordering::Acquire) {
                state.until = now + state.backoff;
                self.open.store(true, Ordering::Release);
            }
            let keep = state.recent.len().saturating_sub(FAILURES);
            state.recent.drain(..keep);
            self.open.load(Ordering::Acquire)
        };
        {
            let mut report = self.report.lock();
            report.failures = report.failures.max(failures);
            report.last = Some((error.reason(), error.to_string()));
            report.open = open;
        }
        self.changed.notify_one();
        open
    }

    /// Calls that ended, well or not.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Failures by reason.
    pub(crate) fn reasons(&self) -> BTreeMap<&'static str, u64> {
        self.reasons.lock().clone()
    }

    /// Bytes of linear memory that all instances hold; see [`MemoryUse`].
    pub(crate) fn memory_bytes(&self) -> i64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// What happened so far.
    pub(crate) fn report(&self) -> Report {
        self.report.lock().clone()
    }
}

/// What one instance adds to the memory of its plugin, for as long as this lives.
pub(crate) struct MemoryUse {
    health: Arc<Health>,
    bytes: i64,
}

impl MemoryUse {
    pub(crate) const fn new(health: Arc<Health>) -> Self {
        Self { health, bytes: 0 }
    }

    /// The instance holds so much now.
    pub(crate) fn set(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if bytes != self.bytes {
            self.health.memory.fetch_add(bytes - self.bytes, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }
}

impl Drop for MemoryUse {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_within_a_minute_open_and_a_probe_closes() {
        let health = Health::new(Arc::default());
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let error = PluginError::Gone;
        assert!(!health.failed(at(0), &error));
        assert!(!health.failed(at(50), &error));
        assert!(!health.failed(at(61), &error), "the first is forgotten");
        assert!(health.failed(at(62), &error));
        assert!(!health.admits(at(62)));
        assert!(health.admits(at(64)), "one probe");
        assert!(!health.admits(at(64)), "and only one");
        health.failed(at(64), &error);
        assert!(!health.admits(at(65)), "the back-off doubles");
        assert!(health.admits(at(67)));
        health.succeeded();
        assert!(health.admits(at(67)));
        assert!(health.admits(at(67)));
        assert_eq!(health.report().failures, 5);
        assert!(!health.report().open);
        assert_eq!((health.calls(), health.reasons().get("Gone").copied()), (6, Some(5)));
    }

    #[test]
    fn memory_is_that_of_the_instances_alive() {
        let health = Arc::new(Health::new(Arc::default()));
        let (mut a, mut b) = (MemoryUse::new(health.clone()), MemoryUse::new(health.clone()));
        a.set(100);
        b.set(50);
        a.set(120);
        assert_eq!(health.memory_bytes(), 170);
        drop(a);
        assert_eq!(health.memory_bytes(), 50);
    }

    #[test]
    fn a_failure_now_and_then_does_not_open() {
        let health = Health::new(Arc::default());
        let start = Instant::now();
        for i in 0..20 {
            assert!(!health.failed(start + Duration::from_secs(31 * i), &PluginError::Gone));
        }
    }
}
