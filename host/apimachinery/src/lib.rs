//! Kubernetes API machinery: objects, metadata, quantities, selectors, patches, schemas, `Status`.
//!
//! Pure: no tokio, no I/O, no clock. Compiles for `wasm32-unknown-unknown`, because guests use it.
#![forbid(unsafe_code)]

pub mod apply;
pub mod field;
pub mod gvk;
pub mod managed_fields;
pub mod names;
pub mod object;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;

pub use gvk::{Gvk, Gvr};
pub use object::{Object, ObjectError, ObjectMeta, OwnerReference};
pub use quantity::Quantity;
pub use schema::SchemaSet;
pub use selector::{FieldSelector, NodeSelector, Selector};
pub use status::{Cause, Reason, Status};
