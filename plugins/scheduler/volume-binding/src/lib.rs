//! VolumeBinding: a pod fits where its volumes are, or can be.

mod binding;
mod booking;
mod candidates;
mod class;
mod storage;

pub use binding::VolumeBinding;

orlop_sdk::export_scheduler!(VolumeBinding);
