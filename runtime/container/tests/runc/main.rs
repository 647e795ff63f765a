//! The driver against the real thing: runc, overlayfs, cgroups, namespaces. Needs root, runc,
//! busybox-static and docker-registry; fails, and says so, where one is missing.
//!
//! The shim is built once per run by `cargo rustc --profile shim -p orlop-shim` (see `support`).
//! Every test has folders, cgroups and names of its own and removes what it made.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod adoption;
mod exec;
mod images;
mod lifecycle;
mod registry;
mod support;
