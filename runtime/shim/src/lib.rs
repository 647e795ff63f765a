//! What the shim and its host agree on: messages, files and the log format. Pure; no I/O.
//!
//! The supervisor itself is the binary of this crate. Build it small and static:
//! `cargo rustc --profile shim -p orlop-shim --bin orlop-shim -- -C target-feature=+crt-static`
//! (a plain `cargo build --profile shim -p orlop-shim` works too, at some 1.5 MB more per pod).
#![forbid(unsafe_code)]

pub mod log_format;
pub mod protocol;
