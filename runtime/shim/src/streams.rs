//! One container's output: from its pipe or terminal to the log file and to the clients attached.
//!
//! Back-pressure: while an attached client has not taken what it was given, the stream is not read, so
//! nothing is dropped and nothing piles up.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use orlop_shim::log_format::LineCutter;

use crate::sys;

/// An output stream of a container.
pub(crate) struct Output {
    /// Non-blocking read end, or the terminal's master; `None` once it has ended.
    pub(crate) fd: Option<OwnedFd>,
    /// `stdout` or `stderr`.
    pub(crate) name: &'static str,
    cutter: LineCutter,
}

/// What one attached client reads.
pub(crate) struct Sink {
    /// Non-blocking write end of the client's pipe.
    pub(crate) fd: OwnedFd,
    /// Given but not yet taken.
    pub(crate) pending: Vec<u8>,
}

impl Sink {
    /// Takes over a client's descriptor.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        sys::set_nonblocking(&fd)?;
        Ok(Self { fd, pending: Vec::new() })
    }

    /// Writes what it can; `false` when the client is gone.
    pub(crate) fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match sys::write(&self.fd, &self.pending) {
                Ok(Some(count)) => drop(self.pending.drain(..count)),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// What one read brought.
pub(crate) enum Got {
    /// This many bytes, in the buffer.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The stream has ended.
    End,
}

impl Output {
    /// Takes over a read end.
    pub(crate) fn new(fd: OwnedFd, name: &'static str) -> io::Result<Self> {
        sys::set_nonblocking(&fd)?;
        Ok(Self { fd: Some(fd), name, cutter: LineCutter::default() })
    }

    /// Reads once and logs what came.
    pub(crate) fn pump(&mut self, buffer: &mut [u8], log: &mut Option<File>) -> Got {
        let Some(fd) = &self.fd else { return Got::End };
        let mut lines = Vec::new();
        let got = match sys::read(fd, buffer) {
            Ok(None) => return Got::Nothing,
            // A terminal answers EIO once the last process has closed it.
            Ok(Some(0)) | Err(_) => {
                self.fd = None;
                self.cutter.finish(sys::now(), self.name, &mut lines);
                Got::End
            }
            Ok(Some(count)) => {
                self.cutter.push(&buffer[..count], sys::now(), self.name, &mut lines);
                Got::Bytes(count)
            }
        };
        if let Some(file) = log {
            // A full disk costs log lines, never the container.
            let _ = file.write_all(&lines);
        }
        got
    }
}
