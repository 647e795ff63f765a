//! Candidates of admission plugins: a canary decides about some requests, a shadow is asked about
//! requests that were decided.
//!
//! A request is told by operation, resource, namespace and name of its object, so that all requests about one object
//! go to the same revision. The shadow has a thread of its own and a short queue; what does not fit in
//! is dropped and counted, and no request waits for it.

use super::chain::Link;
use super::context::{ContextSource, Prefetched};
use super::wire;
use crate::plugins::comparison::{Candidate, Example, Mode};
use crate::plugins::health::MemoryUse;
use crate::plugins::manager::record;
use orlop_apimachinery::Status;
use orlop_apiserver::admission::AdmissionRequest;
use orlop_plugin::admission::{AdmissionWorld, Request};
use orlop_plugin::manifest::admission::Phase;
use orlop_plugin::{PluginError, Slot};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Requests that may wait for the shadow.
const QUEUE: usize = 256;
/// Instances that were not asked for so long are dropped.
const IDLE: Duration = Duration::from_secs(60);
/// Context objects of candidates are never prefetched: no place in a chain is so high.
const NOWHERE: usize = usize::MAX;

/// A candidate, linked like any plugin of the chain.
pub(super) struct Trial {
    pub(super) candidate: Arc<Candidate>,
    pub(super) link: Arc<Link>,
}

impl Trial {
    pub(super) fn is_shadow(&self) -> bool {
        self.candidate.mode == Mode::Shadow
    }

    /// Whether the candidate decides about this request, be it by not wanting it.
    pub(super) fn decides(&self, request: &AdmissionRequest) -> bool {
        !self.is_shadow() && self.candidate.decides(&key(request))
    }
}

fn key(request: &AdmissionRequest) -> String {
    format!("{}/{}/{}", request.gvr.resource, request.namespace, request.name)
}

/// What the active revision made of a request, or the absence of one.
pub(super) struct Decided {
    pub(super) trial: Arc<Trial>,
    pub(super) phase: Phase,
    /// As it came to the plugin.
    pub(super) request: AdmissionRequest,
    pub(super) denied: Option<Status>,
    pub(super) object: Option<Value>,
    pub(super) took: Option<Duration>,
}

/// Handle of the shadow's thread, which ends when the last handle is dropped.
#[derive(Clone)]
pub(super) struct Shadow {
    inbox: SyncSender<Decided>,
    waiting: Arc<AtomicUsize>,
}

impl Shadow {
    pub(super) fn start(context: &Arc<ContextSource>) -> std::io::Result<Self> {
        let (inbox, questions) = sync_channel(QUEUE);
        let waiting: Arc<AtomicUsize> = Arc::default();
        let watcher = Watcher { slots: HashMap::new(), context: context.clone() };
        let left = waiting.clone();
        thread::Builder::new()
            .name("admission-shadow".to_owned())
            .spawn(move || watcher.run(&questions, &left))?;
        Ok(Self { inbox, waiting })
    }

    /// Whether there is room for one more; where not, that is counted.
    pub(super) fn has_room(&self, trial: &Trial) -> bool {
        let room = self.waiting.load(Ordering::Relaxed) < QUEUE;
        if !room {
            trial.candidate.comparison.dropped();
        }
        room
    }

    /// Hands over a decision; never waits.
    pub(super) fn watch(&self, decided: Decided) {
        let trial = decided.trial.clone();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.inbox.try_send(decided).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            trial.candidate.comparison.dropped();
        }
    }
}

struct Watcher {
    slots: HashMap<u64, (Slot<AdmissionWorld>, MemoryUse)>,
    context: Arc<ContextSource>,
}

/// Denial and object afterwards.
type Outcome = (Option<Status>, Option<Value>);

impl Watcher {
    fn run(mut self, inbox: &Receiver<Decided>, waiting: &AtomicUsize) {
        loop {
            let decided = if self.slots.is_empty() {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(IDLE)
            };
            match decided {
                Ok(decided) => {
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    self.compare(decided);
                }
                Err(RecvTimeoutError::Timeout) => self.slots.clear(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn compare(&mut self, decided: Decided) {
        let Decided { trial, phase, request, denied, object, took } = decided;
        let comparison = &trial.candidate.comparison;
        let began = Instant::now();
        let outcome = if trial.link.wants(phase, &request) {
            let asked = prepare(&self.context, &trial.link, &mut Prefetched::new(), &request)
                .and_then(|wired| self.ask(&trial, phase, &request, &wired));
            // A failure is counted by the candidate's health.
            let Ok(outcome) = asked else { return };
            comparison.candidate.add(began.elapsed());
            if let Some(took) = took {
                comparison.active.add(took);
            }
            outcome
        } else {
            (None, request.object.clone())
        };
        let before = (denied, object);
        if alike(&before, &outcome) {
            comparison.same();
        } else {
            comparison.differs(|| Example {
                key: format!("{} {}", request.operation.as_str().to_lowercase(), key(&request)),
                active: describe(&request, &before),
                candidate: describe(&request, &outcome),
            });
        }
    }

    fn ask(
        &mut self,
        trial: &Trial,
        phase: Phase,
        request: &AdmissionRequest,
        wired: &Request,
    ) -> Result<Outcome, PluginError> {
        let active = &trial.link.active;
        self.slots.retain(|revision, _| *revision == active.revision);
        let (slot, memory) = self
            .slots
            .entry(active.revision)
            .or_insert_with(|| (Slot::new(trial.link.plugin.clone()), MemoryUse::new(active.health.clone())));
        let began = Instant::now();
        let wired = std::slice::from_ref(wired);
        let answered = match phase {
            Phase::Mutate => slot.mutate(wired),
            Phase::Validate => slot.validate(wired),
        };
        active.health.latency.add(began.elapsed());
        let outcome = answered.and_then(|verdicts| {
            let Some(verdict) = verdicts.into_iter().next() else { return Err(PluginError::Gone) };
            if !verdict.allowed {
                return Ok((Some(wire::refusal(request, &verdict)?), request.object.clone()));
            }
            let mut object = request.object.clone();
            wire::apply(object.as_mut(), &verdict.patch)?;
            Ok((None, object))
        });
        record(&active.health, &outcome);
        if outcome.is_err() {
            slot.clear();
        }
        memory.set(if outcome.is_ok() { slot.instance().map_or(0, |(i, _)| i.memory_bytes()) } else { 0 });
        outcome
    }
}

/// The request as the candidate sees it. Its context objects are looked up now.
pub(super) fn prepare(
    context: &ContextSource,
    link: &Link,
    prefetched: &mut Prefetched,
    request: &AdmissionRequest,
) -> Result<Request, PluginError> {
    let denied = |message: String| PluginError::Denied { message };
    let manifest = link.manifest().ok_or_else(|| denied("it is no admission plugin".to_owned()))?;
    let mut found = Vec::with_capacity(manifest.context.len());
    for (i, declared) in manifest.context.iter().enumerate() {
        found.push(context.get(prefetched, NOWHERE, i, declared, request).map_err(denied)?);
    }
    Ok(wire::request(manifest, request, found))
}

fn alike(a: &Outcome, b: &Outcome) -> bool {
    match (&a.0, &b.0) {
        (None, None) => a.1 == b.1,
        (Some(a), Some(b)) => (a.code, &a.message) == (b.code, &b.message),
        _ => false,
    }
}

/// For a reader: the refusal, or what was changed.
fn describe(request: &AdmissionRequest, (denied, object): &Outcome) -> String {
    if let Some(status) = denied {
        return format!("denied ({}): {}", status.code, status.message);
    }
    let none = Value::Null;
    let before = request.object.as_ref().unwrap_or(&none);
    let mut changes = Vec::new();
    list_changes("", before, object.as_ref().unwrap_or(&none), &mut changes);
    match changes.is_empty() {
        true => "allowed".to_owned(),
        false => format!("allowed with {}", changes.join(", ")),
    }
}

/// Where two values differ, as `path: new`; what went is `null`.
fn list_changes(path: &str, before: &Value, after: &Value, out: &mut Vec<String>) {
    if before == after {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        out.push(format!("{path}: {after}"));
        return;
    };
    for (key, value) in new {
        list_changes(&format!("{path}/{key}"), old.get(key).unwrap_or(&Value::Null), value, out);
    }
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        out.push(format!("{path}/{key}: null"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_are_listed_by_path() {
        let mut out = Vec::new();
        let before = json!({ "a": 1, "b": { "c": [1], "d": 2 }, "e": 0 });
        list_changes("", &before, &json!({ "a": 1, "b": { "c": [2], "d": 2, "f": "x" } }), &mut out);
        assert_eq!(out, ["/b/c: [2]", "/b/f: \"x\"", "/e: null"]);
    }
}
