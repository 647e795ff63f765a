//! VolumeRestrictions: a volume that only one may use is not used twice.

mod disk;
mod restrictions;
mod uses;

pub use restrictions::VolumeRestrictions;

orlop_sdk::export_scheduler!(VolumeRestrictions);
