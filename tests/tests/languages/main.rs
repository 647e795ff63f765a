//! Plugins in other languages than Rust, made by these languages' own compilers: templates and examples are built,
//! pass their golden tests and decide in a cluster.

mod cluster;
mod toolchains;

use anyhow::{Result, ensure};
use orlop_tests::{binary, capture, repository};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use toolchains::Toolchain;

const KINDS: [&str; 3] = ["scheduler", "controller", "admission"];

/// `orlop plugin`, as an author in `folder` calls it.
fn plugin(folder: &Path, tools: Option<&Toolchain>, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?.canonicalize()?);
    command.arg("plugin").args(arguments).current_dir(folder);
    if let Some(tools) = tools {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(tools.path.clone()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(all)?);
        command.envs(tools.environment.iter().map(|(name, value)| (name, value)));
    }
    Ok(command)
}

fn works(folder: &Path, tools: Option<&Toolchain>, arguments: &[&str]) -> Result<String> {
    let out = capture(&mut plugin(folder, tools, arguments)?)?;
    ensure!(out.success, "`orlop plugin {}` failed:\n{}{}", arguments.join(" "), out.stdout, out.stderr);
    Ok(out.stdout)
}

/// Builds the plugin of a folder and runs its golden tests; answers where its module lies.
fn built(folder: &Path, name: &str, tools: Option<&Toolchain>) -> Result<PathBuf> {
    works(folder, tools, &["build", name])?;
    let said = works(folder, tools, &["test", name])?;
    ensure!(said.contains("1 passed, 0 failed"), "{name}: {said}");
    Ok(folder.join(name).join(format!("target/orlop/{name}.wasm")))
}

/// The folder of the examples.
fn examples() -> Result<PathBuf> {
    Ok(repository().canonicalize()?.join("examples/languages"))
}

/// Makes a folder from a template and answers its name.
fn new(parent: &Path, language: &str, kind: &str) -> Result<String> {
    let name = format!("my-{language}-{kind}");
    works(parent, None, &["new", &name, "--kind", kind, "--lang", language])?;
    Ok(name)
}

#[test]
fn templates_in_c_build_and_pass_their_tests() -> Result<()> {
    let parent = tempfile::tempdir()?;
    for kind in KINDS {
        let name = new(parent.path(), "c", kind)?;
        let module = built(parent.path(), &name, None)?;
        let size = fs::metadata(module)?.len();
        ensure!(size < 20_000, "{name} has {size} bytes; there is no libc in it");
    }
    let figures = works(parent.path(), None, &["bench", "my-c-scheduler", "--nodes", "1000"])?;
    ensure!(figures.contains("filter") && figures.contains("sync-one"), "{figures}");
    Ok(())
}

#[test]
fn templates_in_javascript_build_and_pass_their_tests() -> Result<()> {
    let parent = tempfile::tempdir()?;
    // The scheduler's has another engine; see below.
    for kind in ["controller", "admission"] {
        let name = new(parent.path(), "js", kind)?;
        let tools = toolchains::node(&parent.path().join(&name))?;
        built(parent.path(), &name, Some(&tools))?;
    }
    Ok(())
}

#[test]
fn the_scheduler_template_in_javascript_builds_and_passes_its_tests() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let name = new(parent.path(), "js", "scheduler")?;
    let tools = toolchains::node(&parent.path().join(&name))?;
    built(parent.path(), &name, Some(&tools)).map(drop)
}

#[test]
fn a_template_in_python_builds_and_passes_its_tests() -> Result<()> {
    // One kind in full, for each takes half a minute; of the others the plugin must at least be Python.
    let parent = tempfile::tempdir()?;
    for kind in KINDS {
        let name = new(parent.path(), "python", kind)?;
        let source = parent.path().join(&name).join("plugin.py");
        let checked = capture(Command::new("python3").args(["-m", "py_compile"]).arg(source))?;
        ensure!(checked.success, "{name}: {}", checked.stderr);
    }
    let tools = toolchains::python(&parent.path().join("my-python-scheduler"))?;
    built(parent.path(), "my-python-scheduler", Some(&tools)).map(drop)
}

#[test]
fn a_missing_compiler_is_named_with_the_command_that_installs_it() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let bin = parent.path().join("bin");
    fs::create_dir(&bin)?;
    symlink("/bin/sh", bin.join("sh"))?;
    let wanted = [
        ("c", "apt-get install clang"),
        ("c", "apt-get install lld"),
        ("js", "apt-get install nodejs npm"),
        ("js", "npm install"),
        ("python", "pip install componentize-py=="),
    ];
    for (language, command) in wanted {
        let name = format!("my-{language}-admission");
        if !parent.path().join(&name).exists() {
            new(parent.path(), language, "admission")?;
        }
        let out = capture(plugin(parent.path(), None, &["build", &name])?.env("PATH", &bin))?;
        ensure!(!out.success, "{language}: it was built without a compiler");
        ensure!(out.stderr.contains(command), "{language}: `{command}` is not in {}", out.stderr);
    }
    Ok(())
}
