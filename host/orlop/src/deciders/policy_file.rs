//! `plugins.yaml`, read again when it changes.

use crate::plugins::policy::{DEFAULT, PluginPolicy};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the file's time is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The file, and what the host adds to it.
pub(crate) struct PolicyFile {
    path: Option<PathBuf>,
    /// Configuration that only the host knows, by name of the plugin; the file's comes first.
    host_config: Vec<(String, Value)>,
}

impl PolicyFile {
    pub(crate) const fn new(path: Option<PathBuf>, host_config: Vec<(String, Value)>) -> Self {
        Self { path, host_config }
    }

    /// Reads the file, or the built-in policy where there is none.
    ///
    /// # Errors
    /// Where the file cannot be read or makes no sense.
    pub(crate) fn read(&self) -> Result<PluginPolicy> {
        let text = match &self.path {
            Some(path) if path.exists() => {
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
            }
            _ => DEFAULT.to_owned(),
        };
        let mut policy = PluginPolicy::parse(&text)?;
        for (name, config) in &self.host_config {
            policy.default_config(name, config);
        }
        Ok(policy)
    }

    fn stamp(&self) -> Option<(SystemTime, u64)> {
        let metadata = std::fs::metadata(self.path.as_ref()?).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }

    /// Publishes each good change until `cancel`. A file with a mistake is named in a warning, and
    /// what was in force stays.
    pub(crate) async fn follow(self, policy: watch::Sender<Arc<PluginPolicy>>, cancel: CancellationToken) {
        if self.path.is_none() {
            return;
        }
        let mut seen = self.stamp();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = self.stamp();
            if now == seen {
                continue;
            }
            seen = now;
            match self.read() {
                Ok(fresh) => {
                    tracing::info!("plugin policy read again");
                    policy.send_replace(Arc::new(fresh));
                }
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "plugin policy refused, the one before stays"
                    );
                }
            }
        }
    }
}
