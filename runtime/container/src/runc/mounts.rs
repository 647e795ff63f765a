//! Mounts that the driver makes: root filesystems (overlayfs) and the pods' `/dev/shm`.
//!
//! All calls block.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::RuntimeError;

/// The kernel takes one page of mount options.
const OPTIONS: usize = 4095;

/// Mounts the overlay of `lowers` (folder names under `layers`, highest first) over `target`.
///
/// # Errors
/// `Unavailable` where the kernel or the file system cannot do it, saying what to do.
pub(crate) fn overlay(
    layers: &Path,
    lowers: &[String],
    folder: &Path,
    target: &Path,
) -> Result<(), RuntimeError> {
    let absolute: Vec<String> =
        lowers.iter().map(|l| layers.join(l).to_string_lossy().into_owned()).collect();
    let options = overlay_options(&absolute, folder);
    let result = if options.len() <= OPTIONS {
        mount_overlay(&options, target)
    } else {
        // Too long: name the layers relative to their folder, from a thread with a working directory of
        // its own.
        let options = overlay_options(lowers, folder);
        if options.len() > OPTIONS {
            return Err(RuntimeError::InvalidImage(format!(
                "the image has too many layers ({})",
                lowers.len()
            )));
        }
        let (layers, target) = (layers.to_owned(), target.to_owned());
        let thread = std::thread::spawn(move || -> Result<(), nix::Error> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(&layers)?;
            mount_overlay(&options, &target)
        });
        thread.join().unwrap_or(Err(nix::Error::EIO))
    };
    result.map_err(|e| match e {
        nix::Error::ENODEV => RuntimeError::Unavailable(
            "the kernel has no overlayfs: load it (modprobe overlay) or use a kernel that has it".to_owned(),
        ),
        nix::Error::EINVAL => RuntimeError::Unavailable(format!(
            "overlayfs cannot be used under {}: put the data folder on a file system such as ext4 or xfs (not on \
             another overlay)",
            folder.display()
        )),
        other => RuntimeError::io(format!("mount the root filesystem at {}", target.display()), other),
    })
}

fn overlay_options(lowers: &[String], folder: &Path) -> String {
    let escape = |path: &str| path.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let lower: Vec<String> = lowers.iter().map(|l| escape(l)).collect();
    let (upper, work) = (folder.join("upper"), folder.join("work"));
    format!(
        "lowerdir={},upperdir={},workdir={},index=off",
        lower.join(":"),
        escape(&upper.to_string_lossy()),
        escape(&work.to_string_lossy())
    )
}

fn mount_overlay(options: &str, target: &Path) -> Result<(), nix::Error> {
    // A container's writable layer never outlives the machine's current boot, so nothing need be synced.
    let volatile = format!("{options},volatile");
    let once = |data: &str| mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(data));
    match once(&volatile) {
        // Kernels before 5.10.
        Err(nix::Error::EINVAL) => once(options),
        other => other,
    }
}

/// Mounts a pod's `/dev/shm`.
///
/// # Errors
/// `Io`.
pub(crate) fn shm(target: &Path) -> Result<(), RuntimeError> {
    let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    fs::create_dir_all(target).map_err(|e| RuntimeError::io(format!("create {}", target.display()), e))?;
    mount(Some("shm"), target, Some("tmpfs"), flags, Some("mode=1777,size=65536k"))
        .map_err(|e| RuntimeError::io(format!("mount {}", target.display()), e))
}

/// Unmounts. Idempotent.
///
/// # Errors
/// `Io`.
pub(crate) fn unmount(target: &Path) -> Result<(), RuntimeError> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(e) => Err(RuntimeError::io(format!("unmount {}", target.display()), e)),
    }
}

/// Mount points at or below a folder, the deepest first.
///
/// # Errors
/// `Io`.
pub(crate) fn below(folder: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    let text = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| RuntimeError::io("read the mount table", e))?;
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(folder))
        .collect();
    found.reverse();
    Ok(found)
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' {
            let digits: String = bytes.by_ref().take(3).map(char::from).collect();
            out.push(u8::from_str_radix(&digits, 8).unwrap_or(b'?'));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Removes a folder with all that is in it. Idempotent. Whatever is mounted in it must be gone.
///
/// # Errors
/// `Io`.
pub(crate) fn remove_folder(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_escaped() {
        let options = overlay_options(&["/a:b".into(), "/c,d".into()], Path::new("/e"));
        assert_eq!(options, "lowerdir=/a\\:b:/c\\,d,upperdir=/e/upper,workdir=/e/work,index=off");
        assert_eq!(unescape("/a\\040b"), "/a b");
    }
}
