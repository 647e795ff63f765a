//! Templates: what `orlop plugin new` begins with.
//!
//! A language is a folder `templates/LANGUAGE` with `language.json`, which becomes the `orlop-plugin.json`
//! of the new folder (see [`crate::project`]), a folder `all` for every kind, and a folder for each kind of
//! plugin that it has; the latter's files replace those of the same name. In the files, and in their names, these are replaced:
//!
//! | text | by |
//! |---|---|
//! | `{{name}}` | name of the folder, such as `disk-type` |
//! | `{{snake}}` | `disk_type` |
//! | `{{camel}}` | `DiskType`: the type, and the name in the manifest of scheduler and admission plugins |
//! | `{{kind}}` | `scheduler`, `controller` or `admission` |
//! | `{{sdk}}` | folder of the SDK for Rust |

use orlop_plugin::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Why no folder was made. The user must choose otherwise.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is no such template.
    #[error("there is no template for a {kind} plugin in `{language}`; there are: {there_are}")]
    Missing {
        /// As asked for.
        language: String,
        /// As asked for.
        kind: Kind,
        /// What can be asked for.
        there_are: String,
    },
    /// The name cannot be one.
    #[error(
        "`{name}` cannot be the name of a plugin: it must be lower-case letters, digits and single '-', begin with a letter and have at most 50 characters"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// Something is there already.
    #[error("{} is there already; choose another name, or remove it", .path.display())]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// The SDK was not found.
    #[error(
        "the SDK for Rust was not found: name its folder (plugins/sdk in a clone of the repository) by --sdk or ORLOP_SDK"
    )]
    NoSdk,
    /// A file cannot be written.
    #[error("cannot write {}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What to make.
#[derive(Clone, Debug)]
pub struct New {
    /// Name of the folder and of the plugin.
    pub name: String,
    /// What it decides.
    pub kind: Kind,
    /// As in `templates/`.
    pub language: String,
    /// The folder that gets the new one.
    pub parent: PathBuf,
    /// Folder of the SDK for Rust.
    pub sdk: Option<PathBuf>,
}

/// The templates that there are: kinds by language.
#[must_use]
pub fn languages() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut out: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (path, _) in TEMPLATES {
        let mut parts = path.split('/');
        let (Some(language), Some(kind), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if kind != "all" {
            out.entry(language).or_default().insert(kind);
        }
    }
    out
}

impl New {
    /// Makes the folder and returns its path and its files.
    ///
    /// # Errors
    /// [`TemplateError`]; nothing is written where the template is missing or the folder is there.
    pub fn make(&self) -> Result<(PathBuf, Vec<String>), TemplateError> {
        check_name(&self.name)?;
        let files = self.files()?;
        let folder = self.parent.join(&self.name);
        if folder.exists() {
            return Err(TemplateError::Exists { path: folder });
        }
        let mut written = Vec::new();
        for (path, bytes) in files {
            write(&folder.join(&path), &bytes)?;
            written.push(path);
        }
        // The clone's lockfile and toolchain save the author from downloading other versions.
        if self.language == "rust"
            && let Some(root) = self.sdk.as_deref().and_then(Path::parent).and_then(Path::parent)
        {
            for name in ["Cargo.lock", "rust-toolchain.toml"] {
                if let Ok(bytes) = fs::read(root.join(name)) {
                    write(&folder.join(name), &bytes)?;
                    written.push(name.to_owned());
                }
            }
        }
        written.sort();
        Ok((folder, written))
    }

    /// Path and content of each file.
    fn files(&self) -> Result<BTreeMap<String, Vec<u8>>, TemplateError> {
        let (language, kind) = (self.language.as_str(), self.kind.as_str());
        if !languages().get(language).is_some_and(|kinds| kinds.contains(kind)) {
            let all = languages().into_iter();
            let there_are: Vec<String> = all
                .map(|(l, kinds)| format!("{l} ({})", kinds.into_iter().collect::<Vec<_>>().join(", ")))
                .collect();
            return Err(TemplateError::Missing {
                language: self.language.clone(),
                kind: self.kind,
                there_are: there_are.join("; "),
            });
        }
        let mut words = vec![
            ("{{name}}", self.name.clone()),
            ("{{snake}}", self.name.replace('-', "_")),
            ("{{camel}}", camel(&self.name)),
            ("{{kind}}", kind.to_owned()),
        ];
        if language == "rust" {
            let sdk = self.sdk.as_ref().ok_or(TemplateError::NoSdk)?;
            words.push(("{{sdk}}", sdk.to_string_lossy().into_owned()));
        }
        let fill = |text: &str| words.iter().fold(text.to_owned(), |t, (from, to)| t.replace(from, to));
        let mut files = BTreeMap::new();
        // What is of the kind goes before what is of the language.
        for (from, to) in [("language.json", "orlop-plugin.json"), ("all/", ""), (&format!("{kind}/"), "")] {
            for (path, bytes) in TEMPLATES {
                let rest = path.strip_prefix(language).and_then(|p| p.strip_prefix('/'));
                let Some(name) = rest.and_then(|p| p.strip_prefix(from)) else { continue };
                let filled = match std::str::from_utf8(bytes) {
                    Ok(text) => fill(text).into_bytes(),
                    Err(_) => bytes.to_vec(),
                };
                files.insert(fill(&format!("{to}{name}")), filled);
            }
        }
        for (path, bytes) in WIT {
            if let Some(file) = path.strip_prefix(kind).and_then(|p| p.strip_prefix('/')) {
                files.insert(format!("wit/{file}"), bytes.to_vec());
            }
        }
        Ok(files)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TemplateError> {
    let failed = |source| TemplateError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(path, bytes).map_err(failed)
}

fn check_name(name: &str) -> Result<(), TemplateError> {
    let good = name.len() <= 50
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.ends_with('-')
        && !name.contains("--");
    if good { Ok(()) } else { Err(TemplateError::Name { name: name.to_owned() }) }
}

/// `DiskType` for `disk-type`.
fn camel(name: &str) -> String {
    let word = |w: &str| {
        let mut letters = w.chars();
        letters
            .next()
            .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
            .unwrap_or_default()
    };
    name.split('-').map(word).collect()
}

/// The SDK of the clone that `from`, or a folder above it, lies in.
#[must_use]
pub fn find_sdk(from: &Path) -> Option<PathBuf> {
    let candidates = from.ancestors().map(|dir| dir.join("plugins/sdk"));
    candidates.into_iter().find(|sdk| sdk.join("Cargo.toml").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, language: &str, kind: Kind, parent: &Path) -> New {
        let sdk = Some(PathBuf::from("/clone/plugins/sdk"));
        New { name: name.into(), kind, language: language.into(), parent: parent.into(), sdk }
    }

    #[test]
    fn every_template_is_filled_in() {
        let parent = tempfile::tempdir().unwrap();
        for (language, kinds) in languages() {
            for kind in kinds {
                let kind: Kind = serde_json::from_value(kind.into()).unwrap();
                let (folder, files) =
                    new(&format!("{language}-{kind}"), language, kind, parent.path()).make().unwrap();
                for wanted in ["manifest.json", "orlop-plugin.json", "README.md"] {
                    assert!(files.iter().any(|f| f == wanted), "{language}/{kind}: {wanted}");
                }
                assert!(files.iter().any(|f| f.starts_with("tests/")), "{language}/{kind}: a golden test");
                assert!(folder.join(format!("wit/{kind}.wit")).is_file());
                assert!(folder.join("wit/deps/types/types.wit").is_file());
                for file in files.iter().filter(|f| !f.starts_with("wit/")) {
                    let text = fs::read_to_string(folder.join(file)).unwrap();
                    for word in ["name", "snake", "camel", "kind", "sdk"] {
                        assert!(
                            !text.contains(&format!("{{{{{word}}}}}")),
                            "{language}/{kind}/{file}: {text}"
                        );
                    }
                }
                let manifest = fs::read(folder.join("manifest.json")).unwrap();
                let manifest = orlop_plugin::Manifest::parse(&manifest).unwrap();
                assert_eq!(manifest.kind, kind);
                crate::project::Project::load(&folder).unwrap();
            }
        }
    }

    #[test]
    fn what_cannot_be_made_is_told_before_anything_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let missing = new("a", "cobol", Kind::Scheduler, parent.path()).make().unwrap_err().to_string();
        assert!(
            missing.contains("`cobol`") && missing.contains("rust (admission, controller, scheduler)"),
            "{missing}"
        );
        for name in ["", "A", "a--b", "-a", "a-", "a/b", "1a"] {
            let error = new(name, "rust", Kind::Scheduler, parent.path()).make().unwrap_err();
            assert!(matches!(error, TemplateError::Name { .. }), "{name}");
        }
        let mut homeless = new("a", "rust", Kind::Scheduler, parent.path());
        homeless.sdk = None;
        assert!(matches!(homeless.make().unwrap_err(), TemplateError::NoSdk));
        fs::create_dir(parent.path().join("taken")).unwrap();
        let error = new("taken", "rust", Kind::Scheduler, parent.path()).make().unwrap_err();
        assert!(matches!(error, TemplateError::Exists { .. }));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing was written");
    }

    #[test]
    fn names_of_types() {
        assert_eq!(camel("disk-type"), "DiskType");
        assert_eq!(camel("a2-b"), "A2B");
    }
}
