//! What came of a preemption.

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// The profile has no plugin for it.
    Unavailable,
    /// The pod may not evict others, and why.
    Ineligible(String),
    /// A node was found; the pod is nominated for it.
    Found,
    /// No node was found; how many nodes are out for which reason.
    NotFound(Vec<(String, u32)>),
}
