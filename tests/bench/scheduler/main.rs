//! What a scheduling decision costs: the built-in plugins in WebAssembly, and natively for comparison.
//!
//! Run by `cargo xtask bench`. Names as arguments choose among the parts: `plugins` (each plugin against its own
//! native build), `class` (a class that is new), `pod` (one more pod of a class), `engine` (pods per second, from
//! the watch event to the binding), `footprint` (memory). Figures are `least/median` of several rounds: on a machine
//! that does other things as well the least is what the work costs, and the distance between them is the noise.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot go on stops")]

mod decisions;
mod factory;
mod footprint;
#[path = "../../../host/scheduler/tests/scheduler/native.rs"]
mod native;
#[path = "../noise.rs"]
mod noise;
mod plugins;
mod shapes;
mod stats;
#[path = "../../../host/orlop/src/plugins/scheduler/wasm.rs"]
mod wasm;

use std::path::Path;

/// As in the real binary, so that memory is that of the real one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PARTS: [&str; 5] = ["plugins", "class", "pod", "engine", "footprint"];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/orlop/plugins");
    if wanted == [footprint::CHILD] {
        return footprint::measure(&folder);
    }
    let runs = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part || w == "scheduler");
    if !PARTS.into_iter().any(runs) {
        return;
    }
    println!("scheduler bench; machine noise: {}", noise::noise());
    let wasm = factory::Wasm::load(&folder);
    factory::agree(&wasm);
    if runs("plugins") {
        plugins::report(&wasm);
    }
    if runs("class") {
        decisions::classes(&wasm);
    }
    if runs("pod") {
        decisions::pods(&wasm);
    }
    if runs("engine") {
        decisions::engine(&wasm);
    }
    if runs("footprint") {
        footprint::report();
    }
    println!("machine noise after it: {}", noise::noise());
}
