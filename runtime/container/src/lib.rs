//! The only crate that knows containers: CRI's vocabulary, the embedded runc driver, images, cgroups.
//!
//! [`cri`] is the contract with the node; everything else serves the runc driver behind it.

pub mod cgroups;
pub mod cri;
pub mod error;
pub mod image;
pub mod runc;
pub mod spec;

pub use cri::{ImageService, NetworkError, PodKey, PodNetwork, Runtime};
pub use error::RuntimeError;
pub use runc::{RuncConfig, RuncRuntime, cleanup_all};
