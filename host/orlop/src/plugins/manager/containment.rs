//! What becomes of an active revision that keeps failing.

use super::entry::Rejected;
use super::report::Standing;
use super::revisions::ROLLED_BACK;
use super::{Desk, PluginManager};
use crate::plugins::health::Health;
use crate::plugins::object::PluginSpec;
use crate::plugins::set::ActivePlugin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

impl PluginManager {
    /// Rolls back what failed too often, where there is something to roll back to: what is on standby, at once;
    /// else the last good revision from its record; else the built-in plugin of that name.
    pub(super) async fn contain(self: &Arc<Self>, desk: &Desk) {
        let open: Vec<(String, Arc<ActivePlugin>)> = {
            let entries = self.entries.lock();
            let failing = entries.iter().filter_map(|(n, e)| Some((n.clone(), e.active.clone()?)));
            failing.filter(|(_, plugin)| plugin.health.report().open).collect()
        };
        for (name, failed) in open {
            let (standby, fallback) = {
                let mut entries = self.entries.lock();
                let Some(entry) = entries.get_mut(&name) else { continue };
                let fallback = std::mem::take(&mut entry.fallback);
                (entry.standby.take(), fallback)
            };
            let earlier = || async {
                let fallback = Some(fallback).filter(|n| *n > 0 && *n != failed.number())?;
                let (spec, kept) = desk.ledger.find(&name, fallback)?;
                self.restore(&name, spec, kept.map(|k| (fallback, k))).await
            };
            let fallback = match standby {
                Some(plugin) => Some(self.renew(&plugin)),
                None => match earlier().await {
                    Some(plugin) => Some(plugin),
                    None if !failed.builtin && self.builtins.iter().any(|(n, _)| *n == name) => {
                        self.restore(&name, PluginSpec::builtin(&name), None).await
                    }
                    None => None,
                },
            };
            let Some(fallback) = fallback else { continue };
            let message = failed.health.report().last.map(|(_, m)| m).unwrap_or_default();
            tracing::warn!(plugin = %name, digest = %failed.digest(), to = %fallback.digest(), "plugin was rolled back");
            self.with_entry(&name, |entry| {
                let fallback = Arc::new(fallback);
                entry.standing = Standing::rolled_back(&failed, &fallback, &message);
                entry.active = Some(fallback);
                entry.standby = None;
                entry.rejected = Some(Rejected {
                    facts: failed.facts.clone(),
                    number: failed.number(),
                    stage: ROLLED_BACK,
                    message: entry.standing.message.clone(),
                });
            });
            self.publish();
        }
    }

    /// Stages a revision beside what the object asks for.
    async fn restore(
        self: &Arc<Self>,
        name: &str,
        spec: PluginSpec,
        kept: Option<(u64, crate::plugins::object::Fetched)>,
    ) -> Option<ActivePlugin> {
        let before = self.with_entry(name, |e| (e.staged.clone(), e.staging.take()));
        let (_, task) = self.begin(name, spec, kept, 0, true);
        self.with_entry(name, |e| (e.staged, e.staging) = before);
        task.await.ok()
    }

    /// The same revision as a new one, with a clean record.
    pub(super) fn renew(&self, plugin: &ActivePlugin) -> ActivePlugin {
        ActivePlugin {
            object: plugin.object.clone(),
            revision: self.next_serial(),
            compiled: plugin.compiled.clone(),
            options: plugin.options.clone(),
            failure_policy: plugin.failure_policy,
            health: Arc::new(Health::new(self.changed.clone())),
            builtin: plugin.builtin,
            facts: plugin.facts.clone(),
            grants: plugin.grants.clone(),
            number: AtomicU64::new(plugin.number()),
        }
    }
}
