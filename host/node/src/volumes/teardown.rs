//! Takes a pod's folder away: first the mounts below it, then the files.
//!
//! Nothing is deleted while a mount lies below the folder, because that would delete through it.

use nix::mount::{MntFlags, umount2};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Mount points below `dir` (or at it), the deepest last.
fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let mut found = Vec::new();
    for line in table.split(|b| *b == b'\n') {
        let Some(point) = line.split(|b| *b == b' ').nth(4) else { continue };
        let path = unescape(point);
        if path.starts_with(dir) {
            found.push(path);
        }
    }
    Ok(found)
}

/// `mountinfo` writes blanks and backslashes in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut i = 0;
    while let Some(byte) = field.get(i) {
        let octal =
            field.get(i + 1..i + 4).filter(|d| *byte == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        if let Some(&[a, b, c]) = octal {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            i += 4;
        } else {
            out.push(*byte);
            i += 1;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Whether something is mounted at `path`.
pub(crate) fn is_mount(path: &Path) -> io::Result<bool> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    Ok(mounts_below(&path)?.iter().any(|p| p.as_os_str().as_bytes() == path.as_os_str().as_bytes()))
}

/// Unmounts what is mounted below `dir` and removes it. Idempotent.
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for point in mounts_below(&dir)?.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    if !mounts_below(&dir)?.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "something is still mounted in the pod's folder",
        ));
    }
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescapes() {
        assert_eq!(unescape(b"/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(b"/plain\\x"), Path::new("/plain\\x"));
    }

    #[test]
    fn gone_is_fine() {
        remove_tree(Path::new("/nonexistent/orlop")).unwrap();
        assert!(!is_mount(Path::new("/nonexistent/orlop")).unwrap());
    }
}
