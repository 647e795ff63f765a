//! The stages that a revision passes before it becomes active. Blocking; for a blocking thread.

use super::Builtins;
use crate::plugins::health::Health;
use crate::plugins::object::{PluginSpec, SpecError, StageError};
use crate::plugins::policy::PluginPolicy;
use crate::plugins::set::ActivePlugin;
use orlop_plugin::{Compiled, Kind, PluginError, PluginOptions, Runtime, World};
use serde_json::Value;
use std::sync::Arc;

pub(super) struct Request<'a> {
    pub(super) object: &'a str,
    pub(super) spec: &'a PluginSpec,
    pub(super) builtins: Builtins,
    pub(super) policy: &'a PluginPolicy,
    pub(super) revision: u64,
    pub(super) health: Arc<Health>,
}

/// Fetch, verify, compile, link, init, self-test.
pub(super) fn stage(runtime: &Runtime, request: Request<'_>) -> Result<ActivePlugin, StageError> {
    let Request { object, spec, builtins, policy, revision, health } = request;
    if !spec.is_builtin() && !policy.allows_user_plugins() {
        let message = "the plugin policy allows built-in plugins only (userPlugins: false)".to_owned();
        return Err(StageError::Policy { message });
    }
    let module = spec.fetch(builtins)?;
    let manifest = orlop_plugin::inspect(module.as_ref())?.manifest;
    for (path, said, is) in [
        ("kind", spec.kind.as_str(), manifest.kind.as_str()),
        ("world", spec.world.as_str(), manifest.world.as_str()),
    ] {
        if !said.is_empty() && said != is {
            let message = format!("the module says {is}, the object {said}");
            return Err(SpecError::Field { path, message }.into());
        }
    }
    check_config(manifest.config_schema.as_ref(), spec.config.as_ref())?;
    let options = policy.options(object, &manifest, spec.limits()?, spec.config.as_ref());
    let failure_policy = policy.failure_policy(&manifest.name, spec.failure_policy());
    let compiled = runtime.compile(module.as_ref())?;
    drop(module);
    test(runtime, &compiled, &options)?;
    Ok(ActivePlugin {
        object: object.to_owned(),
        revision,
        compiled,
        options,
        failure_policy,
        health,
        builtin: spec.is_builtin(),
    })
}

fn test(runtime: &Runtime, compiled: &Compiled, options: &PluginOptions) -> Result<(), PluginError> {
    fn as_world<W: World>(
        runtime: &Runtime,
        compiled: &Compiled,
        options: &PluginOptions,
    ) -> Result<(), PluginError> {
        runtime.link::<W>(compiled, options.clone())?.self_test().map(drop)
    }
    match compiled.manifest().kind {
        Kind::Admission => as_world::<orlop_plugin::admission::AdmissionWorld>(runtime, compiled, options),
        Kind::Scheduler => as_world::<orlop_plugin::scheduler::SchedulerWorld>(runtime, compiled, options),
        Kind::Controller => as_world::<orlop_plugin::controller::ControllerWorld>(runtime, compiled, options),
    }
}

/// Checks the names of the configuration's fields against the manifest; their values are checked
/// by the plugin's `init`.
fn check_config(schema: Option<&Value>, config: Option<&Value>) -> Result<(), StageError> {
    let Some(config) = config.and_then(Value::as_object).filter(|c| !c.is_empty()) else { return Ok(()) };
    let field = |message: String| StageError::Spec(SpecError::Field { path: "config", message });
    let Some(schema) = schema else { return Err(field("the plugin takes no configuration".to_owned())) };
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    let known = schema.get("properties").and_then(Value::as_object);
    if let Some(unknown) = config.keys().find(|k| closed && !known.is_some_and(|p| p.contains_key(*k))) {
        return Err(field(format!("unknown field \"{unknown}\"")));
    }
    Ok(())
}
