//! Gives the controller manager its plugins: whatever controllers the set of active plugins holds.

use super::health::Health;
use super::set::{ActivePlugin, PluginSets};
use orlop_controller_manager::{
    ControllerInstance, ControllerManager, ControllerPlugin, ControllerSpec, Declaration, Grant,
    PluginFailure,
};
use orlop_plugin::controller::ControllerWorld;
use orlop_plugin::{Kind, Plugin, PluginError, Runtime, Slot};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// A linked plugin, behind the controller manager's trait.
struct WasmController {
    declaration: Declaration,
    plugin: Arc<Plugin<ControllerWorld>>,
    health: Arc<Health>,
}

struct WasmInstance {
    slot: Slot<ControllerWorld>,
    health: Arc<Health>,
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

impl ControllerPlugin for WasmController {
    fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    fn instantiate(&self) -> Result<Box<dyn ControllerInstance>, PluginFailure> {
        let mut slot = Slot::new(self.plugin.clone());
        if let Err(error) = slot.instance() {
            self.health.failed(Instant::now(), &error);
            return Err(convert_error(&error));
        }
        Ok(Box::new(WasmInstance { slot, health: self.health.clone() }))
    }
}

impl ControllerInstance for WasmInstance {
    fn reconcile(&mut self, request: &[u8]) -> Result<Vec<u8>, PluginFailure> {
        match self.slot.reconcile(request) {
            Ok(answer) => {
                self.health.succeeded();
                Ok(answer)
            }
            Err(error) => {
                self.health.failed(Instant::now(), &error);
                Err(convert_error(&error))
            }
        }
    }
}

/// Links an active plugin and reads its declaration.
///
/// # Errors
/// A sentence for the user: the plugin was built for another host, or declares what this one does
/// not understand.
pub(crate) fn spec(runtime: &Runtime, active: &ActivePlugin) -> Result<ControllerSpec, String> {
    let manifest = active.manifest();
    let section = manifest.controller.as_ref().ok_or("it is no controller plugin")?;
    let declaration = Declaration::parse(&section.0).map_err(|e| e.to_string())?;
    let plugin = runtime.link(&active.compiled, active.options.clone()).map_err(|e| e.to_string())?;
    let grant = |p: &orlop_plugin::manifest::Permission| Grant {
        api_groups: p.api_groups.clone(),
        resources: p.resources.clone(),
        verbs: p.verbs.clone(),
    };
    let grants = manifest.permissions.iter().map(grant).collect();
    let plugin = WasmController { declaration, plugin: Arc::new(plugin), health: active.health.clone() };
    Ok(ControllerSpec::new(Arc::new(plugin), grants))
}

/// Keeps the manager's controllers those of the active set, until `cancel`. A revision that cannot be linked
/// leaves the one before it at work, and a warning says why.
pub(crate) async fn follow(
    runtime: Arc<Runtime>,
    mut sets: PluginSets,
    manager: ControllerManager,
    cancel: CancellationToken,
) {
    // Revision and controller name, by name of the `Plugin` object.
    let mut running: BTreeMap<String, (u64, String)> = BTreeMap::new();
    loop {
        let set = sets.borrow_and_update().clone();
        let wanted: BTreeMap<&str, &Arc<ActivePlugin>> =
            set.of_kind(Kind::Controller).map(|p| (p.object.as_str(), p)).collect();
        running.retain(|object, (_, name)| {
            let stays = wanted.contains_key(object.as_str());
            if !stays {
                manager.remove(name);
            }
            stays
        });
        for (object, active) in wanted {
            if running.get(object).is_some_and(|(revision, _)| *revision == active.revision) {
                continue;
            }
            match spec(&runtime, active) {
                Ok(spec) => {
                    let name = spec.plugin.declaration().name.clone();
                    let before = running.insert(object.to_owned(), (active.revision, name.clone()));
                    if let Some((_, before)) = before
                        && before != name
                    {
                        manager.remove(&before);
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
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = sets.changed() => if changed.is_err() { return },
        }
    }
}
