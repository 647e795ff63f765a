//! A profile: the enabled plugins of one scheduler name, their mirrors, and the open classes.
//!
//! Failure policy: while a required filter plugin fails, no pod of the profile is placed; an
//! optional filter that fails passes every node; a score that fails counts zero. A plugin that
//! failed rests, 1 s at first and up to 60 s, before it is called again, so that a slow failure is
//! not paid for by every pod.

mod ask;
mod explain;

use crate::class::Class;
use crate::columns::ColumnSet;
use crate::framework::{Descriptor, EventSet, Hooks, Normalize, PluginError, Reason, SchedulerPlugin, Stale};
use crate::projection::Projection;
use crate::table::{MirrorState, NodeTable};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Open classes of one profile; the least recently used one makes room.
const MAX_CLASSES: usize = 64;

/// A plugin and how the profile uses it.
pub struct Enabled {
    /// The plugin, configured.
    pub plugin: Box<dyn SchedulerPlugin>,
    /// Whether it filters here.
    pub filter: bool,
    /// Whether it scores here.
    pub score: bool,
    /// Of its score, at least 1.
    pub weight: i64,
    /// Whether pods wait while it fails.
    pub required: bool,
}

pub(crate) struct Loaded {
    enabled: Enabled,
    descriptor: Descriptor,
    projection: Projection,
    state: MirrorState,
    /// Which instance this is; classes compare it.
    generation: u64,
    /// Counts the times when all answers became stale.
    round: u64,
    needs_reset: bool,
    failures: u32,
    resting: Option<(Instant, String)>,
}

impl Loaded {
    fn columns(&self) -> ColumnSet {
        self.descriptor.columns.or(ColumnSet::PRESENCE)
    }
}

/// A plugin that keeps pods waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its name.
    pub plugin: String,
    /// What the user is told.
    pub message: String,
}

/// The enabled plugins of one scheduler name.
pub struct Profile {
    name: String,
    plugins: Vec<Loaded>,
    /// All fields that any plugin reads.
    projection: Projection,
    by_key: HashMap<Arc<str>, u32>,
    classes: HashMap<u32, Class>,
    /// Every definition that a pod holds.
    definitions: HashMap<Arc<str>, Weak<ClassDef>>,
    next_class: u32,
    clock: u64,
}

/// What makes pods equal; shared by all pods of a class, whether it is open or not.
#[derive(Debug)]
pub struct ClassDef {
    /// The projection as text.
    pub(crate) key: Arc<str>,
    /// The projection.
    pub(crate) pod: Arc<Value>,
}

impl Profile {
    /// A profile whose plugins are asked in the given order.
    #[must_use]
    pub fn new(name: String, plugins: Vec<Enabled>) -> Self {
        let plugins: Vec<Loaded> = plugins
            .into_iter()
            .map(|enabled| {
                let descriptor = enabled.plugin.descriptor().clone();
                let filter = enabled.filter && descriptor.hooks.has(Hooks::FILTER);
                let score = enabled.score && descriptor.hooks.has(Hooks::SCORE);
                Loaded {
                    projection: Projection::new(descriptor.pod_fields.iter().map(String::as_str)),
                    enabled: Enabled { filter, score, ..enabled },
                    descriptor,
                    state: MirrorState::default(),
                    generation: 1,
                    round: 0,
                    needs_reset: false,
                    failures: 0,
                    resting: None,
                }
            })
            .collect();
        let fields = plugins.iter().flat_map(|p| p.descriptor.pod_fields.iter().map(String::as_str));
        Self {
            name,
            projection: Projection::new(fields),
            plugins,
            by_key: HashMap::new(),
            classes: HashMap::new(),
            definitions: HashMap::new(),
            next_class: 1,
            clock: 0,
        }
    }

    /// `spec.schedulerName` of its pods.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of the enabled plugins, in order.
    pub fn plugins(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|p| p.descriptor.name.as_str())
    }

    /// Name and plugins in one line, for the log.
    pub(crate) fn summary(&self) -> String {
        format!("{}: {}", self.name, self.plugins().collect::<Vec<_>>().join(" "))
    }

    /// What of a pod decides about its class. Pods are of one class where the pointers are equal.
    #[must_use]
    pub fn define(&mut self, pod: &Value) -> Arc<ClassDef> {
        let pod = self.projection.apply(pod);
        let key = pod.to_string();
        if let Some(known) = self.definitions.get(key.as_str()).and_then(Weak::upgrade) {
            return known;
        }
        if self.definitions.len() >= 2 * MAX_CLASSES && self.definitions.len().is_power_of_two() {
            self.definitions.retain(|_, def| def.strong_count() > 0);
        }
        let key: Arc<str> = key.into();
        let def = Arc::new(ClassDef { key: key.clone(), pod: Arc::new(pod) });
        self.definitions.insert(key, Arc::downgrade(&def));
        def
    }

    /// The open class of a definition, opened where it is not.
    pub fn open(&mut self, def: &ClassDef) -> u32 {
        self.clock += 1;
        let id = match self.by_key.get(&def.key) {
            Some(id) => *id,
            None => {
                if self.classes.len() >= MAX_CLASSES {
                    self.close_oldest();
                }
                let id = self.next_class;
                self.next_class = self.next_class.wrapping_add(1).max(1);
                self.classes.insert(id, Class::new(id, def, self.plugins.len()));
                self.by_key.insert(def.key.clone(), id);
                id
            }
        };
        if let Some(class) = self.classes.get_mut(&id) {
            class.last_used = self.clock;
        }
        id
    }

    /// An open class.
    #[must_use]
    pub fn class(&self, id: u32) -> Option<&Class> {
        self.classes.get(&id)
    }

    fn close_oldest(&mut self) {
        let Some(id) = self.classes.values().min_by_key(|c| c.last_used).map(|c| c.id) else { return };
        let Some(class) = self.classes.remove(&id) else { return };
        self.by_key.remove(&class.key);
        for (loaded, answers) in self.plugins.iter_mut().zip(&class.answers) {
            if answers.generation == loaded.generation
                && !loaded.needs_reset
                && let Err(error) = loaded.enabled.plugin.release(id)
            {
                loaded.fail(&error, Instant::now());
            }
        }
    }

    /// What may help a pod that only failed because of a failing plugin or an empty cluster.
    pub(crate) const fn any_event() -> EventSet {
        EventSet::ALL
    }
}

impl Loaded {
    /// Notes a failure. The plugin rests, and starts from nothing when it is called again.
    fn fail(&mut self, error: &PluginError, now: Instant) {
        if !matches!(error, PluginError::Refused { .. }) {
            self.needs_reset = true;
            self.failures = self.failures.saturating_add(1);
            let rest = Duration::from_secs(1 << (self.failures - 1).min(6)).min(Duration::from_secs(60));
            self.resting = Some((now + rest, error.to_string()));
            tracing::warn!(plugin = %self.descriptor.name, %error, "scheduler plugin failed");
        }
    }

    /// Brings the plugin up to date with the table.
    fn sync(&mut self, table: &NodeTable, now: Instant) -> Result<(), PluginError> {
        if let Some((until, message)) = &self.resting {
            if now < *until {
                return Err(PluginError::Refused { message: message.clone() });
            }
            self.resting = None;
        }
        if self.needs_reset {
            self.enabled.plugin.reset()?;
            self.needs_reset = false;
            self.generation += 1;
            self.state = MirrorState::default();
        }
        for attempt in 0..2 {
            let Some((delta, next)) = table.delta(self.descriptor.columns, &self.state) else {
                return Ok(());
            };
            let full = delta.full;
            let synced = self.enabled.plugin.sync(&delta)?;
            self.state = next;
            if synced.stale != Stale::Nothing {
                self.round += 1;
            }
            if synced.checksum == 0 || synced.checksum == table.checksum(self.descriptor.columns) {
                return Ok(());
            }
            tracing::warn!(plugin = %self.descriptor.name, full, attempt, "scheduler plugin lost its mirror");
            self.state = MirrorState::default();
            self.round += 1;
        }
        let message = "the checksum of its mirror is wrong after a full sync".to_owned();
        Err(self.enabled.plugin.nonsense(message))
    }

    const fn normalize(&self) -> Normalize {
        self.descriptor.normalize
    }
}

/// A reason as the host words it for a class that a plugin refuses to judge.
fn refusal(message: &str) -> Reason {
    Reason { text: message.to_owned(), unresolvable: true }
}
