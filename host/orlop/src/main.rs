//! A Kubernetes-compatible cluster in one binary.
//!
//! This crate only wires: it parses the command line, opens what the parts need and joins them.
//! What decides is a WebAssembly plugin; what acts is one of the crates below.
#![forbid(unsafe_code)]

mod address;
mod cli;
mod deciders;
mod embedded;
mod error_chain;
mod folders;
mod image_service;
mod plugin_streams;
mod plugins;
mod server;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;

/// The C library's allocator costs a third more CPU per write, and keeps what compilation needed for
/// a moment. Its settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = cli::Args::parse();
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: cli::Args) -> Result<ExitCode> {
    // The one TLS provider of the process; a second installation would be the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match args.command {
        cli::Command::Server(args) => server::run(args),
        cli::Command::Image(command) => cli::image::run(command),
        // Its exit codes say more than that it failed.
        cli::Command::Plugin(command) => return Ok(cli::plugin::run(command)),
        cli::Command::CompilePlugin { cache } => return Ok(orlop_plugin::compile_from_stdin(&cache)),
        cli::Command::Reset(args) => cli::reset::run(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}
