//! What the `orlop` binary embeds, and what the tests feed it, under `target/orlop/`.
//!
//! - `plugins/<name>.wasm`: the built-in plugins, one core module each
//! - `orlop-shim`: the supervisor of a pod
//! - `busybox.tar`: a small OCI image, made from Debian's busybox-static

use crate::shell::{cargo, root, run, step, target, which};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const KINDS: [&str; 3] = ["scheduler", "controllers", "admission"];

/// The folder of all artifacts.
pub(crate) fn folder() -> PathBuf {
    target().join("orlop")
}

/// The image for examples and tests.
pub(crate) fn image_file() -> PathBuf {
    folder().join("busybox.tar")
}

/// The release binary.
pub(crate) fn binary() -> PathBuf {
    target().join("release/orlop")
}

/// Builds the built-in plugins.
pub(crate) fn guests() -> Result<()> {
    step("building the plugins (WebAssembly)");
    let packages = guest_packages()?;
    let mut command = cargo();
    command.args(["build", "--target", "wasm32-unknown-unknown", "--profile", "guest"]);
    for package in &packages {
        command.args(["-p", package]);
    }
    run(&mut command)?;
    let out = folder().join("plugins");
    fs::create_dir_all(&out)?;
    let mut current = BTreeSet::new();
    for package in &packages {
        let module = format!("{}.wasm", package.replace('-', "_"));
        let from = target().join("wasm32-unknown-unknown/guest").join(module);
        let name = format!("{}.wasm", package.trim_start_matches("orlop-plugin-"));
        copy_if_changed(&from, &out.join(&name))?;
        current.insert(name);
    }
    // A plugin that left the tree must leave the binary too.
    for entry in fs::read_dir(&out)? {
        let entry = entry?;
        if !current.contains(entry.file_name().to_string_lossy().as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Builds the supervisor of a pod.
pub(crate) fn shim() -> Result<()> {
    step("building the pod supervisor");
    run(cargo().args(["build", "--profile", "shim", "-p", "orlop-shim"]))?;
    fs::create_dir_all(folder())?;
    copy_if_changed(&target().join("shim/orlop-shim"), &folder().join("orlop-shim"))
}

/// Builds the binary itself; needs [`guests`] and [`shim`].
pub(crate) fn orlop() -> Result<()> {
    step("building orlop (release; the first time this takes some minutes)");
    run(cargo().args(["build", "--release", "-p", "orlop"]))
}

/// Builds the image for examples and tests.
pub(crate) fn test_image() -> Result<()> {
    let busybox = which("busybox").context("busybox is missing: install Debian's package busybox-static")?;
    fs::create_dir_all(folder())?;
    let bytes = crate::image::busybox(&busybox)?;
    write_if_changed(&image_file(), &bytes)
}

fn guest_packages() -> Result<Vec<String>> {
    let mut packages = Vec::new();
    for kind in KINDS {
        let dir = root().join("plugins").join(kind);
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let entry = entry?;
            if entry.path().join("Cargo.toml").is_file() {
                packages.push(format!("orlop-plugin-{}", entry.file_name().to_string_lossy()));
            }
        }
    }
    packages.sort();
    Ok(packages)
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write_if_changed(to, &bytes)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    Ok(())
}

/// Leaves the time of an unchanged file alone, so that cargo does not rebuild what embeds it.
fn write_if_changed(to: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let fresh = to.with_extension("new");
    fs::write(&fresh, bytes).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("cannot write {}", to.display()))
}
