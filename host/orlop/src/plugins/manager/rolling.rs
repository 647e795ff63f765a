//! Shadow and canary: begins candidates, promotes them, gives them up.

use super::PluginManager;
use super::entry::{Rejected, Rolling};
use super::report::{Standing, State};
use super::revisions::ROLLED_BACK;
use super::stage::Stage;
use crate::plugins::comparison::{Candidate, Comparison, Mode};
use crate::plugins::object::StageError;
use crate::plugins::rollout::Outcome;
use crate::plugins::set::ActivePlugin;
use orlop_plugin::Kind;
use std::sync::Arc;

/// What the manager does with a candidate.
enum Step {
    /// Into this mode.
    Enter(Mode),
    Activate,
    GiveUp(&'static str, String),
}

impl PluginManager {
    /// Makes what was staged a candidate, where its object wants that. Returns whether it did.
    pub(super) fn try_candidate(&self, name: &str, plugin: &Arc<ActivePlugin>) -> Result<bool, StageError> {
        let (mode, active) = self.with_entry(name, |e| (e.rollout.next(None), e.active.clone()));
        let Some(mode) = mode else { return Ok(false) };
        let kind = plugin.manifest().kind;
        let impossible = |message: String| Err(StageError::Rollout { message });
        if kind == Kind::Scheduler && active.is_none() {
            return impossible(
                "no revision of this scheduler plugin is active to be compared with; remove spec.rollout"
                    .to_owned(),
            );
        }
        if let Some(active) = &active {
            if active.manifest().kind != kind {
                return impossible(format!(
                    "a {kind} plugin cannot be compared with a {} plugin; remove spec.rollout",
                    active.manifest().kind
                ));
            }
            if kind == Kind::Scheduler
                && (active.name(), &active.manifest().scheduler)
                    != (plugin.name(), &plugin.manifest().scheduler)
            {
                return impossible(
                    "the new revision has another name than the active one, or declares other hooks, columns, fields or \
                     watches, so that they cannot be asked the same; remove spec.rollout"
                        .to_owned(),
                );
            }
            let writes = |p: &ActivePlugin| {
                let hooks = p.manifest().scheduler.iter().flat_map(|s| &s.hooks);
                hooks.into_iter().any(|hook| ["pre-bind", "bind"].contains(&hook.as_str()))
            };
            let has_canary = self.with_entry(name, |e| e.rollout.canary.is_some());
            if has_canary && active.builtin != plugin.builtin && writes(plugin) {
                return impossible(
                    "it may write, and the active revision does so as another user, because only one of the two came with \
                     the program; remove spec.rollout.canary"
                        .to_owned(),
                );
            }
            if kind == Kind::Controller && active.manifest().controller != plugin.manifest().controller {
                return impossible(
                    "the new revision watches or reads other objects than the active one, so that they cannot be asked \
                     the same; remove spec.rollout"
                        .to_owned(),
                );
            }
        }
        self.enter(name, plugin, mode);
        Ok(true)
    }

    fn enter(&self, name: &str, plugin: &Arc<ActivePlugin>, mode: Mode) {
        tracing::info!(plugin = name, revision = plugin.revision, ?mode, "plugin is a candidate");
        self.with_entry(name, |entry| {
            let before = std::mem::take(&mut entry.standing);
            let candidate =
                Candidate { plugin: plugin.clone(), mode, comparison: Arc::new(Comparison::default()) };
            entry.candidate = Some(Rolling {
                failures_before: plugin.health.report().failures,
                candidate: Arc::new(candidate),
            });
            entry.rejected = None;
            let (state, stage, reason) = match mode {
                Mode::Shadow => (State::Shadow, Stage::Shadow, "Shadow"),
                Mode::Canary { .. } => (State::Canary, Stage::Canary, "Canary"),
            };
            // The figures of an earlier rollout say nothing of this one.
            let shadow = if stage == Stage::Canary { before.shadow } else { serde_json::Value::Null };
            entry.standing = Standing {
                state,
                reason,
                stage,
                message: format!("{} is in {}", plugin.digest(), stage.as_str().to_lowercase()),
                passed: before.passed,
                shadow,
                ..Standing::default()
            };
        });
        self.publish();
    }

    /// Looks at all candidates: promotes what has proven itself, gives up what overdrew a budget.
    pub(super) fn advance(&self) {
        let mut steps: Vec<(String, Arc<Candidate>, Step)> = Vec::new();
        {
            let mut entries = self.entries.lock();
            for (name, entry) in entries.iter_mut() {
                let Some(rolling) = &entry.candidate else { continue };
                let candidate = rolling.candidate.clone();
                let numbers = candidate.comparison.numbers();
                let last = candidate.plugin.health.report().last.map(|(_, m)| m).unwrap_or_default();
                let step = match entry.rollout.judge(candidate.mode, &numbers, rolling.failures(), &last) {
                    Outcome::Hold(waits) => {
                        let stage = entry.standing.stage.as_str().to_lowercase();
                        entry.standing.message =
                            format!("{} is in {stage}: {waits}", candidate.plugin.digest());
                        continue;
                    }
                    Outcome::Advance => match entry.rollout.next(Some(candidate.mode)) {
                        Some(mode) => Step::Enter(mode),
                        None => Step::Activate,
                    },
                    Outcome::GiveUp(reason, message) => Step::GiveUp(reason, message),
                };
                let figures = rolling.figures();
                match candidate.mode {
                    Mode::Shadow => entry.standing.shadow = figures,
                    Mode::Canary { .. } => entry.standing.canary = figures,
                }
                entry.standing.passed.push((entry.standing.stage, numbers.elapsed));
                steps.push((name.clone(), candidate, step));
            }
        }
        for (name, candidate, step) in steps {
            match step {
                Step::Enter(mode) => self.enter(&name, &candidate.plugin, mode),
                Step::Activate => self.activate(&name, candidate.plugin.clone()),
                Step::GiveUp(reason, why) => self.give_up(&name, &candidate, reason, &why),
            }
        }
    }

    fn give_up(&self, name: &str, candidate: &Candidate, reason: &'static str, why: &str) {
        let plugin = &candidate.plugin;
        tracing::warn!(plugin = name, digest = %plugin.digest(), reason, why, "candidate was given up");
        self.with_entry(name, |entry| {
            let before = std::mem::take(&mut entry.standing);
            let standing = Standing::given_up(reason, why, before.stage, plugin, entry.active.as_deref());
            entry.candidate = None;
            entry.rejected = Some(Rejected {
                facts: plugin.facts.clone(),
                number: plugin.number(),
                stage: ROLLED_BACK,
                message: standing.message.clone(),
            });
            let passed = before.passed.into_iter().filter(|(s, _)| *s != before.stage).collect();
            entry.standing = Standing { passed, shadow: before.shadow, canary: before.canary, ..standing };
        });
        self.publish();
    }
}
