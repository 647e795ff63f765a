//! The Kubernetes API over HTTPS.
//!
//! A general machine: the table in [`registry`] says which types there are, a strategy per type
//! says what is particular to it, and everything else (decoding, defaults, admission, storage,
//! watch cache, lists, patches, deletion, tables, discovery) knows no type by name.
#![forbid(unsafe_code)]

pub mod admission;
pub mod registry;
pub mod user;
