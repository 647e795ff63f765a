//! What the user is told: `status` of the `Plugin` object, and Events.

use crate::plugins::object::PLUGINS;
use crate::plugins::set::ActivePlugin;
use orlop_apimachinery::{Gvr, Object};
use orlop_client::{ApiClient, Cache, PatchType, ResourceRef, WriteOptions};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// Who writes the status.
pub(super) const MANAGER: &str = "orlop-plugin-manager";

static EVENTS: Gvr = Gvr::new("", "v1", "events");

/// `status.state`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Being staged for the first time.
    #[default]
    Loading,
    /// What the object asks for runs.
    Active,
    /// What the object asks for was refused; what ran before runs on.
    Refused,
    /// What the object asks for ran, failed too often, and was replaced by what ran before.
    RolledBack,
    /// It fails and there is nothing to go back to; it is tried now and then.
    Suspended,
    /// Switched off by the object.
    Disabled,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "Loading",
            Self::Active => "Active",
            Self::Refused => "Refused",
            Self::RolledBack => "RolledBack",
            Self::Suspended => "Suspended",
            Self::Disabled => "Disabled",
        }
    }
}

/// What there is to say about a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: State,
    /// CamelCase.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) active_digest: String,
    pub(crate) kind: &'static str,
    /// Name in profiles and policies.
    pub(crate) plugin: String,
    pub(crate) failures: u64,
    /// Of the object; 0 where it was not looked at yet.
    pub(crate) generation: i64,
}

impl Standing {
    pub(super) fn active(plugin: &ActivePlugin) -> Self {
        let message = if plugin.builtin { "built in".to_owned() } else { "active".to_owned() };
        Self { state: State::Active, reason: "Activated", message, ..Self::default() }
    }

    pub(super) fn refused(reason: &'static str, error: &str, active: Option<&ActivePlugin>) -> Self {
        let message = match active {
            Some(active) => format!("{error}; {} stays active", active.digest()),
            None => error.to_owned(),
        };
        Self { state: State::Refused, reason, message, ..Self::default() }
    }

    pub(super) fn disabled() -> Self {
        Self {
            state: State::Disabled,
            reason: "Disabled",
            message: "spec.enabled is false".into(),
            ..Self::default()
        }
    }

    pub(super) fn rolled_back(failed: &ActivePlugin, to: &ActivePlugin, error: &str) -> Self {
        let message = format!(
            "{} failed {} times, last: {error}; rolled back to {}",
            failed.digest(),
            failed.health.report().failures,
            to.digest()
        );
        Self {
            state: State::RolledBack,
            reason: "RolledBack",
            message,
            failures: failed.health.report().failures,
            ..Self::default()
        }
    }

    /// While the breaker is open.
    pub(super) fn suspend(&mut self, last: Option<(&'static str, String)>) {
        let (reason, error) = last.unwrap_or(("Failed", String::new()));
        self.state = State::Suspended;
        self.reason = reason;
        self.message =
            format!("suspended after repeated failures, last: {error}; it is tried again from time to time");
    }

    /// Failures alone are counted in the status without an event each.
    fn differs_in_more_than_numbers(&self, other: &Self) -> bool {
        (self.state, self.reason, &self.active_digest) != (other.state, other.reason, &other.active_digest)
    }

    fn ready(&self) -> &'static str {
        if self.state == State::Active { "True" } else { "False" }
    }
}

/// The message of an object whose present generation was rolled back earlier.
pub(super) fn rolled_back(object: &Object) -> Option<String> {
    let value = object.to_value();
    let status = value.get("status")?;
    let same = status.get("observedGeneration").and_then(Value::as_i64) == Some(object.meta().generation);
    let state = status.get("state").and_then(Value::as_str);
    (same && state == Some(State::RolledBack.as_str()))
        .then(|| status.get("message").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// Writes standings, each change once.
pub(super) struct Reporter {
    client: Arc<dyn ApiClient>,
    told: HashMap<String, Standing>,
    serial: u64,
}

impl Reporter {
    pub(super) fn new(client: Arc<dyn ApiClient>) -> Self {
        Self { client, told: HashMap::new(), serial: 0 }
    }

    /// Returns whether everything that could be told was told.
    pub(super) async fn publish(&mut self, cache: &Cache, standings: &[(String, Standing)]) -> bool {
        let mut complete = true;
        self.told.retain(|name, _| standings.iter().any(|(n, _)| n == name));
        for (name, standing) in standings {
            // Without an object there is nothing to write to; its creation will wake us.
            let Some(object) = cache.get("", name) else { continue };
            let before = self.told.get(name);
            if before == Some(standing) || standing.generation == 0 {
                continue;
            }
            let news = match before {
                Some(before) => standing.differs_in_more_than_numbers(before),
                None => !says(&object, standing),
            };
            if let Err(error) = self.write(&object, standing).await {
                if !error.is_not_found() {
                    tracing::warn!(plugin = %name, %error, "the status of a plugin could not be written");
                    complete = false;
                }
                continue;
            }
            if news {
                self.event(&object, standing).await;
            }
            self.told.insert(name.clone(), standing.clone());
        }
        complete
    }

    async fn write(&self, object: &Object, standing: &Standing) -> Result<(), orlop_client::ApiError> {
        let now = now();
        let ready = standing.ready();
        let value = object.to_value();
        let old = value.pointer("/status/conditions/0");
        let unchanged = old.and_then(|c| c.get("status")).and_then(Value::as_str) == Some(ready);
        let since =
            old.filter(|_| unchanged).and_then(|c| c.get("lastTransitionTime")).and_then(Value::as_str);
        let generation = standing.generation;
        let reason = if standing.reason.is_empty() { standing.state.as_str() } else { standing.reason };
        let status = json!({ "status": {
            "observedGeneration": generation,
            "state": standing.state.as_str(),
            "message": standing.message,
            "activeDigest": standing.active_digest,
            "kind": standing.kind,
            "plugin": standing.plugin,
            "failures": standing.failures,
            "conditions": [{
                "type": "Ready",
                "status": ready,
                "reason": reason,
                "message": standing.message,
                "lastTransitionTime": since.unwrap_or(&now),
                "observedGeneration": generation,
            }],
        } });
        let at = ResourceRef::new(&PLUGINS, "", object.name()).subresource("status");
        let options = WriteOptions { field_manager: MANAGER.to_owned(), ..WriteOptions::default() };
        self.client.patch(at, PatchType::Merge, status.to_string().into(), &options).await.map(drop)
    }

    async fn event(&mut self, object: &Object, standing: &Standing) {
        self.serial += 1;
        let kind = if standing.state == State::Active { "Normal" } else { "Warning" };
        let reason = match standing.state {
            State::Active => "PluginActivated",
            State::Refused => "PluginRefused",
            State::RolledBack => "PluginRolledBack",
            State::Suspended => "PluginSuspended",
            State::Disabled => "PluginDisabled",
            State::Loading => return,
        };
        let now = now();
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "generateName": format!("{}.", object.name()), "namespace": "default" },
            "involvedObject": {
                "apiVersion": "orlop.dev/v1",
                "kind": "Plugin",
                "name": object.name(),
                "uid": object.uid(),
                "resourceVersion": object.meta().resource_version.to_string(),
            },
            "type": kind,
            "reason": reason,
            "message": cut(&standing.message, 1024),
            "source": { "component": MANAGER },
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        });
        let at = ResourceRef::new(&EVENTS, "default", "");
        if let Err(error) = self.client.create(at, event.to_string().into(), &WriteOptions::default()).await {
            tracing::warn!(plugin = object.name(), %error, "an event about a plugin could not be written");
        }
    }
}

/// Whether the object's status says the same already, such as after a restart.
fn says(object: &Object, standing: &Standing) -> bool {
    let value = object.to_value();
    let text = |name: &str| value.pointer("/status").and_then(|s| s.get(name)).and_then(Value::as_str);
    text("state") == Some(standing.state.as_str())
        && text("activeDigest") == Some(standing.active_digest.as_str())
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
