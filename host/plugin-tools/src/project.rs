//! A plugin's folder: `manifest.json`, `orlop-plugin.json` and what the language needs.
//!
//! `orlop-plugin.json` says how the plugin is built, so that an author may change it:
//!
//! - `name`: of the module that `orlop plugin build` makes
//! - `language`: for a reader
//! - `requires`: what must be there, each with `shell`, a command that succeeds where it is, and `install`, what
//!   to do where it does not
//! - `build`: commands, each a list of words, run in the folder
//! - `artifact`: what they make: a component or a core module
//!
//! In `build` and `artifact`, `{target}` is the folder of cargo's results (`CARGO_TARGET_DIR`, else `target`).

use orlop_plugin::{Manifest, ManifestError};
use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a folder is no plugin's.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// A file is missing or cannot be read.
    #[error("cannot read {}; is this the folder of a plugin? `orlop plugin new` makes one", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not as described in [`crate::project`].
    #[error("{} is malformed", .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// The manifest is refused.
    #[error("{} is refused", .path.display())]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
}

/// A program or library that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// Succeeds where it is there.
    pub shell: String,
    /// What to do where it is not.
    pub install: String,
}

/// `orlop-plugin.json`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildPlan {
    /// Of the module.
    pub name: String,
    /// For a reader.
    pub language: String,
    /// What must be there.
    #[serde(default)]
    pub requires: Vec<Requirement>,
    /// Commands.
    pub build: Vec<Vec<String>>,
    /// What they make.
    pub artifact: String,
}

/// A plugin's folder.
#[derive(Clone, Debug)]
pub struct Project {
    /// Where it is.
    pub folder: PathBuf,
    /// How it is built.
    pub plan: BuildPlan,
    /// `manifest.json`, checked.
    pub manifest: Manifest,
    /// The same as it is written.
    pub manifest_json: Vec<u8>,
}

impl Project {
    /// Reads a folder.
    ///
    /// # Errors
    /// [`ProjectError`]
    pub fn load(folder: &Path) -> Result<Self, ProjectError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|source| ProjectError::Io { path, source })
        };
        let malformed = |name: &str, source| ProjectError::Malformed { path: folder.join(name), source };
        let plan = read("orlop-plugin.json")?;
        let plan: BuildPlan = serde_json::from_slice(&plan).map_err(|e| malformed("orlop-plugin.json", e))?;
        let text = read("manifest.json")?;
        let manifest = Manifest::parse(&text)
            .map_err(|source| ProjectError::Manifest { path: folder.join("manifest.json"), source })?;
        // As small as it can be, for it becomes a part of the module.
        let compact: Value = serde_json::from_slice(&text).map_err(|e| malformed("manifest.json", e))?;
        Ok(Self {
            folder: folder.to_owned(),
            plan,
            manifest,
            manifest_json: compact.to_string().into_bytes(),
        })
    }

    /// Where the module lies when it is built.
    #[must_use]
    pub fn module(&self) -> PathBuf {
        self.folder.join("target/orlop").join(format!("{}.wasm", self.plan.name))
    }

    /// Where the golden tests lie.
    #[must_use]
    pub fn tests(&self) -> PathBuf {
        self.folder.join("tests")
    }
}
