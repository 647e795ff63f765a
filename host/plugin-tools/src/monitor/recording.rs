//! One recording under way: from calls to lines, through a channel that never blocks.

use crate::record::{self, Call, Entry, Header, Outcome};
use crate::tap::Sink;
use bytes::Bytes;
use orlop_plugin::admission::Verdict;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Lines that the listener may be behind.
const BEHIND: usize = 1024;

/// When a recording ends by itself.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// After so many calls.
    pub calls: u64,
    /// After so much time.
    pub time: Duration,
}

#[derive(Debug)]
struct State {
    /// Calls that may still be taken in.
    left: u64,
    /// Instances so far.
    instances: u64,
    /// Of plugins without a state: the instance of digest and configuration.
    known: HashMap<(String, Vec<u8>), u64>,
    /// Left out since the last line.
    dropped: u64,
    lines: Option<mpsc::Sender<Bytes>>,
}

/// The host's end.
#[derive(Debug)]
pub(super) struct Recording {
    plugin: String,
    until: Instant,
    over: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

/// The listener's end.
#[derive(Debug)]
pub struct Recorded {
    lines: mpsc::Receiver<Bytes>,
    until: Instant,
    over: Arc<AtomicBool>,
}

impl Recorded {
    /// The next line, with its line feed; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Ok(line) = tokio::time::timeout_at(self.until, self.lines.recv()).await {
            return line;
        }
        // What was written down before the end is still to be had.
        self.over.store(true, Ordering::Relaxed);
        self.lines.try_recv().ok()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

pub(super) fn begin(plugin: &str, limit: Limit) -> (Recording, Recorded) {
    let (sender, lines) = mpsc::channel(BEHIND);
    let until = Instant::now() + limit.time;
    let over: Arc<AtomicBool> = Arc::default();
    let mut state =
        State { left: limit.calls, instances: 0, known: HashMap::new(), dropped: 0, lines: Some(sender) };
    let mut header = Vec::new();
    if record::write_header(&mut header, &Header::now(plugin)).is_ok() {
        state.send(header);
    }
    let recording = Recording {
        plugin: plugin.to_owned(),
        until,
        over: over.clone(),
        state: Arc::new(Mutex::new(state)),
    };
    (recording, Recorded { lines, until, over })
}

impl State {
    fn send(&mut self, line: Vec<u8>) -> bool {
        self.lines.as_ref().is_some_and(|lines| lines.try_send(Bytes::from(line)).is_ok())
    }

    fn write(&mut self, entry: &Entry) -> bool {
        let mut line = Vec::new();
        record::write_entry(&mut line, entry).is_ok() && self.send(line)
    }

    fn open(&mut self, digest: &str, config: &[u8]) -> Option<u64> {
        let instance = self.instances;
        let config = serde_json::from_slice(config).unwrap_or(Value::Null);
        let opened = Entry::Opened { instance, digest: digest.to_owned(), config };
        self.write(&opened).then(|| {
            self.instances += 1;
            instance
        })
    }

    /// Writes a call; the last one closes the recording.
    fn call(&mut self, instance: u64, call: Call, outcome: Outcome) -> bool {
        if self.left == 0 {
            return false;
        }
        if self.dropped > 0 && self.write(&Entry::Dropped(self.dropped)) {
            self.dropped = 0;
        }
        let written = self.dropped == 0 && self.write(&Entry::Called { instance, call, outcome });
        if !written {
            self.dropped += 1;
            return false;
        }
        self.left -= 1;
        if self.left == 0 {
            self.lines = None;
        }
        true
    }
}

impl Recording {
    pub(super) fn plugin(&self) -> &str {
        &self.plugin
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || Instant::now() >= self.until || self.state.lock().lines.is_none()
    }

    /// For a plugin that keeps a state: what its fresh instance is written down by.
    pub(super) fn instance(&self, digest: &str, config: &[u8]) -> Option<InstanceSink> {
        let instance = self.state.lock().open(digest, config)?;
        Some(InstanceSink { instance, over: self.over.clone(), until: self.until, state: self.state.clone() })
    }

    /// For a plugin that keeps none.
    pub(super) fn put(&self, digest: &str, config: &[u8], call: &Call, outcome: &Outcome) {
        let mut state = self.state.lock();
        let key = (digest.to_owned(), config.to_vec());
        let instance = match state.known.get(&key) {
            Some(instance) => *instance,
            None => {
                let Some(instance) = state.open(digest, config) else { return };
                state.known.insert(key, instance);
                instance
            }
        };
        state.call(instance, call.clone(), outcome.clone());
    }
}

/// Writes the calls of one instance. One that had to be left out ends it, for what follows depends on it.
pub(super) struct InstanceSink {
    instance: u64,
    over: Arc<AtomicBool>,
    until: Instant,
    state: Arc<Mutex<State>>,
}

impl Sink for InstanceSink {
    fn put(&mut self, call: Call, outcome: Outcome) -> bool {
        !self.over.load(Ordering::Relaxed)
            && Instant::now() < self.until
            && self.state.lock().call(self.instance, call, outcome)
    }
}

/// Verdicts of admission plugins.
pub(crate) fn answers(verdicts: &[Verdict]) -> Outcome {
    let json_or_text = |bytes: &[u8]| -> Value {
        if bytes.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into())
    };
    let verdict = |v: &Verdict| {
        json!({
            "allowed": v.allowed,
            "patch": json_or_text(&v.patch),
            "status": json_or_text(&v.status),
            "warnings": v.warnings,
        })
    };
    Outcome::Answer(verdicts.iter().map(verdict).collect())
}

/// Plans of controller plugins.
pub(crate) fn reconciled(answer: &[u8]) -> Outcome {
    Outcome::Answer(serde_json::from_slice(answer).unwrap_or_else(|_| String::from_utf8_lossy(answer).into()))
}
