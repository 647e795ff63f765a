//! What the user is told: `status` of the `Plugin` object, and Events.

use super::stage::Stage;
use crate::plugins::object::PLUGINS;
use crate::plugins::set::ActivePlugin;
use orlop_apimachinery::{Gvr, Object};
use orlop_client::{ApiClient, Cache, PatchType, ResourceRef, WriteOptions};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Numbers alone are written no oftener.
const PACE: Duration = Duration::from_secs(2);

/// Who writes the status.
pub(super) const MANAGER: &str = "orlop-plugin-manager";

static EVENTS: Gvr = Gvr::new("", "v1", "events");

/// `status.state`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Being staged for the first time.
    #[default]
    Loading,
    /// What the object asks for is asked, and its answers are compared with those of what runs.
    Shadow,
    /// What the object asks for decides about a part.
    Canary,
    /// What the object asks for runs.
    Active,
    /// What the object asks for was refused; what ran before runs on.
    Refused,
    /// What the object asks for failed too often or overdrew a budget, and was replaced by what ran before.
    RolledBack,
    /// It fails and there is nothing to go back to; it is tried now and then.
    Suspended,
    /// Switched off by the object.
    Disabled,
}

impl State {
    /// As in the status.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "Loading",
            Self::Shadow => "Shadow",
            Self::Canary => "Canary",
            Self::Active => "Active",
            Self::Refused => "Refused",
            Self::RolledBack => "RolledBack",
            Self::Suspended => "Suspended",
            Self::Disabled => "Disabled",
        }
    }
}

/// What there is to say about a plugin.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Standing {
    pub(crate) state: State,
    /// CamelCase.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// How far what the object asks for has come.
    pub(crate) stage: Stage,
    /// The stages that it passed, and what each took.
    pub(crate) passed: Vec<(Stage, Duration)>,
    pub(crate) active_digest: String,
    /// Numbers of `PluginRevision`s, 0 where there is none: what runs, what is on its way, and what would
    /// take over.
    pub(crate) active_revision: u64,
    pub(crate) candidate_revision: u64,
    pub(crate) standby_revision: u64,
    pub(crate) kind: &'static str,
    /// Name in profiles and policies.
    pub(crate) plugin: String,
    pub(crate) failures: u64,
    /// `shadow` and `canary`: the last figures of each.
    pub(crate) shadow: Value,
    pub(crate) canary: Value,
    /// Of the object; 0 where it was not looked at yet.
    pub(crate) generation: i64,
}

impl Standing {
    pub(super) fn active(plugin: &ActivePlugin) -> Self {
        let message = if plugin.builtin { "built in".to_owned() } else { "active".to_owned() };
        Self { state: State::Active, reason: "Activated", message, stage: Stage::Active, ..Self::default() }
    }

    pub(super) fn refused(
        reason: &'static str,
        error: &str,
        stage: Stage,
        active: Option<&ActivePlugin>,
    ) -> Self {
        let message = match active {
            Some(active) => format!("{error}; {} stays active", active.digest()),
            None => error.to_owned(),
        };
        Self { state: State::Refused, reason, message, stage, ..Self::default() }
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
            stage: Stage::Active,
            ..Self::default()
        }
    }

    /// A candidate was given up; what ran runs on.
    pub(super) fn given_up(
        reason: &'static str,
        why: &str,
        stage: Stage,
        candidate: &ActivePlugin,
        active: Option<&ActivePlugin>,
    ) -> Self {
        let on = match active {
            Some(active) => format!("{} stays active", active.digest()),
            None => "nothing runs in its place".to_owned(),
        };
        let message = format!("{} was given up in {}: {why}; {on}", candidate.digest(), stage.as_str());
        let failures = candidate.health.report().failures;
        Self { state: State::RolledBack, reason, message, stage, failures, ..Self::default() }
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

    /// Nothing but figures changed, which need not be written at once.
    fn differs_in_figures_only(&self, other: &Self) -> bool {
        let bare = |s: &Self| Self {
            shadow: Value::Null,
            canary: Value::Null,
            message: match s.state {
                State::Shadow | State::Canary => String::new(),
                _ => s.message.clone(),
            },
            ..s.clone()
        };
        bare(self) == bare(other)
    }

    fn ready(&self) -> &'static str {
        if self.state == State::Active { "True" } else { "False" }
    }
}

/// Numbers of the revisions that an object's status names as active and on standby; 0 for none.
pub(super) fn revisions(object: &Object) -> (u64, u64) {
    let value = object.to_value();
    let number = |name: &str| value.pointer("/status").and_then(|s| s.get(name)).and_then(Value::as_u64);
    (number("activeRevision").unwrap_or(0), number("standbyRevision").unwrap_or(0))
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
    /// Of this process, in `status.masters`.
    identity: String,
    told: HashMap<String, (Standing, Instant)>,
}

impl Reporter {
    pub(super) fn new(client: Arc<dyn ApiClient>, identity: String) -> Self {
        Self { client, identity, told: HashMap::new() }
    }

    /// Returns whether everything that could be told was told.
    pub(super) async fn publish(&mut self, cache: &Cache, standings: &[(String, Standing)]) -> bool {
        let mut complete = true;
        self.told.retain(|name, _| standings.iter().any(|(n, _)| n == name));
        for (name, standing) in standings {
            // Without an object there is nothing to write to; its creation will wake us.
            let Some(object) = cache.get("", name) else { continue };
            let before = self.told.get(name).map(|(s, _)| s);
            if before == Some(standing) || standing.generation == 0 {
                continue;
            }
            if let Some((before, at)) = self.told.get(name)
                && at.elapsed() < PACE
                && standing.differs_in_figures_only(before)
            {
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
                self.announce(&object, standing).await;
            }
            self.told.insert(name.clone(), (standing.clone(), Instant::now()));
        }
        complete
    }

    async fn write(&self, object: &Object, standing: &Standing) -> Result<(), orlop_client::ApiError> {
        let number = |n: u64| if n == 0 { Value::Null } else { json!(n) };
        let status = json!({ "status": {
            "observedGeneration": standing.generation,
            "state": standing.state.as_str(),
            "stage": standing.stage.as_str(),
            "message": standing.message,
            "activeDigest": standing.active_digest,
            "activeRevision": number(standing.active_revision),
            "candidateRevision": number(standing.candidate_revision),
            "standbyRevision": number(standing.standby_revision),
            "kind": standing.kind,
            "plugin": standing.plugin,
            "failures": standing.failures,
            "shadow": standing.shadow,
            "canary": standing.canary,
            "masters": [{
                "name": self.identity,
                "stage": standing.stage.as_str(),
                "activeRevision": number(standing.active_revision),
                "message": standing.message,
            }],
            "conditions": conditions(object, standing),
        } });
        let at = ResourceRef::new(&PLUGINS, "", object.name()).subresource("status");
        let options = WriteOptions { field_manager: MANAGER.to_owned(), ..WriteOptions::default() };
        self.client.patch(at, PatchType::Merge, status.to_string().into(), &options).await.map(drop)
    }

    async fn announce(&self, object: &Object, standing: &Standing) {
        let good = matches!(standing.state, State::Active | State::Shadow | State::Canary);
        let reason = match standing.state {
            State::Shadow => "PluginShadow",
            State::Canary => "PluginCanary",
            State::Active => "PluginActivated",
            State::Refused => "PluginRefused",
            State::RolledBack => "PluginRolledBack",
            State::Suspended => "PluginSuspended",
            State::Disabled => "PluginDisabled",
            State::Loading => return,
        };
        let mut message = standing.message.clone();
        if good && !standing.passed.is_empty() {
            let stages = standing.passed.iter();
            let took = stages.map(|(s, d)| format!("{} {:.1} ms", s.as_str(), d.as_secs_f64() * 1e3));
            message = format!("{message} ({})", took.collect::<Vec<_>>().join(", "));
        }
        self.event(object, if good { "Normal" } else { "Warning" }, reason, &message).await;
    }

    /// Records an Event about a plugin.
    pub(super) async fn event(&self, object: &Object, kind: &str, reason: &str, message: &str) {
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
            "message": cut(message, 1024),
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

/// `Ready`, and one condition for each stage: passed, where it stands, or not reached.
fn conditions(object: &Object, standing: &Standing) -> Vec<Value> {
    const STAGES: [(Stage, &str); 8] = [
        (Stage::Fetch, "Fetched"),
        (Stage::Verify, "Verified"),
        (Stage::Compile, "Compiled"),
        (Stage::Link, "Linked"),
        (Stage::SelfTest, "SelfTested"),
        (Stage::Warm, "Warmed"),
        (Stage::Shadow, "Shadowed"),
        (Stage::Canary, "CanaryPassed"),
    ];
    let reason = if standing.reason.is_empty() { standing.state.as_str() } else { standing.reason };
    let mut all = vec![("Ready", standing.ready(), reason, standing.message.clone())];
    for (stage, name) in STAGES {
        let took = standing.passed.iter().find(|(s, _)| *s == stage).map(|(_, took)| *took);
        if standing.stage == stage {
            let failed = matches!(standing.state, State::Refused | State::RolledBack);
            let status = if failed { "False" } else { "Unknown" };
            all.push((name, status, reason, standing.message.clone()));
        } else if let Some(took) = took {
            all.push((name, "True", "Passed", format!("took {:.1} ms", took.as_secs_f64() * 1e3)));
        }
    }
    let value = object.to_value();
    let old = value.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let now = now();
    let conditions = all.into_iter().map(|(name, status, reason, message)| {
        let same = old.iter().find(|c| c["type"] == name && c["status"] == status);
        let since = same.and_then(|c| c["lastTransitionTime"].as_str());
        json!({
            "type": name,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": since.unwrap_or(&now),
            "observedGeneration": standing.generation,
        })
    });
    conditions.collect()
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
