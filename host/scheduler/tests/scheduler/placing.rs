//! From the choice of a node to the binding: gangs, timeouts, order of taking back, writes.

use crate::native::Builtin;
use crate::scripted::{Shared, add_node, bound, on, pod, put, remove, run, said, scripted, ticket, wait};
use orlop_scheduler::engine::Engine;
use orlop_scheduler::framework::{Binder, Decision, Hooks, PluginFactory, Verdict};
use orlop_scheduler::profile::{Enabled, Profile};
use orlop_scheduler::queue::Backoff;
use serde_json::json;
use std::time::{Duration, Instant};

const PLACING: Hooks =
    Hooks(Hooks::RESERVE.0 | Hooks::PERMIT.0 | Hooks::PRE_BIND.0 | Hooks::BIND.0 | Hooks::POST_BIND.0);

fn fit() -> Enabled {
    Enabled::new(Builtin.open("NodeResourcesFit", &json!({})).unwrap())
}

fn profile(plugins: Vec<Enabled>) -> Profile {
    Profile::new("default-scheduler".into(), plugins)
}

fn engine(plugins: Vec<Enabled>) -> (Engine, Instant) {
    let mut engine = Engine::new(vec![profile(plugins)], Backoff::default(), 7);
    add_node(&mut engine, "a", "4");
    (engine, Instant::now())
}

fn calls(script: &Shared) -> Vec<String> {
    std::mem::take(&mut script.lock().unwrap().calls)
}

fn allow(number: u64) -> Decision {
    Decision { pod: number, rejected: None }
}

#[test]
fn every_hook_is_asked_in_order() {
    let script = Shared::default();
    let (mut engine, now) = engine(vec![fit(), scripted("S", PLACING, &script)]);
    put(&mut engine, &pod("p", "1", 0), now);
    assert_eq!(said(&run(&mut engine, now)), ["bind p to a"]);
    assert_eq!(calls(&script), ["S reserve p", "S permit p", "S pre-bind p", "S bind p"]);
    bound(&mut engine, "p", "a", now);
    put(&mut engine, &on(pod("p", "1", 0), "a"), now);
    assert_eq!(calls(&script), ["S post-bind p"]);
    assert!(engine.queue().is_empty());
}

#[test]
fn a_gang_is_bound_when_it_is_complete() {
    let script = Shared::default();
    let (mut engine, now) = engine(vec![fit(), scripted("Gang", Hooks::PERMIT, &script)]);
    script.lock().unwrap().permit.extend([wait(60), wait(60)]);
    put(&mut engine, &pod("p0", "1", 0), now);
    put(&mut engine, &pod("p1", "1", 0), now);
    assert_eq!(said(&run(&mut engine, now)), Vec::<String>::new());
    assert_eq!((engine.waiting(), engine.in_flight()), (2, 0));
    {
        let mut script = script.lock().unwrap();
        let others = [script.numbers["p0"], script.numbers["p1"]].map(allow).to_vec();
        script.permit.push_back((Verdict::Allow, others));
    }
    put(&mut engine, &pod("p2", "1", 0), now);
    let mut said = said(&run(&mut engine, now));
    said.sort();
    assert_eq!(said, ["bind p0 to a", "bind p1 to a", "bind p2 to a"]);
    assert_eq!((engine.waiting(), engine.in_flight()), (0, 3));
}

#[test]
fn who_waits_too_long_is_rejected_and_takes_the_gang_along() {
    let script = Shared::default();
    let (mut engine, now) = engine(vec![fit(), scripted("Gang", Hooks::PERMIT, &script)]);
    script.lock().unwrap().permit.extend([wait(10), wait(20)]);
    put(&mut engine, &pod("p0", "2", 0), now);
    put(&mut engine, &pod("p1", "2", 0), now);
    run(&mut engine, now);
    assert_eq!(engine.next_wakeup(), Some(now + Duration::from_secs(10)));
    assert_eq!(said(&run(&mut engine, now + Duration::from_millis(9_999))), Vec::<String>::new());
    {
        let mut script = script.lock().unwrap();
        let other = Decision { pod: script.numbers["p1"], rejected: Some("p0 has gone".into()) };
        script.unreserve.push_back(vec![other]);
    }
    let said = said(&run(&mut engine, now + Duration::from_secs(10)));
    assert_eq!(
        said,
        [
            "p0 Unschedulable: 0/1 nodes are available: 1 rejected due to timeout after waiting 10s at plugin Gang.",
            "p1 Unschedulable: 0/1 nodes are available: 1 p0 has gone.",
        ]
    );
    assert_eq!(engine.waiting(), 0);
    // Both places are free again.
    assert_eq!(engine.table().s64(orlop_scheduler::columns::REQUESTED_CPU, 0), 0);
}

#[test]
fn what_was_reserved_is_taken_back_in_reverse_order() {
    let (first, second) = (Shared::default(), Shared::default());
    let all = Shared::default();
    second.lock().unwrap().reserve.push_back(Err("no licence is left".into()));
    let plugins = vec![
        fit(),
        scripted("One", Hooks::RESERVE, &first),
        scripted("Two", Hooks::RESERVE, &second),
        scripted("Three", Hooks::RESERVE.or(Hooks::PERMIT), &all),
    ];
    let (mut engine, now) = engine(plugins);
    put(&mut engine, &pod("p", "1", 0), now);
    let actions = run(&mut engine, now);
    assert_eq!(said(&actions), ["p Unschedulable: 0/1 nodes are available: 1 no licence is left."]);
    assert_eq!(calls(&first), ["One reserve p", "One unreserve p"]);
    assert_eq!(calls(&second), ["Two reserve p", "Two unreserve p"]);
    assert_eq!(calls(&all), ["Three unreserve p"]);
    // The order among plugins: one script for all three.
    let script = Shared::default();
    script.lock().unwrap().reserve.extend([Ok(()), Ok(()), Err("no".into())]);
    let plugins = ["One", "Two", "Three"].map(|name| scripted(name, Hooks::RESERVE, &script));
    engine.set_profiles(vec![profile(plugins.into())], Backoff::default(), now);
    run(&mut engine, now + Duration::from_secs(10));
    assert_eq!(
        calls(&script),
        [
            "One reserve p",
            "Two reserve p",
            "Three reserve p",
            "Three unreserve p",
            "Two unreserve p",
            "One unreserve p"
        ]
    );
}

#[test]
fn a_pod_that_goes_while_it_waits_is_taken_back() {
    let script = Shared::default();
    let (mut engine, now) = engine(vec![fit(), scripted("S", Hooks::RESERVE.or(Hooks::PERMIT), &script)]);
    script.lock().unwrap().permit.extend([wait(60), wait(60), wait(60)]);
    for name in ["gone", "dying", "bound-elsewhere"] {
        put(&mut engine, &pod(name, "1", 0), now);
        run(&mut engine, now);
    }
    calls(&script);
    remove(&mut engine, "gone", now);
    let mut dying = pod("dying", "1", 0);
    dying["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    put(&mut engine, &dying, now);
    add_node(&mut engine, "b", "4");
    put(&mut engine, &on(pod("bound-elsewhere", "1", 0), "b"), now);
    assert_eq!(calls(&script), ["S unreserve gone", "S unreserve dying", "S unreserve bound-elsewhere"]);
    assert_eq!(engine.waiting(), 0);
    assert_eq!(engine.table().s64(orlop_scheduler::columns::REQUESTED_CPU, 0), 0);
    assert_eq!(said(&run(&mut engine, now + Duration::from_secs(100))), Vec::<String>::new());
}

#[test]
fn other_plugins_let_waiting_pods_start_over_and_bindings_go_on() {
    let script = Shared::default();
    let (mut engine, now) = engine(vec![fit(), scripted("S", Hooks::RESERVE.or(Hooks::PERMIT), &script)]);
    put(&mut engine, &pod("binding", "1", 0), now);
    run(&mut engine, now);
    script.lock().unwrap().permit.push_back(wait(60));
    put(&mut engine, &pod("waiting", "1", 0), now);
    run(&mut engine, now);
    calls(&script);
    engine.set_profiles(vec![profile(vec![fit()])], Backoff::default(), now);
    assert_eq!(calls(&script), ["S unreserve waiting"]);
    assert_eq!(said(&run(&mut engine, now)), ["bind waiting to a"]);
    bound(&mut engine, "binding", "a", now);
    assert_eq!(calls(&script), Vec::<String>::new());
    assert_eq!(engine.in_flight(), 1);
}

#[test]
fn writes_come_before_the_binding_and_a_failed_one_stops_it() {
    let script = Shared::default();
    let (mut engine, now) = engine(vec![fit(), scripted("S", PLACING, &script)]);
    {
        let mut script = script.lock().unwrap();
        script.pre_bind.push_back((Verdict::Allow, vec![b"1".to_vec(), b"2".to_vec()]));
        script.pre_bind.push_back((Verdict::Allow, vec![b"3".to_vec()]));
        script.bind.push_back(Binder::Writes(vec![b"bind".to_vec()]));
    }
    put(&mut engine, &pod("p", "1", 0), now);
    let actions = run(&mut engine, now);
    assert_eq!(said(&actions), ["write p of S: 1 2"]);
    // News of other writes say nothing.
    engine.written(&"uid-p".into(), ticket(&actions) + 1000, Ok(()), now);
    assert_eq!(engine.take_actions(), []);
    engine.written(&"uid-p".into(), ticket(&actions), Err("conflict".into()), now);
    assert_eq!(said(&engine.take_actions()), ["p SchedulerError: running PreBind plugin \"S\": conflict"]);
    let later = now + Duration::from_secs(1);
    let actions = run(&mut engine, later);
    assert_eq!(said(&actions), ["write p of S: 3"]);
    engine.written(&"uid-p".into(), ticket(&actions), Ok(()), later);
    let actions = engine.take_actions();
    assert_eq!(said(&actions), ["write p of S: bind"]);
    calls(&script);
    engine.written(&"uid-p".into(), ticket(&actions), Ok(()), later);
    assert_eq!(calls(&script), ["S post-bind p"]);
    assert!(engine.queue().is_empty());
    assert_eq!(engine.in_flight(), 0);
}

#[test]
fn pre_bind_is_asked_again_when_objects_change_until_its_time_is_up() {
    let script = Shared::default();
    let (mut engine, now) = engine(vec![fit(), scripted("S", Hooks::PRE_BIND, &script)]);
    script.lock().unwrap().pre_bind.extend((0..2).map(|_| (wait(30).0, vec![])));
    put(&mut engine, &pod("p", "1", 0), now);
    assert_eq!(said(&run(&mut engine, now)), Vec::<String>::new());
    engine.objects_changed(now + Duration::from_secs(20));
    assert_eq!(calls(&script), ["S pre-bind p", "S pre-bind p"]);
    // The time is counted from the first call.
    let said_then = said(&run(&mut engine, now + Duration::from_secs(30)));
    assert!(said_then[0].contains("rejected due to timeout after waiting 30s at plugin S"), "{said_then:?}");
    // The next try is allowed at once.
    let later = now + Duration::from_secs(400);
    assert_eq!(said(&run(&mut engine, later)), ["bind p to a"]);
}

#[test]
fn the_binder_is_the_first_that_does_not_pass() {
    let (first, second) = (Shared::default(), Shared::default());
    first.lock().unwrap().bind.push_back(Binder::Next);
    let plugins = vec![scripted("One", Hooks::BIND, &first), scripted("Two", Hooks::BIND, &second)];
    let (mut engine, now) = engine(plugins);
    put(&mut engine, &pod("p", "1", 0), now);
    assert_eq!(said(&run(&mut engine, now)), ["bind p to a"]);
    assert_eq!((calls(&first), calls(&second)), (vec!["One bind p".into()], vec!["Two bind p".into()]));
    // Nobody binds.
    first.lock().unwrap().bind.push_back(Binder::Next);
    second.lock().unwrap().bind.push_back(Binder::Next);
    put(&mut engine, &pod("q", "1", 0), now);
    assert_eq!(said(&run(&mut engine, now)), ["q SchedulerError: no Bind plugin binds the pod"]);
}

#[test]
fn a_gate_is_asked_once_per_class_and_again_after_its_events() {
    let script = Shared::default();
    let (mut engine, now) =
        engine(vec![fit(), scripted("S", Hooks::PRE_ENQUEUE.or(Hooks::QUEUE_SORT), &script)]);
    script.lock().unwrap().gates.insert("p".into(), "no quota".into());
    put(&mut engine, &pod("p", "1", 0), now);
    assert_eq!(said(&run(&mut engine, now)), ["p SchedulingGated: no quota"]);
    put(&mut engine, &pod("p", "1", 0), now);
    assert_eq!(engine.queue().depths(), [0, 0, 0, 1]);
    assert_eq!(calls(&script), ["pre-enqueue p"]);
    // A new node is not among its events; a deleted pod is.
    add_node(&mut engine, "b", "1");
    put(&mut engine, &on(pod("other", "1", 0), "a"), now);
    run(&mut engine, now);
    assert_eq!(calls(&script), Vec::<String>::new());
    script.lock().unwrap().gates.clear();
    remove(&mut engine, "other", now);
    let said = said(&run(&mut engine, now));
    assert!(said.len() == 1 && said[0].starts_with("bind p to "), "{said:?}");
    assert_eq!(calls(&script), ["pre-enqueue p"]);
}

#[test]
fn the_plugin_sorts_the_queue() {
    let script = Shared::default();
    let (mut engine, now) = engine(vec![fit(), scripted("S", Hooks::QUEUE_SORT, &script)]);
    // By the last letter first.
    for name in ["az", "by", "cx"] {
        put(&mut engine, &pod(name, "1", 0), now);
    }
    assert_eq!(said(&run(&mut engine, now)), ["bind cx to a", "bind by to a", "bind az to a"]);
}
