//! DynamicResources: a pod waits for its resource claims, and they are reserved for it.

mod claim;
mod resources;

pub use resources::DynamicResources;

orlop_sdk::export_scheduler!(DynamicResources);
