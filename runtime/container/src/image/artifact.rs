//! WebAssembly modules that lie in registries as OCI artifacts: a manifest with one layer.

use super::manifest::Descriptor;
use super::pull;
use super::reference::ImageName;
use super::store::digest_of;
use crate::error::RuntimeError;
use futures::TryStreamExt;
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Media types of a layer that is a module.
const MODULES: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];

/// A module as it was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Digest of the manifest.
    pub digest: String,
    /// The bytes of the layer.
    pub module: Vec<u8>,
    /// Of the manifest and, where the same is not there, of the layer.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Pulls the module that `reference` names, `oci://` before it or not, anonymously. Registries on loopback and those in
/// `insecure` are spoken to over plain HTTP. A layer of more than `most` bytes is refused.
///
/// # Errors
/// `InvalidImageName`, `ImagePull`, `RegistryUnavailable`; `InvalidImage` where the manifest has not exactly
/// one layer with a module, or bytes are not those of their digest.
pub async fn pull_module(reference: &str, insecure: &[String], most: u64) -> Result<Artifact, RuntimeError> {
    let name = ImageName::parse(reference.strip_prefix("oci://").unwrap_or(reference))?;
    let client = pull::client(&name, insecure);
    let at = match (&name.digest, &name.tag) {
        (Some(digest), _) => Reference::with_digest(name.domain.clone(), name.path.clone(), digest.clone()),
        (None, tag) => Reference::with_tag(
            name.domain.clone(),
            name.path.clone(),
            tag.clone().unwrap_or_else(|| "latest".to_owned()),
        ),
    };
    let failed = |e| pull::classify(&name, &e);
    let bytes = pull::manifest(&client, &at, &RegistryAuth::Anonymous).await.map_err(failed)?;
    let digest = digest_of(&bytes);
    if name.digest.as_ref().is_some_and(|wanted| *wanted != digest) {
        return Err(RuntimeError::InvalidImage(format!("{name} has the content of {digest}")));
    }
    let (layer, annotations) = choose(&name, &bytes)?;
    let too_large = || {
        let message = format!("the module {} of {name} has more than {most} bytes", layer.digest);
        RuntimeError::InvalidImage(message)
    };
    if layer.size > most {
        return Err(too_large());
    }
    let module = blob(&client, &at, &layer, most).await.map_err(failed)?.ok_or_else(too_large)?;
    let found = digest_of(&module);
    if found != layer.digest {
        let message = format!("the module {} of {name} has the content of {found}", layer.digest);
        return Err(RuntimeError::InvalidImage(message));
    }
    Ok(Artifact { digest, module, annotations })
}

/// The bytes of a blob; `None` where it has more than `most`.
async fn blob(
    client: &Client,
    at: &Reference,
    layer: &Descriptor,
    most: u64,
) -> Result<Option<Vec<u8>>, OciDistributionError> {
    let descriptor = oci_client::manifest::OciDescriptor {
        media_type: layer.media_type.clone(),
        digest: layer.digest.clone(),
        size: i64::try_from(layer.size).unwrap_or(0),
        ..Default::default()
    };
    let mut stream = client.pull_blob_stream(at, &descriptor).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.try_next().await.map_err(OciDistributionError::IoError)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > most {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

/// The one layer that is a module, and the annotations.
fn choose(name: &ImageName, manifest: &[u8]) -> Result<(Descriptor, BTreeMap<String, String>), RuntimeError> {
    let invalid = |message: String| RuntimeError::InvalidImage(message);
    let manifest: Manifest = serde_json::from_slice(manifest)
        .map_err(|e| invalid(format!("cannot read the manifest of {name}: {e}")))?;
    let mut modules = manifest.layers.into_iter().filter(|l| MODULES.contains(&l.media_type.as_str()));
    let (Some(layer), None) = (modules.next(), modules.next()) else {
        return Err(invalid(format!(
            "{name} is no WebAssembly artifact: its manifest must have one layer of type {}",
            MODULES.join(" or ")
        )));
    };
    if !super::reference::is_digest(&layer.digest) {
        return Err(invalid(format!("\"{}\" is not a sha256 digest", layer.digest)));
    }
    let mut annotations = layer.annotations.clone();
    annotations.extend(manifest.annotations);
    Ok((layer, annotations))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn exactly_one_layer_is_the_module() {
        let name = ImageName::parse("localhost:5000/p:1").unwrap();
        let digest = format!("sha256:{}", "a".repeat(64));
        let layer = |kind: &str| json!({ "mediaType": kind, "digest": digest, "size": 3, "annotations": { "a": "layer", "b": "layer" } });
        let of = |layers: Vec<serde_json::Value>| {
            let manifest =
                json!({ "schemaVersion": 2, "layers": layers, "annotations": { "a": "manifest" } });
            choose(&name, manifest.to_string().as_bytes())
        };
        let (found, annotations) = of(vec![layer("text/plain"), layer("application/wasm")]).unwrap();
        assert_eq!((found.digest.as_str(), found.size), (digest.as_str(), 3));
        assert_eq!(annotations["a"], "manifest");
        assert_eq!(annotations["b"], "layer");
        for layers in [vec![], vec![layer("text/plain")], vec![layer(MODULES[0]), layer(MODULES[1])]] {
            assert!(of(layers).unwrap_err().to_string().contains("one layer of type application/wasm"));
        }
        assert!(choose(&name, b"{").is_err());
    }
}
