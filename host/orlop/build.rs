//! Embeds the built-in plugins and the pod supervisor that `cargo xtask plugins` built.
//!
//! Where they are missing the binary still builds, for `cargo check`; it says so when a server is
//! started.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| manifest.join("../../target"), PathBuf::from);
    let artifacts = target.join("orlop");
    let plugins_dir = artifacts.join("plugins");
    let shim = artifacts.join("orlop-shim");
    println!("cargo::rerun-if-changed={}", plugins_dir.display());
    println!("cargo::rerun-if-changed={}", shim.display());

    let mut plugins: Vec<PathBuf> = match fs::read_dir(&plugins_dir) {
        Ok(entries) => entries.filter_map(|e| e.ok().map(|e| e.path())).collect(),
        Err(_) => Vec::new(),
    };
    plugins.retain(|p| p.extension().is_some_and(|e| e == "wasm"));
    plugins.sort();
    if plugins.is_empty() || !shim.is_file() {
        println!(
            "cargo::warning=no built-in plugins to embed: run `cargo xtask plugins` for a binary that can serve"
        );
    }

    let mut out = String::from("pub(crate) static PLUGINS: &[(&str, &[u8])] = &[\n");
    for plugin in &plugins {
        let name = plugin.file_stem().unwrap_or_default().to_string_lossy();
        writeln!(out, "    ({name:?}, include_bytes!({})),", literal(plugin)?)?;
    }
    out.push_str("];\n");
    if shim.is_file() {
        writeln!(out, "pub(crate) static SHIM: &[u8] = include_bytes!({});", literal(&shim)?)?;
    } else {
        out.push_str("pub(crate) static SHIM: &[u8] = &[];\n");
    }
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("embedded.rs"), out)?;
    Ok(())
}

fn literal(path: &Path) -> Result<String, std::io::Error> {
    Ok(format!("{:?}", fs::canonicalize(path)?.to_string_lossy()))
}
