//! The log: to standard error, one line per event.

use anyhow::{Result, anyhow};
use tracing_subscriber::EnvFilter;

/// Starts logging; `filter` is such as `info,orlop_scheduler=debug`.
pub(crate) fn init(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|e| anyhow!("--log `{filter}`: {e}"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init()
        .map_err(|e| anyhow!("cannot start logging: {e}"))
}
