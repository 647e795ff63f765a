//! PrioritySort: pods of higher priority are tried first.

mod sort;

pub use sort::PrioritySort;

orlop_sdk::export_scheduler!(PrioritySort);
