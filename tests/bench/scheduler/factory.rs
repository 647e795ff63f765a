//! The plugins in WebAssembly, and profiles of plugins of either kind.

use crate::native::Builtin;
use crate::shapes::{Shape, table};
use crate::wasm;
use orlop_plugin::{Compiled, PluginOptions, Runtime, RuntimeOptions};
use orlop_scheduler::config::{DEFAULT_CONFIG, SchedulerConfig};
use orlop_scheduler::framework::{PluginError, PluginFactory, SchedulerPlugin};
use orlop_scheduler::pod::PodFacts;
use orlop_scheduler::profile::{Enabled, Profile};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Keeps no record but of memory.
struct Scales {
    held: usize,
    all: Arc<AtomicUsize>,
}

impl wasm::Supervisor for Scales {
    fn ended(&self, _: Result<(), &orlop_plugin::PluginError>) {}

    fn admits(&self) -> bool {
        true
    }

    fn holds(&mut self, bytes: usize) {
        self.all.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_sub(self.held, Ordering::Relaxed);
        self.held = bytes;
    }
}

/// The compiled plugins.
pub(crate) struct Wasm {
    runtime: Runtime,
    plugins: Vec<Compiled>,
    memory: Arc<AtomicUsize>,
}

impl Wasm {
    pub(crate) fn load(folder: &Path) -> Self {
        let cache = folder.with_file_name("plugin-cache");
        let options = RuntimeOptions { cache: Some(cache), ..RuntimeOptions::default() };
        let runtime = Runtime::new(&options).expect("a runtime");
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
        Self { runtime, plugins, memory: Arc::default() }
    }

    /// Bytes of linear memory of all instances.
    pub(crate) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
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
            // A machine that does something else meanwhile ends no measurement.
            deadline: Duration::from_secs(10),
            ..PluginOptions::from_manifest(compiled.manifest())
        };
        let plugin = self.runtime.link(compiled, options).map_err(|e| wasm::convert_error(&e))?;
        let scales = Scales { held: 0, all: self.memory.clone() };
        Ok(Box::new(wasm::WasmPlugin::new(plugin, true, Box::new(scales))?))
    }
}

/// The default profile.
pub(crate) fn profile(factory: &dyn PluginFactory) -> Profile {
    let config = SchedulerConfig::parse(DEFAULT_CONFIG, &factory.names()).expect("the default");
    let plugins = config.profiles.iter().flat_map(|p| &p.plugins).map(|p| {
        let plugin = factory.open(&p.name, &p.args).expect("a plugin that starts");
        Enabled { hooks: p.hooks, weight: p.weight, ..Enabled::new(plugin) }
    });
    Profile::new("default-scheduler".to_owned(), plugins.collect())
}

/// Both kinds say the same of every node.
pub(crate) fn agree(wasm: &dyn PluginFactory) {
    for shape in Shape::ALL {
        let totals = |factory: &dyn PluginFactory| {
            let mut profile = profile(factory);
            let table = table(1_000, 3, &profile);
            let def = profile.define(&PodFacts::from_value(shape.pod(0, 0)).value);
            let id = profile.open(&def);
            profile.evaluate(id, &table, Instant::now()).expect("an answer");
            let class = profile.class(id).expect("an open class");
            (class.feasible().to_vec(), (0..1_000).map(|slot| class.total(slot)).collect::<Vec<_>>())
        };
        assert_eq!(
            totals(wasm),
            totals(&Builtin),
            "WebAssembly and native code agree about {}",
            shape.name()
        );
    }
}
