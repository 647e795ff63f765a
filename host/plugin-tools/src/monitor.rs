//! What a host tells of its running plugins: the last lines of their logs, and recordings of their calls.
//!
//! A recording of a scheduler plugin has to begin with a fresh instance, because answers depend on what the
//! instance was told before. So [`Monitor::record`] announces itself, the scheduler opens its plugins anew,
//! and [`Monitor::tap`] puts a [`Tap`] before the one that is recorded. Admission and controller
//! plugins keep nothing between calls; their calls are heard through the runtime's observer.
//!
//! Invariant: nothing here delays a plugin. Who listens too slowly misses lines, and is told so.

mod log;
mod recording;

use crate::record::{Call, Failure, Outcome};
use crate::tap::Tap;
use bytes::Bytes;
use log::Log;
pub use log::LogLines;
use orlop_plugin::{Asked, Exchange, Observer, PluginError};
use orlop_scheduler::framework::SchedulerPlugin;
use parking_lot::Mutex;
use recording::Recording;
pub use recording::{Limit, Recorded};
pub(crate) use recording::{answers, reconciled};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// Logs of so many plugins are kept; the one that was silent longest makes room.
const MAX_LOGS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Monitor {
    logs: Mutex<HashMap<String, Log>>,
    /// Recordings under way; read before the lock is taken.
    listening: AtomicUsize,
    recordings: Mutex<Vec<Arc<Recording>>>,
    begun: watch::Sender<u64>,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            logs: Mutex::default(),
            listening: AtomicUsize::new(0),
            recordings: Mutex::default(),
            begun: watch::Sender::new(0),
        }
    }
}

impl Monitor {
    /// The last `tail` lines of a plugin's log, and with `follow` those to come.
    pub fn lines(&self, plugin: &str, tail: usize, follow: bool) -> LogLines {
        self.logs.lock().entry(plugin.to_owned()).or_default().lines(tail, follow)
    }

    /// Begins to record a plugin.
    pub fn record(&self, plugin: &str, limit: Limit) -> Recorded {
        let (recording, recorded) = recording::begin(plugin, limit);
        {
            let mut recordings = self.recordings.lock();
            recordings.retain(|r| !r.is_over());
            recordings.push(Arc::new(recording));
            self.listening.store(recordings.len(), Ordering::Relaxed);
        }
        self.begun.send_modify(|n| *n += 1);
        recorded
    }

    /// Changes with every recording that begins.
    pub fn begun(&self) -> watch::Receiver<u64> {
        self.begun.subscribe()
    }

    /// Whether a plugin is recorded.
    pub fn records(&self, plugin: &str) -> bool {
        !self.listening_to(plugin).is_empty()
    }

    /// Puts a tap before a scheduler plugin that was just opened, where it is recorded.
    pub fn tap(
        &self,
        plugin: &str,
        digest: &str,
        config: &[u8],
        opened: Box<dyn SchedulerPlugin>,
    ) -> Box<dyn SchedulerPlugin> {
        self.listening_to(plugin).into_iter().fold(opened, |opened, recording| {
            match recording.instance(digest, config) {
                Some(sink) => Box::new(Tap::new(opened, Box::new(sink))),
                None => opened,
            }
        })
    }

    fn listening_to(&self, plugin: &str) -> Vec<Arc<Recording>> {
        if self.listening.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut recordings = self.recordings.lock();
        recordings.retain(|r| !r.is_over());
        self.listening.store(recordings.len(), Ordering::Relaxed);
        recordings.iter().filter(|r| r.plugin() == plugin).cloned().collect()
    }
}

/// A failure in the words of recordings.
fn failure(error: &PluginError) -> Outcome {
    Outcome::Failure(Failure { reason: error.reason().to_owned(), message: error.to_string() })
}

impl Observer for Monitor {
    fn log(&self, plugin: &str, level: u32, message: &str) {
        let line = log::format(level, message);
        let mut logs = self.logs.lock();
        if !logs.contains_key(plugin) {
            if logs.len() >= MAX_LOGS {
                let quiet = logs.iter().min_by_key(|(_, log)| log.last()).map(|(name, _)| name.clone());
                quiet.map(|name| logs.remove(&name));
            }
            logs.insert(plugin.to_owned(), Log::default());
        }
        if let Some(log) = logs.get_mut(plugin) {
            log.push(Bytes::from(line));
        }
    }

    fn listens(&self, plugin: &str) -> bool {
        self.records(plugin)
    }

    fn exchanged(&self, exchange: &Exchange<'_>) {
        let (call, outcome) = match exchange.call {
            Asked::Mutate(requests, answer) => (
                Call::Mutate { requests: requests.iter().map(Into::into).collect() },
                answer.map_or_else(failure, answers),
            ),
            Asked::Validate(requests, answer) => (
                Call::Validate { requests: requests.iter().map(Into::into).collect() },
                answer.map_or_else(failure, answers),
            ),
            Asked::Reconcile(request, answer) => (
                Call::Reconcile { request: String::from_utf8_lossy(request).into_owned() },
                answer.map_or_else(failure, reconciled),
            ),
        };
        for recording in self.listening_to(exchange.plugin) {
            recording.put(&exchange.digest.to_string(), exchange.config, &call, &outcome);
        }
    }
}

#[cfg(test)]
mod tests;
