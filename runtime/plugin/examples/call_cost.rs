//! What the host's side of a call costs: `cargo run --release -p orlop-plugin --example call_cost`.
//!
//! The plugin answers with memory that is there already, so what is left is the way in and out: the deadline, the
//! engine, copies, checks.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

#[allow(dead_code, reason = "of the tests")]
#[path = "../tests/fixtures/scheduler.rs"]
mod fixture;
#[allow(dead_code, reason = "of the tests")]
#[path = "../tests/fixtures/support.rs"]
mod support;

use orlop_plugin::scheduler::{Delta, ListColumn, Placement, S64Column, SchedulerWorld};
use orlop_plugin::{Instance, PluginOptions, Runtime, RuntimeOptions};
use std::time::{Duration, Instant};

const NODES: u32 = 5_000;
const CALLS: u32 = 20_000;

fn measure(
    what: &str,
    instance: &mut Instance<SchedulerWorld>,
    mut f: impl FnMut(&mut Instance<SchedulerWorld>),
) {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        for _ in 0..CALLS / 5 {
            f(instance);
        }
        best = best.min(begun.elapsed());
    }
    println!("{what:>40} {:>8.0} ns", best.as_secs_f64() * 1e9 / f64::from(CALLS / 5));
}

fn main() {
    let words = fixture::list(79, &[]);
    let word = fixture::list(1, &[]);
    let scores = fixture::list(NODES as usize, &[]);
    let manifest = fixture::manifest(r#"{"hooks": ["filter", "score", "reserve"], "normalize": "default"}"#);
    let bodies = [
        ("plugin.filter", words.as_str()),
        ("overlay.filter", word.as_str()),
        ("plugin.score", scores.as_str()),
        ("plugin.score-raw", scores.as_str()),
    ];
    let wasm = fixture::build(&manifest, &fixture::OPTIONAL, &bodies);
    let runtime = Runtime::new(&RuntimeOptions::default()).unwrap();
    let compiled = runtime.compile(&wasm).unwrap();
    let plugin =
        runtime.link::<SchedulerWorld>(&compiled, PluginOptions::from_manifest(compiled.manifest())).unwrap();
    let mut instance = plugin.instantiate().unwrap();
    let empty = Delta {
        full: true,
        slots: NODES,
        rows: &[],
        live: &[],
        dictionaries: &[],
        s64_columns: &[],
        u32_columns: &[],
        list_columns: &[],
    };
    instance.sync(&empty).unwrap();
    let column = |column| S64Column { column, values: &[7] };
    let columns = [column(1), column(2), column(5), column(6), column(8)];
    let lists = [ListColumn { column: 64, offsets: &[0, 3], values: &[1, 2, 3] }];
    let one = Delta {
        full: false,
        rows: &[17],
        live: &[1],
        s64_columns: &columns,
        list_columns: &lists,
        ..empty.clone()
    };
    let all: Vec<u32> = (0..NODES).collect();
    let values = vec![7_i64; NODES as usize];
    let live = vec![u64::MAX; 79];
    let full_columns = [1, 2, 5, 6].map(|column| S64Column { column, values: &values });
    let full = Delta { rows: &all, live: &live, s64_columns: &full_columns, ..empty.clone() };
    let placement =
        Placement { pod: 1, namespace: "shop", name: "web-1", uid: "u", fields: b"{}", slot: 3, node: "n" };
    measure("release: nothing in, nothing out", &mut instance, |i| i.release(1).unwrap());
    measure("prepare: 100 bytes", &mut instance, |i| drop(i.prepare(1, &[b' '; 100]).unwrap()));
    measure("filter: 5,000 nodes", &mut instance, |i| drop(i.filter(1, &[]).unwrap()));
    measure("overlay: one row of six columns", &mut instance, |i| drop(i.overlay(1, &one).unwrap()));
    measure("score: 5,000 nodes", &mut instance, |i| drop(i.score(1, &[]).unwrap()));
    measure("score-raw: 5,000 nodes", &mut instance, |i| drop(i.score_raw(1, &[]).unwrap()));
    measure("sync: one row of six columns", &mut instance, |i| drop(i.sync(&one).unwrap()));
    measure("sync: all rows of four columns", &mut instance, |i| drop(i.sync(&full).unwrap()));
    measure("reserve", &mut instance, |i| drop(i.reserve(&placement).unwrap()));
}
