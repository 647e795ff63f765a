//! What the engine wants done, and how it is told of the end.

use crate::pod::Uid;
use std::sync::Arc;

/// Namespace and name.
pub type Key = (Arc<str>, Arc<str>);

/// Names a pod in actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
    /// `metadata.uid`
    pub uid: Uid,
    /// Of the pod as it was when the action was decided.
    pub resource_version: u64,
    /// `metadata.generation`
    pub generation: i64,
    /// `spec.schedulerName`, the component that events come from.
    pub scheduler: Arc<str>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bind the pod, then report by [`Engine::bound`](crate::Engine::bound).
    Bind {
        /// The pod.
        pod: PodRef,
        /// The node.
        node: Arc<str>,
    },
    /// Set the condition PodScheduled to False.
    Condition {
        /// The pod.
        pod: PodRef,
        /// `Unschedulable`, `SchedulingGated` or `SchedulerError`.
        reason: &'static str,
        /// For the user.
        message: Arc<str>,
        /// Set `status.nominatedNodeName` to this, where it is something.
        nominated: Option<Arc<str>>,
    },
    /// Empty `status.nominatedNodeName`.
    Withdraw {
        /// The pod.
        pod: PodRef,
    },
    /// Set the condition DisruptionTarget, delete the pod and say so by an event; then report by
    /// [`Engine::eviction_failed`](crate::Engine::eviction_failed) where that failed.
    Evict {
        /// The pod; its scheduler is that of the pod that needs the room.
        pod: PodRef,
        /// The pod that needs the room.
        by: Uid,
        /// Of the event.
        message: Arc<str>,
    },
    /// Do the writes of a plugin, in order and as its user, then report by
    /// [`Engine::written`](crate::Engine::written).
    Write {
        /// The pod that they are for.
        pod: PodRef,
        /// The plugin.
        plugin: Arc<str>,
        /// The plugin's user; empty for the scheduler's own.
        user: Arc<str>,
        /// In JSON, as in the plan of a controller plugin.
        writes: Vec<Vec<u8>>,
        /// To be named in the report.
        ticket: u64,
    },
    /// Emit an event about the pod.
    Event {
        /// The pod.
        pod: PodRef,
        /// Normal, else Warning.
        normal: bool,
        /// `Scheduled`, `FailedScheduling` or `Preempted`.
        reason: &'static str,
        /// `Binding`, `Scheduling` or `Preempting`.
        action: &'static str,
        /// For the user.
        message: Arc<str>,
    },
}

/// How a binding ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindResult {
    /// The API server has it, or the pod was found bound to this node.
    Bound,
    /// The API server refused it, or it is certain that it did not happen.
    Failed(String),
    /// The pod is gone.
    Gone,
}
