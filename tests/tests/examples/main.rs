//! The plugins of `examples/plugins`: each is built, passes its golden tests, and does in a cluster what it says.

mod admission;
mod scheduling;
mod website;

use anyhow::{Context, Result, ensure};
use orlop_tests::{Cluster, Options, binary, capture, eventually, repository};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// `orlop plugin`, as an author in the repository calls it.
fn plugin(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?.canonicalize()?);
    command
        .arg("plugin")
        .args(arguments)
        .current_dir(repository())
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_TERM_COLOR", "never");
    Ok(command)
}

fn works(arguments: &[&str]) -> Result<String> {
    let out = capture(&mut plugin(arguments)?)?;
    ensure!(out.success, "`orlop plugin {}` failed:\n{}{}", arguments.join(" "), out.stdout, out.stderr);
    Ok(out.stdout)
}

/// Builds an example and answers where its module lies. Everything is shared with the other plugins of the
/// tree, so this is a matter of seconds.
fn built(name: &str) -> Result<PathBuf> {
    let folder = format!("examples/plugins/{name}");
    works(&["build", &folder])?;
    Ok(repository().canonicalize()?.join(folder).join(format!("target/orlop/{name}.wasm")))
}

/// Builds an example, gives it what its `rbac.yaml` says, and applies it.
fn apply(c: &Cluster, name: &str, config: Option<&str>) -> Result<()> {
    let module = built(name)?;
    let rbac = repository().join("examples/plugins").join(name).join("rbac.yaml");
    if rbac.is_file() {
        c.apply(&fs::read_to_string(rbac)?)?;
    }
    let mut command = c.command(binary()?);
    command.args(["plugin", "apply"]).arg(module);
    if let Some(config) = config {
        command.args(["--config", config]);
    }
    let out = capture(&mut command)?;
    ensure!(
        out.success && out.stdout.contains(&format!("plugin.orlop.dev/{name} is active")),
        "{name}: {out:?}"
    );
    Ok(())
}

/// A cluster in which pods are placed, but need not run.
fn cluster() -> Result<Cluster> {
    Cluster::start_with(Options { without_image: true, ..Options::default() })
}

#[test]
fn every_example_builds_and_passes_its_golden_tests() -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(repository().join("examples/plugins"))? {
        let entry = entry?;
        if entry.path().join("manifest.json").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    ensure!(names.len() >= 6, "there are only {names:?}");
    let readme = fs::read_to_string(repository().join("examples/plugins/README.md"))?;
    for name in names {
        built(&name)?;
        let said = works(&["test", &format!("examples/plugins/{name}")])?;
        ensure!(said.contains("passed, 0 failed"), "{name}: {said}");
        ensure!(readme.contains(&format!("[{name}]({name})")), "README.md does not tell of {name}");
    }
    Ok(())
}
