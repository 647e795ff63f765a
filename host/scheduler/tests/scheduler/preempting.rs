//! Preemption, budgets, nominated pods, and which events bring pods back.

use crate::native::Builtin;
use crate::scripted::{add_node, object, on, pod, put, remove, run, said};
use orlop_scheduler::engine::{Action, Engine};
use orlop_scheduler::framework::PluginFactory;
use orlop_scheduler::profile::{Enabled, Profile};
use orlop_scheduler::queue::Backoff;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn engine(nodes: &[(&str, &str)]) -> (Engine, Instant) {
    let plugins = ["PrioritySort", "NodeUnschedulable", "NodeResourcesFit", "DefaultPreemption"];
    let plugins = plugins.map(|name| Enabled::new(Builtin.open(name, &json!({})).unwrap()));
    let profile = Profile::new("default-scheduler".into(), plugins.into());
    let mut engine = Engine::new(vec![profile], Backoff::default(), 7);
    for (name, cpu) in nodes {
        add_node(&mut engine, name, cpu);
    }
    (engine, Instant::now())
}

/// A pod that runs on a node since a second of the epoch.
fn running(name: &str, cpu: &str, priority: i32, node: &str, since: i64) -> Value {
    let mut pod = on(pod(name, cpu, priority), node);
    let since = format!("2026-01-01T00:{:02}:{:02}Z", since / 60, since % 60);
    pod["status"] = json!({"phase": "Running", "startTime": since});
    pod["metadata"]["labels"] = json!({"app": name.trim_end_matches(char::is_numeric)});
    pod
}

fn dying(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z");
    pod["status"]["conditions"] =
        json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
    pod
}

fn budget(engine: &mut Engine, name: &str, app: &str, allowed: i64) {
    let budget = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed},
    });
    engine.budget("ns", name, Some(&object(&budget)));
}

fn attempts(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::Event { reason: "FailedScheduling", .. })).count()
}

#[test]
fn the_cheapest_victims_make_room_and_the_pod_comes_when_they_are_gone() {
    let (mut engine, now) = engine(&[("a", "4"), ("b", "4")]);
    for pod in [
        running("mid", "4", 50, "a", 1),
        running("low", "2", 10, "b", 1),
        running("lower", "1", 5, "b", 2),
        running("same", "1", 100, "b", 3),
    ] {
        put(&mut engine, &pod, now);
    }
    put(&mut engine, &pod("high", "2", 100), now);
    let decided = said(&run(&mut engine, now));
    // b has the victim of lowest priority; the lower one there alone would not do, both are not needed.
    assert_eq!(
        decided,
        ["evict low for uid-high", "high Unschedulable: 0/2 nodes are available: 2 Insufficient cpu. [b]"]
    );
    // While the victim ends nobody else is evicted, whatever happens.
    let later = now + Duration::from_secs(2);
    put(&mut engine, &dying(running("low", "2", 10, "b", 1)), later);
    add_node(&mut engine, "c", "1");
    put(&mut engine, &running("x", "1", 0, "c", 1), later);
    let decided = said(&run(&mut engine, now + Duration::from_secs(301)));
    assert_eq!(
        decided,
        [
            "high Unschedulable: 0/3 nodes are available: 3 Insufficient cpu. preemption: not eligible due to a \
          terminating pod on the nominated node."
        ]
    );
    // The room is not for pods that are less important.
    remove(&mut engine, "low", now + Duration::from_secs(302));
    put(&mut engine, &pod("thief", "2", 40), now + Duration::from_secs(302));
    let decided = said(&run(&mut engine, now + Duration::from_secs(302)));
    assert_eq!(decided.len(), 1, "{decided:?}");
    assert!(decided[0].contains("1 node(s) were held for nominated pods, 2 Insufficient cpu"), "{decided:?}");
    let decided = said(&run(&mut engine, now + Duration::from_secs(320)));
    assert_eq!(decided[0], "bind high to b");
}

#[test]
fn budgets_are_respected_where_that_is_possible() {
    let (mut engine, now) = engine(&[("a", "4"), ("b", "4")]);
    put(&mut engine, &running("web1", "4", 1, "a", 1), now);
    put(&mut engine, &running("job1", "4", 50, "b", 1), now);
    budget(&mut engine, "web", "web", 0);
    put(&mut engine, &pod("high", "2", 100), now);
    let decided = said(&run(&mut engine, now));
    // Although its priority is higher: the other would violate a budget.
    assert_eq!(decided[0], "evict job1 for uid-high");
    // Where every choice violates one, the fewest are violated.
    let (mut engine, now) = self::engine(&[("a", "4"), ("b", "4")]);
    for (name, node) in [("web1", "a"), ("web2", "a"), ("web3", "b"), ("job1", "b")] {
        put(&mut engine, &running(name, "2", 1, node, 1), now);
    }
    budget(&mut engine, "web", "web", 0);
    put(&mut engine, &pod("high", "4", 100), now);
    let mut decided = said(&run(&mut engine, now));
    decided.sort();
    assert_eq!(decided[..2], ["evict job1 for uid-high", "evict web3 for uid-high"]);
}

#[test]
fn a_budget_spares_its_pods_first() {
    let (mut engine, now) = engine(&[("a", "4")]);
    // One disruption is allowed: the second of the two would violate, and is given back first.
    put(&mut engine, &running("web1", "2", 1, "a", 1), now);
    put(&mut engine, &running("web2", "2", 1, "a", 2), now);
    budget(&mut engine, "web", "web", 1);
    put(&mut engine, &pod("high", "2", 100), now);
    assert_eq!(said(&run(&mut engine, now))[0], "evict web1 for uid-high");
}

#[test]
fn messages_of_a_preemption_in_vain() {
    let (mut engine, now) = engine(&[("a", "4"), ("b", "4"), ("c", "4")]);
    engine.node(
        "c",
        Some(&object(&json!({
            "metadata": {"name": "c", "uid": "uid-c"}, "spec": {"unschedulable": true},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
        }))),
    );
    put(&mut engine, &running("high", "4", 100, "a", 1), now);
    put(&mut engine, &running("low", "1", 1, "b", 1), now);
    put(&mut engine, &running("keep", "3", 100, "b", 1), now);
    put(&mut engine, &pod("p", "3", 50), now);
    assert_eq!(
        said(&run(&mut engine, now)),
        ["p Unschedulable: 0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. \
          preemption: 0/3 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for \
          incoming pod, 1 Preemption is not helpful for scheduling."]
    );
    let mut never = pod("never", "3", 1000);
    never["spec"]["preemptionPolicy"] = json!("Never");
    put(&mut engine, &never, now);
    let decided = said(&run(&mut engine, now));
    assert!(decided[0].ends_with(". preemption: not eligible due to preemptionPolicy=Never."), "{decided:?}");
}

#[test]
fn a_nomination_is_withdrawn_where_somebody_more_important_comes() {
    let (mut engine, now) = engine(&[("a", "4")]);
    put(&mut engine, &running("low", "4", 1, "a", 1), now);
    put(&mut engine, &pod("mid", "4", 50), now);
    assert_eq!(said(&run(&mut engine, now))[0], "evict low for uid-mid");
    put(&mut engine, &pod("high", "4", 100), now);
    let decided = said(&run(&mut engine, now));
    // The victim is on its way already.
    assert_eq!(
        decided,
        ["withdraw mid", "high Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. [a]"]
    );
    remove(&mut engine, "low", now);
    let decided = said(&run(&mut engine, now + Duration::from_secs(2)));
    assert_eq!(decided[0], "bind high to a");
}

#[test]
fn a_nomination_survives_a_restart() {
    let (mut engine, now) = engine(&[("a", "4")]);
    put(&mut engine, &dying(running("low", "4", 1, "a", 1)), now);
    let mut high = pod("high", "4", 100);
    high["status"] = json!({"nominatedNodeName": "a"});
    put(&mut engine, &high, now);
    let decided = said(&run(&mut engine, now));
    assert!(decided.iter().all(|d| !d.starts_with("evict")), "{decided:?}");
    remove(&mut engine, "low", now);
    put(&mut engine, &pod("thief", "1", 50), now);
    let decided = said(&run(&mut engine, now + Duration::from_secs(2)));
    assert_eq!(decided[0], "bind high to a");
}

#[test]
fn held_room_is_free_again_when_its_pod_goes() {
    let (mut engine, now) = engine(&[("a", "4")]);
    put(&mut engine, &running("low", "4", 1, "a", 1), now);
    put(&mut engine, &pod("high", "4", 100), now);
    assert_eq!(said(&run(&mut engine, now))[0], "evict low for uid-high");
    remove(&mut engine, "low", now);
    put(&mut engine, &pod("small", "1", 50), now);
    let decided = said(&run(&mut engine, now));
    assert!(decided.len() == 1 && decided[0].starts_with("small Unschedulable"), "{decided:?}");
    remove(&mut engine, "high", now);
    assert_eq!(said(&run(&mut engine, now + Duration::from_secs(1))), ["bind small to a"]);
}

#[test]
fn an_eviction_that_fails_is_made_up_for() {
    let (mut engine, now) = engine(&[("a", "4")]);
    put(&mut engine, &running("low", "4", 1, "a", 1), now);
    put(&mut engine, &pod("high", "4", 100), now);
    assert_eq!(said(&run(&mut engine, now))[0], "evict low for uid-high");
    engine.eviction_failed(&"uid-low".into(), &"uid-high".into(), now);
    let decided = said(&run(&mut engine, now + Duration::from_secs(1)));
    assert_eq!(decided[..2], ["withdraw high", "evict low for uid-high"]);
}

#[test]
fn an_event_that_cannot_help_brings_nobody_back() {
    let (mut engine, now) = engine(&[("a", "4"), ("b", "4")]);
    put(&mut engine, &running("x", "4", 100, "a", 1), now);
    put(&mut engine, &running("y", "3", 100, "b", 1), now);
    put(&mut engine, &running("z", "1", 100, "b", 1), now);
    for i in 0..3 {
        put(&mut engine, &pod(&format!("big{i}"), "2", 0), now);
    }
    assert_eq!(attempts(&run(&mut engine, now)), 3);
    let later = now + Duration::from_secs(60);
    // Too little room, a small new node, a node that only got labels.
    remove(&mut engine, "z", later);
    add_node(&mut engine, "c", "1");
    assert_eq!(attempts(&run(&mut engine, later)), 0);
    assert_eq!(engine.queue().depths(), [0, 0, 3, 0]);
    // Enough: all of the class are tried, one fits, the others wait on.
    add_node(&mut engine, "d", "2");
    let actions = run(&mut engine, later);
    assert_eq!(attempts(&actions), 2);
    assert_eq!(said(&actions).iter().filter(|s| s.starts_with("bind")).count(), 1);
    assert_eq!(engine.queue().depths(), [0, 0, 2, 0]);
}

#[test]
fn a_new_node_with_somebody_to_evict_does_help() {
    let (mut engine, now) = engine(&[("a", "1")]);
    put(&mut engine, &pod("high", "4", 100), now);
    assert_eq!(attempts(&run(&mut engine, now)), 1);
    // News of the pod come before those of its node.
    put(&mut engine, &running("low", "4", 1, "b", 1), now);
    let later = now + Duration::from_secs(60);
    assert_eq!(attempts(&run(&mut engine, later)), 0);
    add_node(&mut engine, "b", "4");
    assert_eq!(said(&run(&mut engine, later))[0], "evict low for uid-high");
}

#[test]
fn one_victim_among_many_nodes() {
    let (mut engine, now) = engine(&[]);
    for i in 0..300 {
        let name = format!("n{i}");
        add_node(&mut engine, &name, "4");
        put(&mut engine, &running(&format!("p{i}"), "4", 50, &name, 1), now);
    }
    put(&mut engine, &pod("high", "2", 100), now);
    let decided = said(&run(&mut engine, now));
    assert_eq!(decided.iter().filter(|d| d.starts_with("evict")).count(), 1, "{decided:?}");
}
