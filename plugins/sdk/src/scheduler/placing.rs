//! From the choice of a node to the binding, and preemption.

use crate::controller::Write;
use serde_json::Value;
use std::ops::Range;
use std::time::Duration;

/// A pod and the node that was chosen for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// Number of the pod: the same in all calls about it, never used again for another.
    pub pod: u64,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// The pod, cut down to the declared `podFields`.
    pub fields: Value,
    /// Slot of the node.
    pub slot: u32,
    /// Name of the node.
    pub node: String,
}

/// What is to become of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on.
    #[default]
    Allow,
    /// It waits.
    Wait {
        /// So long at most, up to fifteen minutes; then it is rejected.
        timeout: Duration,
        /// Why.
        message: String,
    },
    /// It goes back to the queue.
    Reject {
        /// Why.
        message: String,
    },
}

impl Verdict {
    /// It goes back to the queue.
    pub fn reject(message: impl Into<String>) -> Self {
        Self::Reject { message: message.into() }
    }

    /// It waits.
    pub fn wait(timeout: Duration, message: impl Into<String>) -> Self {
        Self::Wait { timeout, message: message.into() }
    }
}

/// What is to become of another pod that waits in `permit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its number.
    pub pod: u64,
    /// Why it is rejected; allowed where `None`.
    pub rejected: Option<String>,
}

impl Decision {
    /// It may go on, as far as this plugin is concerned.
    #[must_use]
    pub const fn allow(pod: u64) -> Self {
        Self { pod, rejected: None }
    }

    /// It goes back to the queue.
    pub fn reject(pod: u64, message: impl Into<String>) -> Self {
        Self { pod, rejected: Some(message.into()) }
    }
}

/// Who binds.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Binder {
    /// The host, by the subresource `binding`.
    Host,
    /// The next plugin.
    #[default]
    Next,
    /// These writes.
    Writes(Vec<Write>),
}

/// Pods on candidate nodes of a preemption, column by column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CandidatePods {
    /// Those of candidate i are `offsets[i]..offsets[i + 1]` of the other lists.
    pub offsets: Vec<u32>,
    /// `spec.priority`
    pub priorities: Vec<i32>,
    /// Since when they run, milliseconds since the epoch.
    pub started: Vec<i64>,
    /// 1 where an eviction now would violate a PodDisruptionBudget.
    pub violating: Vec<u8>,
    /// 1 where the pod is being deleted already.
    pub terminating: Vec<u8>,
}

impl CandidatePods {
    /// Positions of the pods of each candidate.
    pub fn candidates(&self) -> impl Iterator<Item = Range<usize>> {
        self.offsets.windows(2).map(|pair| match pair {
            [from, to] => *from as usize..*to as usize,
            _ => 0..0,
        })
    }
}
