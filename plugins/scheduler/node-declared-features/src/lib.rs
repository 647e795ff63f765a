//! NodeDeclaredFeatures: a pod fits a node that declares the features that it needs.

mod features;

pub use features::NodeDeclaredFeatures;

orlop_sdk::export_scheduler!(NodeDeclaredFeatures);
