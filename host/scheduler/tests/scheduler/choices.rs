//! The engine on random clusters: each choice is among those that the reference calls best, and no pod that fits waits.

use crate::batched::profile;
use crate::cluster::{cases, node, pod};
use crate::engine::{add_node, add_pod, bindings, named, patient};
use crate::reference::State;
use orlop_scheduler::engine::{BindResult, Engine};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
enum Step {
    Node(u8, Value),
    NoNode(u8),
    Pod(u8, Value),
    NoPod(u8),
    /// The oldest binding succeeds, fails, or its news comes before its answer.
    Answer(u8),
    Swap,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..6_u8, node()).prop_map(|(n, node)| Step::Node(n, node)),
        1 => (0..6_u8).prop_map(Step::NoNode),
        6 => (0..20_u8, pod()).prop_map(|(n, pod)| Step::Pod(n, pod)),
        2 => (0..20_u8).prop_map(Step::NoPod),
        4 => (0..3_u8).prop_map(Step::Answer),
        1 => Just(Step::Swap),
    ];
    prop::collection::vec(step, 1..80)
}

/// The cluster as an API server would hold it, and what the scheduler assumes.
#[derive(Default)]
struct Api {
    state: State,
    pods: BTreeMap<String, Value>,
    pending: Vec<(String, String)>,
}

impl Api {
    fn confirm(&mut self, engine: &mut Engine, name: &str, node: &str, now: Instant) {
        if let Some(pod) = self.pods.get_mut(name) {
            pod["spec"]["nodeName"] = json!(node);
            add_pod(engine, pod, now);
        }
    }
}

/// Lets the engine place what it can, and holds each choice against the reference. Says whether it placed any.
fn place(engine: &mut Engine, api: &mut Api, now: Instant) -> Result<bool, TestCaseError> {
    let mut placed = false;
    loop {
        let more = engine.cycle(now);
        for (name, node) in bindings(&engine.take_actions()) {
            prop_assert!(!api.state.placed.contains_key(&name), "{} is placed twice", name);
            let verdict = api.state.judge(&api.pods[&name]);
            let best = verdict.totals.values().max().copied();
            prop_assert_eq!(verdict.totals.get(&node).copied(), best, "{} on {}", name, node);
            api.state.placed.insert(name.clone(), (node.clone(), api.pods[&name].clone()));
            api.pending.push((name, node));
            placed = true;
        }
        if !more {
            return Ok(placed);
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]
    #[test]
    fn every_choice_is_among_the_best_and_nothing_is_lost(steps in steps()) {
        let mut engine = Engine::new(vec![profile()], patient(), 7);
        let (mut now, mut api) = (Instant::now(), Api::default());
        for step in steps {
            // Longer than any backoff.
            now += Duration::from_secs(11);
            match step {
                Step::Node(n, node) => {
                    let name = format!("n{n}");
                    add_node(&mut engine, &name, &node, now);
                    api.state.nodes.insert(name, node);
                }
                Step::NoNode(n) => {
                    engine.node(&format!("n{n}"), None);
                    api.state.nodes.remove(&format!("n{n}"));
                }
                Step::Pod(n, pod) => {
                    let name = format!("p{n}");
                    if let Entry::Vacant(entry) = api.pods.entry(name.clone()) {
                        add_pod(&mut engine, entry.insert(named(pod, &name)), now);
                    }
                }
                Step::NoPod(n) => {
                    let name = format!("p{n}");
                    // A binding under way is answered first, as the API server would order them.
                    if !api.pending.iter().any(|(pod, _)| *pod == name) && api.pods.remove(&name).is_some() {
                        engine.pod("ns", &name, None, now);
                        api.state.placed.remove(&name);
                    }
                }
                Step::Answer(how) => {
                    if api.pending.is_empty() {
                        continue;
                    }
                    let (name, node) = api.pending.remove(0);
                    let uid = format!("uid-{name}").as_str().into();
                    match how {
                        0 => {
                            engine.bound(&uid, &node, BindResult::Bound, now);
                            api.confirm(&mut engine, &name, &node, now);
                        }
                        1 => {
                            api.confirm(&mut engine, &name, &node, now);
                            engine.bound(&uid, &node, BindResult::Bound, now);
                        }
                        _ => {
                            api.state.placed.remove(&name);
                            engine.bound(&uid, &node, BindResult::Failed("no".into()), now);
                        }
                    }
                }
                Step::Swap => engine.set_profiles(vec![profile()], patient(), now),
            }
            place(&mut engine, &mut api, now)?;
            prop_assert_eq!(engine.in_flight(), api.pending.len());
        }
        // A placement may help a pod that was tried before; it comes back once its backoff is over.
        loop {
            now += Duration::from_secs(11);
            if !place(&mut engine, &mut api, now)? && engine.queue().depths()[1] == 0 {
                break;
            }
        }
        for name in api.pods.keys().filter(|name| !api.state.placed.contains_key(*name)) {
            prop_assert!(api.state.judge(&api.pods[name]).totals.is_empty(), "{} is lost", name);
        }
    }
}
