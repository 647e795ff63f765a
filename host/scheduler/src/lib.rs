//! The scheduler: queue, node table, pod classes, cycles, binding; plugins decide.
//!
//! From the inside out: [`table::NodeTable`] holds the nodes; a [`profile::Profile`] asks its
//! plugins about one [`class::Class`] of pods over all nodes at once; [`engine::Engine`] takes pods
//! from the [`queue::Queue`], chooses, and accounts; [`scheduler::Scheduler`] joins it to an API
//! server. What plugins are and where they run is behind the traits of [`framework`].
//!
//! Invariant: the result is the same as filtering and scoring every node, one by one, for every
//! pod. No nodes are sampled.
#![forbid(unsafe_code)]

pub mod action;
mod binding;
pub mod class;
pub mod columns;
pub mod config;
mod disruption;
pub mod engine;
mod events;
pub mod framework;
mod inbox;
mod informers;
mod nominated;
pub mod objects;
pub mod placed_pods;
pub mod pod;
pub mod preemption;
pub mod profile;
pub mod projection;
pub mod queue;
pub mod resources;
pub mod scheduler;
pub mod surroundings;
pub mod table;

pub use config::{ConfigError, SchedulerConfig};
pub use engine::Engine;
pub use scheduler::{Clients, Scheduler, SchedulerError, SchedulerOptions};
