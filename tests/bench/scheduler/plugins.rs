//! Each plugin against its own native build.

use crate::native::Builtin;
use crate::shapes::{busy_pod, table};
use crate::stats::{Stats, each};
use orlop_scheduler::framework::{
    Descriptor, Hooks, Normalize, PluginFactory, Prepared, Rows, SchedulerPlugin,
};
use orlop_scheduler::pod::PodFacts;
use orlop_scheduler::profile::{Enabled, Profile};
use orlop_scheduler::projection::Projection;
use orlop_scheduler::table::{MirrorState, NodeTable};
use serde_json::json;

const NODES: u32 = 5_000;
const ROUNDS: u32 = 15;
const CALLS: u32 = 40;

/// A plugin that was told of the table and of one class.
struct Told {
    plugin: Box<dyn SchedulerPlugin>,
    descriptor: Descriptor,
    pod: Vec<u8>,
    prepared: Prepared,
    feasible: Vec<u64>,
}

impl Told {
    fn new(factory: &dyn PluginFactory, name: &str, table: &NodeTable) -> Self {
        let mut plugin = factory.open(name, &json!({})).expect("a plugin that starts");
        let descriptor = plugin.descriptor().clone();
        plugin.objects(true, &[]).expect("no objects");
        let mut state = MirrorState::new(&descriptor.placed_pod_fields);
        let delta = table.delta(descriptor.columns, &mut state).expect("everything");
        plugin.sync(&delta).expect("a mirror");
        let fields = Projection::new(descriptor.pod_fields.iter().map(String::as_str));
        let pod = fields.apply(&PodFacts::from_value(busy_pod()).value).to_string().into_bytes();
        let prepared = plugin.prepare(1, &pod).expect("a class");
        Self { plugin, descriptor, pod, prepared, feasible: table.live().to_vec() }
    }

    fn filters(&self) -> bool {
        self.descriptor.hooks.has(Hooks::FILTER) && !self.prepared.skip_filter
    }

    fn scores(&self) -> bool {
        self.descriptor.hooks.has(Hooks::SCORE) && !self.prepared.skip_score
    }

    /// Filter and scores of all nodes.
    fn ask(&mut self) {
        if self.filters() {
            self.plugin.filter(1, Rows::All).expect("an answer");
        }
        if !self.scores() {
            return;
        }
        if self.descriptor.normalize == Normalize::None {
            self.plugin.score(1, Rows::All).expect("an answer");
            return;
        }
        let raw = self.plugin.score_raw(1, Rows::All).expect("an answer");
        if self.descriptor.normalize == Normalize::Custom {
            self.plugin.normalize(1, &self.feasible, &raw).expect("an answer");
        }
    }

    /// The class is told as if it were new.
    fn introduce(&mut self) {
        self.plugin.release(1).expect("a release");
        self.plugin.prepare(1, &self.pod).expect("a class");
    }
}

/// Prints the table.
pub(crate) fn report(wasm: &dyn PluginFactory) {
    println!("\nplugins over {NODES} nodes with 20,000 pods, in WebAssembly and natively (at most 1.3 x)");
    println!(
        "{:>34} | {:>15} {:>15} {:>6} | {:>11} {:>7} | {:>15} {:>15} {:>6}",
        "plugin", "ask, µs", "native", "ratio", "ns per node", "native", "prepare, µs", "native", "ratio"
    );
    for name in Builtin.names() {
        let reader = Enabled::new(Builtin.open(&name, &json!({})).expect("a plugin"));
        let table = table(NODES, 4, &Profile::new("bench".to_owned(), vec![reader]));
        let (mut w, mut n) = (Told::new(wasm, &name, &table), Told::new(&Builtin, &name, &table));
        if !w.descriptor.hooks.has(Hooks::FILTER) && !w.descriptor.hooks.has(Hooks::SCORE) {
            continue;
        }
        let mut prepared = (Vec::new(), Vec::new());
        let mut asked = (Vec::new(), Vec::new());
        // In turns, so that noise meets both.
        for _ in 0..ROUNDS {
            asked.0.push(each(CALLS, || w.ask()));
            asked.1.push(each(CALLS, || n.ask()));
            prepared.0.push(each(CALLS / 4, || w.introduce()));
            prepared.1.push(each(CALLS / 4, || n.introduce()));
        }
        let (pw, pn) = (Stats::of(prepared.0), Stats::of(prepared.1));
        if w.filters() || w.scores() {
            let (aw, an) = (Stats::of(asked.0), Stats::of(asked.1));
            let each = |s: Stats| s.least * 1e3 / f64::from(NODES);
            print!("{name:>34} | {aw:>15} {an:>15} {:>6.2} | ", aw.least / an.least);
            print!("{:>11.2} {:>7.2} | ", each(aw), each(an));
        } else {
            print!("{name:>34} | {:>15} {:>15} {:>6} | {:>11} {:>7} | ", "skips the pod", "", "", "", "");
        }
        println!("{pw:>15} {pn:>15} {:>6.2}", pw.least / pn.least);
    }
}
