//! What the queue and placing ask of plugins: gates, sort keys, and calls that tell a no from a failure.

use super::{ClassDef, Failed, Profile, explain};
use crate::class::bit;
use crate::framework::{EventSet, Hooks, PluginError, SchedulerPlugin};
use crate::queue::SortKey;
use crate::table::{NodeTable, Slot};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// What plugins said about the pods of a definition; kept as long as the definition is.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// By plugin: the pod as it reads it.
    fields: Mutex<Vec<Option<Arc<[u8]>>>>,
    gate: Mutex<Option<Option<Arc<Blocked>>>>,
    sort: OnceLock<SortKey>,
}

/// Why a pod may not be tried.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    /// For the user.
    pub(crate) message: Arc<str>,
    /// What may change the plugin's mind.
    pub(crate) events: EventSet,
}

/// Why a hook has no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The plugin says no, in these words.
    Refused(String),
    /// The plugin failed, or rests after it did.
    Failed(String),
}

impl NoAnswer {
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Refused(message) | Self::Failed(message) => message,
        }
    }
}

/// The hooks from Reserve to PostBind.
const PLACING: Hooks =
    Hooks::RESERVE.or(Hooks::PERMIT).or(Hooks::PRE_BIND).or(Hooks::BIND).or(Hooks::POST_BIND);

impl Profile {
    /// Whether a plugin has the hook.
    pub(crate) fn has(&self, plugin: usize, hook: Hooks) -> bool {
        self.plugins.get(plugin).is_some_and(|p| p.hooks.has(hook))
    }

    /// A plugin's name.
    pub(crate) fn plugin_name(&self, plugin: usize) -> &str {
        self.plugins.get(plugin).map_or("", |p| p.descriptor.name.as_str())
    }

    /// A plugin's declared events.
    pub(crate) fn plugin_events(&self, plugin: usize) -> EventSet {
        self.plugins.get(plugin).map_or(EventSet::ALL, |p| p.descriptor.events)
    }

    /// Which instance of a plugin this is: another one has lost its books.
    pub(crate) fn instance(&self, plugin: usize) -> u64 {
        self.plugins.get(plugin).map_or(0, |p| p.generation + u64::from(p.needs_reset))
    }

    /// Changes when an instance of any plugin does.
    pub(crate) fn instances(&self) -> u64 {
        (0..self.plugins.len()).map(|plugin| self.instance(plugin)).sum()
    }

    /// The plugins that want to be asked from Reserve to PostBind about pods of an evaluated class.
    pub(crate) fn placing(&self, class: u32) -> Vec<usize> {
        self.with_hook(PLACING).filter(|at| !self.skips_placing(class, *at)).collect()
    }

    /// The pod of a definition as a plugin reads it; worked out once.
    pub(crate) fn fields_of(&self, plugin: usize, def: &ClassDef) -> Arc<[u8]> {
        let mut fields = def.known.fields.lock();
        if fields.len() < self.plugins.len() {
            fields.resize(self.plugins.len(), None);
        }
        let Some(cell) = fields.get_mut(plugin) else { return Arc::default() };
        cell.get_or_insert_with(|| self.fields(plugin, &def.pod)).clone()
    }

    /// As [`Profile::ask`]; a plugin that rests is no plugin that refuses.
    pub(crate) fn call<R>(
        &mut self,
        plugin: usize,
        table: &NodeTable,
        mirror: bool,
        now: Instant,
        ask: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<R, PluginError>,
    ) -> Result<R, NoAnswer> {
        let answer = self.ask(plugin, table, mirror, now, ask);
        let Some(loaded) = self.plugins.get_mut(plugin) else {
            return Err(NoAnswer::Failed("the plugin is not there any more".to_owned()));
        };
        match answer {
            Ok(answer) => {
                loaded.failures = 0;
                Ok(answer)
            }
            Err(PluginError::Refused { message }) if !loaded.needs_reset => Err(NoAnswer::Refused(message)),
            Err(error) => Err(NoAnswer::Failed(error.to_string())),
        }
    }

    /// Why filters reject these rows for an evaluated class, in numbers of rows.
    ///
    /// # Errors
    /// [`Failed`] where a plugin could not say.
    pub(crate) fn reasons_of(
        &mut self,
        class: u32,
        rows: &[Slot],
        now: Instant,
    ) -> Result<BTreeMap<String, u32>, Failed> {
        let mut counts = BTreeMap::new();
        let mut left = rows.to_vec();
        let Self { plugins, classes, .. } = self;
        let Some(class) = classes.get(&class) else { return Ok(counts) };
        for (loaded, answers) in plugins.iter_mut().zip(&class.answers).filter(|(_, a)| a.filters) {
            let (kept, rows): (Vec<Slot>, Vec<Slot>) =
                left.iter().partition(|slot| bit(&answers.mask, **slot as usize));
            left = kept;
            if rows.is_empty() {
                continue;
            }
            let explained = loaded.explain(class.id, &rows, now)?;
            for (row, _) in rows.iter().enumerate() {
                for reason in explain::reasons(&explained, row) {
                    *counts.entry(reason.text.clone()).or_insert(0) += 1;
                }
            }
        }
        Ok(counts)
    }

    /// Why pods of the definition may not be tried; asked once, and again with `again`.
    ///
    /// # Errors
    /// [`Failed`] where a required plugin gave no answer.
    pub(crate) fn gate(
        &mut self,
        def: &ClassDef,
        again: bool,
        table: &NodeTable,
        now: Instant,
    ) -> Result<Option<Arc<Blocked>>, Failed> {
        if self.with_hook(Hooks::PRE_ENQUEUE).next().is_none() {
            return Ok(None);
        }
        if !again && let Some(known) = &*def.known.gate.lock() {
            return Ok(known.clone());
        }
        *def.known.gate.lock() = None;
        let mut blocked = None;
        for plugin in self.with_hook(Hooks::PRE_ENQUEUE).collect::<Vec<_>>() {
            let pod = self.fields_of(plugin, def);
            match self.call(plugin, table, false, now, |p| p.pre_enqueue(&pod)) {
                Ok(None) => {}
                Ok(Some(message)) => {
                    let events = self.plugin_events(plugin);
                    blocked = Some(Arc::new(Blocked { message: message.into(), events }));
                    break;
                }
                Err(error) => {
                    if self.plugins.get(plugin).is_some_and(|p| p.enabled.required) {
                        let plugin = self.plugin_name(plugin).to_owned();
                        let message = format!("running PreEnqueue plugin {plugin:?}: {}", error.message());
                        return Err(Failed { plugin, message });
                    }
                }
            }
        }
        *def.known.gate.lock() = Some(blocked.clone());
        Ok(blocked)
    }

    /// Where pods of the definition stand in the queue: by the plugin, else by priority.
    pub(crate) fn sort_key(
        &mut self,
        def: &ClassDef,
        priority: i32,
        table: &NodeTable,
        now: Instant,
    ) -> SortKey {
        let by_priority = || SortKey::from([-i64::from(priority)]);
        let Some(plugin) = self.with_hook(Hooks::QUEUE_SORT).next() else { return by_priority() };
        if let Some(known) = def.known.sort.get() {
            return known.clone();
        }
        let pod = self.fields_of(plugin, def);
        match self.call(plugin, table, false, now, |p| p.sort_key(&pod)) {
            Ok(key) => def.known.sort.get_or_init(|| key.into()).clone(),
            Err(_) => by_priority(),
        }
    }

    /// Whether a pod of the definition would fit somewhere now.
    ///
    /// # Errors
    /// [`Failed`] where a required filter plugin gave no answer.
    pub(crate) fn fits_now(
        &mut self,
        def: &ClassDef,
        table: &NodeTable,
        now: Instant,
    ) -> Result<Fits, Failed> {
        let Some(id) = self.by_key.get(&def.key).copied() else { return Ok(Fits::Unknown) };
        self.evaluate(id, table, now)?;
        let Some(class) = self.classes.get(&id) else { return Ok(Fits::Unknown) };
        if class.feasible().iter().any(|word| *word != 0) {
            return Ok(Fits::Somewhere);
        }
        let events = |plugin: usize| self.plugin_events(plugin);
        let of_all = match class.rejection() {
            Some((plugin, _)) => events(plugin),
            None => class.rejecting(table.live()).map(events).fold(EventSet::NODE_ADD, EventSet::or),
        };
        Ok(Fits::Nowhere(of_all.or(EventSet::PROFILE)))
    }
}

/// Whether pods fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fits {
    /// The class is not open, so that the answer would cost more than an attempt.
    Unknown,
    /// On some node.
    Somewhere,
    /// On none; these events may change that.
    Nowhere(EventSet),
}
