//! NodeResourcesFit: a pod fits where what it requests is free, best where most is free.
//!
//! Semantics of Kubernetes v1.36: the filter compares exact requests, the score (LeastAllocated or
//! MostAllocated) takes CPU and memory with defaults for containers that request none. The strategy
//! RequestedToCapacityRatio is refused as not supported.

mod args;
mod fit;
mod quotient;
mod usual;

pub use fit::NodeResourcesFit;

orlop_sdk::export_scheduler!(NodeResourcesFit);
