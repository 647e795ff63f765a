//! Calls and their outcomes.

use super::wire::{AdmissionRequest, CandidatePods, Delta, ObjectChange, Placement};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Requests of one call of an admission plugin.
pub type Requests = Vec<AdmissionRequest>;

/// One call of a plugin of any kind. Objects are kept as the very text that was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "hook", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Call {
    /// The host started the instance anew.
    Reset,
    /// The mirror is brought up to date.
    Sync {
        /// What changed.
        delta: Delta,
    },
    /// A class is introduced.
    Prepare {
        /// Its number.
        class: u32,
        /// JSON.
        pod: String,
    },
    /// A class is forgotten.
    Release {
        /// Its number.
        class: u32,
    },
    /// Which nodes fit.
    Filter {
        /// Of which class.
        class: u32,
        /// Among which slots; all where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rows: Option<Vec<u32>>,
    },
    /// How well they fit.
    Score {
        /// Of which class.
        class: u32,
        /// Which slots; all where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rows: Option<Vec<u32>>,
    },
    /// The same, to be normalised.
    ScoreRaw {
        /// Of which class.
        class: u32,
        /// Which slots; all where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rows: Option<Vec<u32>>,
    },
    /// From raw scores to 0 to 100.
    Normalize {
        /// Of which class.
        class: u32,
        /// Bit set over slots.
        feasible: String,
        /// One per slot.
        raw: Vec<i64>,
    },
    /// Why nodes were rejected.
    Explain {
        /// Of which class.
        class: u32,
        /// Which slots.
        rows: Vec<u32>,
    },
    /// The filter under other circumstances.
    Overlay {
        /// Of which class.
        class: u32,
        /// The circumstances.
        delta: Delta,
    },
    /// Watched objects.
    Objects {
        /// All there are.
        full: bool,
        /// What changed.
        changes: Vec<ObjectChange>,
    },
    /// Whether a pod may be tried.
    PreEnqueue {
        /// JSON.
        pod: String,
    },
    /// Where a pod stands in the queue.
    SortKey {
        /// JSON.
        pod: String,
    },
    /// A pod is booked.
    Reserve {
        /// Which, and where.
        placement: Placement,
    },
    /// The booking is taken back.
    Unreserve {
        /// Which, and where.
        placement: Placement,
    },
    /// Whether it may be bound.
    Permit {
        /// Which, and where.
        placement: Placement,
    },
    /// What has to be done before.
    PreBind {
        /// Which, and where.
        placement: Placement,
    },
    /// Who binds it.
    Bind {
        /// Which, and where.
        placement: Placement,
    },
    /// It is bound.
    PostBind {
        /// Which, and where.
        placement: Placement,
    },
    /// Whether a pod may evict others.
    Eligible {
        /// JSON.
        pod: String,
        /// So many there are.
        nodes: u32,
        /// Victims of an earlier try still end.
        terminating: bool,
    },
    /// Whom it may evict.
    Victims {
        /// JSON.
        pod: String,
        /// On the candidates.
        pods: CandidatePods,
    },
    /// Which candidate is best.
    Choose {
        /// JSON.
        pod: String,
        /// On the candidates.
        victims: CandidatePods,
    },
    /// A controller decides about keys.
    Reconcile {
        /// JSON, as in `orlop:controller`.
        request: String,
    },
    /// An admission plugin may change objects.
    Mutate {
        /// The batch.
        requests: Requests,
    },
    /// An admission plugin may refuse.
    Validate {
        /// The batch.
        requests: Requests,
    },
}

impl Call {
    /// As in the manifest and in the WIT.
    #[must_use]
    pub const fn hook(&self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Sync { .. } => "sync",
            Self::Prepare { .. } => "prepare",
            Self::Release { .. } => "release",
            Self::Filter { .. } => "filter",
            Self::Score { .. } => "score",
            Self::ScoreRaw { .. } => "score-raw",
            Self::Normalize { .. } => "normalize",
            Self::Explain { .. } => "explain",
            Self::Overlay { .. } => "overlay",
            Self::Objects { .. } => "objects",
            Self::PreEnqueue { .. } => "pre-enqueue",
            Self::SortKey { .. } => "sort-key",
            Self::Reserve { .. } => "reserve",
            Self::Unreserve { .. } => "unreserve",
            Self::Permit { .. } => "permit",
            Self::PreBind { .. } => "pre-bind",
            Self::Bind { .. } => "bind",
            Self::PostBind { .. } => "post-bind",
            Self::Eligible { .. } => "eligible",
            Self::Victims { .. } => "victims",
            Self::Choose { .. } => "choose",
            Self::Reconcile { .. } => "reconcile",
            Self::Mutate { .. } => "mutate",
            Self::Validate { .. } => "validate",
        }
    }
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// `Trap`, `Deadline`, `MemoryLimit`, `BadOutput`, `Refused`, …
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// What the plugin answered.
    Answer(Value),
    /// It failed.
    Failure(Failure),
}

impl Outcome {
    /// Whether two calls ended alike. Failures are alike where their reasons are: the words of a trap are
    /// those of the runtime, and it matters not whether time or fuel was short.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Answer(a), Self::Answer(b)) => a == b,
            (Self::Failure(a), Self::Failure(b)) => {
                a.reason == b.reason && (a.reason != "Refused" || a.message == b.message)
            }
            _ => false,
        }
    }
}
