//! Gives the controller manager its plugins: whatever controllers the set of active plugins holds.
//!
//! A candidate is asked through the controller that runs: its inputs are those of the active revision, so
//! a candidate that declares other watches or inputs is not let in here (see the manager). A new plugin
//! that begins in shadow runs with empty plans in place of those of an active revision.

mod trial;

use super::access;
use super::comparison::Candidate;
use super::health::{Health, MemoryUse};
use super::set::{ActivePlugin, PluginSets};
use orlop_controller_manager::{
    ControllerInstance, ControllerManager, ControllerPlugin, ControllerSpec, Declaration, Grant,
    PluginFailure,
};
use orlop_plugin::controller::ControllerWorld;
use orlop_plugin::manifest::Permission;
use orlop_plugin::{Kind, Plugin, PluginError, Runtime, Slot};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use trial::Trial;

/// A linked revision.
#[derive(Clone)]
struct Linked {
    plugin: Arc<Plugin<ControllerWorld>>,
    health: Arc<Health>,
    revision: u64,
}

/// A linked plugin, behind the controller manager's trait.
struct WasmController {
    declaration: Declaration,
    /// `None` for a plugin of which nothing is active yet.
    active: Option<Linked>,
    trial: Arc<RwLock<Option<Arc<Trial>>>>,
}

/// An instance, its plugin's record, and what it weighs.
struct Seat {
    slot: Slot<ControllerWorld>,
    health: Arc<Health>,
    memory: MemoryUse,
    revision: u64,
}

struct WasmInstance {
    active: Option<Seat>,
    canary: Option<Seat>,
    trial: Arc<RwLock<Option<Arc<Trial>>>>,
}

/// A failure in the controller manager's terms.
fn convert_error(error: &PluginError) -> PluginFailure {
    match error {
        PluginError::Deadline { .. } => PluginFailure::Deadline,
        PluginError::MemoryLimit { .. } => PluginFailure::MemoryLimit,
        PluginError::Trap { message } => PluginFailure::Trap(message.clone()),
        PluginError::Denied { message } => PluginFailure::Denied(message.clone()),
        PluginError::BadOutput { message } => PluginFailure::Invalid(message.clone()),
        _ => PluginFailure::Invalid(error.to_string()),
    }
}

impl Linked {
    fn new(runtime: &Runtime, active: &ActivePlugin) -> Result<Self, PluginError> {
        let plugin = Arc::new(runtime.link(&active.compiled, active.options.clone())?);
        Ok(Self { plugin, health: active.health.clone(), revision: active.revision })
    }

    fn seat(&self) -> Seat {
        Seat {
            slot: Slot::new(self.plugin.clone()),
            health: self.health.clone(),
            memory: MemoryUse::new(self.health.clone()),
            revision: self.revision,
        }
    }
}

impl Seat {
    fn reconcile(&mut self, request: &[u8]) -> Result<Vec<u8>, PluginError> {
        let began = Instant::now();
        let answer = self.slot.reconcile(request);
        self.health.latency.add(began.elapsed());
        match &answer {
            Ok(_) => {
                self.health.succeeded();
                self.memory.set(self.slot.instance().map_or(0, |(i, _)| i.memory_bytes()));
            }
            Err(error) => {
                self.health.failed(Instant::now(), error);
                self.memory.set(0);
            }
        }
        answer
    }
}

impl ControllerPlugin for WasmController {
    fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    fn instantiate(&self) -> Result<Box<dyn ControllerInstance>, PluginFailure> {
        let mut active = self.active.as_ref().map(Linked::seat);
        if let Some(seat) = &mut active
            && let Err(error) = seat.slot.instance()
        {
            seat.health.failed(Instant::now(), &error);
            return Err(convert_error(&error));
        }
        Ok(Box::new(WasmInstance { active, canary: None, trial: self.trial.clone() }))
    }
}

impl WasmInstance {
    /// What the active revision says; empty plans where there is none.
    fn decide(&mut self, request: &[u8]) -> Result<Vec<u8>, PluginError> {
        match &mut self.active {
            Some(seat) => seat.reconcile(request),
            None => trial::idle(request),
        }
    }

    /// Lets the candidate decide about its share.
    fn share(&mut self, trial: &Trial, request: &[u8]) -> Result<Vec<u8>, PluginError> {
        let Some(split) = trial::split(request, |key| trial.candidate.decides(key)) else {
            return self.decide(request);
        };
        let seat = match self.canary.take() {
            Some(seat) if seat.revision == trial.linked.revision => seat,
            _ => trial.linked.seat(),
        };
        let seat = self.canary.insert(seat);
        let began = Instant::now();
        let answer = seat.reconcile(&split.candidates).and_then(|answer| {
            trial::plans(&answer, split.count).inspect_err(|error| {
                seat.health.failed(Instant::now(), error);
            })
        });
        match answer {
            Ok(plans) => {
                let comparison = &trial.candidate.comparison;
                comparison.candidate.add(began.elapsed());
                let Some(others) = &split.others else { return Ok(split.merge(plans, Vec::new())) };
                let began = Instant::now();
                let rest = self.decide(others)?;
                comparison.active.add(began.elapsed());
                Ok(split.merge(plans, trial::plans(&rest, split.others_count)?))
            }
            // The user has no harm from it.
            Err(_) => self.decide(request),
        }
    }
}

impl ControllerInstance for WasmInstance {
    fn reconcile(&mut self, request: &[u8]) -> Result<Vec<u8>, PluginFailure> {
        let trial = self.trial.read().clone();
        let answer = match trial {
            None => {
                self.canary = None;
                self.decide(request)
            }
            Some(trial) if trial.is_shadow() => {
                let began = Instant::now();
                let answer = self.decide(request);
                if let Ok(answer) = &answer {
                    trial.watch(request, answer, began.elapsed());
                }
                answer
            }
            Some(trial) => self.share(&trial, request),
        };
        answer.map_err(|e| convert_error(&e))
    }
}

/// What both lists allow.
fn both(a: &[Permission], b: &[Permission]) -> Vec<Grant> {
    fn common(a: &[String], b: &[String]) -> Vec<String> {
        let mut all = BTreeSet::new();
        for (x, y) in a.iter().flat_map(|x| b.iter().map(move |y| (x, y))) {
            let within = |wide: &String, narrow: &String| {
                wide == narrow
                    || (wide == "*")
                    || wide
                        .strip_prefix("*/")
                        .is_some_and(|sub| narrow.split_once('/').is_some_and(|(_, of)| of == sub))
            };
            if within(x, y) {
                all.insert(y.clone());
            } else if within(y, x) {
                all.insert(x.clone());
            }
        }
        all.into_iter().collect()
    }
    let pairs = a.iter().flat_map(|x| b.iter().map(move |y| (x, y)));
    let grants = pairs.map(|(x, y)| Grant {
        api_groups: common(&x.api_groups, &y.api_groups),
        resources: common(&x.resources, &y.resources),
        verbs: common(&x.verbs, &y.verbs),
    });
    grants.filter(|g| !g.api_groups.is_empty() && !g.resources.is_empty() && !g.verbs.is_empty()).collect()
}

/// Links what is active, or else the candidate, and reads its declaration.
///
/// # Errors
/// A sentence for the user: the plugin was built for another host, or declares what this one does
/// not understand.
fn spec(
    runtime: &Runtime,
    active: Option<&ActivePlugin>,
    described: &ActivePlugin,
    trial: Arc<RwLock<Option<Arc<Trial>>>>,
) -> Result<ControllerSpec, String> {
    let manifest = described.manifest();
    let section = manifest.controller.as_ref().ok_or("it is no controller plugin")?;
    let declaration = Declaration::parse(&section.0).map_err(|e| e.to_string())?;
    let active = active.map(|a| Linked::new(runtime, a)).transpose().map_err(|e| e.to_string())?;
    let plugin = Arc::new(WasmController { declaration, active, trial });
    // What a user's plugin is given beyond its manifest's wishes is checked by the API server, which knows roles.
    Ok(if described.builtin {
        ControllerSpec::new(plugin, both(&manifest.permissions, &described.grants))
    } else {
        let user = format!("{}{}", access::USER_PREFIX, described.object);
        ControllerSpec { user, ..ControllerSpec::new(plugin, access::grants(&manifest.permissions)) }
    })
}

/// A controller that was handed to the manager.
struct Running {
    /// Of the revision that is active or, without one, of the candidate.
    revision: u64,
    name: String,
    trial: Arc<RwLock<Option<Arc<Trial>>>>,
}

impl Running {
    /// Puts the candidate on trial, unless it is already.
    fn try_out(&self, runtime: &Runtime, object: &str, candidate: Option<&Arc<Candidate>>) {
        let same = match (&*self.trial.read(), candidate) {
            (Some(trial), Some(candidate)) => Arc::ptr_eq(&trial.candidate, candidate),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        let trial = candidate.and_then(|candidate| {
            let linked = Linked::new(runtime, &candidate.plugin).map_err(|e| e.to_string());
            let made = linked.and_then(|l| Trial::start(candidate.clone(), l).map_err(|e| e.to_string()));
            made.inspect_err(|error| {
                tracing::warn!(plugin = object, %error, "the candidate of a controller plugin cannot be asked");
            })
            .ok()
        });
        *self.trial.write() = trial.map(Arc::new);
    }
}

/// Keeps the manager's controllers those of the active set, until `cancel`. A revision that cannot be linked
/// leaves the one before it at work, and a warning says why.
pub(crate) async fn follow(
    runtime: Arc<Runtime>,
    mut sets: PluginSets,
    manager: ControllerManager,
    cancel: CancellationToken,
) {
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    loop {
        let set = sets.borrow_and_update().clone();
        let candidates: BTreeMap<&str, &Arc<Candidate>> =
            set.candidates_of_kind(Kind::Controller).map(|c| (c.plugin.object.as_str(), c)).collect();
        let mut wanted: BTreeMap<&str, (Option<&ActivePlugin>, &ActivePlugin)> =
            candidates.iter().map(|(object, c)| (*object, (None, c.plugin.as_ref()))).collect();
        for active in set.of_kind(Kind::Controller) {
            wanted.insert(active.object.as_str(), (Some(active.as_ref()), active.as_ref()));
        }
        running.retain(|object, controller| {
            let stays = wanted.contains_key(object.as_str());
            if !stays {
                manager.remove(&controller.name);
            }
            stays
        });
        for (object, (active, described)) in wanted {
            // Where a candidate without an active revision becomes active, the revision stays and the role changes.
            let revision = described.revision * 2 + u64::from(active.is_some());
            if running.get(object).is_none_or(|r| r.revision != revision) {
                let trial = Arc::default();
                match spec(&runtime, active, described, Arc::clone(&trial)) {
                    Ok(spec) => {
                        let name = spec.plugin.declaration().name.clone();
                        let made = Running { revision, name: name.clone(), trial };
                        if let Some(before) = running.insert(object.to_owned(), made)
                            && before.name != name
                        {
                            manager.remove(&before.name);
                        }
                        manager.apply(spec);
                    }
                    Err(error) => {
                        tracing::warn!(
                            plugin = object,
                            error,
                            "controller plugin refused, the previous one stays"
                        );
                    }
                }
            }
            if let Some(controller) = running.get(object) {
                controller.try_out(&runtime, object, candidates.get(object).copied());
            }
        }
        drop(set);
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = sets.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests;
