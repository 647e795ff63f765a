//! One pod: its model, the decision what to do next, its status, and the worker that acts.
//!
//! [`decide`] and [`status`] are pure; only [`worker`] touches the runtime.

pub(crate) mod actions;
pub(crate) mod backoff;
pub(crate) mod decide;
pub(crate) mod lifecycle;
pub(crate) mod model;
pub(crate) mod probe;
pub(crate) mod publish;
pub(crate) mod status;
pub(crate) mod worker;
