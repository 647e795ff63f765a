//! `subPath`: a folder or file within a volume, pinned so that nobody can point it elsewhere.
//!
//! The path is walked with `openat2(RESOLVE_BENEATH)`: symbolic links are followed, but never out
//! of the volume. What was opened is bind-mounted by its file descriptor, and the runtime is given
//! that mount; a link that is swapped afterwards changes nothing.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};

fn beneath(dir: impl AsFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(dir, path, how)
}

/// Opens `sub` within `volume`, making missing folders with `mode`.
fn open_within(volume: &Path, sub: &Path, create: bool) -> io::Result<OwnedFd> {
    let root = open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    match beneath(&root, sub, OFlag::O_PATH) {
        Err(Errno::ENOENT) if create => {}
        other => return Ok(other?),
    }
    let mut at = root;
    for component in sub.components() {
        let Component::Normal(name) = component else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "subPath must not contain '..'"));
        };
        let name = Path::new(name);
        at = match beneath(&at, name, OFlag::O_PATH) {
            Err(Errno::ENOENT) => {
                match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                // Made by us: a link in its place is an attack.
                beneath(&at, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY)?
            }
            other => other?,
        };
    }
    Ok(at)
}

/// Mounts `sub` of `volume` at `target`. Idempotent: a target that is a mount already is kept.
pub(crate) fn bind(volume: &Path, sub: &Path, target: &Path, create: bool) -> io::Result<()> {
    if super::teardown::is_mount(target)? {
        return Ok(());
    }
    let source = open_within(volume, sub, create)?;
    let kind = SFlag::from_bits_truncate(fstat(&source)?.st_mode) & SFlag::S_IFMT;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if kind == SFlag::S_IFDIR {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        fs::File::create(target)?;
    }
    let path = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount(Some(path.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// Whether `path` can be opened at all, for tests of what exists.
#[cfg(test)]
fn resolves(volume: &Path, sub: &str) -> bool {
    open_within(volume, Path::new(sub), false).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn never_leaves_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("in")).unwrap();
        fs::create_dir_all(dir.path().join("out")).unwrap();
        symlink("in", volume.join("good")).unwrap();
        symlink("../out", volume.join("bad")).unwrap();
        symlink("/etc", volume.join("absolute")).unwrap();
        assert!(resolves(&volume, "in"));
        assert!(resolves(&volume, "good"));
        for sub in ["bad", "absolute", "../out", "in/../../out"] {
            assert!(!resolves(&volume, sub), "{sub}");
        }
        assert!(open_within(&volume, Path::new("bad/new"), true).is_err());
        assert!(open_within(&volume, Path::new("a/b/c"), true).is_ok());
        assert!(volume.join("a/b/c").is_dir());
    }

    #[test]
    fn binds_and_is_taken_down() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("in")).unwrap();
        fs::write(volume.join("in/f"), "x").unwrap();
        let pod = dir.path().join("pod");
        let target = pod.join("volume-subpaths/v/c/0");
        bind(&volume, Path::new("in"), &target, true).unwrap();
        bind(&volume, Path::new("in"), &target, true).unwrap();
        assert_eq!(fs::read_to_string(target.join("f")).unwrap(), "x");
        super::super::teardown::remove_tree(&pod).unwrap();
        assert!(!pod.exists());
        assert_eq!(fs::read_to_string(volume.join("in/f")).unwrap(), "x", "the volume is untouched");
    }
}
