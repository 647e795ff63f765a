//! DefaultPreemption: a pod that fits nowhere may take the place of less important ones.

mod choice;
mod preemption;

pub use preemption::DefaultPreemption;

orlop_sdk::export_scheduler!(DefaultPreemption);
