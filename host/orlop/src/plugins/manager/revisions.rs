//! `PluginRevision` objects: what a plugin once was, and can be again.
//!
//! A revision is found by its content: where one with the same content is there, it is used again and none is made.
//! So a restart, or a change back, makes no new number.

use crate::plugins::object::{Fetched, PluginSpec, unpack_text};
use crate::plugins::set::Facts;
use orlop_apimachinery::{Gvr, Object, Reason};
use orlop_client::{
    ApiClient, ApiError, Cache, DeleteOptions, Informer, ListOptions, PatchType, ResourceRef, WriteOptions,
};
use orlop_plugin::Digest;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// `pluginrevisions.orlop.dev`
pub(crate) static REVISIONS: Gvr = Gvr::new("orlop.dev", "v1", "pluginrevisions");

/// Label with what two revisions that are the same have in common.
const CONTENT: &str = "orlop.dev/content";
const INDEX: &str = "plugin";

/// Stage of a revision that was in use once.
const RETIRED: &str = "Retired";
/// Stage of a revision that may not decide.
pub(super) const REFUSED: &str = "Refused";
/// Stage of a revision that was given up.
pub(super) const ROLLED_BACK: &str = "RolledBack";
const OVER: [&str; 3] = [RETIRED, REFUSED, ROLLED_BACK];

/// Name of the object.
pub(crate) fn name(plugin: &str, number: u64) -> String {
    format!("{plugin}-{number}")
}

/// The revisions of all plugins, and what was told of each.
pub(super) struct Ledger {
    client: Arc<dyn ApiClient>,
    cache: Cache,
    /// Made here, and perhaps not in the cache yet.
    made: Mutex<HashMap<String, Arc<Object>>>,
    told: Mutex<HashMap<String, Value>>,
}

impl Ledger {
    /// A ledger, and the future that follows the objects.
    pub(super) fn new(
        client: Arc<dyn ApiClient>,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let informer = Informer::new(client.clone(), REVISIONS.clone(), ListOptions::default())
            .with_index(INDEX, Box::new(|o: &Object| vec![plugin_of(o)]));
        let (cache, following) = informer.start(cancel);
        (Self { client, cache, made: Mutex::default(), told: Mutex::default() }, following)
    }

    pub(super) async fn synced(&self) {
        self.cache.synced().await;
    }

    fn all(&self, plugin: &str) -> BTreeMap<u64, Arc<Object>> {
        let mut all: BTreeMap<u64, Arc<Object>> = BTreeMap::new();
        let mut made = self.made.lock();
        let cached = self.cache.by_index(INDEX, plugin);
        made.retain(|name, _| !cached.iter().any(|o| o.name() == name));
        let own = made.values().filter(|o| parts(o).0 == plugin).cloned();
        for object in own.chain(cached) {
            all.insert(number_of(&object), object);
        }
        all
    }

    /// What a revision asked for, and its module where it keeps one.
    pub(super) fn find(&self, plugin: &str, number: u64) -> Option<(PluginSpec, Option<Fetched>)> {
        let object = self.all(plugin).remove(&number)?;
        let mut value = object.to_value();
        let spec = value.get_mut("spec")?.take();
        let field = |name: &str| spec.get(name).filter(|v| !v.is_null()).cloned();
        let mut asked = json!({});
        for name in ["source", "digest", "config", "grants", "failurePolicy", "limits"] {
            if let Some(value) = field(name) {
                asked[name] = value;
            }
        }
        let signature = spec.pointer("/signature/value").and_then(Value::as_str).unwrap_or_default();
        let spec_of = PluginSpec { signature: signature.to_owned(), ..serde_json::from_value(asked).ok()? };
        let module = spec.get("module").and_then(Value::as_str).filter(|m| !m.is_empty());
        let kept = module.and_then(|text| unpack_text(text).ok()).map(Fetched::owned);
        Some((spec_of, kept))
    }

    /// Whether `spec` asks for what revision `number` is, so that its source need not be asked again.
    pub(super) fn is_same(&self, plugin: &str, number: u64, spec: &PluginSpec) -> bool {
        let Some((recorded, kept)) = self.find(plugin, number) else { return false };
        let same_source = match (&spec.source.inline, kept) {
            (Some(text), Some(kept)) => {
                unpack_text(text).is_ok_and(|m| Digest::of(&m) == Digest::of(kept.module.as_ref()))
            }
            (Some(_), None) => false,
            (None, _) => spec.source == recorded.source,
        };
        same_source
            && (spec.digest.is_empty() || spec.digest == recorded.digest)
            && (spec.signature.is_empty() || spec.signature == recorded.signature)
            && spec.config == recorded.config
            && spec.grants == recorded.grants
            && spec.failure_policy == recorded.failure_policy
            && spec.limits == recorded.limits
    }

    /// The number of the revision with these facts; makes it where it is missing.
    pub(super) async fn record(&self, plugin: &Object, facts: &Facts) -> Result<u64, ApiError> {
        let body = body(plugin.name(), facts);
        let content: String = Digest::of(body.to_string().as_bytes()).hex().chars().take(40).collect();
        loop {
            let all = self.all(plugin.name());
            let labelled =
                |o: &Object| o.meta().labels.iter().any(|(k, v)| **k == *CONTENT && **v == *content);
            if let Some((number, _)) = all.iter().rev().find(|(_, o)| labelled(o)) {
                return Ok(*number);
            }
            let number = all.keys().next_back().copied().unwrap_or(0) + 1;
            let name = name(plugin.name(), number);
            let mut spec = body.clone();
            spec["revision"] = json!(number);
            if let Some(module) = &facts.packed {
                spec["module"] = json!(module);
            }
            let object = json!({
                "apiVersion": "orlop.dev/v1",
                "kind": "PluginRevision",
                "metadata": {
                    "name": name,
                    "labels": { CONTENT: content },
                    "ownerReferences": [{
                        "apiVersion": "orlop.dev/v1", "kind": "Plugin", "name": plugin.name(),
                        "uid": plugin.uid(), "controller": true, "blockOwnerDeletion": true,
                    }],
                },
                "spec": spec,
            });
            let at = ResourceRef::new(&REVISIONS, "", "");
            let made = match self.client.create(at, object.to_string().into(), &options()).await {
                // Somebody else made it, and the cache does not show it yet.
                Err(error) if error.is(Reason::AlreadyExists) => {
                    self.client.get(ResourceRef::new(&REVISIONS, "", &name)).await?
                }
                made => made?,
            };
            self.made.lock().insert(name, made);
        }
    }

    /// Removes the oldest revisions beyond `keep`, but none that is `used`.
    pub(super) async fn prune(&self, plugin: &str, keep: usize, used: &BTreeSet<u64>) {
        let idle: Vec<u64> = self.all(plugin).into_keys().filter(|n| !used.contains(n)).collect();
        for number in idle.iter().take(idle.len().saturating_sub(keep)) {
            let name = name(plugin, *number);
            match self.client.delete(ResourceRef::new(&REVISIONS, "", &name), &DeleteOptions::default()).await
            {
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(plugin, revision = number, %error, "an old revision of a plugin could not be removed");
                }
                _ => _ = self.made.lock().remove(&name),
            }
        }
    }

    /// Tells in the status of each revision how far it is, each change once. Those of `plugin` that are not
    /// among `stages` are retired.
    pub(super) async fn tell(&self, plugin: &str, mut stages: BTreeMap<u64, Value>) -> Result<(), ApiError> {
        let all = self.all(plugin);
        for (number, object) in &all {
            let idle = || json!({ "stage": RETIRED, "message": "" });
            if let Entry::Vacant(vacant) = stages.entry(*number)
                && !self.is_over(object)
            {
                vacant.insert(idle());
            }
        }
        for (number, status) in stages.into_iter().filter(|(n, _)| all.contains_key(n)) {
            let name = name(plugin, number);
            if self.told.lock().get(&name) == Some(&status) {
                continue;
            }
            let at = ResourceRef::new(&REVISIONS, "", &name).subresource("status");
            let patch = json!({ "status": status });
            match self.client.patch(at, PatchType::Merge, patch.to_string().into(), &options()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
            self.told.lock().insert(name, status);
        }
        Ok(())
    }

    /// Whether a revision that is not in use says so.
    fn is_over(&self, object: &Object) -> bool {
        let over =
            |status: &Value| status.get("stage").and_then(Value::as_str).is_some_and(|s| OVER.contains(&s));
        match self.told.lock().get(object.name()) {
            Some(told) => over(told),
            None => object.to_value().get("status").is_some_and(over),
        }
    }

    /// Forgets a plugin that is gone.
    pub(super) fn forget(&self, plugin: &str) {
        self.made.lock().retain(|_, o| parts(o).0 != plugin);
        let prefix = format!("{plugin}-");
        self.told.lock().retain(|name, _| !name.starts_with(&prefix));
    }
}

fn options() -> WriteOptions {
    WriteOptions { field_manager: super::report::MANAGER.to_owned(), ..WriteOptions::default() }
}

/// Plugin and number are in the name.
fn parts(object: &Object) -> (&str, u64) {
    let split = object.name().rsplit_once('-').and_then(|(plugin, n)| Some((plugin, n.parse().ok()?)));
    split.unwrap_or(("", 0))
}

fn plugin_of(object: &Object) -> String {
    parts(object).0.to_owned()
}

fn number_of(object: &Object) -> u64 {
    parts(object).1
}

/// `spec` without number and module: what two revisions are compared by.
fn body(plugin: &str, facts: &Facts) -> Value {
    let spec = &facts.spec;
    let mut source = json!(spec.source);
    if source.get("inline").is_some() {
        // The bytes are in `module`.
        source["inline"] = json!("");
    }
    let mut body = json!({
        "plugin": plugin,
        "kind": facts.kind.as_str(),
        "world": facts.world,
        "source": source,
        "digest": facts.digest.to_string(),
    });
    let mut optional = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[name] = value;
        }
    };
    optional("config", spec.config.clone());
    optional("grants", spec.grants.as_ref().map(|g| json!(g)));
    optional("failurePolicy", spec.failure_policy.as_ref().map(|p| json!(p)));
    optional("limits", spec.limits.clone());
    optional(
        "signature",
        facts.signature.as_ref().map(|s| match &facts.signed_by {
            Some(key) => json!({ "value": s, "signedBy": key }),
            None => json!({ "value": s }),
        }),
    );
    body
}
