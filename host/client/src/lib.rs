//! How every part but the apiserver reaches the API.
//!
//! [`ApiClient`] is the one door: in process it is the apiserver's loopback, which shares
//! `Arc<Object>` with the watch cache; elsewhere it speaks HTTPS. [`Informer`] keeps a local
//! cache of one resource on top of it.
#![forbid(unsafe_code)]

pub mod api;
pub mod informer;
pub mod lease;
pub mod workqueue;
pub mod write;

pub use api::{
    ApiClient, ApiError, DeleteOptions, ListOptions, ObjectList, PatchType, Propagation, ResourceRef,
    WatchEvent, WatchOptions, WatchStream, WriteOptions,
};
pub use informer::{Cache, Delta, IndexFn, Informer};
pub use lease::{Fence, Leader, LeaderConfig, LeaderElector, Leadership};
pub use workqueue::{RateLimits, WorkQueue};
