//! PodTopologySpread: pods are spread over zones, nodes and other domains.
//!
//! Nothing is counted anew: changed rows move the counts of the domains that they lie in.

mod args;
mod constraint;
mod counts;
mod group;
mod matchers;
mod score;
mod spread;

pub use spread::PodTopologySpread;

orlop_sdk::export_scheduler!(PodTopologySpread);
