//! Recordings as files: lines of JSON, compressed where the name ends in `.gz`.

use super::{Entry, FORMAT, Header};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Why a recording cannot be read. The user must choose another file, or record again.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("cannot read the recording {}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no recording that this version reads: its first line must be a header of format {FORMAT}", .path.display())]
    NoRecording {
        /// Which.
        path: PathBuf,
    },
    /// A line is damaged.
    #[error("{}, line {line}: not an entry of a recording", .path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads entries one by one.
pub struct Reader {
    path: PathBuf,
    header: Header,
    lines: io::Lines<BufReader<Box<dyn Read>>>,
    line: usize,
}

/// Opens a recording and reads its header.
///
/// # Errors
/// Where it cannot be read or is none.
pub fn open(path: &Path) -> Result<Reader, RecordingError> {
    let failed = |source| RecordingError::Io { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let gzip = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    let bytes: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut lines = BufReader::new(bytes).lines();
    let none = || RecordingError::NoRecording { path: path.to_owned() };
    let first = lines.next().ok_or_else(none)?.map_err(|_| none())?;
    let header: Header = serde_json::from_str(&first).map_err(|_| none())?;
    if header.format != FORMAT {
        return Err(none());
    }
    Ok(Reader { path: path.to_owned(), header, lines, line: 1 })
}

impl Reader {
    /// The first line.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }
}

impl Iterator for Reader {
    type Item = Result<Entry, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = self.lines.next()?;
            self.line += 1;
            let text = match line {
                Ok(text) => text,
                Err(source) => return Some(Err(RecordingError::Io { path: self.path.clone(), source })),
            };
            if text.trim().is_empty() {
                continue;
            }
            let parsed = serde_json::from_str(&text).map_err(|source| RecordingError::Line {
                path: self.path.clone(),
                line: self.line,
                source,
            });
            return Some(parsed);
        }
    }
}

/// Writes the first line.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_header(to: &mut impl Write, header: &Header) -> io::Result<()> {
    serde_json::to_writer(&mut *to, header)?;
    to.write_all(b"\n")
}

/// Writes another line.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_entry(to: &mut impl Write, entry: &Entry) -> io::Result<()> {
    serde_json::to_writer(&mut *to, entry)?;
    to.write_all(b"\n")
}
