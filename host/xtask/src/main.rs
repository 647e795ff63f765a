//! `cargo xtask`: every command that the project needs, on a fresh Debian machine.
//!
//! Light on dependencies, because it is compiled before anything else is.
#![forbid(unsafe_code)]

mod artifacts;
mod cluster;
mod image;
mod prerequisites;
mod shell;
mod suite;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, runs and tests Orlop")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set up this machine, start a one-node cluster in the background and run an example on it
    Up,
    /// Stop the cluster of `up` and remove everything that it made
    Down,
    /// Set up this machine, then run every check and every test
    Test {
        /// Passed on to the test runner, such as the name of a test
        filter: Vec<String>,
    },
    /// Check formatting, lints and the rules of the tree; writes nothing
    Verify,
    /// Format the code and apply the lints' suggestions
    Fix,
    /// Build the WebAssembly plugins, the pod supervisor and the test image into target/orlop/
    Plugins,
    /// Run the benchmarks against a release build and print their figures
    Bench {
        /// Names of benchmarks; all of them where none is given
        names: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up => cluster::up(),
        Command::Down => cluster::down(),
        Command::Test { filter } => suite::test(&filter),
        Command::Verify => suite::verify(),
        Command::Fix => suite::fix(),
        Command::Plugins => {
            prerequisites::wasm_target()?;
            artifacts::guests()?;
            artifacts::shim()?;
            artifacts::test_image()?;
            Ok(())
        }
        Command::Bench { names } => suite::bench(&names),
    }
}
