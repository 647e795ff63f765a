//! Writes the schemas of Kubernetes' types; see the README.

mod emit;
mod protobuf;
mod source;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [facts, output] = arguments.as_slice() else {
        bail!("usage: schemagen MERGE_FACTS.tsv OUTPUT_DIRECTORY");
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources_of("k8s-openapi", &root.join("../../Cargo.toml"))?.join("src/v1_36");
    let tags = protobuf::tags(&sources_of("k8s-pb", &root.join("Cargo.toml"))?.join("src"))?;
    let mut types = Vec::new();
    visit(&sources, &mut |path| {
        let text = std::fs::read_to_string(path)?;
        let found = source::parse(&text).with_context(|| format!("{}", path.display()))?;
        types.extend(found);
        Ok(())
    })?;
    let facts = std::fs::read_to_string(facts).context("merge facts")?;
    let summary = emit::write(types, &facts, &tags, Path::new(output))?;
    println!("{summary}");
    Ok(())
}

/// Where cargo keeps the sources of a crate that the workspace of `manifest` has locked.
fn sources_of(name: &str, manifest: &Path) -> Result<PathBuf> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--all-features", "--manifest-path"])
        .arg(manifest)
        .output()
        .context("cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let package =
        packages.iter().find(|p| p["name"] == name).with_context(|| format!("{name} is not locked"))?;
    let manifest =
        package["manifest_path"].as_str().with_context(|| format!("{name} has no manifest path"))?;
    Ok(Path::new(manifest).parent().context("no parent")?.to_owned())
}

pub(crate) fn visit(directory: &Path, on_file: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(directory)?.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            visit(&path, on_file)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            on_file(&path)?;
        }
    }
    Ok(())
}
