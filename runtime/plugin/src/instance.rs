//! Linked plugins and their instances: deadlines, limits, the log, and what becomes of failures.

use crate::compile::{Compiled, Digest, chain};
use crate::error::PluginError;
use crate::limits::{LimitExceeded, Limiter, Limits};
use crate::manifest::{Kind, Manifest};
use crate::observer::{Asked, Exchange, Observer};
use crate::runtime::Runtime;
use crate::ticker::Ticker;
use crate::wasi::{self, Stop, Wasi};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::Trap;
use wasmtime::component::{InstancePre, Linker, TypedFunc};

/// wasmtime's store with our data, as bindings get it.
pub type Store = wasmtime::Store<HostState>;

const LIFECYCLE: &str = "orlop:types/lifecycle@1.0.0";
const LOG: &str = "orlop:types/log@1.0.0";
const MAX_LOG_LINES: u32 = 64;
const MAX_LOG_BYTES: usize = 4096;
const MAX_LAST_WORDS: usize = 1024;

/// One kind of plugin: the generated bindings of its world.
pub trait World: Sized + Send + 'static {
    /// What the manifest must say.
    const KIND: Kind;

    /// Whether the component has what its manifest says; asked when it is linked.
    ///
    /// # Errors
    /// [`PluginError::Incompatible`] with what is missing.
    fn check(pre: &InstancePre<HostState>, manifest: &Manifest) -> Result<(), PluginError> {
        let _ = (pre, manifest);
        Ok(())
    }

    /// Looks up the exports of the world. An error says which export is missing or of another type.
    ///
    /// # Errors
    /// What the generated `new` says.
    fn new(
        store: &mut Store,
        instance: &wasmtime::component::Instance,
        manifest: &Manifest,
    ) -> wasmtime::Result<Self>;
}

/// How a plugin is run, as its operator wants it.
#[derive(Clone, Debug)]
pub struct PluginOptions {
    /// Name in the log.
    pub name: String,
    /// JSON object for `init`.
    pub config: Vec<u8>,
    /// Limits of each instance.
    pub limits: Limits,
    /// Deadline of calls that do not bring their own.
    pub deadline: Duration,
}

impl PluginOptions {
    /// The manifest's own wishes, and no configuration.
    #[must_use]
    pub fn from_manifest(manifest: &Manifest) -> Self {
        Self {
            name: manifest.name.clone(),
            config: b"{}".to_vec(),
            limits: manifest.limits.limits(),
            deadline: manifest.limits.deadline(manifest.kind),
        }
    }
}

/// Data of a store: limits and log.
pub struct HostState {
    limiter: Limiter,
    plugin: Arc<str>,
    lines: u32,
    last_error: Option<String>,
    observer: Option<Arc<dyn Observer>>,
    pub(crate) wasi: Option<Box<Wasi>>,
}

impl HostState {
    /// Bytes of linear memory that the instance holds.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.limiter.memory()
    }

    /// A trap of this call is explained with this line, after those before it.
    pub(crate) fn last_words(&mut self, line: &str) {
        let said = self.last_error.get_or_insert_default();
        if !said.is_empty() {
            said.push_str("; ");
        }
        let room = MAX_LAST_WORDS.saturating_sub(said.len());
        said.push_str(cut(line, room));
    }

    fn begin_call(&mut self) {
        if self.lines > MAX_LOG_LINES {
            tracing::warn!(plugin = %self.plugin, dropped = self.lines - MAX_LOG_LINES, "plugin logged too much");
        }
        self.lines = 0;
        self.last_error = None;
    }

    pub(crate) fn log(&mut self, level: u32, message: &str) {
        self.lines = self.lines.saturating_add(1);
        let message = cut(message, MAX_LOG_BYTES);
        if level == 0 {
            self.last_error = Some(message.to_owned());
        }
        if self.lines > MAX_LOG_LINES {
            return;
        }
        let plugin = &*self.plugin;
        if let Some(observer) = &self.observer {
            observer.log(plugin, level, message);
        }
        match level {
            0 => tracing::error!(plugin, said = message, "plugin log"),
            1 => tracing::warn!(plugin, said = message, "plugin log"),
            2 => tracing::info!(plugin, said = message, "plugin log"),
            3 => tracing::debug!(plugin, said = message, "plugin log"),
            _ => tracing::trace!(plugin, said = message, "plugin log"),
        }
    }
}

fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// A plugin that is linked and ready to make instances of world `W`. Share it as `Arc<Plugin<W>>`.
pub struct Plugin<W> {
    pre: InstancePre<HostState>,
    manifest: Arc<Manifest>,
    digest: Digest,
    options: PluginOptions,
    name: Arc<str>,
    ticker: Arc<Ticker>,
    fuel_per_millisecond: Option<u64>,
    observer: Option<Arc<dyn Observer>>,
    /// Whether it imports WASI, and then whether it has a clock.
    wasi: Option<bool>,
    world: std::marker::PhantomData<fn() -> W>,
}

impl Runtime {
    /// Links compiled code to what world `W` offers. Runs nothing.
    ///
    /// # Errors
    /// [`PluginError::Incompatible`] where the manifest names another kind of world or an import
    /// is not offered.
    pub fn link<W: World>(
        &self,
        compiled: &Compiled,
        options: PluginOptions,
    ) -> Result<Plugin<W>, PluginError> {
        let manifest = compiled.manifest.clone();
        if manifest.kind != W::KIND {
            let message = format!("it is a {} plugin, not a {} plugin", manifest.kind, W::KIND);
            return Err(PluginError::Incompatible { message });
        }
        let (pre, wasi) = linker(self.engine(W::KIND))
            .and_then(|mut linker| {
                let wasi = wasi::define(&mut linker, &compiled.component)?;
                Ok((linker.instantiate_pre(&compiled.component)?, wasi))
            })
            .map_err(|e| PluginError::Incompatible { message: chain(&e) })?;
        W::check(&pre, &manifest)?;
        Ok(Plugin {
            pre,
            manifest,
            digest: compiled.digest,
            name: options.name.as_str().into(),
            options,
            ticker: self.ticker.clone(),
            fuel_per_millisecond: self.fuel_per_millisecond,
            observer: self.observer.clone(),
            wasi: wasi.then(|| compiled.manifest.wasi.time),
            world: std::marker::PhantomData,
        })
    }
}

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::<HostState>::new(engine);
    linker.instance(LOG)?.func_wrap(
        "log",
        |mut store: wasmtime::StoreContextMut<'_, HostState>, (level, message): (u32, String)| {
            store.data_mut().log(level, &message);
            Ok(())
        },
    )?;
    Ok(linker)
}

impl<W: World> Plugin<W> {
    /// The manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Digest of the bytes as given.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// How it is run.
    #[must_use]
    pub const fn options(&self) -> &PluginOptions {
        &self.options
    }

    /// Makes an instance and calls its `init`.
    ///
    /// # Errors
    /// [`PluginError::Incompatible`] where exports are missing, [`PluginError::Refused`] where
    /// `init` says no, else as for any call.
    pub fn instantiate(&self) -> Result<Instance<W>, PluginError> {
        let state = HostState {
            limiter: Limiter::new(self.options.limits),
            plugin: self.name.clone(),
            lines: 0,
            last_error: None,
            observer: self.observer.clone(),
            wasi: self.wasi.map(|time| Box::new(Wasi::new(self.digest, time))),
        };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(self.options.limits.output_bytes);
        store.epoch_deadline_trap();
        let clock = Clock { ticker: self.ticker.clone(), fuel_per_millisecond: self.fuel_per_millisecond };
        // Start-up may initialise tables; it gets what a slow call would get.
        let deadline = self.options.deadline.max(Duration::from_millis(250));
        let running = self.ticker.running();
        clock.start(&mut store, deadline);
        let failed = |store: &Store, error: &wasmtime::Error| classify(store, deadline, error);
        let raw = self.pre.instantiate(&mut store).map_err(|e| failed(&store, &e))?;
        let world = W::new(&mut store, &raw, &self.manifest)
            .map_err(|e| PluginError::Incompatible { message: chain(&e) })?;
        let (init, self_test) =
            lifecycle(&mut store, &raw).map_err(|e| PluginError::Incompatible { message: chain(&e) })?;
        let answer = init.call(&mut store, (self.options.config.clone(),)).map_err(|e| failed(&store, &e))?;
        if let (Err(message),) = answer {
            return Err(PluginError::Refused {
                stage: "init",
                message: cut(&message, MAX_LOG_BYTES).to_owned(),
            });
        }
        drop(running);
        clock.stop(&store, deadline);
        Ok(Instance { store, world, self_test, gone: false, deadline: self.options.deadline, clock })
    }

    /// Makes an instance and runs its self-test.
    ///
    /// # Errors
    /// As [`Plugin::instantiate`]; [`PluginError::Refused`] where the self-test says no.
    pub fn self_test(&self) -> Result<Instance<W>, PluginError> {
        let mut instance = self.instantiate()?;
        let self_test = instance.self_test;
        let (answer,) = instance.call_within(Duration::from_secs(1), |_, store| self_test.call(store, ()))?;
        match answer {
            Ok(()) => Ok(instance),
            Err(message) => Err(PluginError::Refused {
                stage: "self-test",
                message: cut(&message, MAX_LOG_BYTES).to_owned(),
            }),
        }
    }
}

type Init = TypedFunc<(Vec<u8>,), (Result<(), String>,)>;
type SelfTest = TypedFunc<(), (Result<(), String>,)>;

fn lifecycle(
    store: &mut Store,
    instance: &wasmtime::component::Instance,
) -> wasmtime::Result<(Init, SelfTest)> {
    let missing =
        |name: &str| wasmtime::Error::msg(format!("the export `{name}` of `{LIFECYCLE}` is missing"));
    let at = instance.get_export_index(&mut *store, None, LIFECYCLE).ok_or_else(|| missing("init"))?;
    let init = instance.get_export_index(&mut *store, Some(&at), "init").ok_or_else(|| missing("init"))?;
    let test =
        instance.get_export_index(&mut *store, Some(&at), "self-test").ok_or_else(|| missing("self-test"))?;
    Ok((instance.get_typed_func(&mut *store, init)?, instance.get_typed_func(&mut *store, test)?))
}

/// One instance in its own store. After the first failure it takes no further calls.
pub struct Instance<W> {
    store: Store,
    world: W,
    self_test: SelfTest,
    gone: bool,
    deadline: Duration,
    clock: Clock,
}

/// Counts deadlines, in time or in fuel.
struct Clock {
    ticker: Arc<Ticker>,
    fuel_per_millisecond: Option<u64>,
}

impl Clock {
    fn fuel(&self, deadline: Duration) -> Option<u64> {
        let milliseconds = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        Some(self.fuel_per_millisecond?.saturating_mul(milliseconds))
    }

    fn start(&self, store: &mut Store, deadline: Duration) {
        store.set_epoch_deadline(Ticker::ticks(deadline));
        if let Some(fuel) = self.fuel(deadline) {
            // Fails only where the engine does not meter.
            let _ = store.set_fuel(fuel);
        }
    }

    /// Tells the observer what the call cost.
    fn stop(&self, store: &Store, deadline: Duration) {
        let state = store.data();
        if let Some(observer) = &state.observer {
            let burnt = self.fuel(deadline).map_or(0, |given| {
                let left = store.get_fuel().unwrap_or(given);
                given.saturating_sub(left)
            });
            observer.called(&state.plugin, burnt, state.memory_bytes());
        }
    }
}

impl<W: World> Instance<W> {
    /// Calls the guest with the plugin's own deadline; `f` may make several calls, which share it.
    ///
    /// # Errors
    /// [`PluginError`]; the instance is [`Instance::is_gone`] afterwards.
    pub fn call<R>(
        &mut self,
        f: impl FnOnce(&W, &mut Store) -> wasmtime::Result<R>,
    ) -> Result<R, PluginError> {
        self.call_within(self.deadline, f)
    }

    /// As [`Instance::call`] with a deadline of its own.
    ///
    /// # Errors
    /// As [`Instance::call`].
    pub fn call_within<R>(
        &mut self,
        deadline: Duration,
        f: impl FnOnce(&W, &mut Store) -> wasmtime::Result<R>,
    ) -> Result<R, PluginError> {
        if self.gone {
            return Err(PluginError::Gone);
        }
        let _running = self.clock.ticker.running();
        self.store.data_mut().begin_call();
        self.clock.start(&mut self.store, deadline);
        let answer = f(&self.world, &mut self.store);
        wasi::flush(self.store.data_mut());
        self.clock.stop(&self.store, deadline);
        answer.map_err(|error| {
            self.gone = true;
            classify(&self.store, deadline, &error)
        })
    }

    /// As [`Instance::call`]; what `check` says of the result counts as the plugin's failure.
    ///
    /// # Errors
    /// As [`Instance::call`], and what `check` returns; the instance is [`Instance::is_gone`] after both.
    pub fn call_checked<R, T>(
        &mut self,
        f: impl FnOnce(&W, &mut Store) -> wasmtime::Result<R>,
        check: impl FnOnce(&W, R) -> Result<T, PluginError>,
    ) -> Result<T, PluginError> {
        let answer = self.call(f)?;
        let checked = check(&self.world, answer);
        self.gone = checked.is_err();
        checked
    }

    pub(crate) const fn world_mut(&mut self) -> &mut W {
        &mut self.world
    }

    /// Marks the instance as failed, because what it returned is invalid.
    pub const fn condemn(&mut self) {
        self.gone = true;
    }

    /// Whether it failed and must be dropped.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        self.gone
    }

    /// Bytes of linear memory that it holds.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }
}

fn classify(store: &Store, deadline: Duration, error: &wasmtime::Error) -> PluginError {
    if let Some(LimitExceeded { what, limit }) = error.downcast_ref() {
        return PluginError::MemoryLimit { what, limit: *limit };
    }
    let explained = |what: &dyn std::fmt::Display| match &store.data().last_error {
        Some(said) => format!("{what}; it logged: {said}"),
        None => what.to_string(),
    };
    match error.downcast_ref::<Stop>() {
        Some(stop @ Stop::Exit(_)) => return PluginError::Trap { message: explained(stop) },
        Some(Stop::Denied(message)) => return PluginError::Denied { message: message.clone() },
        None => {}
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt | Trap::OutOfFuel) => PluginError::Deadline { deadline },
        Some(trap) => PluginError::Trap { message: explained(trap) },
        None => PluginError::BadOutput { message: chain(error) },
    }
}

/// Keeps one instance of a plugin: made when first needed, replaced after a failure.
pub struct Slot<W> {
    plugin: Arc<Plugin<W>>,
    instance: Option<Instance<W>>,
}

impl<W: World> Slot<W> {
    /// An empty slot.
    #[must_use]
    pub const fn new(plugin: Arc<Plugin<W>>) -> Self {
        Self { plugin, instance: None }
    }

    /// The plugin.
    #[must_use]
    pub const fn plugin(&self) -> &Arc<Plugin<W>> {
        &self.plugin
    }

    /// The instance, made where there is none. The flag says whether it is new: it has no state.
    ///
    /// # Errors
    /// As [`Plugin::instantiate`].
    pub fn instance(&mut self) -> Result<(&mut Instance<W>, bool), PluginError> {
        if self.instance.as_ref().is_some_and(Instance::is_gone) {
            self.instance = None;
        }
        let fresh = self.instance.is_none();
        let made = match self.instance.take() {
            Some(instance) => instance,
            None => self.plugin.instantiate()?,
        };
        Ok((self.instance.insert(made), fresh))
    }

    /// Calls the instance; see [`Instance::call`]. What `check` says of the result counts as the plugin's
    /// failure.
    ///
    /// # Errors
    /// As [`Instance::call`], and what `check` returns.
    pub fn call<R, T>(
        &mut self,
        f: impl FnOnce(&W, &mut Store) -> wasmtime::Result<R>,
        check: impl FnOnce(R) -> Result<T, PluginError>,
    ) -> Result<T, PluginError> {
        let (instance, _) = self.instance()?;
        let result = instance.call(f).and_then(check);
        if result.is_err() {
            self.instance = None;
        }
        result
    }

    /// Tells the observer of a call with its answer, where it listens.
    pub(crate) fn tell<'a>(&'a self, asked: impl FnOnce() -> Asked<'a>) {
        let plugin = &self.plugin;
        if let Some(observer) = plugin.observer.as_ref().filter(|o| o.listens(&plugin.name)) {
            let (name, config) = (&*plugin.name, &*plugin.options.config);
            observer.exchanged(&Exchange { plugin: name, digest: plugin.digest, config, call: asked() });
        }
    }

    /// Drops the instance and its memory; the next call makes another.
    pub fn clear(&mut self) {
        self.instance = None;
    }
}
