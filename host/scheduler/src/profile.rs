//! A profile: the enabled plugins of one scheduler name, their mirrors, and the open classes.
//!
//! Failure policy: while a required filter plugin fails, no pod of the profile is placed; an
//! optional filter that fails passes every node; a score that fails counts zero. A plugin that
//! failed rests, 1 s at first and up to 60 s, before it is called again, so that a slow failure is
//! not paid for by every pod.

mod ask;
mod choice;
mod explain;
mod gates;
mod hooks;
mod loaded;
mod overlay;

use crate::class::Class;
use crate::framework::{EventSet, Hooks, Reason, SchedulerPlugin};
use crate::objects::WatchKey;
use crate::projection::Projection;
use crate::table::NodeTable;
pub(crate) use gates::{Fits, NoAnswer};
use loaded::Loaded;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Open classes of one profile; the least recently used one makes room.
const MAX_CLASSES: usize = 64;

/// A plugin and how the profile uses it.
pub struct Enabled {
    /// The plugin, configured.
    pub plugin: Box<dyn SchedulerPlugin>,
    /// The hooks that are enabled here; those that it does not implement say nothing.
    pub hooks: Hooks,
    /// Of its score, at least 1.
    pub weight: i64,
    /// Whether pods wait while it fails.
    pub required: bool,
    /// Who reads the objects that it watches; empty for the scheduler's own user.
    pub user: Arc<str>,
}

impl Enabled {
    /// A plugin with all its hooks, a weight of 1 and the scheduler's own user.
    #[must_use]
    pub fn new(plugin: Box<dyn SchedulerPlugin>) -> Self {
        let required = plugin.required();
        Self { plugin, hooks: Hooks(u32::MAX), weight: 1, required, user: "".into() }
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
    /// The order at hooks where it is another one.
    orders: Vec<(Hooks, Vec<usize>)>,
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
    /// What plugins said of such pods, outside of their class.
    pub(crate) known: gates::Known,
}

impl Profile {
    /// A profile whose plugins are asked in the given order.
    #[must_use]
    pub fn new(name: String, plugins: Vec<Enabled>) -> Self {
        let plugins: Vec<Loaded> = plugins.into_iter().map(Loaded::new).collect();
        let fields = plugins.iter().flat_map(|p| p.descriptor.pod_fields.iter().map(String::as_str));
        Self {
            name,
            projection: Projection::new(fields),
            plugins,
            orders: Vec::new(),
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

    /// The fields that its plugins read of placed pods, in no order.
    pub fn placed_pod_fields(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().flat_map(|p| p.descriptor.placed_pod_fields.iter().map(String::as_str))
    }

    /// What its plugins watch, in no order; what several watch comes several times.
    pub fn watches(&self) -> impl Iterator<Item = &WatchKey> {
        self.plugins.iter().flat_map(|p| p.objects.keys())
    }

    /// Whether a plugin reads the field of pods, or something below it, or all around it.
    #[must_use]
    pub fn reads(&self, field: &str) -> bool {
        let same = |declared: &str| {
            let below = |a: &str, b: &str| {
                a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            below(declared, field) || below(field, declared)
        };
        let fields = |p: &Loaded| {
            p.descriptor.pod_fields.iter().chain(&p.descriptor.placed_pod_fields).any(|f| same(f))
        };
        self.plugins.iter().any(fields)
    }

    /// Tells plugins of watched objects. Says what that may have changed for pods that wait:
    /// [`EventSet::OBJECTS`] or nothing. A plugin that fails rests, as ever.
    pub fn sync_objects(&mut self, table: &NodeTable, now: Instant) -> EventSet {
        let mut events = EventSet::NONE;
        for loaded in self.plugins.iter_mut().filter(|p| !p.descriptor.watches.is_empty()) {
            match loaded.sync_objects(table, now) {
                Ok(true) => events = events.or(EventSet::OBJECTS),
                Ok(false) => {}
                Err(error) => loaded.fail(&error, now),
            }
        }
        events
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
        let def = Arc::new(ClassDef { key: key.clone(), pod: Arc::new(pod), known: gates::Known::default() });
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
            loaded.stale.remove(&id);
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

/// A reason as the host words it for a class that a plugin refuses to judge.
fn refusal(message: &str) -> Reason {
    Reason { text: message.to_owned(), unresolvable: true }
}
