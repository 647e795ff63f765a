//! The volumes of a pod: made, kept up to date, and taken away.
//!
//! [`Volumes::mount`] is idempotent and is also the refresh: a second call brings ConfigMaps,
//! Secrets and tokens up to date and leaves everything else as it is.

pub(crate) mod atomic;
mod host;
mod payload;
pub(crate) mod subpath;
pub(crate) mod teardown;

use crate::config::NodeConfig;
use crate::container::env::Names;
use crate::container::fields::PodFacts;
use crate::objects::Objects;
use crate::pod::model::spec_of;
use crate::quantity::whole;
use crate::tokens::Tokens;
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, Volume};
use nix::mount::{MsFlags, mount};
use orlop_container::cri::{Mount, MountPropagation};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a volume could not be made: the message of the `FailedMount` event.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct VolumeError {
    pub(crate) message: String,
}

impl VolumeError {
    fn set_up(volume: &str, why: impl std::fmt::Display) -> Self {
        Self { message: format!("MountVolume.SetUp failed for volume \"{volume}\" : {why}") }
    }
}

/// Where the volumes of a pod are on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mounted {
    paths: BTreeMap<String, PathBuf>,
}

/// See the module.
pub(crate) struct VolumeSet {
    config: Arc<NodeConfig>,
    objects: Arc<Objects>,
    tokens: Tokens,
}

/// Whether a volume's content follows objects of the API.
pub(crate) fn follows_api(pod: &Pod) -> bool {
    spec_of(pod).volumes.iter().flatten().any(|v| {
        v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some()
    })
}

/// ConfigMaps and Secrets that the volumes refer to.
fn references(pod: &Pod) -> Names {
    let mut names = Names::default();
    for volume in spec_of(pod).volumes.iter().flatten() {
        names.config_maps.extend(volume.config_map.iter().map(|s| s.name.clone()));
        names.secrets.extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            names.config_maps.extend(source.config_map.iter().map(|s| s.name.clone()));
            names.secrets.extend(source.secret.iter().map(|s| s.name.clone()));
        }
    }
    names
}

/// A step that touches the disk.
enum Step {
    EmptyDir { path: PathBuf, source: EmptyDirVolumeSource },
    HostPath { path: PathBuf, kind: String },
    Files { path: PathBuf, files: atomic::Payload },
}

impl VolumeSet {
    pub(crate) fn new(config: Arc<NodeConfig>, objects: Arc<Objects>, tokens: Tokens) -> Self {
        Self { config, objects, tokens }
    }

    fn path(&self, uid: &str, plugin: &str, volume: &str) -> PathBuf {
        self.config.pod_dir(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
    }

    /// Makes the volumes of a pod, or brings them up to date.
    pub(crate) async fn mount(&self, pod: &Pod, uid: &str, facts: &PodFacts) -> Result<Mounted, VolumeError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let names = references(pod);
        let sources =
            self.objects.fetch(namespace, uid, &names).await.map_err(|message| VolumeError {
                message: format!("MountVolume.SetUp failed : {message}"),
            })?;
        let mut mounted = Mounted::default();
        let mut steps = Vec::new();
        for volume in spec_of(pod).volumes.iter().flatten() {
            let name = &volume.name;
            let fail = |why: String| VolumeError::set_up(name, why);
            let (path, step) = if let Some(source) = &volume.empty_dir {
                let path = self.path(uid, "empty-dir", name);
                (path.clone(), Step::EmptyDir { path, source: source.clone() })
            } else if let Some(source) = &volume.host_path {
                let path = PathBuf::from(&source.path);
                let kind = source.type_.clone().unwrap_or_default();
                (path.clone(), Step::HostPath { path, kind })
            } else if let Some(source) = &volume.config_map {
                let path = self.path(uid, "configmap", name);
                let files = payload::config_map(source, &sources).map_err(fail)?;
                (path.clone(), Step::Files { path, files })
            } else if let Some(source) = &volume.secret {
                let path = self.path(uid, "secret", name);
                let files = payload::secret(source, &sources).map_err(fail)?;
                (path.clone(), Step::Files { path, files })
            } else if let Some(source) = &volume.downward_api {
                let path = self.path(uid, "downward-api", name);
                let mode = source.default_mode;
                let files = payload::downward_api(source.items.as_deref(), mode, pod, facts).map_err(fail)?;
                (path.clone(), Step::Files { path, files })
            } else if let Some(source) = &volume.projected {
                let path = self.path(uid, "projected", name);
                let files = payload::projected(source, &sources, pod, uid, facts, &self.tokens)
                    .await
                    .map_err(fail)?;
                (path.clone(), Step::Files { path, files })
            } else {
                return Err(unsupported(volume));
            };
            mounted.paths.insert(name.clone(), path);
            steps.push((name.clone(), step));
        }
        let gid = spec_of(pod).security_context.as_ref().and_then(|s| s.fs_group);
        let gid = gid.and_then(|g| u32::try_from(g).ok());
        tokio::task::spawn_blocking(move || {
            for (name, step) in steps {
                step.apply(gid).map_err(|why| VolumeError::set_up(&name, why))?;
            }
            Ok(mounted)
        })
        .await
        .map_err(|e| VolumeError { message: e.to_string() })?
    }

    /// The mounts of one container, with `subPath`s pinned. `expand` resolves `$(VAR)` in
    /// `subPathExpr`.
    ///
    /// # Errors
    /// The message of `CreateContainerConfigError`.
    pub(crate) async fn container_mounts(
        &self,
        uid: &str,
        container: &Container,
        mounted: &Mounted,
        expand: impl Fn(&str) -> String,
    ) -> Result<Vec<Mount>, String> {
        let mut mounts = Vec::new();
        let mut pins = Vec::new();
        for (i, vm) in container.volume_mounts.iter().flatten().enumerate() {
            let host = mounted.paths.get(&vm.name).ok_or_else(|| {
                format!("cannot find volume \"{}\" to mount into container \"{}\"", vm.name, container.name)
            })?;
            let sub = match (vm.sub_path.as_deref(), vm.sub_path_expr.as_deref()) {
                (Some(sub), _) if !sub.is_empty() => Some(sub.to_owned()),
                (_, Some(expr)) if !expr.is_empty() => Some(expand(expr)),
                _ => None,
            };
            let host_path = match sub {
                None => host.clone(),
                Some(sub) => {
                    let dir = self.config.pod_dir(uid).join("volume-subpaths");
                    let target = dir.join(&vm.name).join(&container.name).join(i.to_string());
                    let read_only = vm.read_only == Some(true);
                    pins.push((
                        host.clone(),
                        PathBuf::from(sub),
                        target.clone(),
                        vm.name.clone(),
                        !read_only,
                    ));
                    target
                }
            };
            mounts.push(Mount {
                container_path: if vm.mount_path.starts_with('/') {
                    vm.mount_path.clone()
                } else {
                    format!("/{}", vm.mount_path)
                },
                host_path,
                readonly: vm.read_only == Some(true),
                recursive_read_only: matches!(
                    vm.recursive_read_only.as_deref(),
                    Some("Enabled" | "IfPossible")
                ),
                propagation: match vm.mount_propagation.as_deref() {
                    Some("HostToContainer") => MountPropagation::HostToContainer,
                    Some("Bidirectional") => MountPropagation::Bidirectional,
                    _ => MountPropagation::Private,
                },
            });
        }
        if !pins.is_empty() {
            let name = container.name.clone();
            tokio::task::spawn_blocking(move || {
                for (volume, sub, target, volume_name, create) in pins {
                    // A pin of an earlier start may show a folder that was replaced since.
                    repin(&volume, &sub, &target, create).map_err(|e| {
                        tracing::debug!(error = %e, volume = volume_name, "subPath could not be prepared");
                        format!("failed to prepare subPath for volumeMount \"{volume_name}\" of container \"{name}\"")
                    })?;
                }
                Ok::<(), String>(())
            })
            .await
            .map_err(|e| e.to_string())??;
        }
        Ok(mounts)
    }

    /// Removes the pod's volumes and managed files, and stops following its objects.
    pub(crate) async fn unmount(&self, uid: &str) -> io::Result<()> {
        self.objects.release(uid);
        self.tokens.release(uid);
        remove_pod_dir(self.config.pod_dir(uid)).await
    }
}

/// Removes one pod's folder with all its mounts.
pub(crate) async fn remove_pod_dir(dir: PathBuf) -> io::Result<()> {
    tokio::task::spawn_blocking(move || teardown::remove_tree(&dir)).await.map_err(io::Error::other)?
}

fn repin(volume: &Path, sub: &Path, target: &Path, create: bool) -> io::Result<()> {
    if teardown::is_mount(target)? {
        nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH)?;
    }
    subpath::bind(volume, sub, target, create)
}

fn unsupported(volume: &Volume) -> VolumeError {
    let kind = serde_json::to_value(volume)
        .ok()
        .and_then(|v| v.as_object().and_then(|o| o.keys().find(|k| *k != "name").cloned()));
    let kind = kind.unwrap_or_else(|| "unknown".to_owned());
    VolumeError::set_up(&volume.name, format!("volumes of type {kind} are not supported by this node"))
}

impl Step {
    fn apply(self, gid: Option<u32>) -> Result<(), String> {
        match self {
            Self::EmptyDir { path, source } => empty_dir(&path, &source, gid).map_err(|e| e.to_string()),
            Self::HostPath { path, kind } => host::prepare(&path, &kind),
            Self::Files { path, files } => {
                atomic::write(&path, &files, gid).map(drop).map_err(|e| e.to_string())
            }
        }
    }
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, gid: Option<u32>) -> io::Result<()> {
    let fresh = !path.exists();
    fs::create_dir_all(path)?;
    let medium = source.medium.as_deref().unwrap_or_default();
    if medium == "Memory" && !teardown::is_mount(path)? {
        let size = source.size_limit.as_ref().and_then(|q| whole(&q.0)).filter(|n| *n > 0);
        let options = size.map_or_else(|| "mode=0777".to_owned(), |n| format!("mode=0777,size={n}"));
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
    } else if !matches!(medium, "" | "Memory") {
        return Err(io::Error::other(format!("unknown storage medium {medium:?}")));
    }
    if fresh || medium == "Memory" {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    }
    if let Some(gid) = gid
        && fs::metadata(path)?.gid() != gid
    {
        chown(path, None, Some(gid))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o2777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_supported_says_so() {
        let volume: Volume =
            serde_json::from_value(json!({"name": "v", "nfs": {"server": "s", "path": "/"}})).unwrap();
        assert_eq!(
            unsupported(&volume).to_string(),
            "MountVolume.SetUp failed for volume \"v\" : volumes of type nfs are not supported by this node"
        );
    }

    #[test]
    fn empty_dirs() {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("pod");
        let (disk, memory) = (pod.join("disk"), pod.join("memory"));
        let plain = EmptyDirVolumeSource::default();
        empty_dir(&disk, &plain, Some(1234)).unwrap();
        fs::write(disk.join("f"), "x").unwrap();
        empty_dir(&disk, &plain, Some(1234)).unwrap();
        assert!(disk.join("f").exists(), "mounting again keeps the content");
        let meta = fs::metadata(&disk).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (1234, 0o2777));
        let tmpfs: EmptyDirVolumeSource =
            serde_json::from_value(json!({"medium": "Memory", "sizeLimit": "1Mi"})).unwrap();
        empty_dir(&memory, &tmpfs, None).unwrap();
        empty_dir(&memory, &tmpfs, None).unwrap();
        assert!(teardown::is_mount(&memory).unwrap());
        teardown::remove_tree(&pod).unwrap();
        assert!(!pod.exists());
    }
}
