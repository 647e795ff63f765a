//! Golden tests: inputs in Kubernetes' objects, and beside them what must come out.
//!
//! An input is `tests/NAME.json` or `tests/NAME.yaml`, its expectation `tests/NAME.expected.json`. All inputs may
//! have `config`, the plugin's configuration. What else there is depends on the kind.
//!
//! Scheduler: `nodes`; `placed`, pods with `spec.nodeName`; `namespaces`, `services`, `replicationcontrollers`, `replicasets`,
//! `statefulsets`, for computed fields of pods; `objects`, what the plugin watches: lists by `apiVersion/resource`; `pods`, which are judged one after the other. With `"place": true` each pod is then
//! placed on its best node, which goes through the hooks of placing, so that the next pod finds it there.
//!
//! Controller: `now`; `requests`, each with `key`, `object` and `inputs` as in `orlop:controller`, and where they
//! matter `attempt`, `failure`, `memo`.
//!
//! Admission: `requests`, each with `operation`, `resource`, `object`, and where they matter `subresource`, `oldObject`,
//! `user`, `options`, `dryRun`, `seed`, `namespace`, `name` and `context`: objects by the names in the manifest.
//!
//! Requests may have a `title`, which comes out again.

mod admission;
mod controller;
mod diff;
mod scheduler;

pub(crate) use admission::{is_asked, request as admission_request};
pub(crate) use controller::request as reconcile_request;
pub use diff::difference;
pub(crate) use scheduler::{Judged, Stage};

use crate::record::Failure;
use crate::workbench::Workbench;
use orlop_plugin::{Compiled, Kind};
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a test cannot be run. The author must repair the input.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// A file cannot be read or written.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing to test.
    #[error("there are no golden tests in {}: write inputs such as {}/first.json, then run `orlop plugin test --update`", .path.display(), .path.display())]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
    /// An input is malformed.
    #[error("{}: {message}", .path.display())]
    Input {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
}

/// One input.
#[derive(Clone, Debug)]
pub struct Golden {
    /// File.
    pub path: PathBuf,
    input: Value,
}

/// The inputs of a folder, by name.
///
/// # Errors
/// Where there are none or one cannot be read.
pub fn load(folder: &Path) -> Result<Vec<Golden>, GoldenError> {
    let failed = |source| GoldenError::Io { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(GoldenError::Nothing { path: folder.to_owned() });
        }
        Err(e) => return Err(failed(e)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if [".json", ".yaml", ".yml"].iter().any(|end| name.ends_with(end))
            && !name.ends_with(".expected.json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(GoldenError::Nothing { path: folder.to_owned() });
    }
    paths.into_iter().map(Golden::read).collect()
}

impl Golden {
    fn read(path: PathBuf) -> Result<Self, GoldenError> {
        let text =
            fs::read_to_string(&path).map_err(|source| GoldenError::Io { path: path.clone(), source })?;
        let input: Result<Value, String> = if path.extension().is_some_and(|e| e == "json") {
            serde_json::from_str(&text).map_err(|e| e.to_string())
        } else {
            serde_yaml::from_str(&text).map_err(|e| e.to_string())
        };
        match input {
            Ok(input) => Ok(Self { path, input }),
            Err(message) => Err(GoldenError::Input { path, message }),
        }
    }

    /// For a reader.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where the expectation lies.
    #[must_use]
    pub fn expected_path(&self) -> PathBuf {
        self.path.with_extension("expected.json")
    }

    /// What must come out; `None` where nobody said so.
    ///
    /// # Errors
    /// Where the file is damaged.
    pub fn expected(&self) -> Result<Option<Value>, GoldenError> {
        let path = self.expected_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(GoldenError::Io { path, source }),
        };
        serde_json::from_str(&text).map(Some).map_err(|e| GoldenError::Input { path, message: e.to_string() })
    }

    /// Makes what came out the expectation.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn update(&self, output: &Value) -> Result<(), GoldenError> {
        let path = self.expected_path();
        let text = serde_json::to_string_pretty(output).unwrap_or_default() + "\n";
        fs::write(&path, text).map_err(|source| GoldenError::Io { path, source })
    }

    /// The plugin's configuration.
    #[must_use]
    pub fn config(&self) -> Value {
        self.input.get("config").cloned().unwrap_or(Value::Null)
    }

    /// What comes out. A plugin that fails is no error: its failure comes out.
    ///
    /// # Errors
    /// Where the input is malformed.
    pub fn run(&self, workbench: &Workbench, plugin: &Compiled) -> Result<Value, GoldenError> {
        let malformed = |message| GoldenError::Input { path: self.path.clone(), message };
        check_fields(&self.input, plugin.manifest().kind).map_err(malformed)?;
        match plugin.manifest().kind {
            Kind::Scheduler => scheduler::run(&self.input, &self.config(), workbench, plugin),
            Kind::Controller => controller::run(&self.input, &self.config(), workbench, plugin),
            Kind::Admission => admission::run(&self.input, &self.config(), workbench, plugin),
        }
        .map_err(malformed)
    }

    pub(crate) const fn input(&self) -> &Value {
        &self.input
    }
}

/// A misspelt field would test nothing.
fn check_fields(input: &Value, kind: Kind) -> Result<(), String> {
    let known: &[&str] = match kind {
        Kind::Scheduler => &[
            "config",
            "nodes",
            "placed",
            "objects",
            "pods",
            "place",
            "namespaces",
            "services",
            "replicationcontrollers",
            "replicasets",
            "statefulsets",
        ],
        Kind::Controller => &["config", "now", "requests"],
        Kind::Admission => &["config", "requests"],
    };
    let fields = input.as_object().ok_or("the input is no object")?;
    match fields.keys().find(|k| !known.contains(&k.as_str())) {
        Some(unknown) => {
            Err(format!("unknown field `{unknown}`; a {kind} plugin's input has {}", known.join(", ")))
        }
        None => Ok(()),
    }
}

/// The items of a list; none where it is absent.
pub(crate) fn list<'v>(input: &'v Value, field: &str) -> Result<&'v [Value], String> {
    match input.get(field) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(format!("{field} is no list")),
    }
}

pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn failure(failure: &Failure) -> Value {
    serde_json::json!({ "failure": failure })
}

#[cfg(test)]
mod tests;
