//! What the manager knows of one plugin.

use super::report::{Standing, State};
use super::stage::{Progress, Stage};
use crate::plugins::comparison::{Candidate, Mode, Numbers};
use crate::plugins::rollout::Rollout;
use crate::plugins::set::{ActivePlugin, Facts};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First and longest time until what could not be staged is tried again.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// What is known of one plugin.
#[derive(Default)]
pub(super) struct Entry {
    /// The object was looked at.
    pub(super) seen: bool,
    /// Spec and policy that were staged last, or are being staged, whatever came of it.
    pub(super) staged: Option<String>,
    /// What is being staged.
    pub(super) staging: Option<Staging>,
    /// What runs.
    pub(super) active: Option<Arc<ActivePlugin>>,
    /// What ran before, without being given up; it takes over at once.
    pub(super) standby: Option<Arc<ActivePlugin>>,
    /// Number of the `PluginRevision` to go back to where nothing is on standby, as after a restart.
    pub(super) fallback: u64,
    /// What is in shadow or canary.
    pub(super) candidate: Option<Rolling>,
    /// What the object says of rollouts and history.
    pub(super) rollout: Rollout,
    pub(super) history: usize,
    /// What may not decide, for the record: its facts, its number once recorded, stage and message.
    pub(super) rejected: Option<Rejected>,
    /// What the user is told.
    pub(super) standing: Standing,
    /// The object's generation that all this is about; 0 without an object.
    pub(super) generation: i64,
    /// When staging is tried again, and how often that was done.
    pub(super) retry: Option<(Instant, u32)>,
}

/// A staging under way.
pub(super) struct Staging {
    /// Tells it from later ones, which replace it.
    pub(super) serial: u64,
    pub(super) progress: Arc<Progress>,
    pub(super) generation: i64,
    /// Without shadow and canary.
    pub(super) at_once: bool,
}

/// A candidate, and what its record was when its mode began.
pub(super) struct Rolling {
    pub(super) candidate: Arc<Candidate>,
    pub(super) failures_before: u64,
}

/// A revision that was refused or given up.
pub(super) struct Rejected {
    pub(super) facts: Arc<Facts>,
    pub(super) number: u64,
    /// Of the `PluginRevision`.
    pub(super) stage: &'static str,
    pub(super) message: String,
}

impl Rolling {
    pub(super) fn failures(&self) -> u64 {
        self.candidate.plugin.health.report().failures.saturating_sub(self.failures_before)
    }

    /// Figures and examples, for the status.
    pub(super) fn figures(&self) -> Value {
        let candidate = &self.candidate;
        let numbers = candidate.comparison.numbers();
        let mut figures = figures(&numbers);
        figures["revision"] = json!(candidate.plugin.number());
        figures["failures"] = json!(self.failures());
        match candidate.mode {
            Mode::Shadow => {
                figures["compared"] = json!(numbers.compared);
                figures["differences"] = json!(numbers.different);
                figures["dropped"] = json!(numbers.dropped);
                let examples = candidate
                    .comparison
                    .examples()
                    .into_iter()
                    .map(|e| json!({ "key": e.key, "active": e.active, "candidate": e.candidate }));
                figures["examples"] = examples.collect();
            }
            Mode::Canary { percent } => {
                figures["percent"] = json!(percent);
                figures["requests"] = json!(numbers.candidate.count);
            }
        }
        figures
    }
}

fn figures(numbers: &Numbers) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "microseconds of a call fit")]
    let whole = |micros: f64| micros.round() as i64;
    let times = |t: &crate::plugins::comparison::Times| json!({ "mean": whole(t.mean), "p99": whole(t.p99) });
    json!({
        "seconds": numbers.elapsed.as_secs(),
        "activeMicroseconds": times(&numbers.active),
        "candidateMicroseconds": times(&numbers.candidate),
    })
}

impl Entry {
    /// Plans the next try, later each time.
    pub(super) fn try_later(&mut self) {
        let tries = self.retry.map_or(0, |(_, n)| n);
        let wait = (FIRST_RETRY * 2u32.saturating_pow(tries.min(10))).min(LAST_RETRY);
        self.retry = Some((Instant::now() + wait, tries + 1));
    }

    /// Whether the revision on standby still ends what it began: its adapters hold its health.
    pub(super) fn is_draining(&self) -> bool {
        self.standby.as_ref().is_some_and(|s| Arc::strong_count(&s.health) > 1 || Arc::strong_count(s) > 1)
    }

    /// Numbers that must be kept.
    pub(super) fn used(&self) -> BTreeSet<u64> {
        let plugins = self.active.iter().chain(&self.standby).map(|p| p.number());
        let candidate = self.candidate.iter().map(|r| r.candidate.plugin.number());
        plugins.chain(candidate).chain([self.fallback]).filter(|n| *n > 0).collect()
    }

    /// The standing with what health, candidate and staging add.
    pub(super) fn standing_now(&self) -> Standing {
        let mut standing = self.standing.clone();
        standing.generation = self.generation;
        if let Some(active) = &self.active {
            let report = active.health.report();
            standing.failures += report.failures;
            standing.active_digest = active.digest().to_string();
            standing.active_revision = active.number();
            standing.kind = active.manifest().kind.as_str();
            standing.plugin = active.name().to_owned();
            if report.open {
                standing.suspend(report.last);
            } else if let Some((reason, message)) = report.last
                && standing.state == State::Active
            {
                standing.message = format!("last failure: {reason}: {message}");
            }
        }
        standing.standby_revision = self.standby.as_ref().map_or(0, |s| s.number());
        if let Some(rolling) = &self.candidate {
            let plugin = &rolling.candidate.plugin;
            standing.candidate_revision = plugin.number();
            if self.active.is_none() {
                standing.kind = plugin.manifest().kind.as_str();
                standing.plugin = plugin.name().to_owned();
            }
            match rolling.candidate.mode {
                Mode::Shadow => standing.shadow = rolling.figures(),
                Mode::Canary { .. } => standing.canary = rolling.figures(),
            }
        }
        if let Some(staging) = &self.staging {
            standing.stage = staging.progress.stage();
            if standing.state == State::Loading {
                standing.message = format!("in stage {}", standing.stage.as_str());
            }
        }
        standing
    }

    /// What there is to say about each revision that is in use or was rejected last.
    pub(super) fn stages(&self) -> Vec<(u64, Value)> {
        let stage = |stage: Stage, message: &str| json!({ "stage": stage.as_str(), "message": message });
        let mut stages = Vec::new();
        if let Some(rejected) = &self.rejected {
            stages.push((rejected.number, json!({ "stage": rejected.stage, "message": rejected.message })));
        }
        if let Some(standby) = &self.standby {
            let now = if self.is_draining() { Stage::Drain } else { Stage::Standby };
            stages.push((standby.number(), stage(now, "")));
        }
        if let Some(rolling) = &self.candidate {
            let now = match rolling.candidate.mode {
                Mode::Shadow => Stage::Shadow,
                Mode::Canary { .. } => Stage::Canary,
            };
            stages.push((rolling.candidate.plugin.number(), stage(now, "")));
        }
        if let Some(active) = &self.active {
            stages.push((active.number(), stage(Stage::Active, "")));
        }
        stages.retain(|(number, _)| *number > 0);
        stages
    }
}
