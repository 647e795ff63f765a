//! The rules of the tree that no lint knows: which crate may depend on which, who alone may know
//! a heavy library, and that every crate takes the workspace's lints.

use crate::shell::{cargo, output};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;

/// Layers of host crates, lowest first. A crate depends on lower layers only.
const LAYERS: &[&[&str]] = &[
    &["orlop-apimachinery", "orlop-netfilter"],
    &["orlop-store", "orlop-client", "orlop-plugin", "orlop-container"],
    &[
        "orlop-apiserver",
        "orlop-raft",
        "orlop-scheduler",
        "orlop-controller-manager",
        "orlop-proxy",
        "orlop-network",
        "orlop-node",
    ],
    &["orlop-plugin-tools"],
    &["orlop"],
];

/// Libraries that one crate alone may know.
const WRAPPED: &[(&str, &str)] = &[
    ("wasmtime", "orlop-plugin"),
    ("openraft", "orlop-raft"),
    ("fjall", "orlop-raft"),
    ("oci-client", "orlop-container"),
    ("rtnetlink", "orlop-network"),
];

/// Lists every breach, then fails where there was one.
pub(crate) fn check() -> Result<()> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let mut breaches = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let text = fs::read_to_string(manifest).with_context(|| format!("cannot read {manifest}"))?;
        if !text.contains("[lints]\nworkspace = true") {
            breaches.push(format!("{name}: Cargo.toml lacks `[lints] workspace = true`"));
        }
        let normal = package["dependencies"].as_array().into_iter().flatten().filter(|d| d["kind"].is_null());
        for dependency in normal.filter_map(|d| d["name"].as_str()) {
            if let Some((_, owner)) = WRAPPED.iter().find(|(library, _)| *library == dependency)
                && *owner != name
            {
                breaches.push(format!("{name}: only {owner} may depend on {dependency}"));
            }
            if let (Some(upper), Some(lower)) = (layer(name), layer(dependency))
                && lower >= upper
            {
                breaches.push(format!("{name}: may not depend on {dependency}, which is no lower layer"));
            }
        }
    }
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("the rules of the tree are broken:\n  {}", breaches.join("\n  "));
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|crates| crates.contains(&name))
}
