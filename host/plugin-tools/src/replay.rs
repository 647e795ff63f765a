//! Makes the calls of a recording again, and compares what comes out.

use crate::record::{Call, Entry, Failure, Outcome, RecordingError};
use crate::workbench::{Guest, Workbench};
use orlop_plugin::Compiled;
use std::collections::{BTreeMap, HashMap};

/// Differences that are kept whole.
const EXAMPLES: usize = 10;

/// One call that ended otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Position among the calls of the recording, from 1.
    pub number: u64,
    /// What was asked.
    pub call: Call,
    /// What the recording says.
    pub recorded: Outcome,
    /// What came out now.
    pub replayed: Outcome,
}

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    /// Calls, and those that ended otherwise, by hook.
    pub hooks: BTreeMap<&'static str, (u64, u64)>,
    /// The first differences.
    pub differences: Vec<Difference>,
    /// Instances that could not be made, and why.
    pub not_opened: Vec<Failure>,
    /// Calls that the recording lacks.
    pub dropped: u64,
    /// Digests of the modules that were recorded.
    pub digests: Vec<String>,
    /// Deadlines of the recording, which are those of a clock: such calls are made again, but not compared.
    pub timed_out: u64,
}

impl Replay {
    /// Calls that were made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.hooks.values().map(|(calls, _)| calls).sum()
    }

    /// Calls that ended otherwise.
    #[must_use]
    pub fn different(&self) -> u64 {
        self.hooks.values().map(|(_, different)| different).sum()
    }

    /// Whether all is as it was.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.different() == 0 && self.not_opened.is_empty()
    }
}

/// The instances of a recording, made again.
pub(crate) struct Guests<'w> {
    workbench: &'w Workbench,
    plugin: &'w Compiled,
    guests: HashMap<u64, Result<Guest, Failure>>,
}

impl<'w> Guests<'w> {
    pub(crate) fn new(workbench: &'w Workbench, plugin: &'w Compiled) -> Self {
        Self { workbench, plugin, guests: HashMap::new() }
    }

    pub(crate) fn open(&mut self, instance: u64, config: &serde_json::Value) -> Option<Failure> {
        let opened = self.workbench.open(self.plugin, config);
        let failure = opened.as_ref().err().cloned();
        self.guests.insert(instance, opened);
        failure
    }

    pub(crate) fn perform(&mut self, instance: u64, call: &Call) -> Outcome {
        match self.guests.get_mut(&instance) {
            Some(Ok(guest)) => guest.perform(call),
            Some(Err(failure)) => Outcome::Failure(failure.clone()),
            None => Outcome::Failure(Failure {
                reason: "BadRecording".to_owned(),
                message: format!("instance {instance} is called, but was never opened"),
            }),
        }
    }
}

/// Makes all calls of a recording.
///
/// # Errors
/// Where the recording is damaged.
pub fn replay(
    workbench: &Workbench,
    plugin: &Compiled,
    entries: impl Iterator<Item = Result<Entry, RecordingError>>,
) -> Result<Replay, RecordingError> {
    let mut guests = Guests::new(workbench, plugin);
    let mut replay = Replay::default();
    for entry in entries {
        match entry? {
            Entry::Dropped(calls) => replay.dropped += calls,
            Entry::Opened { instance, digest, config } => {
                if !replay.digests.contains(&digest) {
                    replay.digests.push(digest);
                }
                replay.not_opened.extend(guests.open(instance, &config));
            }
            Entry::Called { instance, call, outcome } => {
                let replayed = guests.perform(instance, &call);
                let number = replay.calls() + 1;
                let counts = replay.hooks.entry(call.hook()).or_default();
                counts.0 += 1;
                if matches!(&outcome, Outcome::Failure(f) if f.reason == "Deadline") {
                    replay.timed_out += 1;
                } else if !replayed.same_as(&outcome) {
                    counts.1 += 1;
                    if replay.differences.len() < EXAMPLES {
                        replay.differences.push(Difference { number, call, recorded: outcome, replayed });
                    }
                }
            }
        }
    }
    Ok(replay)
}
