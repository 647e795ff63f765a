//! `test`, `verify`, `fix` and `bench`.

use crate::shell::{cargo, run, step, which};
use crate::{artifacts, prerequisites, tidy};
use anyhow::{Result, bail};

/// Sets up the machine, then runs every check and every test, those on real containers and a
/// real kernel included.
pub(crate) fn test(filter: &[String]) -> Result<()> {
    prerequisites::packages_to_test()?;
    prerequisites::wasm_target()?;
    artifacts::guests()?;
    artifacts::shim()?;
    artifacts::test_image()?;
    artifacts::orlop()?;
    if !prerequisites::is_root()? {
        bail!("the tests make containers and networks, which takes root: run them with sudo -E");
    }
    if filter.is_empty() {
        verify()?;
    }
    step("running the tests");
    let mut command = cargo();
    // The release profile, because its dependencies are built already.
    if which("cargo-nextest").is_some() {
        command.args(["nextest", "run", "--cargo-profile", "release", "--workspace", "--no-fail-fast"]);
    } else {
        command.args(["test", "--release", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    command.args(filter);
    command.env("ORLOP_BIN", artifacts::binary());
    command.env("ORLOP_SHIM", artifacts::folder().join("orlop-shim"));
    command.env("ORLOP_PLUGINS", artifacts::folder().join("plugins"));
    command.env("ORLOP_TEST_IMAGE", artifacts::image_file());
    run(&mut command)
}

/// Checks formatting, lints and the rules of the tree; writes nothing.
pub(crate) fn verify() -> Result<()> {
    step("checking the formatting");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    step("checking the rules of the tree");
    tidy::check()?;
    step("running the lints");
    run(cargo().args(["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// Formats, and applies what the lints can repair.
pub(crate) fn fix() -> Result<()> {
    run(cargo().args(["clippy", "--release", "--workspace", "--all-targets", "--fix", "--allow-dirty"]))?;
    run(cargo().args(["fmt", "--all"]))
}

/// Runs the benches of `tests/bench` against a release build.
pub(crate) fn bench(names: &[String]) -> Result<()> {
    prerequisites::packages_to_test()?;
    prerequisites::wasm_target()?;
    artifacts::guests()?;
    artifacts::shim()?;
    artifacts::test_image()?;
    artifacts::orlop()?;
    let mut command = cargo();
    command.args(["bench", "-p", "orlop-tests", "--"]).args(names);
    command.env("ORLOP_BIN", artifacts::binary());
    command.env("ORLOP_TEST_IMAGE", artifacts::image_file());
    run(&mut command)?;
    // An example of the binary, because it includes the binary's adapter.
    let scheduler = ["run", "--release", "-p", "orlop", "--example", "scheduler_bench", "--"];
    run(cargo().args(scheduler).args(names))
}
