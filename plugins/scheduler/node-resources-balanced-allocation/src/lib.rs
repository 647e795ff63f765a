//! NodeResourcesBalancedAllocation: a pod goes where it evens out the use of resources.

mod balance;

pub use balance::NodeResourcesBalancedAllocation;

orlop_sdk::export_scheduler!(NodeResourcesBalancedAllocation);
