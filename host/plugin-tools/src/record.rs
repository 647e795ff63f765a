//! Recordings: what a plugin was asked and what it answered, line by line in JSON.
//!
//! The first line is the [`Header`]. Each other line is an [`Entry`]: an instance was opened, or an
//! instance was called. Calls of one instance stand in the order in which they were made, from its first
//! one on, so that whoever repeats them goes through the same states.
//!
//! The format is versioned and its types are its own: what the host uses inside may change.

mod call;
mod file;
mod scheduler;
mod wire;

pub use call::{Call, Failure, Outcome, Requests};
pub use file::{Reader, RecordingError, open, write_entry, write_header};
pub(crate) use scheduler::{
    bound, decisions, eligible, explanation, mask, numbers, permitted, pre_bound, prepared, stale, synced,
};
pub use scheduler::{failure_of, perform};
pub use wire::{
    AdmissionRequest, CandidatePods, Delta, Dictionary, ListColumn, ObjectChange, Placement, S64Column,
    U32Column, bits, unpack_bits,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `format` of the header.
pub const FORMAT: &str = "orlop.dev/plugin-recording/v1";

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// [`FORMAT`]
    pub format: String,
    /// Name of the Plugin object.
    pub plugin: String,
    /// Version of the host.
    #[serde(default)]
    pub host: String,
    /// When it began.
    #[serde(default)]
    pub began: String,
}

impl Header {
    /// The header of a recording that begins now.
    #[must_use]
    pub fn now(plugin: &str) -> Self {
        Self {
            format: FORMAT.to_owned(),
            plugin: plugin.to_owned(),
            host: env!("CARGO_PKG_VERSION").to_owned(),
            began: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// Every other line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    /// An instance began.
    #[serde(rename_all = "camelCase")]
    Opened {
        /// Counts the instances of the recording.
        instance: u64,
        /// Of the module, as in the status of the Plugin.
        digest: String,
        /// What `init` got.
        config: Value,
    },
    /// An instance was called.
    #[serde(rename_all = "camelCase")]
    Called {
        /// Which.
        instance: u64,
        /// With what.
        call: Call,
        /// What it answered.
        outcome: Outcome,
    },
    /// The host could not keep pace and left calls out; what follows is of other instances.
    Dropped(u64),
}
