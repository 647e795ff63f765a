//! The only crate that knows wasmtime: engine, limits, bindings, instances.
//!
//! From the outside in: a [`Runtime`] holds the engines and the cache of compiled code;
//! [`Runtime::compile`] makes bytes a [`Compiled`] (manifest read, imports checked, code compiled);
//! [`Runtime::link`] makes that a [`Plugin`] of one [`World`], with its configuration and its limits;
//! a [`Plugin`] makes [`Instance`]s, and a [`Slot`] keeps one and replaces it after a failure.
//!
//! Invariant: nothing that a plugin does panics, blocks or kills the host; it ends in a
//! [`PluginError`] within its deadline.
//!
//! Which plugins are active, and what happens after failures, is decided above this crate.

pub mod admission;
mod cache;
mod compile;
mod compiler;
pub mod controller;
mod error;
mod instance;
mod limits;
pub mod manifest;
mod memory;
mod observer;
mod runtime;
pub mod scheduler;
mod ticker;
mod wasi;

pub use compile::{Compiled, Digest, Inspection, inspect};
pub use compiler::compile_from_stdin;
pub use error::PluginError;
pub use instance::{HostState, Instance, Plugin, PluginOptions, Slot, Store, World};
pub use limits::Limits;
pub use manifest::{Kind, Manifest, ManifestError, WorldRef};
pub use memory::release_memory;
pub use observer::{Asked, Exchange, Observer};
pub use runtime::{Runtime, RuntimeError, RuntimeOptions};
