//! `orlop plugin build`: runs the language's commands, then completes and checks what they made.

use crate::project::{Project, ProjectError};
use crate::sections::{self, SectionError};
use orlop_plugin::{Inspection, Manifest, PluginError};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Why there is no module. The author must repair the plugin or the machine.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The folder is not a plugin's.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// Something that the language needs is not there.
    #[error("something is missing to build a plugin in {language}:\n  {}", .missing.join("\n  "))]
    Missing {
        /// For a reader.
        language: String,
        /// What to do, for each.
        missing: Vec<String>,
    },
    /// A command could not be run.
    #[error("cannot run `{command}`")]
    Spawn {
        /// Which.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A command failed; what it said is above.
    #[error("`{command}` failed: {status}")]
    Failed {
        /// Which.
        command: String,
        /// How.
        status: std::process::ExitStatus,
    },
    /// The commands did not make what they were to make, or the result cannot be written.
    #[error("the result of the build, {}, cannot be used", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The module cannot be completed.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// The module carries another manifest than `manifest.json`.
    #[error(
        "the module carries another manifest than manifest.json; build it again from nothing, or remove one of the two"
    )]
    OtherManifest,
    /// The host would refuse it.
    #[error("the module would be refused by the host")]
    Refused(#[from] PluginError),
}

/// Where cargo puts its results, for `{target}`.
fn target() -> String {
    std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned())
}

/// Checks what the language requires.
///
/// # Errors
/// [`BuildError::Missing`] with what to do.
pub fn check_requirements(project: &Project) -> Result<(), BuildError> {
    let there = |shell: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", shell]).current_dir(&project.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let missing: Vec<String> =
        project.plan.requires.iter().filter(|r| !there(&r.shell)).map(|r| r.install.clone()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(BuildError::Missing { language: project.plan.language.clone(), missing })
}

/// Builds a plugin. What the commands say goes to standard error. Returns the module's path and what it says of itself.
///
/// # Errors
/// [`BuildError`]
pub fn build(project: &Project) -> Result<(PathBuf, Inspection), BuildError> {
    check_requirements(project)?;
    let fill = |word: &String| word.replace("{target}", &target());
    for words in &project.plan.build {
        let words: Vec<String> = words.iter().map(fill).collect();
        let Some((program, arguments)) = words.split_first() else { continue };
        let shown = words.join(" ");
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&project.folder).stdin(Stdio::null()).stdout(io::stderr());
        let status =
            command.status().map_err(|source| BuildError::Spawn { command: shown.clone(), source })?;
        if !status.success() {
            return Err(BuildError::Failed { command: shown, status });
        }
    }
    let artifact = project.folder.join(fill(&project.plan.artifact));
    let wasm = fs::read(&artifact).map_err(|source| BuildError::Io { path: artifact, source })?;
    let wasm = complete(project, wasm)?;
    let inspection = orlop_plugin::inspect(&wasm)?;
    let module = project.module();
    let failed = |source| BuildError::Io { path: module.clone(), source };
    if let Some(folder) = module.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    // In one step, so that who reads it meanwhile has the old one or the new one.
    let fresh = module.with_extension(format!("new-{}", std::process::id()));
    fs::write(&fresh, &wasm).map_err(failed)?;
    fs::rename(&fresh, &module).map_err(failed)?;
    Ok((module, inspection))
}

/// Puts in what the language's own tools left out: the manifest, and the types of the world.
fn complete(project: &Project, wasm: Vec<u8>) -> Result<Vec<u8>, BuildError> {
    let wasm = sections::with_world(wasm, &project.folder.join("wit"), &project.manifest.world)?;
    match sections::manifest(&wasm)? {
        None => Ok(sections::with_manifest(wasm, &project.manifest_json)),
        Some(carried) if Manifest::parse(&carried).is_ok_and(|m| m == project.manifest) => Ok(wasm),
        Some(_) => Err(BuildError::OtherManifest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const MANIFEST: &str = r#"{"manifestVersion": 1, "name": "t", "kind": "controller",
        "world": "orlop:controller/controller@1.0.0", "controller": {"name": "t", "watches": []}}"#;

    fn project(folder: &Path, plan: &str) -> Project {
        fs::write(folder.join("orlop-plugin.json"), plan).unwrap();
        fs::write(folder.join("manifest.json"), MANIFEST).unwrap();
        let wit = folder.join("wit/deps/types");
        fs::create_dir_all(&wit).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        fs::copy(root.join("controller/controller.wit"), folder.join("wit/controller.wit")).unwrap();
        fs::copy(root.join("types/types.wit"), wit.join("types.wit")).unwrap();
        Project::load(folder).unwrap()
    }

    #[test]
    fn a_bare_module_gets_its_world_and_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let plan = r#"{"name": "t", "language": "text", "requires": [{"shell": "true", "install": "no"}],
            "build": [["cp", "source.wasm", "made.wasm"]], "artifact": "made.wasm"}"#;
        let project = project(folder.path(), plan);
        fs::write(folder.path().join("source.wasm"), wat::parse_str("(module)").unwrap()).unwrap();
        let (module, found) = build(&project).unwrap();
        assert_eq!(module, folder.path().join("target/orlop/t.wasm"));
        assert_eq!(found.manifest, project.manifest);
        let wasm = fs::read(module).unwrap();
        assert_eq!(sections::manifest(&wasm).unwrap().unwrap(), project.manifest_json);
        fs::write(
            folder.path().join("source.wasm"),
            sections::with_manifest(wat::parse_str("(module)").unwrap(), b"{}"),
        )
        .unwrap();
        assert!(matches!(build(&project).unwrap_err(), BuildError::OtherManifest));
    }

    #[test]
    fn what_is_missing_and_what_fails_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let plan = r#"{"name": "t", "language": "text", "build": [["false"]], "artifact": "made.wasm",
            "requires": [{"shell": "false", "install": "install the thing by apt-get install thing"}]}"#;
        let mut project = project(folder.path(), plan);
        let error = build(&project).unwrap_err().to_string();
        assert!(error.contains("apt-get install thing"), "{error}");
        project.plan.requires.clear();
        let error = build(&project).unwrap_err().to_string();
        assert!(error.starts_with("`false` failed"), "{error}");
        project.plan.build.clear();
        assert!(matches!(build(&project).unwrap_err(), BuildError::Io { .. }));
    }
}
