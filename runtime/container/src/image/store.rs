//! The images on this node: an index, small blobs (manifests, configurations) and unpacked layers.
//!
//! Layout: `index.json`, `blobs/sha256/<hex>`, `layers/<24 hex of the diff id>/`, `tmp/`.
//!
//! Invariants: whatever has its final name is complete (written under `tmp/`, synced, renamed); the
//! index names only what is there; a layer is removed only when neither the index nor a [`Lease`] wants
//! it. Compressed layers are not kept once unpacked. All calls block.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::manifest::{ImageConfig, Manifest, RunConfig};
use super::reference::{ImageName, is_digest};
use super::unpack::unpack;
use crate::cri::Image;
use crate::error::RuntimeError;

/// Version of `index.json`.
const INDEX_VERSION: u32 = 1;

/// One image, as the index has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Digest of the configuration.
    pub id: String,
    /// Normalised `name:tag`.
    pub repo_tags: Vec<String>,
    /// Normalised `name@digest`.
    pub repo_digests: Vec<String>,
    /// Diff ids, the lowest first.
    pub layers: Vec<String>,
    /// How to run it.
    pub config: RunConfig,
    /// Compressed bytes.
    pub size: u64,
}

impl ImageRecord {
    /// What `imageID` shows: by digest when known, else the id.
    pub fn image_ref(&self) -> String {
        self.repo_digests.first().cloned().unwrap_or_else(|| self.id.clone())
    }

    /// CRI's view.
    pub fn to_cri(&self) -> Image {
        let user = self.config.user.split(':').next().unwrap_or_default();
        let uid = user.parse::<i64>().ok();
        let username = if uid.is_some() { String::new() } else { user.to_owned() };
        Image {
            id: self.id.clone(),
            repo_tags: self.repo_tags.clone(),
            repo_digests: self.repo_digests.clone(),
            size: self.size,
            // No user at all is root, which `runAsNonRoot` must be told.
            uid: if user.is_empty() { Some(0) } else { uid },
            username,
            pinned: false,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct IndexFile {
    version: u32,
    images: Vec<Arc<ImageRecord>>,
}

#[derive(Default)]
struct State {
    images: BTreeMap<String, Arc<ImageRecord>>,
    /// Layers wanted by containers and by imports under way, with how often.
    leases: HashMap<String, usize>,
}

/// See the module.
pub struct ImageStore {
    root: PathBuf,
    state: Arc<Mutex<State>>,
    /// Held while the index is written, so that the last writer is the newest.
    writer: Mutex<()>,
    serial: AtomicU64,
}

/// Keeps layers from being removed for as long as it lives.
pub struct Lease {
    layers: Vec<String>,
    state: Arc<Mutex<State>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        for layer in &self.layers {
            if let Some(count) = state.leases.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(layer);
                }
            }
        }
    }
}

/// What a new image consists of, once its layers are unpacked.
pub struct NewImage<'a> {
    /// The configuration's bytes.
    pub config: &'a [u8],
    /// The manifest's bytes, when there is one.
    pub manifest: Option<&'a [u8]>,
    /// `name:tag` to give it; taken away from the image that has it now.
    pub tags: Vec<String>,
    /// `name@digest` to give it.
    pub digests: Vec<String>,
    /// Compressed bytes.
    pub size: u64,
}

fn short(diff_id: &str) -> &str {
    // 96 bits: short enough for long lists of lower directories in one page of mount options.
    diff_id.strip_prefix("sha256:").and_then(|hex| hex.get(..24)).unwrap_or(diff_id)
}

/// `sha256:…` of some bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl ImageStore {
    /// Opens the store, throwing away what a crash left half-done.
    ///
    /// # Errors
    /// `Io` when the folder cannot be used; `Internal` when the index is damaged or of another version.
    pub fn open(root: &Path) -> Result<Self, RuntimeError> {
        let fail = |what: &Path| {
            let what = what.display().to_string();
            move |e: std::io::Error| RuntimeError::io(format!("open {what}"), e)
        };
        let tmp = root.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(&tmp)(e)),
            _ => {}
        }
        for folder in ["tmp", "blobs/sha256", "layers/empty"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(fail(&folder))?;
        }
        let path = root.join("index.json");
        let mut state = State::default();
        match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(fail(&path)(e)),
            Ok(bytes) => {
                let index: IndexFile = serde_json::from_slice(&bytes)
                    .map_err(|e| RuntimeError::Internal(format!("{} is damaged: {e}", path.display())))?;
                if index.version != INDEX_VERSION {
                    return Err(RuntimeError::Internal(format!(
                        "{} has version {}, this program reads version {INDEX_VERSION}",
                        path.display(),
                        index.version
                    )));
                }
                state.images = index.images.into_iter().map(|i| (i.id.clone(), i)).collect();
            }
        }
        let state = Arc::new(Mutex::new(state));
        Ok(Self { root: root.to_owned(), state, writer: Mutex::new(()), serial: AtomicU64::new(0) })
    }

    /// Folder that holds the layers' folders.
    pub fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// The folder of the whole store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder names (below [`Self::layers_dir`]) for these diff ids, in overlayfs' order: highest first.
    pub fn lower_dirs(layers: &[String]) -> Vec<String> {
        if layers.is_empty() {
            return vec!["empty".to_owned()];
        }
        layers.iter().rev().map(|l| short(l).to_owned()).collect()
    }

    /// All images.
    pub fn list(&self) -> Vec<Arc<ImageRecord>> {
        self.state.lock().images.values().cloned().collect()
    }

    /// Finds an image by id, name or name with digest.
    ///
    /// # Errors
    /// `InvalidImageName`.
    pub fn find(&self, name: &str) -> Result<Option<Arc<ImageRecord>>, RuntimeError> {
        let state = self.state.lock();
        if let Some(image) = state.images.get(name) {
            return Ok(Some(image.clone()));
        }
        if is_digest(name) {
            return Ok(None);
        }
        if name.len() >= 12 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            let id = format!("sha256:{name}");
            if let Some((_, image)) =
                state.images.range(id.clone()..).next().filter(|(k, _)| k.starts_with(&id))
            {
                return Ok(Some(image.clone()));
            }
        }
        let parsed = ImageName::parse(name)?;
        let found = match &parsed.digest {
            Some(digest) => {
                let wanted = parsed.with_digest(digest);
                state.images.values().find(|i| i.repo_digests.contains(&wanted))
            }
            None => {
                let wanted = parsed.tagged().unwrap_or_default();
                state.images.values().find(|i| i.repo_tags.contains(&wanted))
            }
        };
        Ok(found.cloned())
    }

    /// Keeps these layers, whether they exist yet or not.
    pub fn lease(&self, layers: &[String]) -> Lease {
        let mut state = self.state.lock();
        for layer in layers {
            *state.leases.entry(layer.clone()).or_default() += 1;
        }
        Lease { layers: layers.to_vec(), state: self.state.clone() }
    }

    /// The image and a lease on its layers, in one step.
    ///
    /// # Errors
    /// `NotFound`, `InvalidImageName`.
    pub fn acquire(&self, name: &str) -> Result<(Arc<ImageRecord>, Lease), RuntimeError> {
        loop {
            let image = self
                .find(name)?
                .ok_or_else(|| RuntimeError::NotFound { kind: "image", id: name.to_owned() })?;
            let lease = self.lease(&image.layers);
            // Removed between the two steps: look again.
            if self.state.lock().images.contains_key(&image.id) {
                return Ok((image, lease));
            }
        }
    }

    /// Whether a layer is there.
    pub fn has_layer(&self, diff_id: &str) -> bool {
        self.root.join("layers").join(short(diff_id)).is_dir()
    }

    /// A fresh path under `tmp/`.
    pub fn temporary(&self) -> PathBuf {
        self.root.join("tmp").join(self.serial.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Unpacks a layer (plain, gzip or zstd), checks it against its diff id, and gives it its place.
    /// The caller holds a lease on it.
    ///
    /// # Errors
    /// `InvalidImage`, `Io`. Nothing is left behind.
    pub fn add_layer(&self, diff_id: &str, layer: impl Read) -> Result<(), RuntimeError> {
        if !is_digest(diff_id) {
            return Err(RuntimeError::InvalidImage(format!("\"{diff_id}\" is not a sha256 digest")));
        }
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let partial = self.temporary();
        let result = self.unpack_to(diff_id, layer, &partial);
        if result.is_err() {
            let _ = fs::remove_dir_all(&partial);
        }
        result
    }

    fn unpack_to(&self, diff_id: &str, layer: impl Read, partial: &Path) -> Result<(), RuntimeError> {
        let fail = |e: std::io::Error| RuntimeError::io(format!("unpack layer {diff_id}"), e);
        fs::create_dir(partial).map_err(fail)?;
        let got = unpack(layer, partial)?;
        if got != diff_id {
            return Err(RuntimeError::InvalidImage(format!("layer {diff_id} has the content of {got}")));
        }
        let folder = File::open(partial).map_err(fail)?;
        nix::unistd::syncfs(&folder).map_err(|e| fail(e.into()))?;
        match fs::rename(partial, self.root.join("layers").join(short(diff_id))) {
            Ok(()) => sync_folder(&self.root.join("layers")),
            // Another import was faster with the same layer.
            Err(_) if self.has_layer(diff_id) => fs::remove_dir_all(partial).map_err(fail),
            Err(e) => Err(fail(e)),
        }
    }

    fn add_blob(&self, bytes: &[u8]) -> Result<String, RuntimeError> {
        let digest = digest_of(bytes);
        let path = self.blob_path(&digest);
        if !path.exists() {
            replace(&self.temporary(), &path, bytes)?;
        }
        Ok(digest)
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap_or(digest))
    }

    /// Enters an image whose layers are all there (and leased by the caller). Moves tags to it.
    ///
    /// # Errors
    /// `InvalidImage` when the configuration cannot be read or a layer is missing, `Io`.
    pub fn commit(&self, new: NewImage<'_>) -> Result<Arc<ImageRecord>, RuntimeError> {
        let config: ImageConfig = serde_json::from_slice(new.config)
            .map_err(|e| RuntimeError::InvalidImage(format!("cannot read the image's configuration: {e}")))?;
        if let Some(missing) = config.rootfs.diff_ids.iter().find(|l| !self.has_layer(l)) {
            return Err(RuntimeError::InvalidImage(format!("layer {missing} is missing")));
        }
        let id = self.add_blob(new.config)?;
        if let Some(manifest) = new.manifest {
            self.add_blob(manifest)?;
        }
        let _writer = self.writer.lock();
        let mut images = self.state.lock().images.clone();
        for image in images.values_mut() {
            if image.id != id && image.repo_tags.iter().any(|t| new.tags.contains(t)) {
                Arc::make_mut(image).repo_tags.retain(|t| !new.tags.contains(t));
            }
        }
        let mut record = images.get(&id).map_or_else(
            || ImageRecord {
                id: id.clone(),
                repo_tags: Vec::new(),
                repo_digests: Vec::new(),
                layers: config.rootfs.diff_ids,
                config: config.config,
                size: new.size,
            },
            |known| (**known).clone(),
        );
        merge(&mut record.repo_tags, new.tags);
        merge(&mut record.repo_digests, new.digests);
        let record = Arc::new(record);
        images.insert(id, record.clone());
        self.save(images)?;
        Ok(record)
    }

    fn save(&self, images: BTreeMap<String, Arc<ImageRecord>>) -> Result<(), RuntimeError> {
        let index = IndexFile { version: INDEX_VERSION, images: images.values().cloned().collect() };
        let bytes = serde_json::to_vec_pretty(&index).map_err(|e| RuntimeError::Internal(e.to_string()))?;
        replace(&self.temporary(), &self.root.join("index.json"), &bytes)?;
        self.state.lock().images = images;
        Ok(())
    }

    /// Removes an image with all its names. Idempotent. Layers in use stay until [`Self::collect`].
    ///
    /// # Errors
    /// `InvalidImageName`, `Io`.
    pub fn remove(&self, name: &str) -> Result<(), RuntimeError> {
        {
            let _writer = self.writer.lock();
            let Some(image) = self.find(name)? else { return Ok(()) };
            let mut images = self.state.lock().images.clone();
            images.remove(&image.id);
            self.save(images)?;
        }
        self.collect()
    }

    /// Removes the layers and blobs that nothing wants any more.
    ///
    /// # Errors
    /// `Io`.
    pub fn collect(&self) -> Result<(), RuntimeError> {
        let fail = |e: std::io::Error| RuntimeError::io("collect unused image layers", e);
        // New images cannot come in between; layers that an import has leased are seen as wanted.
        let _writer = self.writer.lock();
        let mut doomed = Vec::new();
        {
            let state = self.state.lock();
            let wanted: std::collections::HashSet<&str> = state
                .images
                .values()
                .flat_map(|i| i.layers.iter())
                .chain(state.leases.keys())
                .map(|l| short(l))
                .collect();
            for entry in fs::read_dir(self.root.join("layers")).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let name = entry.file_name();
                if name.to_str().is_some_and(|n| n != "empty" && !wanted.contains(n)) {
                    // Out of the way under the lock, so that nobody can come to want it meanwhile.
                    let to = self.temporary();
                    fs::rename(entry.path(), &to).map_err(fail)?;
                    doomed.push(to);
                }
            }
            let known: std::collections::HashSet<String> = state
                .images
                .values()
                .flat_map(|i| {
                    let digests =
                        i.repo_digests.iter().filter_map(|d| d.split_once('@').map(|(_, d)| d.to_owned()));
                    digests.chain([i.id.clone()])
                })
                .collect();
            if !doomed.is_empty() {
                for entry in fs::read_dir(self.root.join("blobs/sha256")).map_err(fail)? {
                    let entry = entry.map_err(fail)?;
                    if !known.contains(&format!("sha256:{}", entry.file_name().display())) {
                        doomed.push(entry.path());
                    }
                }
            }
        }
        for path in doomed {
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(fail)?;
        }
        Ok(())
    }

    /// The bytes of a manifest or configuration, checked against their digest.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.blob_path(digest)).ok()?;
        (digest_of(&bytes) == digest).then_some(bytes)
    }

    /// Parses an index or manifest.
    ///
    /// # Errors
    /// `InvalidImage`.
    pub fn parse_manifest(bytes: &[u8]) -> Result<Manifest, RuntimeError> {
        serde_json::from_slice(bytes)
            .map_err(|e| RuntimeError::InvalidImage(format!("cannot read the image's manifest: {e}")))
    }
}

fn merge(into: &mut Vec<String>, new: Vec<String>) {
    for name in new {
        if !into.contains(&name) {
            into.push(name);
        }
    }
}

fn sync_folder(path: &Path) -> Result<(), RuntimeError> {
    File::open(path)
        .and_then(|f| f.sync_all())
        .map_err(|e| RuntimeError::io(format!("sync {}", path.display()), e))
}

/// Writes a file so that after any crash it is old or new, whole, and on disk when this returns.
pub(crate) fn replace(partial: &Path, path: &Path, bytes: &[u8]) -> Result<(), RuntimeError> {
    let write = || {
        let mut file = File::create(partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(partial, path)
    };
    write().map_err(|e| RuntimeError::io(format!("write {}", path.display()), e))?;
    path.parent().map_or(Ok(()), sync_folder)
}
