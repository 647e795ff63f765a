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
    /// Bind the pod, then report by [`Engine::bound`].
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
    },
    /// Emit an event about the pod.
    Event {
        /// The pod.
        pod: PodRef,
        /// Normal, else Warning.
        normal: bool,
        /// `Scheduled` or `FailedScheduling`.
        reason: &'static str,
        /// `Binding` or `Scheduling`.
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
