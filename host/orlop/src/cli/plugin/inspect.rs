//! What a plugin file says about itself.

use super::Verdict;
use crate::plugins::object::unpack;
use anyhow::{Context, Result, anyhow};
use orlop_plugin::Inspection;
use std::io::Write;
use std::path::Path;

/// Reads a module, compressed or not.
pub(super) fn load(file: &Path) -> Result<(Vec<u8>, Inspection)> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let wasm = unpack(bytes).map_err(|e| anyhow!("{}: {e}", file.display()))?;
    let inspection =
        orlop_plugin::inspect(&wasm).with_context(|| format!("{} is not a plugin", file.display()))?;
    Ok((wasm, inspection))
}

pub(super) fn inspect(file: &Path) -> Result<Verdict> {
    let (_, found) = load(file)?;
    let form = if found.is_component { "component" } else { "core module" };
    let imports = if found.imports.is_empty() { "nothing".to_owned() } else { found.imports.join(", ") };
    let mut out = std::io::stdout().lock();
    writeln!(out, "file:     {} ({form}, {} bytes)", file.display(), found.size)?;
    writeln!(out, "digest:   {}", found.digest)?;
    writeln!(out, "imports:  {imports}")?;
    writeln!(out, "manifest: {}", serde_json::to_string_pretty(&found.manifest)?)?;
    Ok(Verdict::Yes)
}
