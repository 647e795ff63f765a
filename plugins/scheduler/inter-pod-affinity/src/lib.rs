//! InterPodAffinity: pods go where other pods are, or keep away from them.
//!
//! Terms are tried once per entry of the dictionary of placed pods, never per pod; changed rows move
//! the sums of the domains that they lie in.

mod affinity;
mod args;
mod channel;
mod group;
mod terms;

pub use affinity::InterPodAffinity;

orlop_sdk::export_scheduler!(InterPodAffinity);
