//! The log: on WebAssembly the host's, natively standard error.

/// How bad it is; the numbers are those of `orlop:types/log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Somebody must act.
    Error = 0,
    /// Degraded, and heals itself.
    Warn = 1,
    /// State changed.
    Info = 2,
    /// For the author.
    Debug = 3,
    /// For the author, in bulk.
    Trace = 4,
}

#[cfg(target_family = "wasm")]
#[allow(unsafe_code, missing_docs, reason = "generated bindings")]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit/types", world: "orlop:types/logging" });
}

/// Writes one line.
pub fn write(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    bindings::orlop::types::log::log(level as u32, message);
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {message}");
}

/// Makes a panic write its message to the host's log, from where it gets into the failure that the
/// user sees. The export macros call it once per instance.
pub fn install_panic_hook() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|info| write(Level::Error, &info.to_string())));
}
