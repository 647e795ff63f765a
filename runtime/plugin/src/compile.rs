//! From bytes to compiled code: decode, read the manifest, make a core module a component, check
//! imports, compile.

use crate::error::PluginError;
use crate::manifest::{self, Manifest};
use crate::runtime::Runtime;
use crate::wasi;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;
use wasmtime::Engine;
use wasmtime::component::Component;
use wit_component::ComponentEncoder;

/// Largest plugin that is loaded, in bytes.
pub(crate) const MAX_WASM_BYTES: usize = 64 << 20;

/// What every world offers to import; matched by interface and major version.
const OFFERED: &[&str] = &["orlop:types/log@1"];

/// SHA-256 of a plugin's bytes, as they were given (before they were made a component).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What can be said about a plugin without compiling it.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Of the bytes as given.
    pub digest: Digest,
    /// Size of the bytes as given.
    pub size: usize,
    /// Whether the bytes are a component already (else a core module).
    pub is_component: bool,
    /// The manifest, parsed and checked.
    pub manifest: Manifest,
    /// Names of all imports, sorted.
    pub imports: Vec<String>,
}

/// A plugin's code, compiled for one engine. Cheap to clone.
#[derive(Clone)]
pub struct Compiled {
    pub(crate) digest: Digest,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) component: Component,
}

impl Compiled {
    /// Of the bytes as given.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }
}

/// Reads a plugin without compiling or running anything of it.
///
/// # Errors
/// Where the bytes are no WebAssembly, have no valid manifest, or import what no world offers.
pub fn inspect(wasm: &[u8]) -> Result<Inspection, PluginError> {
    if wasm.len() > MAX_WASM_BYTES {
        return Err(malformed(format!(
            "it has {} bytes, more than the {MAX_WASM_BYTES} that are loaded",
            wasm.len()
        )));
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(malformed("it does not begin with \"\\0asm\""));
    }
    let is_component = wasmparser::Parser::is_component(wasm);
    let outline = outline(wasm)?;
    let section = outline.manifest.ok_or(manifest::ManifestError::Missing)?;
    let manifest = Manifest::parse(section)?;
    let mut imports = outline.imports;
    imports.sort();
    imports.dedup();
    check_imports(&imports)?;
    Ok(Inspection { digest: Digest::of(wasm), size: wasm.len(), is_component, manifest, imports })
}

impl Runtime {
    /// Compiles a plugin, or takes what was compiled earlier from the cache. Takes some 10 ms to
    /// seconds of all cores, here or in a child process: call it on a blocking thread.
    ///
    /// # Errors
    /// As [`inspect`], and where the code is invalid.
    pub fn compile(&self, wasm: &[u8]) -> Result<Compiled, PluginError> {
        let Inspection { digest, is_component, manifest, .. } = inspect(wasm)?;
        let engine = self.engine(manifest.kind);
        let mut found = self.cached(engine, &digest);
        if found.is_none() {
            found = self.compiled_elsewhere(engine, &digest, wasm)?;
        }
        let component = match found {
            Some(component) => component,
            None => {
                let component = if is_component {
                    compile(engine, wasm)?
                } else {
                    compile(engine, &componentize(wasm)?)?
                };
                self.remember(engine, &digest, component)
            }
        };
        Ok(Compiled { digest, manifest: Arc::new(manifest), component })
    }
}

fn compile(engine: &Engine, component: &[u8]) -> Result<Component, PluginError> {
    Component::from_binary(engine, component).map_err(|e| malformed(chain(&e)))
}

/// Wraps a core module that carries `component-type` sections into a component.
fn componentize(module: &[u8]) -> Result<Vec<u8>, PluginError> {
    let mut encoder = ComponentEncoder::default();
    let incompatible = |e| PluginError::Incompatible { message: format!("{e:#}") };
    let encoder = encoder.module(module).map_err(incompatible)?;
    // Goes into the component only where the module imports it.
    let adapter = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
    let encoder = encoder.adapter(wasi::PREVIEW_1, adapter).map_err(incompatible)?;
    encoder.encode().map_err(|e| PluginError::Incompatible { message: format!("{e:#}") })
}

fn malformed(message: impl Into<String>) -> PluginError {
    PluginError::Malformed { message: message.into() }
}

/// An error of wasmtime with its causes, on one line.
pub(crate) fn chain(error: &wasmtime::Error) -> String {
    let parts: Vec<String> = error.chain().map(ToString::to_string).collect();
    parts.join(": ")
}

/// What matters of a module or component, found without validating its code.
#[derive(Default)]
struct Outline<'a> {
    manifest: Option<&'a [u8]>,
    imports: Vec<String>,
}

fn outline(wasm: &[u8]) -> Result<Outline<'_>, PluginError> {
    use wasmparser::{ComponentExternName, Payload};
    let mut outline = Outline::default();
    let mut depth = 0_u32;
    let mut core_depth = Vec::new();
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        match payload.map_err(|e| malformed(e.to_string()))? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                core_depth.push(encoding == wasmparser::Encoding::Module);
            }
            Payload::End(_) => {
                depth = depth.saturating_sub(1);
                core_depth.pop();
            }
            Payload::CustomSection(section) if section.name() == manifest::SECTION => {
                if outline.manifest.is_some() {
                    return Err(manifest::ManifestError::Repeated.into());
                }
                outline.manifest = Some(section.data());
            }
            // Imports of a module inside a component are the component's own affair.
            Payload::ImportSection(imports) if depth == 1 => {
                for import in imports.into_imports() {
                    let import = import.map_err(|e| malformed(e.to_string()))?;
                    outline.imports.push(import.module.to_owned());
                }
            }
            Payload::ComponentImportSection(imports) if depth == 1 => {
                for import in imports {
                    let ComponentExternName { name, .. } = import.map_err(|e| malformed(e.to_string()))?.name;
                    outline.imports.push(name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(outline)
}

/// Interfaces of `orlop:types` and of the world's own package that hold only types may be imported
/// by a component; whatever has functions must be on the list.
fn check_imports(imports: &[String]) -> Result<(), PluginError> {
    let missing: Vec<&str> = imports.iter().map(String::as_str).filter(|name| !is_offered(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "it imports {}, which the host does not offer (a plugin may import {}, and WASI 0.2 and preview 1, behind which there is no system)",
        missing.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", "),
        OFFERED.join(", "),
    );
    Err(PluginError::Incompatible { message })
}

fn is_offered(name: &str) -> bool {
    OFFERED.iter().any(|offered| {
        name.strip_prefix(offered).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }) || is_types_only(name)
        || wasi::is_offered(name)
        || name == wasi::PREVIEW_1
}

/// `orlop:<package>/types@1.x`: by convention an interface without functions.
fn is_types_only(name: &str) -> bool {
    name.strip_prefix("orlop:")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(_, interface)| interface == "types@1" || interface.starts_with("types@1."))
}
