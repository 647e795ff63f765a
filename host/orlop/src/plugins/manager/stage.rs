//! The stages that a revision passes before it may decide: fetch, verify, compile, link, self-test, warm.

use super::Builtins;
use crate::plugins::access::{self, Access};
use crate::plugins::health::Health;
use crate::plugins::object::{Fetched, PluginSpec, SpecError, StageError, pack};
use crate::plugins::policy::PluginPolicy;
use crate::plugins::set::{ActivePlugin, Facts};
use orlop_plugin::{Compiled, Digest, Kind, Manifest, PluginError, PluginOptions, Runtime, World};
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// Largest module, gzipped and in base64, that a `PluginRevision` keeps where its source could give it again.
const MAX_PACKED: usize = 1 << 20;
/// The same for a module that came in the object itself.
const MAX_INLINE: usize = 4 << 20;

/// Where a revision is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// The bytes are on their way.
    #[default]
    Fetch,
    /// Digest, signature, manifest, permissions and configuration are checked.
    Verify,
    /// Machine code is made, or taken from the cache.
    Compile,
    /// Imports are joined.
    Link,
    /// An instance is made and tests itself.
    SelfTest,
    /// Further instances are made, so that the first call finds all in place.
    Warm,
    /// It is asked, and its answers are compared.
    Shadow,
    /// It decides about a part.
    Canary,
    /// It decides.
    Active,
    /// It ends what it began.
    Drain,
    /// It waits to take over again.
    Standby,
}

impl Stage {
    /// As in the status.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "Fetch",
            Self::Verify => "Verify",
            Self::Compile => "Compile",
            Self::Link => "Link",
            Self::SelfTest => "SelfTest",
            Self::Warm => "Warm",
            Self::Shadow => "Shadow",
            Self::Canary => "Canary",
            Self::Active => "Active",
            Self::Drain => "Drain",
            Self::Standby => "Standby",
        }
    }
}

/// Tells how far a staging is, while it goes on and afterwards.
#[derive(Default)]
pub(super) struct Progress(Mutex<Course>);

#[derive(Default)]
struct Course {
    stage: Stage,
    since: Option<Instant>,
    passed: Vec<(Stage, Duration)>,
}

impl Progress {
    fn enter(&self, stage: Stage) {
        let mut state = self.0.lock();
        let now = Instant::now();
        let before = state.stage;
        if let Some(since) = state.since.replace(now) {
            state.passed.push((before, now - since));
        }
        state.stage = stage;
    }

    pub(super) fn stage(&self) -> Stage {
        self.0.lock().stage
    }

    /// The stages that were passed, and what each took.
    pub(super) fn passed(&self) -> Vec<(Stage, Duration)> {
        self.0.lock().passed.clone()
    }
}

/// What shall be staged.
pub(super) struct Request {
    pub(super) object: String,
    pub(super) spec: PluginSpec,
    /// The module, where a `PluginRevision` has it, and its signature.
    pub(super) kept: Option<Fetched>,
    pub(super) policy: Arc<PluginPolicy>,
    pub(super) revision: u64,
    /// Of the `PluginRevision`, where it comes from one.
    pub(super) number: u64,
    pub(super) health: Arc<Health>,
}

/// Why a revision may not decide, and how far it came.
pub(super) struct Refusal {
    pub(super) error: StageError,
    pub(super) stage: Stage,
    /// What it is made of, where that is known.
    pub(super) facts: Option<Arc<Facts>>,
}

/// Everything that staging needs and that does not change.
pub(super) struct Stager {
    pub(super) runtime: Arc<Runtime>,
    pub(super) builtins: Builtins,
    pub(super) access: Arc<dyn Access>,
}

impl Stager {
    /// All stages, one after the other.
    pub(super) async fn stage(
        &self,
        request: Request,
        progress: &Arc<Progress>,
    ) -> Result<ActivePlugin, Refusal> {
        let mut facts = None;
        let result = self.pass(request, progress, &mut facts).await;
        progress.enter(if result.is_ok() { Stage::Active } else { progress.stage() });
        result.map_err(|error| Refusal { error, stage: progress.stage(), facts })
    }

    async fn pass(
        &self,
        request: Request,
        progress: &Arc<Progress>,
        known: &mut Option<Arc<Facts>>,
    ) -> Result<ActivePlugin, StageError> {
        let Request { object, spec, kept, policy, revision, number, health } = request;
        progress.enter(Stage::Fetch);
        if !spec.is_builtin() && !policy.allows_user_plugins() {
            let message = "the plugin policy allows built-in plugins only (userPlugins: false)".to_owned();
            return Err(StageError::Policy { message });
        }
        let Fetched { module, signature } = match kept {
            Some(kept) => kept,
            None => spec.source.fetch(self.builtins).await?,
        };
        progress.enter(Stage::Verify);
        let signature = if spec.signature.is_empty() { signature } else { Some(spec.signature.clone()) };
        let verify = {
            let (object, spec, policy) = (object.clone(), spec.clone(), policy.clone());
            move || -> Result<_, StageError> {
                let (facts, manifest) = verify(&object, &spec, &policy, module.as_ref(), signature)?;
                Ok((Arc::new(facts), manifest, module))
            }
        };
        let (facts, manifest, module) = blocking(verify).await?;
        *known = Some(facts.clone());
        let given = match &spec.grants {
            Some(grants) => grants.clone(),
            None if spec.is_builtin() => manifest.permissions.clone(),
            None => Vec::new(),
        };
        if !spec.is_builtin() {
            access::check_shown(self.access.as_ref(), &object, &manifest, &given).await?;
        }
        let options = policy.options(&object, &manifest, spec.limits()?, spec.config.as_ref());
        // Scheduler plugins may get all of their configuration from the profile.
        if manifest.kind != Kind::Scheduler || options.config != b"{}" {
            let config = serde_json::from_slice(&options.config).unwrap_or_default();
            check_config(manifest.config_schema.as_ref(), &config)?;
        }
        let failure_policy = policy.failure_policy(&manifest.name, spec.failure_policy());

        progress.enter(Stage::Compile);
        let runtime = self.runtime.clone();
        let compile = move || -> Result<_, StageError> { Ok(runtime.compile(module.as_ref())?) };
        let compiled = blocking(compile).await?;
        progress.enter(Stage::Link);
        let (runtime, code, wanted) = (self.runtime.clone(), compiled.clone(), options.clone());
        let inner = progress.clone();
        blocking(move || Ok(test(&runtime, &code, &wanted, &inner)?)).await?;
        Ok(ActivePlugin {
            object,
            revision,
            compiled,
            options,
            failure_policy,
            health,
            builtin: spec.is_builtin(),
            facts,
            grants: given,
            number: AtomicU64::new(number),
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StageError> + Send + 'static,
) -> Result<T, StageError> {
    let aborted =
        |e: tokio::task::JoinError| StageError::Fetch { message: format!("staging was aborted: {e}") };
    tokio::task::spawn_blocking(work).await.map_err(aborted)?
}

/// Digest, signature, manifest. The manifest is all that is believed of the module before it runs.
fn verify(
    object: &str,
    spec: &PluginSpec,
    policy: &PluginPolicy,
    module: &[u8],
    signature: Option<String>,
) -> Result<(Facts, Manifest), StageError> {
    let digest = Digest::of(module);
    if !spec.digest.is_empty() && spec.digest != digest.to_string() {
        return Err(StageError::Digest { found: digest, wanted: spec.digest.clone() });
    }
    let signed_by = policy.signatures().check(object, &spec.source, digest, signature.as_deref())?;
    let manifest = orlop_plugin::inspect(module)?.manifest;
    for (path, said, is) in [
        ("kind", spec.kind.as_str(), manifest.kind.as_str()),
        ("world", spec.world.as_str(), manifest.world.as_str()),
    ] {
        if !said.is_empty() && said != is {
            let message = format!("the module says {is}, the object {said}");
            return Err(SpecError::Field { path, message }.into());
        }
    }
    let packed = match spec.source.kind() {
        None => None,
        Some("inline") => pack(module, MAX_INLINE),
        Some(_) => pack(module, MAX_PACKED),
    };
    let (kind, world) = (manifest.kind, manifest.world.clone());
    let facts = Facts { spec: spec.content(), digest, kind, world, signature, signed_by, packed };
    Ok((facts, manifest))
}

/// Link, self-test, warm.
fn test(
    runtime: &Runtime,
    compiled: &Compiled,
    options: &PluginOptions,
    progress: &Progress,
) -> Result<(), PluginError> {
    fn as_world<W: World>(
        runtime: &Runtime,
        compiled: &Compiled,
        options: &PluginOptions,
        progress: &Progress,
    ) -> Result<(), PluginError> {
        let plugin = runtime.link::<W>(compiled, options.clone())?;
        progress.enter(Stage::SelfTest);
        let tested = plugin.self_test()?;
        progress.enter(Stage::Warm);
        // A second instance beside the first, as adapters make them: code is paged in, and what `init`
        // does it must be able to do more than once.
        let second = plugin.instantiate()?;
        drop((tested, second));
        Ok(())
    }
    match compiled.manifest().kind {
        Kind::Admission => {
            as_world::<orlop_plugin::admission::AdmissionWorld>(runtime, compiled, options, progress)
        }
        Kind::Scheduler => {
            as_world::<orlop_plugin::scheduler::SchedulerWorld>(runtime, compiled, options, progress)
        }
        Kind::Controller => {
            as_world::<orlop_plugin::controller::ControllerWorld>(runtime, compiled, options, progress)
        }
    }
}

/// Checks the configuration against the manifest's JSON Schema, in full. What remains is checked by the
/// plugin's `init`.
fn check_config(schema: Option<&Value>, config: &Value) -> Result<(), StageError> {
    let field = |message: String| StageError::Spec(SpecError::Field { path: "config", message });
    let Some(schema) = schema else {
        return match config.as_object().is_none_or(serde_json::Map::is_empty) {
            true => Ok(()),
            false => Err(field("the plugin takes no configuration".to_owned())),
        };
    };
    let validator = jsonschema::validator_for(schema).map_err(|e| {
        StageError::Plugin(PluginError::Incompatible {
            message: format!("the configSchema of its manifest is no JSON Schema: {e}"),
        })
    })?;
    let faults: Vec<String> = validator
        .iter_errors(config)
        .take(5)
        .map(|e| match e.instance_path().to_string() {
            path if path.is_empty() => e.to_string(),
            path => format!("{}: {e}", path.trim_start_matches('/').replace('/', ".")),
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(field(faults.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_configuration_is_checked_against_the_whole_schema() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["limit"],
            "properties": {
                "limit": { "type": "integer", "minimum": 1 },
                "mode": { "enum": ["a", "b"] },
                "nested": { "type": "object", "properties": { "name": { "pattern": "^[a-z]+$" } } },
            },
        });
        let check = |config: Value| check_config(Some(&schema), &config).map_err(|e| e.to_string());
        assert_eq!(check(json!({ "limit": 1, "mode": "a", "nested": { "name": "x" } })), Ok(()));
        for (config, words) in [
            (json!({}), "limit"),
            (json!({ "limit": 0 }), "limit: 0 is less than"),
            (json!({ "limit": 1, "mode": "c" }), "mode"),
            (json!({ "limit": 1, "nested": { "name": "X" } }), "nested.name"),
            (json!({ "limit": 1, "other": 2 }), "other"),
        ] {
            let error = check(config.clone()).unwrap_err();
            assert!(error.starts_with("spec.config: ") && error.contains(words), "{config}: {error}");
        }
        assert!(check_config(Some(&schema), &json!({})).is_err(), "what is required must be there");
        assert!(check_config(None, &json!({})).is_ok());
        assert!(check_config(None, &json!({ "a": 1 })).is_err());
        let broken = check_config(Some(&json!({ "type": "nonsense" })), &json!({})).unwrap_err();
        assert_eq!(broken.reason(), "Incompatible");
    }
}
