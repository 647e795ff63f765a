//! From a pod's spec to what the runtime is asked for: environment, files, sandbox and container
//! configuration. Pure, but for the reading of the host's resolver configuration.

pub(crate) mod config;
pub(crate) mod env;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod sandbox;
pub(crate) mod services;
