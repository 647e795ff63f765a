//! The Kubernetes API over HTTPS.
//!
//! A general machine: the table in [`registry`] says which types there are, a strategy per type
//! says what is particular to it, and everything else (decoding, defaults, admission, storage,
//! watch cache, lists, patches, deletion, tables, discovery) knows no type by name.
#![forbid(unsafe_code)]

pub mod admission;
pub mod authz;
pub mod config;
pub mod pki;
pub mod plugin_streams;
pub mod registry;
pub mod token;
pub mod user;
pub mod version;

mod alloc;
mod authn;
mod binding;
mod body;
mod bootstrap;
mod cache;
mod core;
mod crd;
mod decode;
mod delete;
mod discovery;
mod escalation;
mod eviction;
mod handlers;
mod http;
mod impersonate;
mod info;
mod loopback;
mod maintenance;
mod managed;
mod metadata;
mod metrics;
mod negotiate;
mod node_proxy;
mod openapi;
mod patch;
mod path;
mod query;
mod read;
mod render;
mod review;
mod schema;
mod selectors;
mod server;
mod status;
mod storage;
mod subresources;
mod watch;
mod write;

pub use alloc::ServiceNetwork;
pub use authn::TokenFileError;
pub use config::Config;
pub use loopback::LoopbackClient;
pub use server::{ApiServer, Parts, StartError};
pub use user::UserInfo;

#[cfg(test)]
mod tests;
