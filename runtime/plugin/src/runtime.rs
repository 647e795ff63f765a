//! Engines, the epoch clock and the cache of compiled code: one per process.

use crate::cache::Cache;
use crate::compile::Digest;
use crate::compiler::Compiler;
use crate::error::PluginError;
use crate::manifest::Kind;
use crate::observer::Observer;
use crate::ticker::Ticker;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use wasmtime::component::Component;
use wasmtime::{Config, Engine};

/// Why a [`Runtime`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The machine lacks what compiled code needs. Final.
    #[error("the WebAssembly engine cannot run on this machine")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No thread could be started.
    #[error("the epoch thread could not be started")]
    Thread(#[source] io::Error),
    /// The cache folder is not usable; an operator must repair it.
    #[error("the folder of compiled plugins {} cannot be used", .folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Settings of a [`Runtime`].
#[derive(Clone, Debug, Default)]
pub struct RuntimeOptions {
    /// Folder of compiled code, made with mode 0700 where missing; `None` keeps nothing on disk.
    pub cache: Option<PathBuf>,
    /// Program and arguments that run [`compile_from_stdin`](crate::compile_from_stdin) with the cache folder as last
    /// argument. Without it, or without a cache, this process compiles by itself. Not for metered runtimes.
    pub compiler: Option<Vec<OsString>>,
    /// Deadlines are counted in fuel, so much for a millisecond, and not in time: the same call ends the same
    /// way on every machine. For tests and replay; it makes code slower.
    pub fuel_per_millisecond: Option<u64>,
    /// Is told of logs and calls.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Engines, epoch clock, code cache.
pub struct Runtime {
    hot: Engine,
    background: Engine,
    cache: Option<Cache>,
    compiler: Option<Compiler>,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) fuel_per_millisecond: Option<u64>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl Runtime {
    /// Makes the engines and starts the epoch thread.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    pub fn new(options: &RuntimeOptions) -> Result<Self, RuntimeError> {
        let config = config(options.fuel_per_millisecond.is_some());
        let hot = Engine::new(&config).map_err(|e| RuntimeError::Engine(e.into()))?;
        let background = Engine::new(&config).map_err(|e| RuntimeError::Engine(e.into()))?;
        let ticker = Ticker::start(vec![hot.clone(), background.clone()]).map_err(RuntimeError::Thread)?;
        let cache = match &options.cache {
            None => None,
            Some(folder) => {
                let cache = Cache::open(folder, compatibility(&hot))
                    .map_err(|source| RuntimeError::Cache { folder: folder.clone(), source })?;
                Some(cache)
            }
        };
        Ok(Self {
            hot,
            background,
            cache,
            compiler: options
                .compiler
                .clone()
                .filter(|_| options.fuel_per_millisecond.is_none())
                .map(Compiler::new),
            ticker: Arc::new(ticker),
            fuel_per_millisecond: options.fuel_per_millisecond,
            observer: options.observer.clone(),
        })
    }

    /// Scheduler and admission plugins share one engine; controllers have their own, so that a
    /// flood of slow reconciles never shares anything with what a request waits for.
    pub(crate) const fn engine(&self, kind: Kind) -> &Engine {
        match kind {
            Kind::Scheduler | Kind::Admission => &self.hot,
            Kind::Controller => &self.background,
        }
    }

    pub(crate) fn cached(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        self.cache.as_ref()?.load(engine, digest)
    }

    /// Has another process compile into the cache, and takes it from there. `None` where this process has to do it.
    ///
    /// # Errors
    /// What is wrong with the code.
    pub(crate) fn compiled_elsewhere(
        &self,
        engine: &Engine,
        digest: &Digest,
        wasm: &[u8],
    ) -> Result<Option<Component>, PluginError> {
        let (Some(compiler), Some(cache)) = (&self.compiler, &self.cache) else { return Ok(None) };
        let done = compiler.compile(wasm, cache.folder())?;
        Ok(if done { cache.load(engine, digest) } else { None })
    }

    /// Puts compiled code on disk, as far as that works, and takes the mapped form of it.
    pub(crate) fn remember(&self, engine: &Engine, digest: &Digest, component: Component) -> Component {
        let Some(cache) = &self.cache else { return component };
        match cache.store(engine, digest, &component) {
            Ok(mapped) => mapped.unwrap_or(component),
            Err(error) => {
                tracing::warn!(%error, "compiled plugin could not be cached");
                component
            }
        }
    }
}

fn config(metered: bool) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(!metered)
        .consume_fuel(metered)
        .concurrency_support(false)
        .wasm_component_model(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .cranelift_nan_canonicalization(true)
        .generate_address_map(false)
        .max_wasm_stack(512 << 10)
        .parallel_compilation(true);
    config
}

/// Names the engine's settings and this crate's way of making components.
fn compatibility(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
