//! Compiled code on disk, by digest and by the engine's compatibility hash.
//!
//! Loading compiled code runs it, so it is as trusted as this program: the folder belongs to our
//! user and to nobody else, and nothing gets into it but what this process compiled from
//! WebAssembly that it had checked, or a child of it. Files are written under another name and renamed, and carry a
//! checksum beside them against torn writes.
//!
//! Invariant: no path and no byte that comes from a user reaches [`Cache::load`] but the digest of
//! WebAssembly bytes that this process computed.

use crate::compile::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Files kept; the oldest go first.
const MAX_FILES: usize = 256;
/// Bytes of code kept: plugins with an interpreter inside have tens of megabytes each.
const MAX_BYTES: u64 = 2 << 30;

pub(crate) struct Cache {
    folder: PathBuf,
    compatibility: String,
}

impl Cache {
    /// Opens `folder`, making it where it is missing.
    ///
    /// # Errors
    /// Where it cannot be made, or where somebody else may write to it.
    pub(crate) fn open(folder: &Path, compatibility: String) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let meta = fs::symlink_metadata(folder)?;
        let ours = meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 == 0;
        if !ours {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the folder of compiled plugins must be a folder of our own user with mode 0700",
            ));
        }
        Ok(Self { folder: folder.to_owned(), compatibility })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}-{}.cwasm", digest.hex(), self.compatibility))
    }

    /// The component compiled earlier from the bytes with `digest`, its code mapped from the file.
    pub(crate) fn load(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let expected = fs::read(path.with_extension("sha256")).ok()?;
        if checksum(&path).ok()?.as_slice() != expected {
            tracing::warn!(path = %path.display(), "compiled plugin is damaged, compiling it again");
            return None;
        }
        deserialize(engine, &path)
    }

    /// Stores `component` and returns it mapped from the file, so that its code can be paged.
    pub(crate) fn store(
        &self,
        engine: &Engine,
        digest: &Digest,
        component: &Component,
    ) -> io::Result<Option<Component>> {
        let code = component.serialize().map_err(io::Error::other)?;
        let path = self.path(digest);
        self.trim();
        self.write(&path, &code)?;
        self.write(&path.with_extension("sha256"), &Sha256::digest(&code))?;
        Ok(deserialize(engine, &path))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        static SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let temporary = self.folder.join(format!("tmp-{}-{serial}", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // Best effort: the error that matters is the one returned.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes what is too many, oldest first, and what a killed process left half-written.
    fn trim(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<(std::time::SystemTime, u64, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { continue };
            let Ok(modified) = meta.modified() else { continue };
            let old = modified.elapsed().is_ok_and(|age| age.as_secs() > 3600);
            if old && entry.file_name().to_string_lossy().starts_with("tmp-") {
                let _ = fs::remove_file(&path);
            } else if path.extension().is_some_and(|e| e == "cwasm") {
                files.push((modified, meta.len(), path));
            }
        }
        files.sort();
        let mut bytes = 0;
        let kept = files.iter().rev().take(MAX_FILES - 1).take_while(|(_, size, _)| {
            bytes += size;
            bytes <= MAX_BYTES
        });
        let excess = files.len().saturating_sub(kept.count());
        for (_, _, path) in files.into_iter().take(excess) {
            let _ = fs::remove_file(path.with_extension("sha256"));
            let _ = fs::remove_file(path);
        }
    }
}

fn checksum(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..read).filter(|c| !c.is_empty()) else {
            return Ok(hash.finalize().into());
        };
        hash.update(chunk);
    }
}

#[expect(unsafe_code, reason = "loading compiled code is unsafe by nature; the folder is ours alone")]
fn deserialize(engine: &Engine, path: &Path) -> Option<Component> {
    // SAFETY: the file lies in a folder that only our user can write (checked in `Cache::open`),
    // was written by `Cache::store` from a component that this program compiled, under a name that holds the
    // engine's compatibility hash; wasmtime itself checks version and settings once more.
    match unsafe { Component::deserialize_file(engine, path) } {
        Ok(component) => Some(component),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "compiled plugin cannot be loaded, compiling it again");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_together_goes_oldest_first() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("compiled");
        let cache = Cache::open(&folder, "test".to_owned()).unwrap();
        let begin = std::time::SystemTime::UNIX_EPOCH;
        for age in 0..4_u64 {
            let file = File::create(folder.join(format!("{age}.cwasm"))).unwrap();
            file.set_len(MAX_BYTES / 3).unwrap();
            file.set_modified(begin + std::time::Duration::from_secs(1000 - age)).unwrap();
        }
        cache.trim();
        let there = |age: u64| folder.join(format!("{age}.cwasm")).exists();
        assert_eq!([0, 1, 2, 3].map(there), [true, true, true, false]);
    }
}
