//! What a scheduling decision costs: the built-in plugins in WebAssembly and natively.
//!
//! `cargo xtask plugins`, then `cargo run --release -p orlop --example scheduler_bench`.
//!
//! For each number of nodes it prints, in microseconds: a class that is asked about for the first
//! time (all plugins, all nodes), and one more pod of a class that is open (bind, tell the mirrors
//! the changed row, ask again, choose); then the same per plugin for the first kind.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot go on stops")]

#[path = "../../scheduler/tests/scheduler/native.rs"]
mod native;
#[path = "../src/plugins/scheduler/wasm.rs"]
mod wasm;

use orlop_apimachinery::Object;
use orlop_plugin::{Compiled, PluginOptions, Runtime, RuntimeOptions};
use orlop_scheduler::config::{DEFAULT_CONFIG, SchedulerConfig};
use orlop_scheduler::engine::{Action, BindResult, Engine};
use orlop_scheduler::framework::{PluginError, PluginFactory, SchedulerPlugin};
use orlop_scheduler::pod::PodFacts;
use orlop_scheduler::profile::{Enabled, Profile};
use orlop_scheduler::queue::Backoff;
use orlop_scheduler::table::{NodeFacts, NodeTable};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Keeps no record.
struct Unwatched;

impl wasm::Supervisor for Unwatched {
    fn ended(&self, _: Result<(), &orlop_plugin::PluginError>) {}

    fn admits(&self) -> bool {
        true
    }
}

struct Wasm {
    runtime: Runtime,
    plugins: Vec<Compiled>,
}

impl Wasm {
    fn load(folder: &Path) -> Self {
        let runtime = Runtime::new(&RuntimeOptions::default()).expect("a runtime");
        let files = std::fs::read_dir(folder).expect("run `cargo xtask plugins` first").flatten();
        let wasm = files.map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "wasm"));
        let plugins = wasm
            .filter_map(|path| {
                let bytes = std::fs::read(&path).expect("a readable file");
                let kind = orlop_plugin::inspect(&bytes).expect("a plugin").manifest.kind;
                (kind == orlop_plugin::Kind::Scheduler)
                    .then(|| runtime.compile(&bytes).expect("a plugin that compiles"))
            })
            .collect();
        Self { runtime, plugins }
    }
}

impl PluginFactory for Wasm {
    fn names(&self) -> Vec<String> {
        self.plugins.iter().map(|p| p.manifest().name.clone()).collect()
    }

    fn open(&self, name: &str, args: &Value) -> Result<Box<dyn SchedulerPlugin>, PluginError> {
        let compiled = self.plugins.iter().find(|p| p.manifest().name == name).expect("a known plugin");
        let options = PluginOptions {
            config: args.to_string().into_bytes(),
            ..PluginOptions::from_manifest(compiled.manifest())
        };
        let plugin = self.runtime.link(compiled, options).map_err(|e| wasm::convert_error(&e))?;
        Ok(Box::new(wasm::WasmPlugin::new(plugin, true, Box::new(Unwatched))?))
    }
}

fn profile(factory: &dyn PluginFactory, only: Option<&str>) -> Profile {
    let config = SchedulerConfig::parse(DEFAULT_CONFIG, &factory.names()).expect("the default");
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let plugins = config.profiles.iter().flat_map(|p| &p.plugins).filter(|p| wanted(&p.name)).map(|p| {
        let plugin = factory.open(&p.name, &p.args).expect("a plugin that starts");
        Enabled { hooks: p.hooks, weight: p.weight, ..Enabled::new(plugin) }
    });
    Profile::new("default-scheduler".to_owned(), plugins.collect())
}

/// Nodes as `kload` makes them.
fn table(nodes: u32) -> NodeTable {
    let mut table = NodeTable::new();
    for i in 0..nodes {
        let name = format!("fake-{i:05}");
        table.set_node(&name, &NodeFacts::from_value(&node(i, &name)));
    }
    table
}

fn node(i: u32, name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kload": "1",
            "topology.kubernetes.io/zone": format!("zone-{}", i % 10),
        }},
        "status": {"allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "500Gi"}},
    })
}

fn object(value: &Value) -> Arc<Object> {
    Arc::new(Object::from_value(value).expect("an object"))
}

/// Pods as `kload` makes them; `variant` makes classes differ.
fn pod(variant: u64) -> Value {
    json!({"spec": {
        "schedulerName": "default-scheduler", "nodeSelector": {"kload": "1"},
        "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10", "resources": {"requests": {
            "cpu": format!("{}m", 100 + variant), "memory": "500Mi",
        }}}],
    }})
}

/// A pod that gives every plugin something to do, and a class of its own with each of them.
fn busy_pod(variant: u64) -> Value {
    let mut pod = pod(variant);
    pod["spec"]["tolerations"] = json!([{"key": format!("t{variant}"), "operator": "Exists"}]);
    pod["spec"]["containers"][0]["image"] = json!(format!("registry.k8s.io/pause:{variant}"));
    pod["spec"]["containers"][0]["ports"] = json!([{"hostPort": 1000 + variant}]);
    pod["spec"]["affinity"]["nodeAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kload", "operator": "NotIn", "values": [format!("v{variant}")]},
        ]}],
    }});
    let app = json!({"matchLabels": {"app": format!("a{variant}")}});
    pod["metadata"] = json!({"namespace": "kload", "labels": {"app": format!("a{variant}")}});
    pod["spec"]["topologySpreadConstraints"] = json!([
        {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
         "labelSelector": app},
        {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway",
         "labelSelector": app},
    ]);
    pod["spec"]["affinity"]["podAntiAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": app},
    ]});
    pod
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |t| t.as_secs_f64() * 1e6)
}

/// Microseconds for a new class, and for one more pod of an open one.
fn measure(factory: &dyn PluginFactory, nodes: u32, only: Option<&str>) -> (f64, f64) {
    let (mut profile, mut table) = (profile(factory, only), table(nodes));
    let (mut first, mut more) = (Vec::new(), Vec::new());
    for variant in 0..200 {
        let facts = PodFacts::from_value(if only.is_some() { busy_pod(variant) } else { pod(variant) });
        let def = profile.define(&facts.value);
        let id = profile.open(&def);
        let began = Instant::now();
        profile.evaluate(id, &table, began).expect("an answer");
        first.push(began.elapsed());
    }
    let facts = PodFacts::from_value(pod(0));
    let footprint = facts.footprint(&mut table);
    let def = profile.define(&facts.value);
    for draw in 0..5_000_u64 {
        let began = Instant::now();
        let id = profile.open(&def);
        profile.evaluate(id, &table, began).expect("an answer");
        let slot = profile.class(id).and_then(|c| c.choose(draw.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        table.add_pod_at(slot.expect("a node"), &footprint);
        more.push(began.elapsed());
    }
    // The first ones grow buffers and page memory in.
    (median(first.split_off(20)), median(more.split_off(100)))
}

/// A pod that is spread over zones and would rather be near others of its kind: every placement changes what
/// two plugins say of all nodes.
fn sociable_pod() -> Value {
    let mut pod = pod(0);
    let app = json!({"matchLabels": {"app": "a"}});
    pod["metadata"] = json!({"namespace": "kload", "labels": {"app": "a"}});
    pod["spec"]["topologySpreadConstraints"] = json!([
        {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 5, "whenUnsatisfiable": "DoNotSchedule",
         "labelSelector": app},
    ]);
    pod["spec"]["affinity"]["podAffinity"] = json!({"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "podAffinityTerm": {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": app}},
    ]});
    pod
}

/// Microseconds for one more such pod.
fn stale(factory: &dyn PluginFactory, nodes: u32) -> f64 {
    let (mut profile, mut table) = (profile(factory, None), table(nodes));
    table.placed_mut().read(profile.placed_pod_fields().map(str::to_owned).collect());
    let facts = PodFacts::from_value(sociable_pod());
    let footprint = facts.footprint(&mut table);
    let def = profile.define(&facts.value);
    let mut more = Vec::new();
    for draw in 0..2_000_u64 {
        let began = Instant::now();
        let id = profile.open(&def);
        profile.evaluate(id, &table, began).expect("an answer");
        let slot = profile.class(id).and_then(|c| c.choose(draw.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        table.add_pod_at(slot.expect("a node"), &footprint);
        more.push(began.elapsed());
    }
    median(more.split_off(100))
}

/// Pods per second through the whole engine on one thread: parsing, queue, cycle, accounting, and
/// taking in the API server's news of the binding.
fn throughput(factory: &dyn PluginFactory, nodes: u32, pods: u32) -> f64 {
    let mut engine = Engine::new(vec![profile(factory, None)], Backoff::default(), 7);
    let now = Instant::now();
    for i in 0..nodes {
        let name = format!("fake-{i:05}");
        engine.node(&name, Some(&object(&node(i, &name))));
    }
    let with_name = |i: u32, node: Option<&str>| {
        let mut value = pod(0);
        value["metadata"] =
            json!({"namespace": "kload", "name": format!("kload-{i}"), "uid": format!("uid-{i}")});
        if let Some(node) = node {
            value["spec"]["nodeName"] = json!(node);
        }
        object(&value)
    };
    let news: Vec<Arc<Object>> = (0..pods).map(|i| with_name(i, None)).collect();
    let mut bound = 0_u32;
    let mut spent = Duration::ZERO;
    for news in news.chunks(64) {
        let began = Instant::now();
        for object in news {
            engine.pod("kload", object.name(), Some(object), now);
        }
        while engine.cycle(now) {}
        let actions = engine.take_actions();
        spent += began.elapsed();
        for action in actions {
            let Action::Bind { pod, node } = action else { continue };
            let number = pod.name.trim_start_matches("kload-").parse().expect("a number");
            let told = with_name(number, Some(&node));
            let began = Instant::now();
            engine.bound(&pod.uid, &node, BindResult::Bound, now);
            engine.pod("kload", &pod.name, Some(&told), now);
            spent += began.elapsed();
            bound += 1;
        }
        engine.take_actions();
    }
    assert_eq!(bound, pods, "every pod is bound");
    f64::from(bound) / spent.as_secs_f64()
}

/// Both kinds say the same of every node.
fn agree(wasm: &dyn PluginFactory) {
    let table = table(1_000);
    let totals = |factory: &dyn PluginFactory| {
        let mut profile = profile(factory, None);
        let def = profile.define(&PodFacts::from_value(pod(0)).value);
        let id = profile.open(&def);
        profile.evaluate(id, &table, Instant::now()).expect("an answer");
        let class = profile.class(id).expect("an open class");
        (class.feasible().to_vec(), (0..1_000).map(|slot| class.total(slot)).collect::<Vec<_>>())
    };
    assert_eq!(totals(wasm), totals(&native::Builtin), "WebAssembly and native code agree");
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = std::env::args().nth(1).map_or_else(|| root.join("target/orlop/plugins"), Into::into);
    let wasm = Wasm::load(&folder);
    agree(&wasm);
    println!("{:>7} | {:>22} | {:>22}", "nodes", "new class, µs", "one more pod, µs");
    println!("{:>7} | {:>10} {:>11} | {:>10} {:>11}", "", "wasm", "native", "wasm", "native");
    for nodes in [100, 1_000, 5_000, 15_000] {
        let (w, n) = (measure(&wasm, nodes, None), measure(&native::Builtin, nodes, None));
        println!("{nodes:>7} | {:>10.1} {:>11.1} | {:>10.2} {:>11.2}", w.0, n.0, w.1, n.1);
    }
    println!("\none more pod, spread and near others, µs");
    for nodes in [100, 1_000, 5_000, 15_000] {
        let (w, n) = (stale(&wasm, nodes), stale(&native::Builtin, nodes));
        println!("{nodes:>7} | {w:>10.1} wasm {n:>10.1} native");
    }
    println!("\nwhole engine, one thread, pods/s");
    for nodes in [100, 1_000, 5_000] {
        let pods = (nodes * 20).min(10_000);
        let (w, n) = (throughput(&wasm, nodes, pods), throughput(&native::Builtin, nodes, pods));
        println!("{nodes:>7} | {w:>10.0} wasm {n:>10.0} native");
    }
    println!("\nnew class over 5,000 nodes, by plugin, µs");
    // NodeName is left out: a pod that names its node never comes to the scheduler.
    for name in native::Builtin.names().into_iter().filter(|name| name != "NodeName") {
        let (w, n) = (measure(&wasm, 5_000, Some(&name)).0, measure(&native::Builtin, 5_000, Some(&name)).0);
        println!("{name:>34} | {w:>8.1} wasm {n:>8.1} native {:>5.2} x", w / n);
    }
}
