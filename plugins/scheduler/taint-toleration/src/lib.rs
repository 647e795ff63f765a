//! TaintToleration: a node with a taint takes only pods that tolerate it.
//!
//! Nodes share a few taint sets; each set is judged once per class, then a node costs one look-up.

mod toleration;

pub use toleration::TaintToleration;

orlop_sdk::export_scheduler!(TaintToleration);
