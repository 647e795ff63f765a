//! Unpacks one layer into a folder that overlayfs can use as a lower directory.
//!
//! The archive is hostile until shown otherwise. Every path is resolved by the kernel with the layer's
//! folder as the root (`openat2`, `RESOLVE_IN_ROOT`), the last component is never followed, `..` is
//! refused, and nothing that already exists is written through: it is replaced.
//!
//! Whiteouts become what overlayfs understands: a character device 0:0 hides a name, the attribute
//! `trusted.overlay.opaque` hides a whole lower folder. Other `trusted.*` attributes are dropped, for
//! overlayfs would obey them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use sha2::{Digest, Sha256};
use tar::EntryType;
use xattr::FileExt;

use crate::error::RuntimeError;

const OPAQUE: &str = "trusted.overlay.opaque";

/// Unpacks a tar stream (plain, gzip or zstd) into the empty folder `target` and returns the digest of
/// the uncompressed stream.
///
/// # Errors
/// `InvalidImage` when the archive is damaged or hostile, `Io` when the disk fails.
pub fn unpack(layer: impl Read, target: &Path) -> Result<String, RuntimeError> {
    let mut hashing = Hashing { inner: decompress(layer)?, hash: Sha256::new() };
    let root =
        nix::fcntl::open(target, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty())
            .map_err(|e| RuntimeError::io(format!("open {}", target.display()), e))?;
    let mut unpacker = Unpacker { root, parent: None, times: Vec::new() };
    let mut archive = tar::Archive::new(&mut hashing);
    let entries = archive.entries().map_err(damaged)?;
    for entry in entries {
        unpacker.entry(entry.map_err(damaged)?)?;
    }
    unpacker.finish();
    // What follows the archive's end belongs to the digest too.
    io::copy(&mut hashing, &mut io::sink()).map_err(damaged)?;
    Ok(format!("sha256:{}", hex::encode(hashing.hash.finalize())))
}

/// Undoes gzip or zstd, told by the first bytes.
///
/// # Errors
/// `InvalidImage` when even those cannot be read.
pub fn decompress<'a>(stream: impl Read + 'a) -> Result<Box<dyn Read + 'a>, RuntimeError> {
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    let mut magic = [0u8; 4];
    let mut got = 0;
    while got < magic.len() {
        match stream.read(&mut magic[got..]).map_err(damaged)? {
            0 => break,
            count => got += count,
        }
    }
    let whole = io::Cursor::new(magic[..got].to_vec()).chain(stream);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole).map_err(damaged)?),
        _ => Box::new(whole),
    })
}

fn damaged(error: io::Error) -> RuntimeError {
    RuntimeError::InvalidImage(format!("cannot read the layer: {error}"))
}

fn refused(path: &Path, why: &str) -> RuntimeError {
    RuntimeError::InvalidImage(format!("layer entry \"{}\" refused: {why}", path.display()))
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

struct Unpacker {
    root: OwnedFd,
    /// The folder of the last entry: archives come in that order.
    parent: Option<(OsString, OwnedFd)>,
    /// Folders' times are set last, when nothing is added to them any more.
    times: Vec<(OsString, i64)>,
}

/// The components of an entry's path, relative and without `.`; `None` with `..`.
fn components(path: &[u8]) -> Option<Vec<&OsStr>> {
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            _ if part.contains(&0) => return None,
            _ => parts.push(OsStr::from_bytes(part)),
        }
    }
    Some(parts)
}

fn join(parts: &[&OsStr]) -> OsString {
    let mut joined = OsString::new();
    for part in parts {
        if !joined.is_empty() {
            joined.push("/");
        }
        joined.push(part);
    }
    joined
}

impl Unpacker {
    fn beneath(&self, path: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.is_empty() { OsStr::new(".") } else { path };
        // EAGAIN: something was renamed meanwhile; nothing of ours is, so once more is enough.
        match openat2(&self.root, path, how) {
            Err(nix::Error::EAGAIN) => openat2(&self.root, path, how),
            other => other,
        }
    }

    /// Opens the folder that an entry goes into, making what is missing.
    fn folder(&mut self, parts: &[&OsStr], shown: &Path) -> Result<&OwnedFd, RuntimeError> {
        let path = join(parts);
        if self.parent.as_ref().is_none_or(|(last, _)| *last != path) {
            let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
            let opened = match self.beneath(&path, flags) {
                Err(nix::Error::ENOENT) => {
                    let mut folder = self.beneath(OsStr::new(""), flags).map_err(|e| io_at(shown, e))?;
                    for depth in 1..=parts.len() {
                        folder = match self.beneath(&join(&parts[..depth]), flags) {
                            Err(nix::Error::ENOENT) => {
                                let name = parts[depth - 1];
                                mkdirat(&folder, name, Mode::from_bits_truncate(0o755)).map_err(
                                    |e| match e {
                                        nix::Error::EEXIST => {
                                            refused(shown, "its path goes through a dangling link")
                                        }
                                        other => io_at(shown, other),
                                    },
                                )?;
                                openat(
                                    &folder,
                                    name,
                                    flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                                    Mode::empty(),
                                )
                            }
                            other => other,
                        }
                        .map_err(|e| not_a_folder(shown, e))?;
                    }
                    folder
                }
                other => other.map_err(|e| not_a_folder(shown, e))?,
            };
            self.parent = Some((path, opened));
        }
        match &self.parent {
            Some((_, fd)) => Ok(fd),
            None => Ok(&self.root),
        }
    }

    fn entry(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), RuntimeError> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let raw = entry.path_bytes().into_owned();
        let shown = Path::new(OsStr::from_bytes(&raw)).to_path_buf();
        let parts = components(&raw).ok_or_else(|| refused(&shown, "it leads out of the layer"))?;
        let Some((name, parents)) = parts.split_last() else {
            // The layer's root itself.
            let mode = Mode::from_bits_truncate(entry.header().mode().map_err(damaged)?);
            let (uid, gid) = owner(&entry)?;
            fchown(&self.root, Some(uid), Some(gid)).map_err(|e| io_at(&shown, e))?;
            fchmod(&self.root, mode).map_err(|e| io_at(&shown, e))?;
            return Ok(());
        };
        let header = entry.header();
        let mode = Mode::from_bits_truncate(header.mode().map_err(damaged)? & 0o7777);
        let (uid, gid) = owner(&entry)?;
        let mtime = header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0);
        let device = (header.device_major().ok().flatten(), header.device_minor().ok().flatten());
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(parents, OsStr::from_bytes(hidden), &shown);
        }
        let target = match kind {
            EntryType::Link => {
                let link = entry
                    .link_name_bytes()
                    .ok_or_else(|| refused(&shown, "it links to nothing"))?
                    .into_owned();
                let parts =
                    components(&link).ok_or_else(|| refused(&shown, "its link leads out of the layer"))?;
                let (last, folders) =
                    parts.split_last().ok_or_else(|| refused(&shown, "it links to the root"))?;
                let folder = self.beneath(&join(folders), OFlag::O_PATH | OFlag::O_DIRECTORY);
                let folder = folder.map_err(|_| refused(&shown, "the folder of its link does not exist"))?;
                Some((folder, (*last).to_owned()))
            }
            _ => None,
        };
        let xattrs = xattrs(&mut entry)?;
        let link_name = entry.link_name_bytes().map(|n| n.into_owned());
        if !matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse) {
            // A folder may be replaced by a link: what is cached may not be what the path names.
            self.parent = None;
        }
        let folder = self.folder(parents, &shown)?;
        let was = make_room(folder, name, kind == EntryType::Directory, &shown)?;
        let fail = |e: nix::Error| io_at(&shown, e);
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags =
                    OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let fd = openat(folder, *name, flags, Mode::from_bits_truncate(0o600)).map_err(fail)?;
                let mut file = File::from(fd);
                io::copy(&mut entry, &mut file).map_err(|e| match e.raw_os_error() {
                    Some(_) => RuntimeError::io(format!("write {}", shown.display()), e),
                    None => damaged(e),
                })?;
                fchown(&file, Some(uid), Some(gid)).map_err(fail)?;
                fchmod(&file, mode).map_err(fail)?;
                set_xattrs(&file, &xattrs);
                set_time(folder, name, mtime);
            }
            EntryType::Directory => {
                if was != Was::Folder {
                    mkdirat(folder, *name, Mode::from_bits_truncate(0o700)).map_err(fail)?;
                }
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let made = File::from(openat(folder, *name, flags, Mode::empty()).map_err(fail)?);
                fchown(&made, Some(uid), Some(gid)).map_err(fail)?;
                fchmod(&made, mode).map_err(fail)?;
                set_xattrs(&made, &xattrs);
                if was == Was::Whiteout {
                    made.set_xattr(OPAQUE, b"y")
                        .map_err(|e| RuntimeError::io(format!("mark {} opaque", shown.display()), e))?;
                }
                self.times.push((join(&parts), mtime));
            }
            EntryType::Symlink => {
                let link = link_name.ok_or_else(|| refused(&shown, "it links to nothing"))?;
                symlinkat(OsStr::from_bytes(&link), folder, *name).map_err(fail)?;
                fchownat(folder, *name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(fail)?;
                set_time(folder, name, mtime);
            }
            EntryType::Link => {
                if let Some((from, last)) = target {
                    linkat(&from, last.as_os_str(), folder, *name, AtFlags::empty()).map_err(
                        |e| match e {
                            nix::Error::ENOENT => refused(&shown, "what it links to does not exist"),
                            nix::Error::EPERM => refused(&shown, "it links to a folder"),
                            other => io_at(&shown, other),
                        },
                    )?;
                }
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let (sort, device) = match (kind, device) {
                    (EntryType::Fifo, _) => (SFlag::S_IFIFO, 0),
                    (EntryType::Char, (Some(major), Some(minor))) => {
                        (SFlag::S_IFCHR, makedev(u64::from(major), u64::from(minor)))
                    }
                    (_, (Some(major), Some(minor))) => {
                        (SFlag::S_IFBLK, makedev(u64::from(major), u64::from(minor)))
                    }
                    _ => return Err(refused(&shown, "it is a device without a number")),
                };
                mknodat(folder, *name, sort, mode, device).map_err(fail)?;
                fchownat(folder, *name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(fail)?;
                fchmodat(folder, *name, mode, FchmodatFlags::FollowSymlink).map_err(fail)?;
                set_time(folder, name, mtime);
            }
            _ => return Err(refused(&shown, "entries of its type are not supported")),
        }
        Ok(())
    }

    fn whiteout(&mut self, parents: &[&OsStr], hidden: &OsStr, shown: &Path) -> Result<(), RuntimeError> {
        let folder = self.folder(parents, shown)?;
        if hidden.as_bytes() == b".wh..opq" {
            let made =
                folder.try_clone().map(File::from).map_err(|e| RuntimeError::io("copy a descriptor", e))?;
            return made
                .set_xattr(OPAQUE, b"y")
                .map_err(|e| RuntimeError::io(format!("mark {} opaque", shown.display()), e));
        }
        if hidden.as_bytes().starts_with(b".wh.") {
            // aufs' own book-keeping.
            return Ok(());
        }
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(refused(shown, "it hides nothing that can exist"));
        }
        // What this layer itself has brought stays: a whiteout hides lower layers only.
        if fstatat(folder, hidden, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
            return Ok(());
        }
        mknodat(folder, hidden, SFlag::S_IFCHR, Mode::empty(), 0).map_err(|e| io_at(shown, e))
    }

    fn finish(&mut self) {
        for (path, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            // Best effort: a folder may have been replaced since.
            if let Ok(fd) = self.beneath(&path, OFlag::O_DIRECTORY | OFlag::O_RDONLY) {
                let time = TimeSpec::new(mtime, 0);
                let _ = nix::sys::stat::futimens(&fd, &time, &time);
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Was {
    Nothing,
    Folder,
    Whiteout,
}

/// Removes what is in the way of a new entry. A folder stays when a folder comes.
fn make_room(folder: &OwnedFd, name: &OsStr, is_folder: bool, shown: &Path) -> Result<Was, RuntimeError> {
    let stat = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(nix::Error::ENOENT) => return Ok(Was::Nothing),
        other => other.map_err(|e| io_at(shown, e))?,
    };
    if is_kind(&stat, SFlag::S_IFDIR) {
        if is_folder {
            return Ok(Was::Folder);
        }
        remove_folder(folder, name).map_err(|e| io_at(shown, e))?;
        return Ok(Was::Nothing);
    }
    unlinkat(folder, name, UnlinkatFlags::NoRemoveDir).map_err(|e| io_at(shown, e))?;
    let whiteout = is_kind(&stat, SFlag::S_IFCHR) && stat.st_rdev == 0;
    Ok(if whiteout { Was::Whiteout } else { Was::Nothing })
}

fn is_kind(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// Removes a folder of the layer without following any link.
fn remove_folder(parent: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(parent, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in nix::dir::Dir::from_fd(fd.try_clone().map_err(|_| nix::Error::EMFILE)?)?.iter() {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if child != b"." && child != b".." {
            names.push(OsStr::from_bytes(child).to_owned());
        }
    }
    for child in names {
        match unlinkat(&fd, child.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Err(nix::Error::EISDIR | nix::Error::EPERM) => remove_folder(&fd, &child)?,
            other => other?,
        }
    }
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}

fn owner(entry: &tar::Entry<'_, impl Read>) -> Result<(Uid, Gid), RuntimeError> {
    let narrow = |id: u64| {
        u32::try_from(id).map_err(|_| RuntimeError::InvalidImage("an owner is out of range".into()))
    };
    let header = entry.header();
    Ok((
        Uid::from_raw(narrow(header.uid().map_err(damaged)?)?),
        Gid::from_raw(narrow(header.gid().map_err(damaged)?)?),
    ))
}

fn xattrs(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<(OsString, Vec<u8>)>, RuntimeError> {
    let mut found = Vec::new();
    if let Some(extensions) = entry.pax_extensions().map_err(damaged)? {
        for extension in extensions {
            let extension = extension.map_err(damaged)?;
            if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.")
                && !name.starts_with(b"trusted.")
            {
                found.push((OsStr::from_bytes(name).to_owned(), extension.value_bytes().to_vec()));
            }
        }
    }
    Ok(found)
}

/// Attributes that this file system does not take are left out, as other unpackers do.
fn set_xattrs(file: &File, xattrs: &[(OsString, Vec<u8>)]) {
    for (name, value) in xattrs {
        let _ = file.set_xattr(name, value);
    }
}

fn set_time(folder: &OwnedFd, name: &OsStr, mtime: i64) {
    let time = TimeSpec::new(mtime, 0);
    let _ = utimensat(folder, name, &time, &time, UtimensatFlags::NoFollowSymlink);
}

fn io_at(path: &Path, error: nix::Error) -> RuntimeError {
    RuntimeError::io(format!("unpack {}", path.display()), error)
}

fn not_a_folder(path: &Path, error: nix::Error) -> RuntimeError {
    match error {
        nix::Error::ENOTDIR => refused(path, "its path goes through something that is not a folder"),
        nix::Error::ELOOP => refused(path, "its path goes through too many links"),
        other => io_at(path, other),
    }
}
