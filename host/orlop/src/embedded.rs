//! What `cargo xtask plugins` built and this binary carries: see `build.rs`.

use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The built-in plugins: name and core module.
///
/// # Errors
/// Where the binary was built without them.
pub(crate) fn plugins() -> Result<&'static [(&'static str, &'static [u8])]> {
    if PLUGINS.is_empty() || SHIM.is_empty() {
        bail!("this binary was built without its plugins: build it by `cargo xtask up`");
    }
    Ok(PLUGINS)
}

/// Writes the pod supervisor to `dir`, unless it is there, and returns its path.
///
/// A supervisor that runs keeps its own file: another build gets another name.
///
/// # Errors
/// Where the folder cannot be written.
pub(crate) fn extract_shim(dir: &Path) -> Result<PathBuf> {
    let path = dir.join(format!("orlop-shim-{}", env!("CARGO_PKG_VERSION")));
    if fs::read(&path).is_ok_and(|present| present == SHIM) {
        return Ok(path);
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let fresh = path.with_extension("new");
    fs::write(&fresh, SHIM).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    fs::rename(&fresh, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
