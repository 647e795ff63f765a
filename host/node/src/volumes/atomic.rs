//! Writes a set of files so that a reader sees the old set or the new one, never a mixture.
//!
//! As upstream's `AtomicWriter`: the files live in a fresh folder `..<time>`, `..data` is a
//! symbolic link to it that is replaced by a rename, and the visible names are links through
//! `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner other than root.
    pub(crate) uid: Option<u32>,
}

/// Relative path to file.
pub(crate) type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// Whether a path may be written: relative, no `..`, no name that begins with `..`.
pub(crate) fn valid_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 4096
        && !path.starts_with('/')
        && !path.starts_with("..")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

/// Brings `dir` to `payload`. Returns whether anything changed. `gid` is the pod's `fsGroup`.
pub(crate) fn write(dir: &Path, payload: &Payload, gid: Option<u32>) -> io::Result<bool> {
    for path in payload.keys() {
        if !valid_path(path) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path: {path}")));
        }
    }
    fs::create_dir_all(dir)?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload, gid)?
    {
        link_names(dir, payload)?;
        return Ok(false);
    }
    let fresh = fresh_dir(dir)?;
    let written = fill(&fresh, payload, gid).and_then(|()| {
        let name = fresh.file_name().unwrap_or(OsStr::new(""));
        let tmp = dir.join(DATA_TMP);
        match fs::remove_file(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(name, &tmp)?;
        fs::rename(&tmp, dir.join(DATA))
    });
    if let Err(error) = written {
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    link_names(dir, payload)?;
    unlink_names(dir, payload)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let stale = name.as_encoded_bytes().starts_with(b"..") && entry.file_type()?.is_dir();
        if stale && Some(name.as_os_str()) != fresh.file_name() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(true)
}

fn fresh_dir(dir: &Path) -> io::Result<PathBuf> {
    let stamp = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
    loop {
        let path = dir.join(format!("..{stamp}.{:010}", rand::random::<u32>()));
        match fs::create_dir(&path) {
            Ok(()) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                return Ok(path);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

fn effective_mode(file: &File, gid: Option<u32>) -> u32 {
    if gid.is_some() { file.mode | 0o440 } else { file.mode }
}

fn fill(fresh: &Path, payload: &Payload, gid: Option<u32>) -> io::Result<()> {
    for (path, file) in payload {
        let at = fresh.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&at, &file.data)?;
        if file.uid.is_some() || gid.is_some() {
            chown(&at, file.uid, gid)?;
        }
        fs::set_permissions(&at, fs::Permissions::from_mode(effective_mode(file, gid)))?;
    }
    if gid.is_some() {
        chown(fresh, None, gid)?;
    }
    Ok(())
}

/// Whether the folder holds exactly the payload.
fn same(dir: &Path, payload: &Payload, gid: Option<u32>) -> io::Result<bool> {
    let mut on_disk = BTreeSet::new();
    if !dir.is_dir() {
        return Ok(false);
    }
    collect(dir, dir, &mut on_disk)?;
    if on_disk.len() != payload.len() || !payload.keys().all(|k| on_disk.contains(Path::new(k))) {
        return Ok(false);
    }
    for (path, file) in payload {
        let at = dir.join(path);
        let meta = fs::metadata(&at)?;
        let owner_differs = file.uid.is_some_and(|u| u != meta.uid()) || gid.is_some_and(|g| g != meta.gid());
        if meta.mode() & 0o7777 != effective_mode(file, gid) || owner_differs || fs::read(&at)? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect(root: &Path, dir: &Path, into: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(root, &entry.path(), into)?;
        } else if let Ok(relative) = entry.path().strip_prefix(root) {
            into.insert(relative.to_owned());
        }
    }
    Ok(())
}

fn top_names(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|path| path.split('/').next()).collect()
}

fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    for name in top_names(payload) {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn unlink_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted = top_names(payload);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(text) = name.to_str() else { continue };
        if !text.starts_with("..") && entry.file_type()?.is_symlink() && !wanted.contains(text) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o644, uid: None }))
            .collect()
    }

    #[test]
    fn swaps_the_whole_set() {
        let dir = tempfile::tempdir().unwrap();
        let first = payload(&[("a", "1"), ("sub/b", "2")]);
        assert!(write(dir.path(), &first, None).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("sub/b")).unwrap(), "2");
        let target = fs::read_link(dir.path().join(DATA)).unwrap();
        assert!(!write(dir.path(), &first, None).unwrap(), "the same again changes nothing");
        assert_eq!(fs::read_link(dir.path().join(DATA)).unwrap(), target);

        let second = payload(&[("a", "3"), ("c", "4")]);
        assert!(write(dir.path(), &second, None).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(fs::symlink_metadata(dir.path().join("sub")).is_err(), "a name that went is unlinked");
        assert!(!dir.path().join(&target).exists(), "the old folder is removed");
        assert_eq!(fs::read_link(dir.path().join("c")).unwrap(), Path::new("..data/c"));

        let mut modes = second.clone();
        modes.get_mut("a").unwrap().mode = 0o400;
        assert!(write(dir.path(), &modes, None).unwrap(), "a mode is a change too");
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().mode() & 0o777, 0o400);
    }

    #[test]
    fn survives_what_a_crash_left() {
        let dir = tempfile::tempdir().unwrap();
        symlink("nowhere", dir.path().join(DATA_TMP)).unwrap();
        fs::create_dir(dir.path().join("..2020_01_01_00_00_00.1")).unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1")]), None).unwrap());
        let names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.starts_with(".."))
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn refuses_to_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..x", ""] {
            assert!(!valid_path(path), "{path}");
            assert!(write(dir.path(), &payload(&[(path, "1")]), None).is_err(), "{path}");
        }
    }
}
