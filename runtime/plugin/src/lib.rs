//! The only crate that knows wasmtime: engine, limits, bindings, instances, hot reload.
