//! Compilers from PyPI and npm, in `target/languages`, fetched once.
//!
//! The versions are those that the templates ask for.

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use orlop_tests::repository;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A download that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(150);

/// What a build needs to find a compiler.
pub(crate) struct Toolchain {
    /// Goes before the others in `PATH`.
    pub(crate) path: PathBuf,
    /// More variables.
    pub(crate) environment: Vec<(&'static str, PathBuf)>,
}

fn folder(name: &str) -> Result<PathBuf> {
    let folder = repository().canonicalize()?.join("target/languages").join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Runs `install` in an empty folder, unless that was done for the same `version`; one test at a time.
fn once(name: &str, version: &str, install: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let parent = folder(name)?;
    let lock = File::create(parent.join("lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    let (tools, done) = (parent.join("tools"), parent.join("version"));
    if fs::read_to_string(&done).is_ok_and(|there| there == version) && tools.is_dir() {
        return Ok(tools);
    }
    if tools.exists() {
        fs::remove_dir_all(&tools)?;
    }
    fs::create_dir(&tools)?;
    install(&tools)?;
    fs::write(done, version)?;
    Ok(tools)
}

/// Runs a command that downloads; its end is waited for in good time only.
fn download(command: &mut Command, from: &str, folder: &Path) -> Result<()> {
    let said = folder.with_extension("log");
    let log = File::create(&said)?;
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > PATIENCE {
            killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if status.is_some_and(|s| s.success()) {
        return Ok(());
    }
    let how =
        status.map_or_else(|| format!("did not end within {} s", PATIENCE.as_secs()), |s| s.to_string());
    bail!(
        "a compiler could not be fetched from {from}; these tests need the network to it. {shown}: {how}\n{}",
        fs::read_to_string(said)?
    )
}

/// `componentize-py`, in the version that the plugin's folder asks for.
pub(crate) fn python(plugin: &Path) -> Result<Toolchain> {
    let plan = fs::read_to_string(plugin.join("orlop-plugin.json"))?;
    let wanted = plan.split_whitespace().find(|word| word.starts_with("componentize-py=="));
    let wanted =
        wanted.context("orlop-plugin.json names no version of componentize-py")?.trim_end_matches('`');
    let tools = once("python", wanted, |tools| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2"]);
        pip.args(["--timeout", "20", "--target"]).arg(tools).arg(wanted);
        download(&mut pip, "PyPI", tools)
    })?;
    Ok(Toolchain { path: tools.join("bin"), environment: vec![("PYTHONPATH", tools)] })
}

/// What the plugin's `package.json` asks for.
pub(crate) fn node(plugin: &Path) -> Result<Toolchain> {
    let package = fs::read_to_string(plugin.join("package.json"))?;
    let json: serde_json::Value = serde_json::from_str(&package)?;
    let wanted = json["devDependencies"].as_object().context("package.json has no devDependencies")?;
    ensure!(wanted.len() == 1, "package.json asks for one compiler: {wanted:?}");
    let (name, version) = wanted.iter().next().context("package.json asks for no compiler")?;
    let short = name.rsplit('/').next().unwrap_or(name);
    let tools = once(short, &version.to_string(), |tools| {
        fs::copy(plugin.join("package.json"), tools.join("package.json"))?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--fetch-retries=2", "--fetch-timeout=20000"]);
        download(npm.current_dir(tools), "npm's registry", tools)
    })?;
    Ok(Toolchain { path: tools.join("node_modules/.bin"), environment: Vec::new() })
}
