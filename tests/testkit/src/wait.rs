//! Waiting by predicate: tests name a state, not a time.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long a test waits for a state before it fails; generous, because test machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `holds` is true.
///
/// # Errors
/// Names `what` where it did not become true within [`PATIENCE`].
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > PATIENCE {
            bail!("timed out waiting until {what}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Waits until the future that `holds` makes answers true.
///
/// # Errors
/// Names `what` where it did not become true within [`PATIENCE`].
pub async fn eventually_async<F: Future<Output = bool>>(
    what: &str,
    mut holds: impl FnMut() -> F,
) -> Result<()> {
    let began = Instant::now();
    while !holds().await {
        if began.elapsed() > PATIENCE {
            bail!("timed out waiting until {what}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
