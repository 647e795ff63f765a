//! OCI images: names, the store on disk, archives, layers, registries.

pub mod archive;
pub mod artifact;
pub mod manifest;
pub mod pull;
pub mod reference;
pub mod store;
pub mod unpack;
