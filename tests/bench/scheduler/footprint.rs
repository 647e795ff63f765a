//! What the scheduler weighs, measured in a process of its own.

use crate::decisions::{drive, named_pod};
use crate::factory::{Wasm, profile};
use crate::shapes::{Shape, node, object};
use orlop_scheduler::engine::Engine;
use orlop_scheduler::queue::Backoff;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The argument with which this program measures itself.
pub(crate) const CHILD: &str = "footprint-of-this-process";

const NODES: u32 = 5_000;
const PODS: u32 = 20_000;
const MIB: f64 = 1024.0 * 1024.0;

/// Prints what the child says.
pub(crate) fn report() {
    println!("\nmemory at {NODES} nodes and {PODS} pods of ten apps, of each shape a quarter (under 60 MiB)");
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).arg(CHILD).status().expect("a child");
    assert!(status.success(), "the measurement failed");
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("a field");
    let kib: f64 = line.split_whitespace().nth(1).expect("a value").parse().expect("a number");
    kib / 1024.0
}

/// Prints what each step added. Objects of nodes and pods are the watch cache's and made beforehand.
pub(crate) fn measure(folder: &Path) {
    let shape = |number: u32| Shape::ALL[(number / (PODS / 4)) as usize % 4];
    let nodes: Vec<_> = (0..NODES).map(|i| object(&node(i))).collect();
    let news: Vec<_> = (0..PODS).map(|i| named_pod(shape(i), i % 10, i, None)).collect();
    let before = resident();
    let told: Vec<_> = (0..PODS).map(|i| named_pod(shape(i), i % 10, i, Some("fake-00000"))).collect();
    // The engine holds one object of each pod, which in the real binary is the watch cache's.
    let objects = resident() - before;
    let first = resident();
    let wasm = Wasm::load(folder);
    let compiled = resident();
    let mut engine = Engine::new(vec![profile(&wasm)], Backoff::default(), 7);
    let started = resident();
    for (i, node) in nodes.iter().enumerate() {
        engine.node(&format!("fake-{i:05}"), Some(node));
    }
    let with_nodes = resident();
    let mut spent = Duration::ZERO;
    let bind = |number: u32, node: &str| named_pod(shape(number), number % 10, number, Some(node));
    let bound = drive(&mut engine, &news, bind, &mut spent);
    assert_eq!(bound, told.len(), "every pod is bound");
    let with_pods = resident() - objects;
    let instances = wasm.memory() as f64 / MIB;
    println!("{:>46} {:>8.1} MiB", "the plugins' code and the runtime", compiled - first);
    println!("{:>46} {:>8.1} MiB", "instances, before any node", started - compiled);
    println!("{:>46} {:>8.1} MiB", "with nodes", with_nodes - started);
    println!("{:>46} {:>8.1} MiB", "with pods", with_pods - with_nodes);
    println!("{:>46} {:>8.1} MiB", "objects of pods, shared and not counted", objects);
    println!("{:>46} {:>8.1} MiB", "linear memory of all instances, part of these", instances);
    println!("{:>46} {:>8.1} MiB", "all", with_pods - first);
}
