//! A container and the commands run in it, as the shim knows them.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use orlop_shim::protocol::{EXIT_FILE, Exit, STARTED_FILE};

use crate::streams::{Got, Output, Sink};
use crate::sys;

/// Where it is in its life.
pub(crate) enum Phase {
    /// runc is at work: its pid, and the connection that waits.
    Starting { runc: i32, connection: u64 },
    /// Its main process runs.
    Running { pid: i32 },
    /// It has ended.
    Exited,
}

/// A client attached to the streams.
pub(crate) struct Attached {
    pub(crate) connection: u64,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<Sink>,
    pub(crate) stderr: Option<Sink>,
}

impl Attached {
    /// The sink of that stream.
    pub(crate) fn sink(&mut self, name: &str) -> &mut Option<Sink> {
        if name == "stdout" { &mut self.stdout } else { &mut self.stderr }
    }
}

/// A container of this pod.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) log_path: String,
    pub(crate) oom: String,
    pub(crate) phase: Phase,
    pub(crate) log: Option<File>,
    pub(crate) outputs: Vec<Output>,
    /// Write end of its stdin, or a copy of the terminal's master.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdin_once: bool,
    /// Read from a client, not yet taken by the container.
    pub(crate) stdin_pending: Vec<u8>,
    pub(crate) attached: Vec<Attached>,
    /// Where runc delivers the terminal.
    pub(crate) console: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    /// What was known of other processes' ends when runc was launched: see `Server::orphans`.
    pub(crate) since: u64,
}

/// A command run in a container.
pub(crate) struct Exec {
    pub(crate) dir: PathBuf,
    /// `None` once the client has gone.
    pub(crate) connection: Option<u64>,
    /// runc's pid while it is at work, else 0.
    pub(crate) runc: i32,
    /// The command's pid once it runs, else 0.
    pub(crate) pid: i32,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) since: u64,
}

/// Opens a log file for appending.
pub(crate) fn open_log(path: &str) -> io::Result<Option<File>> {
    use std::os::unix::fs::OpenOptionsExt;
    if path.is_empty() {
        return Ok(None);
    }
    fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path).map(Some)
}

/// The pid that runc left in `dir/pid`.
pub(crate) fn read_pid(dir: &Path) -> Option<i32> {
    fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok()
}

/// Takes the terminal that runc has delivered.
pub(crate) fn take_terminal(console: &OwnedFd) -> Option<OwnedFd> {
    let connection = sys::accept(console)?;
    let mut name = [0u8; 256];
    sys::receive(&connection, &mut name).ok()??.1.pop()
}

impl Container {
    /// Whether some attached client still owes us a read of that stream.
    pub(crate) fn congested(&self, name: &str) -> bool {
        self.attached.iter().any(|client| {
            let sink = if name == "stdout" { &client.stdout } else { &client.stderr };
            sink.as_ref().is_some_and(|sink| !sink.pending.is_empty())
        })
    }

    /// Reads a stream once, for the log and the attached clients.
    pub(crate) fn pump(&mut self, index: usize, buffer: &mut [u8]) -> Got {
        let Some(output) = self.outputs.get_mut(index) else { return Got::End };
        let name = output.name;
        let got = output.pump(buffer, &mut self.log);
        for client in &mut self.attached {
            let sink = client.sink(name);
            match got {
                Got::Bytes(count) => {
                    if let Some(open) = sink {
                        open.pending.extend_from_slice(&buffer[..count]);
                        if !open.flush() {
                            *sink = None;
                        }
                    }
                }
                Got::End if sink.as_ref().is_some_and(|sink| sink.pending.is_empty()) => *sink = None,
                Got::End | Got::Nothing => {}
            }
        }
        got
    }

    /// Reads whatever is there now, as far as attached clients allow.
    pub(crate) fn drain(&mut self, buffer: &mut [u8]) {
        for index in 0..self.outputs.len() {
            let name = self.outputs[index].name;
            // A pipe holds 64 KiB; whoever still writes after the end is read by the main loop.
            for _ in 0..64 {
                if self.congested(name) || !matches!(self.pump(index, buffer), Got::Bytes(_)) {
                    break;
                }
            }
        }
    }

    /// Moves what a client typed to the container.
    pub(crate) fn pump_stdin(&mut self, client: usize, buffer: &mut [u8]) {
        let Some(from) = self.attached.get(client).and_then(|c| c.stdin.as_ref()) else { return };
        match sys::read(from, buffer) {
            Ok(None) => {}
            Ok(Some(count)) if count > 0 => {
                self.stdin_pending.extend_from_slice(&buffer[..count]);
                self.flush_stdin();
            }
            Ok(_) | Err(_) => {
                self.attached[client].stdin = None;
                if self.stdin_once {
                    self.stdin_once = false;
                    if self.stdin_pending.is_empty() {
                        self.stdin = None;
                    }
                }
            }
        }
    }

    /// Writes what it can to the container's stdin.
    pub(crate) fn flush_stdin(&mut self) {
        while !self.stdin_pending.is_empty() {
            let Some(stdin) = &self.stdin else {
                self.stdin_pending.clear();
                return;
            };
            match sys::write(stdin, &self.stdin_pending) {
                Ok(Some(count)) => drop(self.stdin_pending.drain(..count)),
                Ok(None) => return,
                Err(_) => self.stdin = None,
            }
        }
    }

    /// Notes on disk that it runs.
    pub(crate) fn record_start(&self, pid: i32, at: i64) -> io::Result<()> {
        replace_file(&self.dir.join(STARTED_FILE), &format!("{pid} {at}\n"))
    }

    /// Notes on disk how it ended.
    pub(crate) fn record_exit(&self, exit: &Exit) -> io::Result<()> {
        replace_file(&self.dir.join(EXIT_FILE), &exit.encode())
    }

    /// Whether the kernel killed something of it for lack of memory.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        let Ok(text) = fs::read_to_string(&self.oom) else { return false };
        text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }
}

/// Old content or new, never half: survives our own death; not meant to survive the machine's.
fn replace_file(path: &Path, content: &str) -> io::Result<()> {
    let partial = path.with_extension("tmp");
    fs::write(&partial, content)?;
    fs::rename(&partial, path)
}
