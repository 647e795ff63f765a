//! What the test suites share.
//!
//! [`MemoryApi`] is an API server without a server: enough of Kubernetes' semantics to drive
//! informers, controllers, the scheduler and the node agent in unit tests.
#![forbid(unsafe_code)]

pub mod memory;
pub mod selector;
pub mod wait;

pub use memory::{Call, MemoryApi, Verb};
pub use wait::{eventually, eventually_async};
