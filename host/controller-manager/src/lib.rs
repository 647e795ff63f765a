//! Runs controller plugins: watches, queues, plans, fencing.
//!
//! A controller plugin is a function from a batch of keys, with the objects that each key declared,
//! to plans: lists of writes. Everything else is here: one informer per resource for all
//! controllers, indexes, deduplicating queues with per-key serialisation and back-off, the leader
//! Lease, the checks of what a plugin may write, and the writes themselves.
//!
//! Invariants:
//! - A key is worked on by one call at a time, and not again before its own writes are visible in
//!   the cache. So a plugin needs no expectations.
//! - A write is applied only while the term of the leader in which it was decided still runs.
//! - A plugin that fails, hangs or lies delays only its own keys.
//!
//! Left out: loading WebAssembly. [`framework::ControllerPlugin`] is implemented by an adapter over
//! the plugin runtime, and natively in tests.
#![forbid(unsafe_code)]

pub mod declaration;
pub mod framework;
pub mod plan;

mod apply;
mod cache;
mod controller;
mod events;
mod inputs;
mod keys;
mod manager;
mod paths;
mod served;
mod thread;
mod watches;

pub use declaration::{Declaration, DeclarationError, Grant};
pub use framework::{
    ApiResource, Clients, ControllerInstance, ControllerPlugin, ControllerSpec, PluginFailure,
};
pub use manager::{Clock, ControllerManager, ControllerStatus, ManagerOptions, Resources};
