//! Classes, pods, and the whole engine, by what pods want and by the number of nodes.

use crate::factory::profile;
use crate::native::Builtin;
use crate::shapes::{Shape, node, object, table};
use crate::stats::Stats;
use orlop_apimachinery::Object;
use orlop_scheduler::engine::{Action, BindResult, Engine};
use orlop_scheduler::framework::PluginFactory;
use orlop_scheduler::pod::PodFacts;
use orlop_scheduler::profile::ClassDef;
use orlop_scheduler::queue::Backoff;
use orlop_scheduler::table::Footprint;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZES: [u32; 4] = [100, 1_000, 5_000, 15_000];
const CLASSES: u32 = 120;
const PODS: u32 = 2_000;
/// Pods whose mean is one figure.
const CHUNK: usize = 50;

fn head(what: &str) {
    println!("\n{what}");
    print!("{:>20} {:>7} |", "pods", "");
    for nodes in SIZES {
        print!(" {:>17}", format!("{nodes} nodes"));
    }
    println!();
}

fn rows(wasm: &dyn PluginFactory, measure: impl Fn(&dyn PluginFactory, Shape, u32) -> Stats) {
    for shape in Shape::ALL {
        for (kind, factory) in [("wasm", wasm), ("native", &Builtin)] {
            print!("{:>20} {kind:>7} |", shape.name());
            for nodes in SIZES {
                print!(" {:>17}", measure(factory, shape, nodes));
            }
            println!();
        }
    }
}

/// A class that nobody has asked about: all plugins, all nodes, four pods on each.
pub(crate) fn classes(wasm: &dyn PluginFactory) {
    head("a new class through all plugins, µs (under 200 at 5,000)");
    rows(wasm, |factory, shape, nodes| {
        let mut profile = profile(factory);
        let table = table(nodes, 4, &profile);
        let mut times = Vec::new();
        for variant in 0..CLASSES {
            let facts = PodFacts::from_value(shape.pod(variant % 7, variant));
            let def = profile.define(&facts.value);
            let id = profile.open(&def);
            let began = Instant::now();
            profile.evaluate(id, &table, began).expect("an answer");
            times.push(began.elapsed());
        }
        // The first ones grow buffers and page memory in.
        Stats::durations(&times.split_off(20))
    });
}

/// One more pod of a class that is open: its answers are brought up to date, a node is chosen, the pod accounted.
pub(crate) fn pods(wasm: &dyn PluginFactory) {
    head("one more pod of a class, µs (the same for any number of nodes)");
    rows(wasm, |factory, shape, nodes| {
        let mut profile = profile(factory);
        let mut table = table(nodes, 4, &profile);
        let mut times = Vec::new();
        // An app's pods fit the nodes, or its zone, and some are left.
        let of_app = if shape == Shape::AntiAffinity { nodes * 3 / 4 } else { nodes * 2 };
        let mut chosen: Option<(u32, Arc<ClassDef>, Footprint)> = None;
        for pod in 0..PODS.min(of_app * 4) {
            let app = pod / of_app;
            if chosen.as_ref().is_none_or(|(of, ..)| *of != app) {
                let facts = PodFacts::from_value(shape.pod(app, 0));
                let footprint = facts.footprint(&mut table);
                chosen = Some((app, profile.define(&facts.value), footprint));
            }
            let Some((_, def, footprint)) = &chosen else { continue };
            let draw = u64::from(pod).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let began = Instant::now();
            let id = profile.open(def);
            profile.evaluate(id, &table, began).expect("an answer");
            let slot = profile.class(id).and_then(|c| c.choose(draw)).expect("a node");
            table.add_pod_at(slot, footprint);
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        let means = times.chunks(CHUNK).skip(1).map(|c| c.iter().sum::<f64>() / c.len() as f64);
        Stats::of(means.collect())
    });
}

/// From the news of a pod to the news of its binding, on one thread: parsing, queue, cycle, accounting.
pub(crate) fn engine(wasm: &dyn PluginFactory) {
    println!("\nwhole engine, one thread, pods/s");
    for shape in Shape::ALL {
        print!("{:>20} |", shape.name());
        for nodes in [100, 1_000, 5_000] {
            print!(
                " {nodes:>6} nodes {:>6.0} wasm {:>6.0} native",
                speed(wasm, shape, nodes),
                speed(&Builtin, shape, nodes)
            );
        }
        println!();
    }
}

/// Pods as the API server has them, before and after they are bound.
pub(crate) fn named_pod(shape: Shape, app: u32, number: u32, node: Option<&str>) -> Arc<Object> {
    let mut value = shape.pod(app, 0);
    value["metadata"]["name"] = json!(format!("kload-{number}"));
    value["metadata"]["uid"] = json!(format!("uid-{number}"));
    if let Some(node) = node {
        value["spec"]["nodeName"] = json!(node);
    }
    object(&value)
}

fn speed(factory: &dyn PluginFactory, shape: Shape, nodes: u32) -> f64 {
    let mut engine = Engine::new(vec![profile(factory)], Backoff::default(), 7);
    for i in 0..nodes {
        engine.node(&format!("fake-{i:05}"), Some(&object(&node(i))));
    }
    let pods = (nodes * 3).min(5_000);
    let of_app = nodes * 3 / 4;
    let news: Vec<Arc<Object>> = (0..pods).map(|i| named_pod(shape, i / of_app, i, None)).collect();
    let mut spent = Duration::ZERO;
    let bound = drive(
        &mut engine,
        &news,
        |number, node| named_pod(shape, number / of_app, number, Some(node)),
        &mut spent,
    );
    assert_eq!(bound, news.len(), "every pod is bound");
    bound as f64 / spent.as_secs_f64()
}

/// Tells the engine of pods, 64 at a time, and of their bindings; counts them.
pub(crate) fn drive(
    engine: &mut Engine,
    news: &[Arc<Object>],
    told: impl Fn(u32, &str) -> Arc<Object>,
    spent: &mut Duration,
) -> usize {
    let now = Instant::now();
    let numbers: HashMap<String, u32> = news.iter().map(|o| o.name().to_owned()).zip(0..).collect();
    let mut bound = 0;
    for news in news.chunks(64) {
        let began = Instant::now();
        for object in news {
            engine.pod("kload", object.name(), Some(object), now);
        }
        while engine.cycle(now) {}
        let actions = engine.take_actions();
        *spent += began.elapsed();
        for action in actions {
            let Action::Bind { pod, node } = action else { continue };
            let told = told(numbers[&*pod.name], &node);
            let began = Instant::now();
            engine.bound(&pod.uid, &node, BindResult::Bound, now);
            engine.pod("kload", &pod.name, Some(&told), now);
            *spent += began.elapsed();
            bound += 1;
        }
        engine.take_actions();
    }
    bound
}
