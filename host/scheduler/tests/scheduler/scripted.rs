//! A plugin that does as it is told, and hands for driving an engine.

use orlop_apimachinery::Object;
use orlop_scheduler::columns::ColumnSet;
use orlop_scheduler::engine::{Action, BindResult, Engine};
use orlop_scheduler::framework::{
    Binder, Decision, Delta, Descriptor, EventSet, Explanation, Hooks, Normalize, Placement, PluginError,
    Prepared, Rows, SchedulerPlugin, Synced, Verdict,
};
use orlop_scheduler::profile::Enabled;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the plugin was asked, and what it is to answer: by hook, one answer after the other, then the default.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) calls: Vec<String>,
    pub(crate) reserve: VecDeque<Result<(), String>>,
    pub(crate) permit: VecDeque<(Verdict, Vec<Decision>)>,
    pub(crate) unreserve: VecDeque<Vec<Decision>>,
    pub(crate) pre_bind: VecDeque<(Verdict, Vec<Vec<u8>>)>,
    pub(crate) bind: VecDeque<Binder>,
    /// By name of the pod: why it may not enter the queue.
    pub(crate) gates: HashMap<String, String>,
    /// Numbers of pods by their names.
    pub(crate) numbers: HashMap<String, u64>,
}

pub(crate) type Shared = Arc<Mutex<Script>>;

pub(crate) struct Scripted {
    descriptor: Descriptor,
    script: Shared,
}

pub(crate) fn scripted(name: &str, hooks: Hooks, script: &Shared) -> Enabled {
    let descriptor = Descriptor {
        name: name.into(),
        hooks,
        columns: ColumnSet::NONE,
        pod_fields: vec!["metadata.name".into()],
        placed_pod_fields: vec![],
        watches: vec![],
        normalize: Normalize::None,
        events: EventSet::POD_DELETE.or(EventSet::OBJECTS),
    };
    Enabled::new(Box::new(Scripted { descriptor, script: script.clone() }))
}

impl Scripted {
    fn note(&self, hook: &str, placement: &Placement) {
        let mut script = self.script.lock().unwrap();
        script.calls.push(format!("{} {hook} {}", self.descriptor.name, placement.name));
        script.numbers.insert(placement.name.to_string(), placement.pod);
    }
}

impl SchedulerPlugin for Scripted {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }
    fn user(&self) -> &str {
        "system:plugin:s"
    }
    fn reset(&mut self) -> Result<(), PluginError> {
        Ok(())
    }
    fn sync(&mut self, _: &Delta) -> Result<Synced, PluginError> {
        Ok(Synced::default())
    }
    fn prepare(&mut self, _: u32, _: &[u8]) -> Result<Prepared, PluginError> {
        Ok(Prepared { skip_filter: true, skip_score: true, ..Prepared::default() })
    }
    fn release(&mut self, _: u32) -> Result<(), PluginError> {
        Ok(())
    }
    fn filter(&mut self, _: u32, _: Rows<'_>) -> Result<Vec<u64>, PluginError> {
        unreachable!("it skips the filter")
    }
    fn score(&mut self, _: u32, _: Rows<'_>) -> Result<Vec<u8>, PluginError> {
        unreachable!("it skips the score")
    }
    fn score_raw(&mut self, _: u32, _: Rows<'_>) -> Result<Vec<i64>, PluginError> {
        unreachable!("not declared")
    }
    fn normalize(&mut self, _: u32, _: &[u64], _: &[i64]) -> Result<Vec<u8>, PluginError> {
        unreachable!("not declared")
    }
    fn explain(&mut self, _: u32, _: &[u32]) -> Result<Explanation, PluginError> {
        unreachable!("it rejects no node")
    }
    fn pre_enqueue(&mut self, pod: &[u8]) -> Result<Option<String>, PluginError> {
        let pod: Value = serde_json::from_slice(pod).unwrap();
        let name = pod["metadata"]["name"].as_str().unwrap();
        let mut script = self.script.lock().unwrap();
        script.calls.push(format!("pre-enqueue {name}"));
        Ok(script.gates.get(name).cloned())
    }
    fn sort_key(&mut self, pod: &[u8]) -> Result<Vec<i64>, PluginError> {
        let pod: Value = serde_json::from_slice(pod).unwrap();
        Ok(pod["metadata"]["name"].as_str().unwrap().bytes().rev().map(i64::from).collect())
    }
    fn reserve(&mut self, placement: &Placement) -> Result<(), PluginError> {
        self.note("reserve", placement);
        let answer = self.script.lock().unwrap().reserve.pop_front().unwrap_or(Ok(()));
        answer.map_err(|message| PluginError::Refused { message })
    }
    fn unreserve(&mut self, placement: &Placement) -> Result<Vec<Decision>, PluginError> {
        self.note("unreserve", placement);
        Ok(self.script.lock().unwrap().unreserve.pop_front().unwrap_or_default())
    }
    fn permit(&mut self, placement: &Placement) -> Result<(Verdict, Vec<Decision>), PluginError> {
        self.note("permit", placement);
        Ok(self.script.lock().unwrap().permit.pop_front().unwrap_or((Verdict::Allow, vec![])))
    }
    fn pre_bind(&mut self, placement: &Placement) -> Result<(Verdict, Vec<Vec<u8>>), PluginError> {
        self.note("pre-bind", placement);
        Ok(self.script.lock().unwrap().pre_bind.pop_front().unwrap_or((Verdict::Allow, vec![])))
    }
    fn bind(&mut self, placement: &Placement) -> Result<Binder, PluginError> {
        self.note("bind", placement);
        Ok(self.script.lock().unwrap().bind.pop_front().unwrap_or(Binder::Host))
    }
    fn post_bind(&mut self, placement: &Placement) -> Result<(), PluginError> {
        self.note("post-bind", placement);
        Ok(())
    }
}

/// Lets a pod wait for so many seconds.
pub(crate) fn wait(seconds: u64) -> (Verdict, Vec<Decision>) {
    (Verdict::Wait { timeout: Duration::from_secs(seconds), message: "not yet".into() }, vec![])
}

pub(crate) fn object(value: &Value) -> Arc<Object> {
    Arc::new(Object::from_value(value).unwrap())
}

pub(crate) fn add_node(engine: &mut Engine, name: &str, cpu: &str) {
    let node = json!({
        "metadata": {"name": name, "uid": format!("uid-{name}")},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    });
    engine.node(name, Some(&object(&node)));
}

/// A pod that wants `cpu` and has a priority.
pub(crate) fn pod(name: &str, cpu: &str, priority: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
        "spec": {"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]},
    })
}

/// The same pod on a node.
pub(crate) fn on(mut pod: Value, node: &str) -> Value {
    pod["spec"]["nodeName"] = json!(node);
    pod
}

pub(crate) fn put(engine: &mut Engine, pod: &Value, now: Instant) {
    engine.pod("ns", pod["metadata"]["name"].as_str().unwrap(), Some(&object(pod)), now);
}

pub(crate) fn remove(engine: &mut Engine, name: &str, now: Instant) {
    engine.pod("ns", name, None, now);
}

pub(crate) fn run(engine: &mut Engine, now: Instant) -> Vec<Action> {
    while engine.cycle(now) {}
    engine.take_actions()
}

/// The binding of a pod succeeds.
pub(crate) fn bound(engine: &mut Engine, name: &str, node: &str, now: Instant) {
    engine.bound(&format!("uid-{name}").as_str().into(), node, BindResult::Bound, now);
}

/// What was decided, in words; conditions and events that only repeat are left out.
pub(crate) fn said(actions: &[Action]) -> Vec<String> {
    let of = |action: &Action| match action {
        Action::Bind { pod, node } => Some(format!("bind {} to {node}", pod.name)),
        Action::Condition { pod, reason, message, nominated } => {
            let nominated = nominated.as_ref().map_or(String::new(), |node| format!(" [{node}]"));
            Some(format!("{} {reason}: {message}{nominated}", pod.name))
        }
        Action::Withdraw { pod } => Some(format!("withdraw {}", pod.name)),
        Action::Evict { pod, by, .. } => Some(format!("evict {} for {by}", pod.name)),
        Action::Write { pod, plugin, writes, .. } => {
            let writes: Vec<_> = writes.iter().map(|w| String::from_utf8_lossy(w)).collect();
            Some(format!("write {} of {plugin}: {}", pod.name, writes.join(" ")))
        }
        Action::Event { pod, reason, message, .. } if *reason == "Preempted" => {
            Some(format!("{} {reason}: {message}", pod.name))
        }
        Action::Event { .. } => None,
    };
    actions.iter().filter_map(of).collect()
}

pub(crate) fn ticket(actions: &[Action]) -> u64 {
    let of = |action: &Action| match action {
        Action::Write { ticket, .. } => Some(*ticket),
        _ => None,
    };
    actions.iter().find_map(of).unwrap()
}
