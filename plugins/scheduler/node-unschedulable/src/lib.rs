//! NodeUnschedulable: a cordoned node takes no pods but those that tolerate it.
//!
//! Which nodes are cordoned changes seldom, so the answer lies ready as a bit set.

mod cordon;

pub use cordon::NodeUnschedulable;

orlop_sdk::export_scheduler!(NodeUnschedulable);
