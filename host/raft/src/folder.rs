//! The data folder: whose it is, of which version, and that nobody else uses it.
//!
//! ```text
//! format   "orlop store format 1", written before anything else
//! lock     held (flock) by the process that uses the folder
//! log/     fjall: Raft log and vote, synced before an entry is acknowledged
//! state/   fjall: the state machine; may lag behind the log, from which it is brought up to date
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

const FORMAT: &str = "orlop store format ";
const VERSION: &str = "1";

/// Why a store could not be opened. None is retryable before somebody has acted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data folder {} is in use by {holder}; stop that process, or choose another folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// `process 123`, or `another process`.
        holder: String,
    },
    /// Written by another version.
    #[error(
        "the data folder {} has format version {found}, this program reads and writes version {VERSION}; \
         start it with the version that wrote it, or choose another folder", path.display()
    )]
    Version {
        /// The folder.
        path: PathBuf,
        /// What its format file says.
        found: String,
    },
    /// Not a data folder, and not empty.
    #[error(
        "the folder {} is not empty and was not made by this program (it has no valid file `format`); \
         choose an empty folder", path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// Its content cannot be read.
    #[error(
        "the data in {} is corrupt; restore the folder from a backup, or remove it to start empty", path.display()
    )]
    Corrupt {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file system refused.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: std::io::Error,
    },
    /// There is too little space to start.
    #[error("there is not enough space to open the data folder {}; free some space", path.display())]
    NoSpace {
        /// The folder.
        path: PathBuf,
    },
    /// Raft did not come up.
    #[error("the store in {} did not start: {message}", path.display())]
    Raft {
        /// The folder.
        path: PathBuf,
        /// What openraft said.
        message: String,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    move |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => OpenError::NoSpace { path: path.to_owned() },
        _ => OpenError::Io { path: path.to_owned(), source },
    }
}

/// Whether an engine's error means that the disk is full.
pub(crate) fn is_full(error: &fjall::Error) -> bool {
    let kind = match error {
        fjall::Error::Io(e) => e.kind(),
        fjall::Error::Storage(fjall::LsmError::Io(e)) => e.kind(),
        _ => return false,
    };
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// An engine's error while opening `path`.
pub(crate) fn engine(path: &Path, error: fjall::Error) -> OpenError {
    if is_full(&error) {
        return OpenError::NoSpace { path: path.to_owned() };
    }
    match error {
        fjall::Error::Io(source) => io(path)(source),
        fjall::Error::Locked => {
            OpenError::Locked { path: path.to_owned(), holder: "another process".to_owned() }
        }
        other => OpenError::Corrupt { path: path.to_owned(), source: Box::new(other) },
    }
}

/// A claimed data folder. The claim ends with the last handle to the lock.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    lock: File,
}

impl Folder {
    /// Creates or claims the folder.
    pub(crate) fn claim(path: &Path) -> Result<Self, OpenError> {
        std::fs::create_dir_all(path).map_err(io(path))?;
        let format = path.join("format");
        // Before the lock file is made, so that nothing is left in a folder that is not ours.
        let known = check_format(path, &format)?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.read_to_string(&mut pid);
                let holder = match pid.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                return Err(OpenError::Locked { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(io(&lock_path)(source)),
        }
        let note = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        note(&mut lock).map_err(io(&lock_path))?;
        if !known {
            write_format(path, &format).map_err(io(&format))?;
        }
        Ok(Self { path: path.to_owned(), lock })
    }

    /// A second handle to the lock, for a thread that may outlive this one.
    pub(crate) fn hold(&self) -> Result<File, OpenError> {
        self.lock.try_clone().map_err(io(&self.path))
    }
}

/// Whether the folder is already one of ours; an error where it is somebody else's.
fn check_format(path: &Path, format: &Path) -> Result<bool, OpenError> {
    let foreign = || OpenError::Foreign { path: path.to_owned() };
    match std::fs::read_to_string(format) {
        Ok(text) => match text.strip_prefix(FORMAT).map(str::trim_end) {
            Some(VERSION) => Ok(true),
            Some(found) => Err(OpenError::Version { path: path.to_owned(), found: found.to_owned() }),
            None => Err(foreign()),
        },
        Err(e) if e.kind() == ErrorKind::InvalidData => Err(foreign()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            for file in std::fs::read_dir(path).map_err(io(path))? {
                // What a process leaves that was killed before it had written the format.
                let name = file.map_err(io(path))?.file_name();
                if name != "lock" && name != "format.new" && name != "lost+found" {
                    return Err(foreign());
                }
            }
            Ok(false)
        }
        Err(e) => Err(io(format)(e)),
    }
}

fn write_format(path: &Path, format: &Path) -> std::io::Result<()> {
    let new = path.join("format.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{FORMAT}{VERSION}")?;
    file.sync_all()?;
    std::fs::rename(&new, format)?;
    File::open(path)?.sync_all()
}
