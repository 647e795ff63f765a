//! `hostPath`: checks and makes what its type asks for.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Checks `path` against `kind` (`hostPath.type`), creating it for the `…OrCreate` types.
pub(crate) fn prepare(path: &Path, kind: &str) -> Result<(), String> {
    let meta = match fs::metadata(path) {
        Ok(meta) => Some(meta),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(format!("hostPath type check failed: {e}: {}", path.display())),
    };
    let shown = path.display();
    let is = |test: fn(&fs::FileType) -> bool| meta.as_ref().is_some_and(|m| test(&m.file_type()));
    let need = |ok: bool, what: &str| {
        if ok { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not {what}")) }
    };
    match kind {
        "" => {
            // Nothing is checked; what is missing becomes a folder, as runtimes have always done.
            if meta.is_none() { create_dir(path) } else { Ok(()) }
        }
        "DirectoryOrCreate" if meta.is_none() => create_dir(path),
        "DirectoryOrCreate" | "Directory" => need(is(fs::FileType::is_dir), "a directory"),
        "FileOrCreate" if meta.is_none() => fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .map(drop)
            .map_err(|e| format!("hostPath type check failed: {e}: {shown}")),
        "FileOrCreate" | "File" => need(is(fs::FileType::is_file), "a file"),
        "Socket" => need(is(fs::FileType::is_socket), "a socket file"),
        "CharDevice" => need(is(fs::FileType::is_char_device), "a character device"),
        "BlockDevice" => need(is(fs::FileType::is_block_device), "a block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn create_dir(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(|e| format!("hostPath type check failed: {e}: {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (name, kind, ok) in [
            ("file", "File", true),
            ("file", "Directory", false),
            ("none", "File", false),
            ("none", "Directory", false),
            ("new/dir", "DirectoryOrCreate", true),
            ("new/dir", "Directory", true),
            ("made", "FileOrCreate", true),
            ("made", "File", true),
            ("nodir/made", "FileOrCreate", false),
            ("socket", "Socket", true),
            ("file", "Socket", false),
            ("other", "", true),
            ("file", "Nonsense", false),
        ] {
            assert_eq!(prepare(&at(name), kind).is_ok(), ok, "{name} {kind}");
        }
        prepare(Path::new("/dev/null"), "CharDevice").unwrap();
        let error = prepare(&at("file"), "Directory").unwrap_err();
        assert_eq!(error, format!("hostPath type check failed: {} is not a directory", at("file").display()));
    }
}
