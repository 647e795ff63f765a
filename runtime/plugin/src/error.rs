//! Why a plugin could not be loaded or a call of it failed.

use crate::manifest::ManifestError;
use std::time::Duration;

/// Failure of a plugin. None of them harms the host. Messages are worded for the user who sees them
/// in the status of a `Plugin` object.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The code stopped itself: a panic, an out-of-bounds access, a stack overflow. The instance
    /// is gone; a new one may work.
    #[error("trapped: {message}")]
    Trap {
        /// The kind of trap, and the last error that the plugin logged before it.
        message: String,
    },
    /// The call did not end in time and was stopped. The instance is gone.
    #[error("missed its deadline of {} ms", .deadline.as_millis())]
    Deadline {
        /// What the call was given.
        deadline: Duration,
    },
    /// The plugin asked for more than its limit. The instance is gone.
    #[error("exceeded its limit of {limit} {what}")]
    MemoryLimit {
        /// `bytes of memory` or `table elements`.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The plugin may not do what it asked for.
    #[error("denied: {message}")]
    Denied {
        /// What was asked for.
        message: String,
    },
    /// The plugin returned what its interface forbids. The instance is gone.
    #[error("returned an invalid result: {message}")]
    BadOutput {
        /// What was wrong.
        message: String,
    },
    /// Built for another world or version, or imports what its world does not offer. Final.
    #[error("incompatible: {message}")]
    Incompatible {
        /// What does not fit.
        message: String,
    },
    /// Not WebAssembly, or not a module or component that can be loaded. Final.
    #[error("not a loadable WebAssembly plugin: {message}")]
    Malformed {
        /// What the decoder says.
        message: String,
    },
    /// The manifest is missing or wrong. Final.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// `init` or the self-test of the plugin said no. Final for this configuration.
    #[error("{stage} failed: {message}")]
    Refused {
        /// `init` or `self-test`.
        stage: &'static str,
        /// What the plugin says.
        message: String,
    },
    /// The instance failed before and takes no further calls.
    #[error("the instance failed before")]
    Gone,
}

impl PluginError {
    /// A short CamelCase word for conditions, events and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Trap { .. } => "Trap",
            Self::Deadline { .. } => "Deadline",
            Self::MemoryLimit { .. } => "MemoryLimit",
            Self::Denied { .. } => "Denied",
            Self::BadOutput { .. } => "BadOutput",
            Self::Incompatible { .. } => "Incompatible",
            Self::Malformed { .. } => "Malformed",
            Self::Manifest(_) => "BadManifest",
            Self::Refused { .. } => "Refused",
            Self::Gone => "Gone",
        }
    }

    /// For bindings: the plugin returned something that its interface forbids.
    #[must_use]
    pub fn bad_output(message: impl Into<String>) -> Self {
        Self::BadOutput { message: message.into() }
    }
}
