//! Pulls images from registries (OCI distribution), each blob checked against its digest on the way.
//!
//! Registries on loopback and those listed as insecure are spoken to over plain HTTP. Failures of the
//! network are tried again; what the registry refuses is not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::manifest::{Descriptor, ImageConfig, Manifest, choose};
use super::reference::ImageName;
use super::store::{ImageStore, NewImage, digest_of};
use crate::cri::AuthConfig;
use crate::error::RuntimeError;

/// How often a blob or manifest is asked for before giving up.
const ATTEMPTS: u32 = 4;
/// Layers downloaded at once, as with containerd.
const PARALLEL: usize = 3;
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// How far a pull has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// Digest of the layer.
    pub layer: String,
    /// Bytes of it so far.
    pub current: u64,
    /// Bytes of it in all.
    pub total: u64,
}

/// Receives progress, about every MiB; must not block.
pub type ProgressFn = Arc<dyn Fn(PullProgress) + Send + Sync>;

/// Pulls into a store.
pub struct Puller {
    store: Arc<ImageStore>,
    insecure: Vec<String>,
    progress: Option<ProgressFn>,
}

impl Puller {
    /// `insecure`: registries (`host:port`) spoken to over HTTP, besides those on loopback.
    pub fn new(store: Arc<ImageStore>, insecure: Vec<String>, progress: Option<ProgressFn>) -> Self {
        Self { store, insecure, progress }
    }

    /// Pulls an image and returns its id.
    ///
    /// # Errors
    /// `InvalidImageName`, `ImagePull`, `RegistryUnavailable`, `InvalidImage`, `Io`. Nothing half-done is
    /// visible; layers that did arrive are used by the next try.
    pub async fn pull(&self, image: &str, auth: Option<AuthConfig>) -> Result<String, RuntimeError> {
        let name = ImageName::parse(image)?;
        let client = client(&name, &self.insecure);
        let auth = registry_auth(auth);
        let failed = |e: OciDistributionError| classify(&name, &e);
        // By digest where there is one: the tag then is only a remark.
        let reference = match (&name.digest, &name.tag) {
            (Some(digest), _) => {
                Reference::with_digest(name.domain.clone(), name.path.clone(), digest.clone())
            }
            (None, tag) => {
                let tag = tag.clone().unwrap_or_else(|| "latest".to_owned());
                Reference::with_tag(name.domain.clone(), name.path.clone(), tag)
            }
        };
        let top = manifest(&client, &reference, &auth).await.map_err(failed)?;
        let top_digest = digest_of(&top);
        if name.digest.as_ref().is_some_and(|d| *d != top_digest) {
            return Err(RuntimeError::InvalidImage(format!("{name} has the content of {top_digest}")));
        }
        let parsed = ImageStore::parse_manifest(&top)?;
        let (bytes, parsed) = if parsed.config.is_some() {
            (top, parsed)
        } else {
            let fitting = choose(&parsed.manifests).ok_or_else(|| RuntimeError::ImagePull {
                image: name.to_string(),
                message: format!(
                    "no match for platform linux/{} in manifest",
                    super::manifest::architecture()
                ),
            })?;
            let reference =
                Reference::with_digest(name.domain.clone(), name.path.clone(), fitting.digest.clone());
            let bytes = manifest(&client, &reference, &auth).await.map_err(failed)?;
            if digest_of(&bytes) != fitting.digest {
                return Err(RuntimeError::InvalidImage(format!("manifest {} is damaged", fitting.digest)));
            }
            let parsed = ImageStore::parse_manifest(&bytes)?;
            (bytes, parsed)
        };
        self.pull_content(&client, &reference, &name, &top_digest, &bytes, &parsed).await
    }

    async fn pull_content(
        &self,
        client: &Client,
        reference: &Reference,
        name: &ImageName,
        top_digest: &str,
        bytes: &[u8],
        manifest: &Manifest,
    ) -> Result<String, RuntimeError> {
        let config_of = manifest
            .config
            .as_ref()
            .ok_or_else(|| RuntimeError::InvalidImage("the manifest names no configuration".to_owned()))?;
        let path = self.download(client, reference, name, config_of).await?;
        let config =
            tokio::fs::read(&path).await.map_err(|e| RuntimeError::io("read the configuration", e))?;
        let _ = tokio::fs::remove_file(&path).await;
        let parsed: ImageConfig = serde_json::from_slice(&config)
            .map_err(|e| RuntimeError::InvalidImage(format!("cannot read the image's configuration: {e}")))?;
        let diff_ids = parsed.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(RuntimeError::InvalidImage(format!(
                "the configuration names {} layers, the manifest {}",
                diff_ids.len(),
                manifest.layers.len()
            )));
        }
        let _lease = self.store.lease(&diff_ids);
        let missing: Vec<(&String, &Descriptor)> =
            diff_ids.iter().zip(&manifest.layers).filter(|(id, _)| !self.store.has_layer(id)).collect();
        futures::stream::iter(missing.into_iter().map(Ok))
            .try_for_each_concurrent(PARALLEL, |(diff_id, layer)| async move {
                let path = self.download(client, reference, name, layer).await?;
                let (store, diff_id, file) = (self.store.clone(), diff_id.clone(), path.clone());
                let result = blocking(move || {
                    let opened =
                        std::fs::File::open(&file).map_err(|e| RuntimeError::io("open a layer", e))?;
                    store.add_layer(&diff_id, opened)
                })
                .await;
                let _ = tokio::fs::remove_file(&path).await;
                result
            })
            .await?;
        let size = manifest.layers.iter().map(|l| l.size).sum::<u64>() + config.len() as u64;
        let tags = if name.digest.is_some() { Vec::new() } else { name.tagged().into_iter().collect() };
        let digests = vec![name.with_digest(top_digest)];
        let (store, bytes) = (self.store.clone(), bytes.to_vec());
        let record = blocking(move || {
            store.commit(NewImage { config: &config, manifest: Some(&bytes), tags, digests, size })
        })
        .await?;
        Ok(record.id.clone())
    }

    /// Downloads a blob to a temporary file and checks it.
    async fn download(
        &self,
        client: &Client,
        reference: &Reference,
        name: &ImageName,
        blob: &Descriptor,
    ) -> Result<PathBuf, RuntimeError> {
        if !super::reference::is_digest(&blob.digest) {
            return Err(RuntimeError::InvalidImage(format!("\"{}\" is not a sha256 digest", blob.digest)));
        }
        let path = self.store.temporary();
        let mut attempt = 1;
        loop {
            match self.download_once(client, reference, blob, &path).await {
                Ok(()) => return Ok(path),
                Err(Failed::Registry(e)) if attempt < ATTEMPTS && is_transient(&e) => {
                    tracing::warn!(image = %name, attempt, error = %e, "layer download failed, trying again");
                    backoff(attempt).await;
                    attempt += 1;
                }
                Err(failed) => {
                    let _ = tokio::fs::remove_file(&path).await;
                    return Err(match failed {
                        Failed::Registry(e) => classify(name, &e),
                        Failed::Disk(e) => RuntimeError::io(format!("store a layer of {name}"), e),
                        Failed::Content(got) => RuntimeError::InvalidImage(format!(
                            "blob {} of {name} has the content of {got}",
                            blob.digest
                        )),
                    });
                }
            }
        }
    }

    async fn download_once(
        &self,
        client: &Client,
        reference: &Reference,
        blob: &Descriptor,
        path: &std::path::Path,
    ) -> Result<(), Failed> {
        let mut file = tokio::fs::File::create(path).await.map_err(Failed::Disk)?;
        let descriptor = oci_client::manifest::OciDescriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: i64::try_from(blob.size).unwrap_or(0),
            ..Default::default()
        };
        let mut stream = client.pull_blob_stream(reference, &descriptor).await.map_err(Failed::Registry)?;
        let mut hash = Sha256::new();
        let (mut current, mut told) = (0u64, 0u64);
        while let Some(chunk) =
            stream.try_next().await.map_err(|e| Failed::Registry(OciDistributionError::IoError(e)))?
        {
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(Failed::Disk)?;
            current += chunk.len() as u64;
            if blob.size != 0 && current > blob.size {
                return Err(Failed::Content("something longer".to_owned()));
            }
            if let Some(progress) =
                self.progress.as_ref().filter(|_| current - told >= 1 << 20 || current == blob.size)
            {
                told = current;
                progress(PullProgress { layer: blob.digest.clone(), current, total: blob.size });
            }
        }
        file.flush().await.map_err(Failed::Disk)?;
        let got = format!("sha256:{}", hex::encode(hash.finalize()));
        if got == blob.digest { Ok(()) } else { Err(Failed::Content(got)) }
    }
}

/// A client for the registry of `name`; plain HTTP on loopback and where `insecure` lists it.
pub(super) fn client(name: &ImageName, insecure: &[String]) -> Client {
    // Whoever runs us may have installed a provider already; either is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plain = is_loopback(&name.domain) || insecure.contains(&name.domain);
    Client::new(ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(Duration::from_secs(15)),
        read_timeout: Some(Duration::from_secs(60)),
        user_agent: concat!("orlop/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

enum Failed {
    Registry(OciDistributionError),
    Disk(std::io::Error),
    Content(String),
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| RuntimeError::Internal(e.to_string()))?
}

async fn backoff(attempt: u32) {
    tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
}

pub(super) async fn manifest(
    client: &Client,
    reference: &Reference,
    auth: &RegistryAuth,
) -> Result<Vec<u8>, OciDistributionError> {
    let mut attempt = 1;
    loop {
        match client.pull_manifest_raw(reference, auth, &ACCEPTED).await {
            Ok((bytes, _)) => return Ok(bytes.to_vec()),
            Err(e) if attempt < ATTEMPTS && is_transient(&e) => backoff(attempt).await,
            Err(e) => return Err(e),
        }
        attempt += 1;
    }
}

fn is_transient(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 429,
        _ => false,
    }
}

pub(super) fn classify(name: &ImageName, error: &OciDistributionError) -> RuntimeError {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    let image = name.to_string();
    match error {
        OciDistributionError::RequestError(e) if e.is_connect() || e.is_timeout() => {
            RuntimeError::RegistryUnavailable { image, message }
        }
        OciDistributionError::ServerError { code, .. } if *code >= 500 => {
            RuntimeError::RegistryUnavailable { image, message }
        }
        _ => RuntimeError::ImagePull { image, message },
    }
}

fn registry_auth(auth: Option<AuthConfig>) -> RegistryAuth {
    let Some(auth) = auth else { return RegistryAuth::Anonymous };
    if !auth.registry_token.is_empty() {
        return RegistryAuth::Bearer(auth.registry_token);
    }
    if !auth.username.is_empty() {
        return RegistryAuth::Basic(auth.username, auth.password);
    }
    let decoded = base64_decode(&auth.auth).and_then(|b| String::from_utf8(b).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => {
            RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned())
        }
        None => RegistryAuth::Anonymous,
    }
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text.trim()).ok().filter(|b| !b.is_empty())
}

/// Whether a registry is on this machine, which Docker and containerd take for insecure.
fn is_loopback(domain: &str) -> bool {
    let host = match domain.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => domain,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_registries_are_plain() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "10.0.0.1:5000", "localhost.example.org"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn secrets_in_every_form() {
        let basic = RegistryAuth::Basic("u".into(), "p:q".into());
        let auth = AuthConfig { auth: "dTpwOnE=".into(), ..Default::default() };
        assert_eq!(registry_auth(Some(auth.clone())), basic);
        assert!(!format!("{auth:?}").contains("dTpwOnE"), "secrets stay out of logs");
        let auth = AuthConfig { username: "u".into(), password: "p:q".into(), ..Default::default() };
        assert_eq!(registry_auth(Some(auth)), basic);
        assert_eq!(registry_auth(None), RegistryAuth::Anonymous);
    }
}
