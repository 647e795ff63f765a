//! What authors of plugins need around their code: templates to begin with, builds, golden tests,
//! benches, recordings of a live cluster and their replay, and differences between two versions.
//!
//! Everything here works on plain files and on the plugin runtime; what speaks to a cluster is the
//! command line's. Scheduler plugins are asked through the host's own trait, so that an author's test
//! goes through the code that a cluster goes through.
#![forbid(unsafe_code)]

pub mod bench;
pub mod builder;
pub mod compare;
pub mod golden;
pub mod monitor;
pub mod project;
pub mod record;
pub mod replay;
pub mod sections;
pub mod tap;
pub mod template;
pub mod workbench;
