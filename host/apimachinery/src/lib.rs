//! Kubernetes API machinery: objects, metadata, quantities, selectors, patches, schemas, `Status`.
//!
//! Pure: no tokio, no I/O, no clock. Compiles for `wasm32-unknown-unknown`, because guests use it.
#![forbid(unsafe_code)]

pub mod gvk;
pub mod object;
pub mod status;

pub use gvk::{Gvk, Gvr};
pub use object::{Object, ObjectError, ObjectMeta, OwnerReference};
pub use status::{Cause, Reason, Status};
