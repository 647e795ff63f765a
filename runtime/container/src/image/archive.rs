//! Imports an image archive: OCI layout or `docker save`, the archive and its layers plain, gzip or zstd.
//!
//! The archive is read once, as a stream; its files land under numbers in a temporary folder, so no name
//! from the archive ever becomes a path on the node.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::manifest::{Descriptor, DockerImage, ImageConfig, choose};
use super::reference::{ImageName, is_digest};
use super::store::{ImageStore, NewImage, digest_of};
use super::unpack::decompress;
use crate::error::RuntimeError;

const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Indexes may nest; deeper than this is no image.
const MAX_DEPTH: usize = 4;
/// Manifests and configurations are small.
const MAX_DOCUMENT: u64 = 8 * 1024 * 1024;

/// Imports every image of the archive; returns their names (or ids, where they have none).
///
/// # Errors
/// `InvalidImage`, `Io`. Images imported before the failing one stay.
pub fn import(store: &ImageStore, archive: &Path) -> Result<Vec<String>, RuntimeError> {
    let file = File::open(archive).map_err(|e| RuntimeError::io(format!("open {}", archive.display()), e))?;
    let folder = store.temporary();
    let result = fs::create_dir(&folder)
        .map_err(|e| RuntimeError::io(format!("create {}", folder.display()), e))
        .and_then(|()| Extracted::read(file, &folder))
        .and_then(|extracted| extracted.import(store, archive));
    let _ = fs::remove_dir_all(&folder);
    result
}

struct Extracted {
    files: HashMap<String, PathBuf>,
}

fn damaged(error: io::Error) -> RuntimeError {
    RuntimeError::InvalidImage(format!("cannot read the archive: {error}"))
}

fn clean(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.split('/').filter(|p| !p.is_empty() && *p != ".").collect::<Vec<_>>().join("/")
}

/// Where a link in the archive points, as a path in the archive.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Extracted {
    fn read(file: File, folder: &Path) -> Result<Self, RuntimeError> {
        let mut files = HashMap::new();
        let mut links = Vec::new();
        let mut archive = tar::Archive::new(decompress(file)?);
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let name = clean(&entry.path_bytes());
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let path = folder.join(files.len().to_string());
                let mut out =
                    File::create(&path).map_err(|e| RuntimeError::io("store the archive's content", e))?;
                io::copy(&mut entry, &mut out).map_err(|e| match e.raw_os_error() {
                    Some(_) => RuntimeError::io("store the archive's content", e),
                    None => damaged(e),
                })?;
                files.insert(name, path);
            } else if (kind.is_symlink() || kind.is_hard_link())
                && let Some(link) = entry.link_name_bytes()
            {
                // Old `docker save` links equal layers to each other.
                let link = String::from_utf8_lossy(&link).into_owned();
                let target = if kind.is_symlink() { resolve(&name, &link) } else { clean(link.as_bytes()) };
                links.push((name, target));
            }
        }
        for (name, target) in links {
            if let Some(path) = files.get(&target).cloned() {
                files.insert(name, path);
            }
        }
        Ok(Self { files })
    }

    fn path(&self, name: &str) -> Result<&Path, RuntimeError> {
        self.files
            .get(&clean(name.as_bytes()))
            .map(PathBuf::as_path)
            .ok_or_else(|| RuntimeError::InvalidImage(format!("the archive lacks {name}")))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, RuntimeError> {
        let path = self.path(name)?;
        let size = fs::metadata(path).map_err(damaged)?.len();
        if size > MAX_DOCUMENT {
            return Err(RuntimeError::InvalidImage(format!("{name} is {size} bytes long")));
        }
        fs::read(path).map_err(damaged)
    }

    /// A blob of an OCI layout, checked against its digest.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RuntimeError> {
        let bytes = self.document(&blob_name(&descriptor.digest)?)?;
        let got = digest_of(&bytes);
        if got != descriptor.digest {
            return Err(RuntimeError::InvalidImage(format!(
                "blob {} has the content of {got}",
                descriptor.digest
            )));
        }
        Ok(bytes)
    }

    fn import(&self, store: &ImageStore, archive: &Path) -> Result<Vec<String>, RuntimeError> {
        if self.files.contains_key("manifest.json") {
            self.import_docker(store)
        } else if self.files.contains_key("index.json") {
            let index = ImageStore::parse_manifest(&self.document("index.json")?)?;
            let mut names = Vec::new();
            for descriptor in &index.manifests {
                names.extend(self.import_oci(store, descriptor, archive)?);
            }
            if names.is_empty() {
                return Err(RuntimeError::InvalidImage(
                    "the archive has no image for this machine".to_owned(),
                ));
            }
            Ok(names)
        } else {
            Err(RuntimeError::InvalidImage(
                "not an image archive: it has neither index.json (OCI layout) nor manifest.json (docker save)".into(),
            ))
        }
    }

    fn import_oci(
        &self,
        store: &ImageStore,
        top: &Descriptor,
        archive: &Path,
    ) -> Result<Vec<String>, RuntimeError> {
        let mut descriptor = top.clone();
        for _ in 0..MAX_DEPTH {
            let bytes = self.blob(&descriptor)?;
            let manifest = ImageStore::parse_manifest(&bytes)?;
            let Some(config) = &manifest.config else {
                match choose(&manifest.manifests) {
                    Some(fitting) => descriptor = fitting.clone(),
                    None => return Ok(Vec::new()),
                }
                continue;
            };
            let config = self.blob(config)?;
            let size = manifest.layers.iter().map(|l| l.size).sum::<u64>() + config.len() as u64;
            let mut layers = Vec::new();
            for layer in &manifest.layers {
                layers.push((self.path(&blob_name(&layer.digest)?)?, Some(layer.digest.clone())));
            }
            let name = annotated_name(top, archive)?;
            let tags: Vec<String> = name.iter().filter_map(ImageName::tagged).collect();
            let digests = name.iter().map(|n| n.with_digest(&descriptor.digest)).collect();
            return self.add(store, &config, Some(&bytes), &layers, tags, digests, size);
        }
        Err(RuntimeError::InvalidImage("the image's index is nested too deeply".to_owned()))
    }

    fn import_docker(&self, store: &ImageStore) -> Result<Vec<String>, RuntimeError> {
        let images: Vec<DockerImage> = serde_json::from_slice(&self.document("manifest.json")?)
            .map_err(|e| RuntimeError::InvalidImage(format!("cannot read manifest.json: {e}")))?;
        let mut names = Vec::new();
        for image in images {
            let config = self.document(&image.config)?;
            let mut layers = Vec::new();
            let mut size = config.len() as u64;
            for layer in &image.layers {
                let path = self.path(layer)?;
                size += fs::metadata(path).map_err(damaged)?.len();
                layers.push((path, None));
            }
            let mut tags = Vec::new();
            for tag in &image.repo_tags {
                tags.extend(ImageName::parse(tag)?.tagged());
            }
            names.extend(self.add(store, &config, None, &layers, tags, Vec::new(), size)?);
        }
        Ok(names)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one image, all needed, used twice")]
    fn add(
        &self,
        store: &ImageStore,
        config: &[u8],
        manifest: Option<&[u8]>,
        layers: &[(&Path, Option<String>)],
        tags: Vec<String>,
        digests: Vec<String>,
        size: u64,
    ) -> Result<Vec<String>, RuntimeError> {
        let parsed: ImageConfig = serde_json::from_slice(config)
            .map_err(|e| RuntimeError::InvalidImage(format!("cannot read the image's configuration: {e}")))?;
        let diff_ids = &parsed.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(RuntimeError::InvalidImage(format!(
                "the configuration names {} layers, the manifest {}",
                diff_ids.len(),
                layers.len()
            )));
        }
        let _lease = store.lease(diff_ids);
        for (diff_id, (path, digest)) in diff_ids.iter().zip(layers) {
            if store.has_layer(diff_id) {
                continue;
            }
            if let Some(digest) = digest {
                verify(path, digest)?;
            }
            let file = File::open(path).map_err(damaged)?;
            store.add_layer(diff_id, file)?;
        }
        let names = tags.clone();
        let record = store.commit(NewImage { config, manifest, tags, digests, size })?;
        Ok(if names.is_empty() { vec![record.id.clone()] } else { names })
    }
}

fn blob_name(digest: &str) -> Result<String, RuntimeError> {
    match digest.split_once(':') {
        Some((_, hex)) if is_digest(digest) => Ok(format!("blobs/sha256/{hex}")),
        _ => Err(RuntimeError::InvalidImage(format!("\"{digest}\" is not a sha256 digest"))),
    }
}

/// Checks a file against a digest, as a stream.
pub(crate) fn verify(path: &Path, digest: &str) -> Result<(), RuntimeError> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).map_err(damaged)?;
    io::copy(&mut file, &mut hash).map_err(damaged)?;
    let got = format!("sha256:{}", hex::encode(hash.finalize()));
    if got != digest {
        return Err(RuntimeError::InvalidImage(format!("blob {digest} has the content of {got}")));
    }
    Ok(())
}

/// The name that a layout gives an image. A bare word is a tag, as OCI has it; the archive's file name
/// is then the repository.
fn annotated_name(descriptor: &Descriptor, archive: &Path) -> Result<Option<ImageName>, RuntimeError> {
    for annotation in NAME_ANNOTATIONS {
        let Some(name) = descriptor.annotations.get(annotation) else { continue };
        if name.contains([':', '/']) {
            return ImageName::parse(name).map(Some);
        }
        let file = archive.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let stem = file.split('.').next().unwrap_or_default();
        return ImageName::parse(&format!("{stem}:{name}")).map(Some);
    }
    Ok(None)
}
