//! VolumeZone: a pod fits where the zones of its volumes are.

mod zone;

pub use zone::VolumeZone;

orlop_sdk::export_scheduler!(VolumeZone);
