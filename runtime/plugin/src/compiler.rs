//! Compilation in a process of its own.
//!
//! A compiler needs tens of megabytes and seconds of CPU for code that somebody else wrote. In a child
//! process both are bounded, and the memory is back when it ends; the host only maps the result.
//!
//! The child is the same program. It reads WebAssembly from standard input, leaves the compiled code in the
//! cache, and tells by its exit status what became of it; standard error holds the reason.

use crate::error::PluginError;
use crate::runtime::{Runtime, RuntimeOptions};
use nix::sys::resource::{Resource, setrlimit};
use parking_lot::{Condvar, Mutex};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

/// CPU time of one compilation.
const MAX_CPU_SECONDS: u64 = 120;
const MALFORMED: u8 = 3;
const INCOMPATIBLE: u8 = 4;

/// Starts children, no more at a time than there are cores.
pub(crate) struct Compiler {
    command: Vec<OsString>,
    free: Mutex<usize>,
    freed: Condvar,
}

impl Compiler {
    /// `command`: program and arguments; the cache folder is added as the last one.
    pub(crate) fn new(command: Vec<OsString>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { command, free: Mutex::new(cores), freed: Condvar::new() }
    }

    /// Compiles into the cache folder. `Ok(false)` where no child could do it: the caller has to.
    pub(crate) fn compile(&self, wasm: &[u8], cache: &Path) -> Result<bool, PluginError> {
        {
            let mut free = self.free.lock();
            while *free == 0 {
                self.freed.wait(&mut free);
            }
            *free -= 1;
        }
        let done = self.start(cache).and_then(|child| feed(child, wasm));
        *self.free.lock() += 1;
        self.freed.notify_one();
        let (status, message) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(%error, "no process for the compilation of a plugin");
                return Ok(false);
            }
        };
        match status.code().and_then(|code| u8::try_from(code).ok()) {
            Some(0) => Ok(true),
            Some(MALFORMED) => Err(PluginError::Malformed { message }),
            Some(INCOMPATIBLE) => Err(PluginError::Incompatible { message }),
            Some(_) => {
                tracing::warn!(message, "the process for the compilation of a plugin failed");
                Ok(false)
            }
            None => {
                let message = format!(
                    "its compilation was ended ({status}) after {MAX_CPU_SECONDS} s of CPU time or by the system"
                );
                Err(PluginError::Malformed { message })
            }
        }
    }

    fn start(&self, cache: &Path) -> io::Result<Child> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"))?;
        Command::new(program)
            .args(arguments)
            .arg(cache)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// Hands the code over and waits for the end. Nothing is written to standard error before all of it was read.
fn feed(mut child: Child, wasm: &[u8]) -> io::Result<(std::process::ExitStatus, String)> {
    if let Some(mut input) = child.stdin.take() {
        // A child that ended early has said why.
        let _ = input.write_all(wasm);
    }
    let mut message = String::new();
    if let Some(mut errors) = child.stderr.take() {
        let _ = errors.read_to_string(&mut message);
    }
    let status = child.wait()?;
    Ok((status, message.trim().to_owned()))
}

/// The child: compiles what standard input brings into the cache `folder`.
///
/// The exit status is 0, or says to [`Runtime::compile`] of the parent what is wrong.
#[must_use]
pub fn compile_from_stdin(folder: &Path) -> ExitCode {
    // Where the limit cannot be set, the parent's patience is the limit.
    let _ = setrlimit(Resource::RLIMIT_CPU, MAX_CPU_SECONDS, MAX_CPU_SECONDS);
    let mut wasm = Vec::new();
    if let Err(error) = io::stdin().lock().read_to_end(&mut wasm) {
        eprintln!("standard input cannot be read: {error}");
        return ExitCode::FAILURE;
    }
    let options = RuntimeOptions { cache: Some(folder.to_owned()), ..RuntimeOptions::default() };
    let compiled = match Runtime::new(&options) {
        Ok(runtime) => runtime.compile(&wasm),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match compiled {
        Ok(_) => ExitCode::SUCCESS,
        Err(PluginError::Malformed { message }) => {
            eprintln!("{message}");
            MALFORMED.into()
        }
        Err(PluginError::Incompatible { message }) => {
            eprintln!("{message}");
            INCOMPATIBLE.into()
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
