//! Whole loops: the manager, native builds of the plugins, and an API in memory.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod broken;
mod budgets;
mod cleaning;
mod faults;
mod harness;
mod later;
mod namespaces;
mod nodes;
mod services;
mod workloads;
