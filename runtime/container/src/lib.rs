//! The only crate that knows containers: CRI's vocabulary, the embedded runc driver, images, cgroups.
//!
//! [`cri`] is the contract with the node; everything else serves the runc driver behind it.

pub mod cri;
pub mod error;

pub use cri::{ImageService, NetworkError, PodKey, PodNetwork, Runtime};
pub use error::RuntimeError;
