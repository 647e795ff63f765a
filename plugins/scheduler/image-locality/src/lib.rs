//! ImageLocality: a pod goes where its images are.

mod locality;

pub use locality::ImageLocality;

orlop_sdk::export_scheduler!(ImageLocality);
