//! Nodes, and what a scheduler plugin says of pods.
//!
//! The plugin stands in a profile of its own, on the host's node table, so that what it is sent is what a
//! cluster would send.

use super::{failure, list, text};
use crate::record::{Call, Failure, Outcome, perform};
use crate::tap::{Sink, Tap};
use crate::workbench::Workbench;
use orlop_apimachinery::Object;
use orlop_plugin::Compiled;
use orlop_scheduler::framework::{Descriptor, Hooks, Placement, SchedulerPlugin};
use orlop_scheduler::objects::WatchKey;
use orlop_scheduler::pod::PodFacts;
use orlop_scheduler::profile::{Enabled, Profile};
use orlop_scheduler::surroundings::{Surrounding, Surroundings};
use orlop_scheduler::table::{NodeFacts, NodeTable, Slot};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Remembers what `prepare` was answered.
#[derive(Clone, Default)]
struct Prepared(Arc<Mutex<Option<Outcome>>>);

impl Sink for Prepared {
    fn put(&mut self, call: Call, outcome: Outcome) -> bool {
        if matches!(call, Call::Prepare { .. }) {
            *self.0.lock() = Some(outcome);
        }
        true
    }
}

/// One plugin before a cluster.
pub(crate) struct Stage {
    pub(crate) profile: Profile,
    pub(crate) table: NodeTable,
    surroundings: Surroundings,
    prepared: Prepared,
    placed: u64,
}

/// What the plugin says of a pod.
pub(crate) enum Judged {
    /// It gave no answer.
    Failed(String),
    /// Its class, and what `prepare` answered.
    Open(u32, Value),
}

impl Stage {
    /// Builds nodes, placed pods and objects of an input.
    pub(crate) fn new(plugin: Box<dyn SchedulerPlugin>, input: &Value) -> Result<Self, String> {
        let prepared = Prepared::default();
        let tapped = Box::new(Tap::new(plugin, Box::new(prepared.clone())));
        let profile = Profile::new("default-scheduler".to_owned(), vec![Enabled::new(tapped)]);
        let mut table = NodeTable::new();
        table.placed_mut().read(profile.placed_pod_fields().map(str::to_owned).collect());
        for (i, node) in list(input, "nodes")?.iter().enumerate() {
            table.set_node(named(node, "nodes", i)?, &NodeFacts::from_value(node));
        }
        let mut this = Self { profile, table, surroundings: Surroundings::default(), prepared, placed: 0 };
        this.surround(input)?;
        this.watched(input)?;
        for (i, pod) in list(input, "placed")?.iter().enumerate() {
            named(pod, "placed", i)?;
            let facts = this.facts(pod);
            if facts.node.is_empty() {
                return Err(format!("placed[{i}].spec.nodeName is missing"));
            }
            let footprint = facts.footprint(&mut this.table);
            this.table.add_pod(&facts.node, &footprint);
        }
        Ok(this)
    }

    /// Takes in what says something about pods.
    fn surround(&mut self, input: &Value) -> Result<(), String> {
        let reads = |field| self.profile.reads(field);
        self.surroundings.read(reads("computed.namespaceLabels"), reads("computed.defaultSelector"));
        for kind in Surrounding::ALL {
            let resource = kind.gvr().resource.to_string();
            for (i, object) in list(input, &resource)?.iter().enumerate() {
                let name = named(object, &resource, i)?;
                let parsed = Object::from_value(object).map_err(|e| format!("{resource}: {name}: {e}"))?;
                let namespace = if kind == Surrounding::Namespace { "" } else { namespace(object) };
                self.surroundings.change(kind, namespace, name, Some(&parsed));
            }
        }
        Ok(())
    }

    /// A pod as the scheduler reads it; it lies in `default` where it says nothing else.
    pub(crate) fn facts(&mut self, pod: &Value) -> PodFacts {
        let mut pod = pod.clone();
        let named = namespace(&pod).to_owned();
        if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("namespace".to_owned(), named.into());
        }
        let mut facts = PodFacts::from_value(pod);
        self.surroundings.complete(&mut facts.value);
        facts
    }

    /// Hands out the objects that the plugin watches, and refuses those that it does not.
    fn watched(&mut self, input: &Value) -> Result<(), String> {
        let none = Map::new();
        let objects = match input.get("objects") {
            None | Some(Value::Null) => &none,
            Some(Value::Object(objects)) => objects,
            Some(_) => {
                return Err(
                    "objects must be lists by apiVersion/resource, such as `v1/configmaps`".to_owned()
                );
            }
        };
        let keys: Vec<WatchKey> = self.profile.watches().cloned().collect();
        let kind = |key: &WatchKey| format!("{}/{}", key.api_version, key.resource);
        if let Some(unknown) = objects.keys().find(|k| !keys.iter().any(|key| kind(key) == **k)) {
            return Err(format!("objects.{unknown}: the manifest does not watch it"));
        }
        for key in keys {
            for (i, object) in list(&input["objects"], &kind(&key))?.iter().enumerate() {
                let name = named(object, &format!("objects.{}", kind(&key)), i)?;
                let namespace = text(object, "/metadata/namespace");
                if !key.namespace.is_empty() && key.namespace != namespace {
                    continue;
                }
                let parsed = Object::from_value(object).map_err(|e| format!("objects: {name}: {e}"))?;
                self.table.objects_mut().change(&key, namespace, name, Some(Arc::new(parsed)));
            }
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<&Descriptor> {
        self.profile.descriptor(0)
    }

    fn has(&self, hook: Hooks) -> bool {
        self.descriptor().is_some_and(|d| d.hooks.has(hook))
    }

    /// Makes a call, after the plugin was told of all that changed.
    pub(crate) fn call(&mut self, call: &Call) -> Outcome {
        let asked =
            self.profile.ask(0, &self.table, true, Instant::now(), |plugin| Ok(perform(plugin, call)));
        asked.unwrap_or_else(|e| Outcome::Failure(crate::record::failure_of(&e)))
    }

    /// What the plugin gets of a pod.
    pub(crate) fn fields(&self, pod: &PodFacts) -> String {
        String::from_utf8_lossy(&self.profile.fields(0, &pod.value)).into_owned()
    }

    /// Opens the class of a pod and evaluates it.
    pub(crate) fn judge(&mut self, pod: &PodFacts) -> Judged {
        *self.prepared.0.lock() = None;
        let def = self.profile.define(&pod.value);
        let class = self.profile.open(&def);
        if let Err(failed) = self.profile.evaluate(class, &self.table, Instant::now()) {
            return Judged::Failed(failed.message);
        }
        match self.prepared.0.lock().take() {
            Some(Outcome::Answer(answer)) => Judged::Open(class, answer),
            Some(Outcome::Failure(Failure { message, .. })) => Judged::Failed(message),
            None => Judged::Open(class, Value::Null),
        }
    }

    /// All that the plugin says of a pod; where `place`, the pod is placed.
    fn pod(&mut self, pod: &PodFacts, place: bool) -> Value {
        let mut out = Map::new();
        out.insert("pod".to_owned(), full_name(&pod.value).into());
        let fields = self.fields(pod);
        if self.has(Hooks::PRE_ENQUEUE) {
            let held = self.call(&Call::PreEnqueue { pod: fields.clone() });
            out.insert("preEnqueue".to_owned(), plain(held));
        }
        if self.has(Hooks::QUEUE_SORT) {
            out.insert("sortKey".to_owned(), plain(self.call(&Call::SortKey { pod: fields.clone() })));
        }
        match self.judge(pod) {
            Judged::Failed(message) => _ = out.insert("failure".to_owned(), message.into()),
            Judged::Open(class, prepared) => {
                let skips: Vec<&str> = [("skipFilter", "filter"), ("skipScore", "score")]
                    .into_iter()
                    .filter(|(field, _)| prepared[field] == true)
                    .map(|(_, hook)| hook)
                    .collect();
                if !skips.is_empty() {
                    out.insert("skips".to_owned(), json!(skips));
                }
                if !prepared["rejected"].is_null() {
                    out.insert("rejected".to_owned(), prepared["rejected"].clone());
                } else if self.has(Hooks::FILTER) || self.has(Hooks::SCORE) {
                    self.nodes(class, &mut out);
                }
                if place && let Some(slot) = self.best(class) {
                    let placing = self.place(pod, fields, slot, class);
                    out.insert("placing".to_owned(), placing);
                }
            }
        }
        Value::Object(out)
    }

    /// Names of the live slots.
    fn slots(&self) -> BTreeMap<String, Slot> {
        let live = (0..self.table.slots()).filter(|slot| self.table.is_live(*slot));
        live.filter_map(|slot| Some((self.table.name(slot)?.to_string(), slot))).collect()
    }

    fn nodes(&mut self, class: u32, out: &mut Map<String, Value>) {
        let Some(open) = self.profile.class(class) else { return };
        let fits =
            |slot: Slot| open.feasible().get(slot as usize / 64).is_some_and(|w| w >> (slot % 64) & 1 == 1);
        let (mut good, mut bad) = (Map::new(), Vec::new());
        let scores = self.has(Hooks::SCORE);
        for (name, slot) in self.slots() {
            if fits(slot) {
                good.insert(name, if scores { open.total(slot).into() } else { Value::Bool(true) });
            } else {
                bad.push((name, slot));
            }
        }
        out.insert("fits".to_owned(), Value::Object(good));
        if bad.is_empty() {
            return;
        }
        bad.sort_by_key(|(_, slot)| *slot);
        let rows = bad.iter().map(|(_, slot)| *slot).collect();
        let explained = self.call(&Call::Explain { class, rows });
        let rejected: Map<String, Value> = match explained {
            Outcome::Failure(failure) => {
                bad.into_iter().map(|(name, _)| (name, json!({ "failure": failure }))).collect()
            }
            Outcome::Answer(reasons) => {
                bad.into_iter().enumerate().map(|(i, (name, _))| (name, reasons[i].clone())).collect()
            }
        };
        out.insert("rejected".to_owned(), Value::Object(rejected));
    }

    /// The best node; among equals the one whose name comes first.
    fn best(&self, class: u32) -> Option<Slot> {
        let open = self.profile.class(class)?;
        let fits = |slot: &Slot| {
            open.feasible().get(*slot as usize / 64).is_some_and(|w| w >> (*slot % 64) & 1 == 1)
        };
        let slots = self.slots();
        let best = slots.values().filter(|s| fits(s)).map(|s| open.total(*s)).max()?;
        slots.values().copied().find(|s| fits(s) && open.total(*s) == best)
    }

    fn place(&mut self, pod: &PodFacts, fields: String, slot: Slot, class: u32) -> Value {
        let node = self.table.name(slot).map(ToString::to_string).unwrap_or_default();
        let mut out = Map::new();
        out.insert("node".to_owned(), node.clone().into());
        let footprint = pod.footprint(&mut self.table);
        self.table.add_pod_at(slot, &footprint);
        self.placed += 1;
        if self.profile.skips_placing(class, 0) {
            return Value::Object(out);
        }
        let placement = Placement {
            pod: self.placed,
            namespace: namespace(&pod.value).into(),
            name: text(&pod.value, "/metadata/name").into(),
            uid: text(&pod.value, "/metadata/uid").into(),
            fields: fields.into_bytes().into(),
            slot,
            node: node.as_str().into(),
        };
        let placement = crate::record::Placement::from(&placement);
        let hooks = [
            (Hooks::RESERVE, "reserve", Call::Reserve { placement: placement.clone() }),
            (Hooks::PERMIT, "permit", Call::Permit { placement: placement.clone() }),
            (Hooks::PRE_BIND, "preBind", Call::PreBind { placement: placement.clone() }),
            (Hooks::BIND, "bind", Call::Bind { placement: placement.clone() }),
            (Hooks::POST_BIND, "postBind", Call::PostBind { placement: placement.clone() }),
        ];
        for (hook, name, call) in hooks {
            if !self.has(hook) {
                continue;
            }
            let outcome = self.call(&call);
            let waits = !outcome_allows(&outcome);
            let failed = matches!(outcome, Outcome::Failure(_)) || rejects(&outcome);
            out.insert(name.to_owned(), plain(outcome));
            if failed {
                if self.has(Hooks::RESERVE) || self.has(Hooks::PERMIT) {
                    let undone = self.call(&Call::Unreserve { placement: placement.clone() });
                    out.insert("unreserve".to_owned(), plain(undone));
                }
                self.table.remove_pod(slot, &footprint);
            }
            if waits {
                break;
            }
        }
        Value::Object(out)
    }
}

fn outcome_allows(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failure(_) => false,
        Outcome::Answer(answer) => answer.get("verdict").is_none_or(|v| v["allow"] == true),
    }
}

fn rejects(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answer(answer) if !answer["verdict"]["reject"].is_null())
}

fn plain(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Answer(answer) => answer,
        Outcome::Failure(error) => failure(&error),
    }
}

fn namespace(pod: &Value) -> &str {
    match text(pod, "/metadata/namespace") {
        "" => "default",
        namespace => namespace,
    }
}

fn full_name(pod: &Value) -> String {
    format!("{}/{}", namespace(pod), text(pod, "/metadata/name"))
}

fn named<'v>(object: &'v Value, list: &str, i: usize) -> Result<&'v str, String> {
    match text(object, "/metadata/name") {
        "" => Err(format!("{list}[{i}].metadata.name is missing")),
        name => Ok(name),
    }
}

pub(super) fn run(
    input: &Value,
    config: &Value,
    workbench: &Workbench,
    plugin: &Compiled,
) -> Result<Value, String> {
    let opened = match workbench.open_scheduler(plugin, config) {
        Ok(opened) => opened,
        Err(error) => return Ok(failure(&error)),
    };
    let mut stage = Stage::new(opened, input)?;
    let place = input.get("place").and_then(Value::as_bool).unwrap_or(false);
    let mut out = Vec::new();
    for (i, pod) in list(input, "pods")?.iter().enumerate() {
        named(pod, "pods", i)?;
        let facts = stage.facts(pod);
        out.push(stage.pod(&facts, place));
    }
    Ok(json!({ "pods": out }))
}
