//! The parts of OCI's (and Docker's) index, manifest and image configuration that we read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A pointer to content.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:…` of the content.
    pub digest: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
    /// For which machine, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Names, in the index of a layout.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// For which machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Platform {
    /// Go's GOARCH.
    pub architecture: String,
    /// Go's GOOS.
    pub os: String,
    /// Such as `v8`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// An index or a manifest: whichever list it has tells.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Manifest {
    /// Empty in old OCI manifests.
    pub media_type: String,
    /// Set in an index.
    pub manifests: Vec<Descriptor>,
    /// Set in a manifest.
    pub config: Option<Descriptor>,
    /// Set in a manifest, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// OCI's image configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Go's GOARCH.
    pub architecture: String,
    /// Go's GOOS.
    pub os: String,
    /// How to run it.
    #[serde(deserialize_with = "null_is_default")]
    pub config: RunConfig,
    /// Its layers, uncompressed.
    pub rootfs: RootFs,
}

/// How to run an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// First words of the command.
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// Default arguments.
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// Name or number.
    pub stop_signal: String,
    /// Folders that want a volume.
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
}

/// The layers of an image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Digests of the uncompressed layers, the lowest first.
    #[serde(deserialize_with = "null_is_default")]
    pub diff_ids: Vec<String>,
}

/// One image of a `docker save` archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    /// Path of the configuration in the archive.
    pub config: String,
    /// Names.
    #[serde(default, deserialize_with = "null_is_default")]
    pub repo_tags: Vec<String>,
    /// Paths of the layers, the lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<String>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// This machine's architecture in Go's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The manifest of an index that fits this machine; one without a platform fits any.
pub fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let fits = |d: &&Descriptor| {
        d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture())
    };
    manifests.iter().find(fits).or_else(|| manifests.iter().find(|d| d.platform.is_none()))
}
