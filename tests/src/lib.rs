//! A real cluster for a test: the real binary, in a network namespace of its own.
//!
//! Run the tests by `cargo xtask test`, which builds what they need and says where it is.
#![forbid(unsafe_code)]

pub mod api;
pub mod cluster;
pub mod netns;

pub use cluster::{Cluster, Options, Output, binary, capture, repository};
pub use netns::NetNs;

use anyhow::{Result, bail};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long [`eventually`] waits: long enough for the slowest machine, for it only passes in vain
/// where a test fails anyhow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `probe` gives `Some`, at most [`PATIENCE`].
///
/// # Errors
/// Where it never did; or at once, with the error of `probe`.
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(PATIENCE, what, probe)
}

/// Waits until `probe` gives `Some`, at most `limit`.
///
/// # Errors
/// Where it never did; or at once, with the error of `probe`.
pub fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {} s for {what}, in vain", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A file that `cargo xtask test` made: named by an environment variable, else where it puts it.
///
/// # Errors
/// Where it is missing.
pub fn artifact(variable: &str, default: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable).map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target").join(default),
        PathBuf::from,
    );
    if !path.exists() {
        bail!("{} is missing: run the tests by `cargo xtask test`, which builds it", path.display());
    }
    Ok(path)
}
