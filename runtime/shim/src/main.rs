//! The pod's supervisor: holds its namespaces, launches its containers through runc, reaps them, writes
//! their logs and records how they ended. It outlives the host, which finds it again by its socket.
//!
//! `orlop-shim DIR RUNC RUNC_ROOT NAMESPACES HOSTNAME [SYSCTL=VALUE…]`: NAMESPACES is a comma list of
//! `net`, `ipc`, `uts` and `pid`. The command returns once the supervisor serves its socket in DIR; on
//! failure it says why on stderr.
//!
//! Invariants: one thread; no allocation that grows with output; nothing is polled on a timer.

mod container;
mod server;
mod setup;
mod streams;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    match setup::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
