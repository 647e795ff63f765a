//! DefaultBinder: the host binds the pod.

mod binder;

pub use binder::DefaultBinder;

orlop_sdk::export_scheduler!(DefaultBinder);
