//! What follows when a staging ends, and what needs none.

use super::entry::{Entry, Rejected, Staging};
use super::report::{self, Standing, State};
use super::revisions::{self, REFUSED};
use super::stage::{Refusal, Stage};
use super::{Desk, PluginManager};
use crate::plugins::object::{PluginSpec, StageError};
use crate::plugins::set::ActivePlugin;
use orlop_apimachinery::Object;
use std::sync::Arc;
use std::time::Instant;

impl PluginManager {
    /// Ends staging `serial`, unless a later one has begun.
    pub(super) fn settle(&self, name: &str, serial: u64, result: Result<ActivePlugin, Refusal>) {
        let staging = {
            let mut entries = self.entries.lock();
            let Some(entry) = entries.get_mut(name) else { return };
            match entry.staging.take() {
                Some(staging) if staging.serial == serial => staging,
                later => {
                    entry.staging = later;
                    return;
                }
            }
        };
        let result = result.and_then(|plugin| {
            let facts = Some(plugin.facts.clone());
            let refusal = |error| Refusal { error, stage: Stage::Verify, facts };
            self.check_name(&plugin).map_err(refusal)?;
            Ok(plugin)
        });
        self.with_entry(name, |entry| entry.generation = entry.generation.max(staging.generation));
        match result {
            Ok(plugin) => self.admit(name, Arc::new(plugin), &staging),
            Err(refusal) => self.reject(name, &refusal),
        }
    }

    fn admit(&self, name: &str, plugin: Arc<ActivePlugin>, staging: &Staging) {
        let passed = staging.progress.passed();
        let begun = match staging.at_once {
            true => Ok(false),
            false => self.try_candidate(name, &plugin),
        };
        match begun {
            Ok(true) => {}
            Ok(false) => self.activate(name, plugin),
            Err(error) => {
                let facts = Some(plugin.facts.clone());
                return self.reject(name, &Refusal { error, stage: Stage::Shadow, facts });
            }
        }
        self.with_entry(name, |entry| {
            entry.standing.passed = passed;
            entry.retry = None;
        });
    }

    /// What was staged, or passed its rollout, decides from now on; what decided before goes on standby.
    pub(super) fn activate(&self, name: &str, plugin: Arc<ActivePlugin>) {
        tracing::info!(plugin = name, revision = plugin.revision, digest = %plugin.digest(), "plugin is active");
        self.with_entry(name, |entry| {
            let before = std::mem::take(&mut entry.standing);
            if let Some(old) = entry.active.take()
                && !old.health.report().open
            {
                entry.fallback = old.number();
                entry.standby = Some(old);
            }
            entry.candidate = None;
            entry.rejected = None;
            entry.standing = Standing {
                passed: before.passed,
                shadow: before.shadow,
                canary: before.canary,
                ..Standing::active(&plugin)
            };
            entry.active = Some(plugin);
        });
        self.publish();
    }

    fn reject(&self, name: &str, refusal: &Refusal) {
        let Refusal { error, stage, facts } = refusal;
        self.with_entry(name, |entry| {
            let message = error.to_string();
            entry.standing = Standing::refused(error.reason(), &message, *stage, entry.active.as_deref());
            entry.candidate = None;
            entry.rejected =
                facts.clone().map(|facts| Rejected { facts, number: 0, stage: REFUSED, message });
            if error.is_retryable() {
                entry.try_later();
            } else {
                entry.retry = None;
            }
        });
        tracing::warn!(plugin = name, reason = error.reason(), %error, "plugin was refused");
        self.publish();
    }

    /// Refuses an object that cannot even be staged.
    pub(super) fn refuse(&self, name: &str, generation: i64, error: StageError) {
        self.with_entry(name, |entry| {
            // Whatever comes next is news, even what was there before.
            entry.staged = None;
            entry.staging = None;
            entry.seen = true;
            entry.generation = generation;
        });
        self.reject(name, &Refusal { error, stage: Stage::Verify, facts: None });
    }

    pub(super) fn disable(&self, name: &str, generation: i64) {
        self.with_entry(name, |entry| {
            let fallback = entry.active.as_ref().map_or(entry.fallback, |a| a.number());
            *entry = Entry {
                standing: Standing::disabled(),
                generation,
                seen: true,
                history: entry.history,
                fallback,
                ..Entry::default()
            };
        });
        self.publish();
    }

    pub(super) fn retire(&self, name: &str) {
        if self.entries.lock().remove(name).is_some() {
            tracing::info!(plugin = name, "plugin was removed");
            self.publish();
        }
    }

    /// Makes a plugin run an earlier revision: at once where it is on standby, else as soon as it is staged.
    pub(super) fn pin(
        self: &Arc<Self>,
        desk: &mut Desk,
        name: &str,
        number: u64,
        fingerprint: String,
        generation: i64,
    ) {
        let ready = self.with_entry(name, |entry| {
            entry.candidate = None;
            if entry.active.as_ref().is_some_and(|a| a.number() == number && !a.health.report().open) {
                return entry.active.clone();
            }
            entry.standby.take_if(|s| s.number() == number)
        });
        if let Some(plugin) = ready {
            let is_active = self
                .entries
                .lock()
                .get(name)
                .is_some_and(|e| e.active.as_ref().is_some_and(|a| Arc::ptr_eq(a, &plugin)));
            if is_active {
                self.with_entry(name, |entry| entry.standing = Standing::active(&plugin));
                self.publish();
            } else {
                self.activate(name, Arc::new(self.renew(&plugin)));
            }
            self.with_entry(name, |entry| {
                entry.staged = Some(fingerprint);
                entry.staging = None;
                entry.generation = generation;
                entry.retry = None;
            });
            return;
        }
        let Some((spec, kept)) = desk.ledger.find(name, number) else {
            let missing = StageError::RevisionNotFound { name: revisions::name(name, number) };
            self.refuse(name, generation, missing);
            self.with_entry(name, |entry| entry.staged = Some(fingerprint));
            return;
        };
        let task = self.begin(name, spec, kept.map(|k| (number, k)), generation, true);
        self.with_entry(name, |entry| entry.staged = Some(fingerprint));
        self.spawn(desk, name, task);
    }

    /// After a restart: brings back what ran, from its `PluginRevision`. Returns whether the spec needs no
    /// staging, because it is what ran, or was given up before.
    pub(super) async fn resume(
        self: &Arc<Self>,
        desk: &mut Desk,
        object: &Object,
        spec: &PluginSpec,
        fingerprint: &str,
    ) -> bool {
        let (name, generation) = (object.name(), object.meta().generation);
        let (active, standby) = report::revisions(object);
        self.with_entry(name, |entry| entry.fallback = standby);
        let given_up = report::rolled_back(object);
        let runs_already = self
            .entries
            .lock()
            .get(name)
            .is_some_and(|e| e.active.is_some() && e.staged.as_deref() == Some(fingerprint));
        if runs_already && given_up.is_none() {
            return false;
        }
        let same = spec.pinned().is_none() && desk.ledger.is_same(name, active, spec);
        if let Some((recorded, Some(kept))) = desk.ledger.find(name, active) {
            let (serial, task) = self.begin(name, recorded, Some((active, kept)), generation, true);
            let result = task.await;
            let restored = result.is_ok();
            self.settle(name, serial, result);
            if restored && same && given_up.is_none() {
                self.with_entry(name, |entry| entry.staged = Some(fingerprint.to_owned()));
                return true;
            }
        } else if given_up.is_some()
            && self.builtins.iter().any(|(n, _)| *n == name)
            && self.entries.lock().get(name).is_none_or(|e| e.active.is_none())
        {
            let (serial, task) = self.begin(name, PluginSpec::builtin(name), None, generation, true);
            let result = task.await;
            self.settle(name, serial, result);
        }
        // What was given up before is not tried again until its object changes.
        let Some(message) = given_up else { return false };
        self.with_entry(name, |entry| {
            entry.staged = Some(fingerprint.to_owned());
            entry.generation = generation;
            entry.standing = Standing {
                state: State::RolledBack,
                reason: "RolledBack",
                message,
                ..std::mem::take(&mut entry.standing)
            };
        });
        true
    }

    /// Names of plugins whose staging is to be tried again now.
    pub(super) fn due(&self) -> Vec<String> {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        let due = entries.iter_mut().filter(|(_, e)| e.retry.is_some_and(|(at, _)| at <= now));
        due.map(|(name, entry)| {
            entry.staged = None;
            // A staging that goes on plans the next try itself.
            entry.retry = entry.retry.map(|(_, n)| (now + std::time::Duration::from_secs(300), n));
            name.clone()
        })
        .collect()
    }

    /// Whether something goes on that nobody tells of.
    pub(super) fn is_moving(&self) -> bool {
        self.entries.lock().values().any(|e| e.candidate.is_some() || e.staging.is_some())
    }

    /// Whether something is to be looked at again soon.
    pub(super) fn is_waiting(&self) -> bool {
        self.entries.lock().values().any(|e| e.retry.is_some() || e.is_draining())
    }

    /// Writes `PluginRevision`s for what has none yet, and how far each is. Returns whether all was written.
    pub(super) async fn record(&self, desk: &Desk) -> bool {
        let names: Vec<String> = self.entries.lock().keys().cloned().collect();
        let mut complete = true;
        for name in names {
            if let Err(error) = self.record_one(desk, &name).await {
                tracing::warn!(plugin = %name, %error, "the revisions of a plugin could not be written");
                complete = false;
            }
        }
        complete
    }

    async fn record_one(&self, desk: &Desk, name: &str) -> Result<(), orlop_client::ApiError> {
        let Some(object) = desk.cache.get("", name) else { return Ok(()) };
        let (unrecorded, rejected) = {
            let entries = self.entries.lock();
            let Some(entry) = entries.get(name) else { return Ok(()) };
            let candidate = entry.candidate.iter().map(|r| &r.candidate.plugin);
            let plugins = entry.standby.iter().chain(&entry.active).chain(candidate);
            let unrecorded: Vec<_> = plugins.filter(|p| p.number() == 0).cloned().collect();
            (unrecorded, entry.rejected.as_ref().filter(|r| r.number == 0).map(|r| r.facts.clone()))
        };
        let is_news = !unrecorded.is_empty() || rejected.is_some();
        for plugin in unrecorded {
            let number = desk.ledger.record(&object, &plugin.facts).await?;
            plugin.number.store(number, std::sync::atomic::Ordering::Relaxed);
        }
        if let Some(facts) = rejected {
            let number = desk.ledger.record(&object, &facts).await?;
            self.with_entry(name, |entry| {
                if let Some(rejected) = entry.rejected.as_mut().filter(|r| Arc::ptr_eq(&r.facts, &facts)) {
                    rejected.number = number;
                }
            });
        }
        let (stages, used, history) = {
            let entries = self.entries.lock();
            let Some(entry) = entries.get(name) else { return Ok(()) };
            (entry.stages(), entry.used(), entry.history)
        };
        if is_news {
            desk.ledger.prune(name, history, &used).await;
        }
        desk.ledger.tell(name, stages.into_iter().collect()).await
    }
}
