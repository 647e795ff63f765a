//! NodeVolumeLimits: a node takes no more volumes of a driver than it can attach.

mod attached;
mod csi_node;
mod limits;
mod volume;

pub use limits::NodeVolumeLimits;

orlop_sdk::export_scheduler!(NodeVolumeLimits);
