//! Joins plugins to the traits of the parts that ask them, and manages which are active.
//!
//! - [`manager`]: from `Plugin` objects and embedded bytes to the set of active plugins
//! - [`set`]: that set, an immutable snapshot
//! - [`access`]: who a plugin is, and what it may see and write
//! - [`rollout`]: when a candidate goes on, and when it is given up
//! - [`comparison`]: revisions in shadow and canary, and what they do otherwise
//! - [`health`]: failures, and what follows from them
//! - [`policy`]: what the operator allows
//! - [`admission`], [`controller`], [`scheduler`]: the adapters

pub(crate) mod access;
pub(crate) mod admission;
pub(crate) mod comparison;
pub(crate) mod controller;
pub(crate) mod health;
pub(crate) mod latency;
pub(crate) mod manager;
pub(crate) mod object;
pub(crate) mod policy;
pub(crate) mod rollout;
pub(crate) mod scheduler;
pub(crate) mod set;
