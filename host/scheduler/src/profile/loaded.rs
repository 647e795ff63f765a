//! One plugin of a profile: what it was told, and whether it is to be called.

use super::Enabled;
use crate::columns::ColumnSet;
use crate::framework::{Descriptor, Hooks, Normalize, PluginError, Stale};
use crate::objects::Told;
use crate::projection::Projection;
use crate::table::{MirrorState, NodeTable};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// So many objects go to a plugin in one call, so that it answers in time however many there are.
const OBJECTS_AT_ONCE: usize = 500;

/// Stale classes that are remembered one by one; beyond, all are.
const MAX_STALE: usize = 1024;

pub(crate) struct Loaded {
    pub(super) enabled: Enabled,
    pub(super) descriptor: Descriptor,
    /// The hooks that it implements and that are enabled.
    pub(super) hooks: Hooks,
    pub(super) projection: Projection,
    pub(super) state: MirrorState,
    /// Which instance this is; classes compare it.
    pub(super) generation: u64,
    /// Counts the times when all answers became stale.
    pub(super) round: u64,
    /// Classes about which everything has to be asked again.
    pub(super) stale: HashSet<u32>,
    pub(super) objects: Told,
    /// Counts the times when it was told of objects.
    pub(super) objects_round: u64,
    pub(super) needs_reset: bool,
    pub(super) failures: u32,
    resting: Option<(Instant, String)>,
}

impl Loaded {
    pub(super) fn new(enabled: Enabled) -> Self {
        let descriptor = enabled.plugin.descriptor().clone();
        Self {
            hooks: Hooks(enabled.hooks.0 & descriptor.hooks.0),
            projection: Projection::new(descriptor.pod_fields.iter().map(String::as_str)),
            state: MirrorState::new(&descriptor.placed_pod_fields),
            objects: Told::new(&enabled.user, &descriptor.watches),
            enabled,
            descriptor,
            generation: 1,
            round: 0,
            stale: HashSet::new(),
            objects_round: 0,
            needs_reset: false,
            failures: 0,
            resting: None,
        }
    }

    pub(super) fn columns(&self) -> ColumnSet {
        self.descriptor.columns.or(ColumnSet::PRESENCE)
    }

    pub(super) const fn normalize(&self) -> Normalize {
        self.descriptor.normalize
    }

    pub(super) const fn filters(&self) -> bool {
        self.hooks.has(Hooks::FILTER)
    }

    pub(super) const fn scores(&self) -> bool {
        self.hooks.has(Hooks::SCORE)
    }

    /// Whether it is to be told of classes.
    pub(super) const fn judges(&self) -> bool {
        self.filters() || self.scores()
    }

    /// Notes a failure. The plugin rests, and starts from nothing when it is called again.
    pub(super) fn fail(&mut self, error: &PluginError, now: Instant) {
        if !matches!(error, PluginError::Refused { .. }) {
            self.needs_reset = true;
            self.failures = self.failures.saturating_add(1);
            let rest = Duration::from_secs(1 << (self.failures - 1).min(6)).min(Duration::from_secs(60));
            self.resting = Some((now + rest, error.to_string()));
            tracing::warn!(plugin = %self.descriptor.name, %error, "scheduler plugin failed");
        }
    }

    /// Whether it may be called; starts it again where it failed and has rested.
    fn wake(&mut self, now: Instant) -> Result<(), PluginError> {
        if let Some((until, message)) = &self.resting {
            if now < *until {
                return Err(PluginError::Refused { message: message.clone() });
            }
            self.resting = None;
        }
        if self.needs_reset {
            if !self.enabled.plugin.admits() {
                let message = "the plugin is not called for a while after repeated failures".to_owned();
                return Err(PluginError::Refused { message });
            }
            self.enabled.plugin.reset()?;
            self.needs_reset = false;
            self.generation += 1;
            self.stale.clear();
            self.state.clear();
            self.objects.clear();
        } else if self.enabled.plugin.wants_everything() {
            self.round += 1;
            self.stale.clear();
            self.state.clear();
            self.objects.clear();
        }
        Ok(())
    }

    /// Tells the plugin of watched objects. Says whether there was news.
    pub(super) fn sync_objects(&mut self, table: &NodeTable, now: Instant) -> Result<bool, PluginError> {
        self.wake(now)?;
        let Some(news) = self.objects.news(table.objects()) else { return Ok(false) };
        let (first, rest) = news.changes.split_at(news.changes.len().min(OBJECTS_AT_ONCE));
        let stale = self.enabled.plugin.objects(news.full, first)?;
        self.mark(stale);
        for part in rest.chunks(OBJECTS_AT_ONCE) {
            let stale = self.enabled.plugin.objects(false, part)?;
            self.mark(stale);
        }
        self.objects_round += 1;
        Ok(true)
    }

    /// Brings the plugin up to date: objects first, then its mirror.
    pub(super) fn sync(&mut self, table: &NodeTable, now: Instant) -> Result<(), PluginError> {
        self.sync_objects(table, now)?;
        for attempt in 0..2 {
            let Some(delta) = table.delta(self.descriptor.columns, &mut self.state) else {
                return Ok(());
            };
            self.enabled.plugin.names(&delta.rows, &|slot| table.name(slot).cloned());
            let synced = self.enabled.plugin.sync(&delta)?;
            self.mark(synced.stale);
            if synced.checksum == 0 || synced.checksum == table.checksum(self.descriptor.columns, &self.state)
            {
                return Ok(());
            }
            let full = delta.full;
            tracing::warn!(plugin = %self.descriptor.name, full, attempt, "scheduler plugin lost its mirror");
            self.state.clear();
            self.round += 1;
        }
        let message = "the checksum of its mirror is wrong after a full sync".to_owned();
        Err(self.enabled.plugin.nonsense(message))
    }

    fn mark(&mut self, stale: Stale) {
        match stale {
            Stale::Nothing => {}
            Stale::Classes(classes) => self.stale.extend(classes),
            Stale::Everything => self.round += 1,
        }
        // A plugin that names classes which nobody opened must not fill the memory.
        if self.stale.len() > MAX_STALE {
            self.stale.clear();
            self.round += 1;
        }
    }
}
