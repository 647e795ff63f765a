//! SchedulingGates: a pod with scheduling gates is not tried.

mod gates;

pub use gates::SchedulingGates;

orlop_sdk::export_scheduler!(SchedulingGates);
