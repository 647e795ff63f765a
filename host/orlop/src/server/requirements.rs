//! Programs without which a node cannot run containers or Services.

use anyhow::{Result, bail};
use std::path::Path;

/// Program and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] =
    &[("runc", "runc"), ("iptables-restore", "iptables"), ("iptables-save", "iptables")];

/// Fails with what to install, before anything is begun.
///
/// # Errors
/// Where a program is missing, or we are not root.
pub(crate) fn check() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| {
        std::env::split_paths(&path).any(|dir: std::path::PathBuf| Path::new(&dir).join(program).is_file())
    };
    let mut missing: Vec<(&str, &str)> =
        PROGRAMS.iter().copied().filter(|(program, _)| !found(program)).collect();
    if !missing.is_empty() {
        let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
        let programs = programs.join(", ");
        missing.dedup_by_key(|(_, package)| *package);
        let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
        bail!(
            "{programs} not found on the PATH; install what is missing: apt-get install {}",
            packages.join(" ")
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("a node makes containers and networks, which takes root: run it with sudo");
    }
    Ok(())
}
