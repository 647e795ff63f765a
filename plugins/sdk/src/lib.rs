//! For authors of plugins, in Rust.
//!
//! A plugin is a crate of type `["cdylib", "rlib"]` with a `manifest.json` beside its `Cargo.toml`,
//! logic in modules that know nothing of WebAssembly, and a `src/lib.rs` that hands a type to one of
//! the export macros. The macros expand to nothing but on WebAssembly, so the logic is tested
//! natively with `cargo test`.
//!
//! Build: `cargo build --target wasm32-unknown-unknown --profile guest -p orlop-plugin-<name>`.
//! The resulting core module is a loadable plugin as it is.

pub mod admission;
pub mod controller;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod lifecycle;
pub mod log;
pub mod scheduler;

pub use orlop_apimachinery as apimachinery;
pub use serde;
pub use serde_json;
#[doc(hidden)]
pub use wit_bindgen;

/// Embeds `manifest.json`, which lies beside the crate's `Cargo.toml`, into the plugin.
///
/// The export macros call it; call it yourself only where you write the exports by hand.
#[macro_export]
macro_rules! embed_manifest {
    () => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "names a section of the WebAssembly module; nothing is executed")]
        const _: () = {
            const JSON: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/manifest.json"));
            const fn copy() -> [u8; JSON.len()] {
                let mut bytes = [0; JSON.len()];
                let mut i = 0;
                while i < JSON.len() {
                    bytes[i] = JSON[i];
                    i += 1;
                }
                bytes
            }
            #[used]
            #[unsafe(link_section = "orlop:manifest")]
            static MANIFEST: [u8; JSON.len()] = copy();
        };
    };
}

/// Reads a configuration; the empty one where there is none.
///
/// # Errors
/// A message for the user that says which field is wrong.
pub fn parse_config<C: serde::de::DeserializeOwned>(json: &[u8]) -> Result<C, String> {
    let json = if json.is_empty() { b"{}" } else { json };
    serde_json::from_slice(json).map_err(|e| format!("config: {e}"))
}
