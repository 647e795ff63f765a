//! Embeds the templates and the WIT files, so that the binary needs no clone of the repository.

use std::env;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let templates = here.join("templates");
    let wit = here.join("../../wit");
    println!("cargo::rerun-if-changed={}", templates.display());
    println!("cargo::rerun-if-changed={}", wit.display());
    let mut out = String::new();
    table(&mut out, "TEMPLATES", &[(templates, String::new())])?;
    let kinds = ["scheduler", "controller", "admission"].map(|kind| (wit.join(kind), format!("{kind}/")));
    table(&mut out, "WIT", &kinds)?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("embedded.rs"), out)?;
    Ok(())
}

fn table(
    out: &mut String,
    name: &str,
    folders: &[(PathBuf, String)],
) -> Result<(), Box<dyn std::error::Error>> {
    writeln!(out, "static {name}: &[(&str, &[u8])] = &[")?;
    for (folder, prefix) in folders {
        let mut files = Vec::new();
        collect(folder, prefix, &mut files)?;
        files.sort();
        for (path, file) in files {
            let file = fs::canonicalize(file)?;
            writeln!(out, "    ({path:?}, include_bytes!({:?})),", file.to_string_lossy())?;
        }
    }
    out.push_str("];\n");
    Ok(())
}

/// All files below `folder`, by path; links are followed.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{path}/"), files)?;
        } else {
            files.push((path, entry.path()));
        }
    }
    Ok(())
}
