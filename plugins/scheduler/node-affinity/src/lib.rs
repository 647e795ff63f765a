//! NodeAffinity: a pod chooses nodes by their labels (`nodeSelector`, `affinity.nodeAffinity`).

mod affinity;

pub use affinity::NodeAffinity;

orlop_sdk::export_scheduler!(NodeAffinity);
