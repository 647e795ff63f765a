//! The engine, driven by hand: what it decides.

use crate::batched::profile;
use orlop_apimachinery::Object;
use orlop_scheduler::columns::ColumnSet;
use orlop_scheduler::engine::{Action, BindResult, Engine};
use orlop_scheduler::framework::{
    Delta, Descriptor, EventSet, Explanation, Hooks, Normalize, PluginError, Prepared, Rows, SchedulerPlugin,
    Synced,
};
use orlop_scheduler::profile::{Enabled, Profile};
use orlop_scheduler::queue::Backoff;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nobody is tried again only because of its age, so that what wakes a pod is an event.
pub(crate) fn patient() -> Backoff {
    Backoff { unschedulable: Duration::from_hours(24), ..Backoff::default() }
}

fn engine() -> Engine {
    Engine::new(vec![profile()], Backoff::default(), 7)
}

fn object(value: &Value) -> Arc<Object> {
    Arc::new(Object::from_value(value).unwrap())
}

pub(crate) fn named(mut value: Value, name: &str) -> Value {
    value["metadata"]["name"] = json!(name);
    value["metadata"]["namespace"] = json!("ns");
    value["metadata"]["uid"] = json!(format!("uid-{name}"));
    value
}

fn plain_node(cpu: &str) -> Value {
    json!({"status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}})
}

fn plain_pod(name: &str, cpu: &str) -> Value {
    named(json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}}), name)
}

pub(crate) fn add_node(engine: &mut Engine, name: &str, node: &Value, _: Instant) {
    engine.node(name, Some(&object(&named(node.clone(), name))));
}

pub(crate) fn add_pod(engine: &mut Engine, pod: &Value, now: Instant) {
    engine.pod("ns", pod["metadata"]["name"].as_str().unwrap(), Some(&object(pod)), now);
}

fn run(engine: &mut Engine, now: Instant) -> Vec<Action> {
    while engine.cycle(now) {}
    engine.take_actions()
}

pub(crate) fn bindings(actions: &[Action]) -> Vec<(String, String)> {
    let of = |a: &Action| match a {
        Action::Bind { pod, node } => Some((pod.name.to_string(), node.to_string())),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

fn conditions(actions: &[Action]) -> Vec<(&'static str, String)> {
    let of = |a: &Action| match a {
        Action::Condition { reason, message, .. } => Some((*reason, message.to_string())),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

#[test]
fn pods_fill_the_nodes_and_the_last_one_waits() {
    let (mut engine, now) = (engine(), Instant::now());
    add_node(&mut engine, "a", &plain_node("2"), now);
    add_node(&mut engine, "b", &plain_node("2"), now);
    for i in 0..5 {
        add_pod(&mut engine, &plain_pod(&format!("p{i}"), "1"), now);
    }
    let actions = run(&mut engine, now);
    let placed = bindings(&actions);
    assert_eq!(placed.len(), 4);
    for node in ["a", "b"] {
        assert_eq!(placed.iter().filter(|(_, n)| n == node).count(), 2);
    }
    let message = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: \
                   0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    assert_eq!(conditions(&actions), [("Unschedulable", message.to_owned())]);
}

#[test]
fn messages_in_kubernetes_words() {
    let (mut engine, now) = (engine(), Instant::now());
    add_pod(&mut engine, &plain_pod("p", "64"), now);
    assert_eq!(
        conditions(&run(&mut engine, now)),
        [("Unschedulable", "no nodes available to schedule pods".into())]
    );

    let mut tainted = plain_node("4");
    tainted["spec"]["taints"] = json!([{"key": "a", "value": "b", "effect": "NoSchedule"}]);
    for i in 0..3 {
        add_node(&mut engine, &format!("t{i}"), &tainted, now);
    }
    for i in 0..2 {
        add_node(&mut engine, &format!("n{i}"), &plain_node("4"), now);
    }
    // No event can help it: it is tried again after five minutes.
    let later = now + Duration::from_secs(301);
    let message = "0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint(s). no new claims \
                   to deallocate, preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling.";
    assert_eq!(conditions(&run(&mut engine, later)), [("Unschedulable", message.to_owned())]);

    let mut never = plain_pod("q", "64");
    never["spec"]["preemptionPolicy"] = json!("Never");
    add_pod(&mut engine, &never, later);
    let message = "0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint(s). no new claims \
                   to deallocate, preemption: not eligible due to preemptionPolicy=Never.";
    assert_eq!(conditions(&run(&mut engine, later)), [("Unschedulable", message.to_owned())]);
}

#[test]
fn only_a_helpful_event_brings_a_pod_back() {
    let (mut engine, now) = (engine(), Instant::now());
    add_node(&mut engine, "a", &plain_node("1"), now);
    add_pod(&mut engine, &plain_pod("big", "2"), now);
    assert_eq!(bindings(&run(&mut engine, now)), []);
    // New labels do not make room.
    let mut labelled = plain_node("1");
    labelled["metadata"]["labels"] = json!({"x": "y"});
    let later = now + Duration::from_secs(20);
    add_node(&mut engine, "a", &labelled, later);
    assert!(run(&mut engine, later).is_empty());
    // More room does.
    add_node(&mut engine, "a", &plain_node("3"), later);
    assert_eq!(bindings(&run(&mut engine, later)), [("big".into(), "a".into())]);
}

#[test]
fn what_a_pod_waits_for_changes_while_it_waits() {
    let (mut engine, now) = (Engine::new(vec![profile()], patient(), 7), Instant::now());
    add_pod(&mut engine, &plain_pod("p", "1"), now);
    assert_eq!(bindings(&run(&mut engine, now)), []);
    // The first node is no help as it comes.
    let mut node = plain_node("0");
    node["spec"]["taints"] = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    let later = now + Duration::from_secs(20);
    add_node(&mut engine, "a", &node, later);
    assert_eq!(bindings(&run(&mut engine, later)), []);
    node["spec"]["taints"] = json!([]);
    add_node(&mut engine, "a", &node, later);
    assert_eq!(bindings(&run(&mut engine, later)), []);
    add_node(&mut engine, "a", &plain_node("1"), later);
    assert_eq!(bindings(&run(&mut engine, later)), [("p".into(), "a".into())]);
}

#[test]
fn a_node_that_goes_may_be_what_a_pod_waits_for() {
    let (mut engine, now) = (Engine::new(vec![profile()], patient(), 7), Instant::now());
    let mut node = plain_node("1");
    node["metadata"]["labels"] = json!({"zone": "z"});
    add_node(&mut engine, "a", &node, now);
    let mut pods = [plain_pod("p", "1"), plain_pod("q", "1")];
    for pod in &mut pods {
        pod["metadata"]["labels"] = json!({"app": "x"});
        pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}}]);
        add_pod(&mut engine, pod, now);
    }
    assert_eq!(bindings(&run(&mut engine, now)), [("p".into(), "a".into())]);
    add_node(&mut engine, "b", &node, now);
    let later = now + Duration::from_secs(20);
    assert_eq!(bindings(&run(&mut engine, later)), []);
    engine.node("a", None);
    assert_eq!(bindings(&run(&mut engine, later)), [("q".into(), "b".into())]);
}

#[test]
fn a_refused_binding_gives_the_place_back() {
    let (mut engine, now) = (engine(), Instant::now());
    add_node(&mut engine, "a", &plain_node("1"), now);
    add_pod(&mut engine, &plain_pod("p", "1"), now);
    assert_eq!(bindings(&run(&mut engine, now)).len(), 1);
    engine.bound(&"uid-p".into(), "a", BindResult::Failed("no".into()), now);
    let said = conditions(&engine.take_actions());
    assert_eq!(
        said,
        [("SchedulerError", "binding rejected: running Bind plugin \"DefaultBinder\": no".into())]
    );
    assert_eq!(engine.in_flight(), 0);
    // Not at once, but after the backoff.
    assert_eq!(bindings(&run(&mut engine, now)), []);
    assert_eq!(bindings(&run(&mut engine, now + Duration::from_secs(1))), [("p".into(), "a".into())]);
}

#[test]
fn the_api_server_has_the_last_word() {
    let (mut engine, now) = (engine(), Instant::now());
    for name in ["a", "b"] {
        add_node(&mut engine, name, &plain_node("1"), now);
    }
    add_pod(&mut engine, &plain_pod("p", "1"), now);
    let [(_, node)] = &bindings(&run(&mut engine, now))[..] else { panic!("not placed") };
    // Somebody else was faster, on the other node.
    let other = if node == "a" { "b" } else { "a" };
    let mut moved = plain_pod("p", "1");
    moved["spec"]["nodeName"] = json!(other);
    add_pod(&mut engine, &moved, now);
    engine.bound(&"uid-p".into(), node, BindResult::Failed("conflict".into()), now);
    add_pod(&mut engine, &plain_pod("q", "1"), now);
    assert_eq!(bindings(&run(&mut engine, now)), [("q".into(), node.clone())]);
    // And one that ended leaves.
    moved["status"] = json!({"phase": "Succeeded"});
    add_pod(&mut engine, &moved, now);
    add_pod(&mut engine, &plain_pod("r", "1"), now);
    assert_eq!(bindings(&run(&mut engine, now)), [("r".into(), other.into())]);
}

#[test]
fn gated_foreign_and_dying_pods_are_left_alone() {
    let (mut engine, now) = (engine(), Instant::now());
    add_node(&mut engine, "a", &plain_node("4"), now);
    let mut gated = plain_pod("gated", "1");
    gated["spec"]["schedulingGates"] = json!([{"name": "g"}]);
    let mut foreign = plain_pod("foreign", "1");
    foreign["spec"]["schedulerName"] = json!("other");
    let mut dying = plain_pod("dying", "1");
    dying["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for pod in [&gated, &foreign, &dying] {
        add_pod(&mut engine, pod, now);
    }
    let actions = run(&mut engine, now);
    assert_eq!(bindings(&actions), []);
    assert_eq!(conditions(&actions)[0].0, "SchedulingGated");
    gated["spec"]["schedulingGates"] = json!([]);
    add_pod(&mut engine, &gated, now);
    assert_eq!(bindings(&run(&mut engine, now)), [("gated".into(), "a".into())]);
}

#[test]
fn other_profiles_take_over_without_losing_a_pod() {
    let (mut engine, now) = (engine(), Instant::now());
    add_node(&mut engine, "a", &plain_node("4"), now);
    let mut foreign = plain_pod("foreign", "1");
    foreign["spec"]["schedulerName"] = json!("second");
    add_pod(&mut engine, &foreign, now);
    add_pod(&mut engine, &plain_pod("big", "9"), now);
    assert_eq!(bindings(&run(&mut engine, now)), []);
    // The second profile has no plugins at all: everything fits.
    let nothing =
        || vec![Profile::new("second".into(), vec![]), Profile::new("default-scheduler".into(), vec![])];
    engine.set_profiles(nothing(), Backoff::default(), now + Duration::from_secs(20));
    let mut placed = bindings(&run(&mut engine, now + Duration::from_secs(20)));
    placed.sort();
    assert_eq!(placed, [("big".into(), "a".into()), ("foreign".into(), "a".into())]);
}

/// A plugin that misbehaves as told.
struct Faulty {
    descriptor: Descriptor,
    fault: fn() -> Result<Vec<u64>, PluginError>,
    resets: u32,
}

impl Faulty {
    fn enabled(filter: bool, required: bool, fault: fn() -> Result<Vec<u64>, PluginError>) -> Enabled {
        let descriptor = Descriptor {
            name: "Faulty".into(),
            hooks: if filter { Hooks::FILTER } else { Hooks::SCORE },
            columns: ColumnSet::NONE,
            pod_fields: vec![],
            placed_pod_fields: vec![],
            watches: vec![],
            normalize: Normalize::None,
            events: EventSet::ALL,
        };
        Enabled { required, ..Enabled::new(Box::new(Self { descriptor, fault, resets: 0 })) }
    }
}

impl SchedulerPlugin for Faulty {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }
    fn reset(&mut self) -> Result<(), PluginError> {
        self.resets += 1;
        // The second life is a good one.
        self.fault = || Ok(vec![u64::MAX]);
        Ok(())
    }
    fn sync(&mut self, _: &Delta) -> Result<Synced, PluginError> {
        Ok(Synced::default())
    }
    fn prepare(&mut self, _: u32, _: &[u8]) -> Result<Prepared, PluginError> {
        Ok(Prepared::default())
    }
    fn release(&mut self, _: u32) -> Result<(), PluginError> {
        Ok(())
    }
    fn filter(&mut self, _: u32, _: Rows<'_>) -> Result<Vec<u64>, PluginError> {
        (self.fault)()
    }
    fn score(&mut self, _: u32, _: Rows<'_>) -> Result<Vec<u8>, PluginError> {
        (self.fault)().map(|_| vec![0])
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
}

#[test]
fn a_failing_required_filter_keeps_pods_pending_until_it_recovers() {
    for fault in [
        (|| Err(PluginError::Deadline)) as fn() -> Result<Vec<u64>, PluginError>,
        || Err(PluginError::Trap { message: "unreachable".into() }),
        || Ok(vec![]),
        || Ok(vec![1, 2]),
    ] {
        let profile = Profile::new("default-scheduler".into(), vec![Faulty::enabled(true, true, fault)]);
        let (mut engine, now) = (Engine::new(vec![profile], Backoff::default(), 7), Instant::now());
        add_node(&mut engine, "a", &plain_node("4"), now);
        add_pod(&mut engine, &plain_pod("p", "1"), now);
        add_pod(&mut engine, &plain_pod("q", "1"), now);
        let actions = run(&mut engine, now);
        assert_eq!(bindings(&actions), []);
        let said = conditions(&actions);
        assert!(
            said.iter()
                .all(|(r, m)| *r == "SchedulerError" && m.starts_with("running \"Faulty\" filter plugin: "))
        );
        assert_eq!(said.len(), 2);
        // A fresh instance is asked after its rest, and both pods are placed.
        assert_eq!(bindings(&run(&mut engine, now + Duration::from_secs(1))).len(), 2);
    }
}

#[test]
fn other_failures_do_not_stop_anything() {
    let trap = || Err(PluginError::Trap { message: "unreachable".into() });
    for plugin in [Faulty::enabled(false, true, trap), Faulty::enabled(true, false, trap)] {
        let profile = Profile::new("default-scheduler".into(), vec![plugin]);
        let (mut engine, now) = (Engine::new(vec![profile], Backoff::default(), 7), Instant::now());
        add_node(&mut engine, "a", &plain_node("4"), now);
        add_pod(&mut engine, &plain_pod("p", "1"), now);
        assert_eq!(bindings(&run(&mut engine, now)), [("p".into(), "a".into())]);
    }
}
