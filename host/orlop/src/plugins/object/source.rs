//! Where a module comes from: `spec.source`.

use super::{SpecError, StageError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orlop_container::image::artifact;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// Largest module after decompression.
const MAX_MODULE: u64 = 64 << 20;

/// Annotation of an OCI artifact that carries the signature.
const SIGNATURE: &str = "dev.orlop.plugin.signature";

/// `spec.source`; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Source {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) builtin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
}

/// A module's bytes, gunzipped.
pub(crate) enum Module {
    Builtin(&'static [u8]),
    Owned(Vec<u8>),
}

impl AsRef<[u8]> for Module {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Builtin(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A module, and the signature that came with it.
pub(crate) struct Fetched {
    pub(crate) module: Module,
    pub(crate) signature: Option<String>,
}

impl Fetched {
    pub(crate) const fn owned(module: Vec<u8>) -> Self {
        Self { module: Module::Owned(module), signature: None }
    }
}

impl Source {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        let Self { inline, file, builtin, image } = self;
        let given = [inline, file, builtin, image].iter().filter(|s| s.is_some()).count();
        if given != 1 {
            return Err(SpecError::Field {
                path: "source",
                message: "exactly one of inline, file, image and builtin must be set".to_owned(),
            });
        }
        Ok(())
    }

    /// `image`, `file` or `inline`; `None` for what came with this program.
    pub(crate) const fn kind(&self) -> Option<&'static str> {
        match self {
            Self { builtin: Some(_), .. } => None,
            Self { image: Some(_), .. } => Some("image"),
            Self { file: Some(_), .. } => Some("file"),
            _ => Some("inline"),
        }
    }

    /// Fetches the bytes. Cancel-safe.
    pub(crate) async fn fetch(
        &self,
        builtins: &[(&'static str, &'static [u8])],
    ) -> Result<Fetched, StageError> {
        let failed = |message: String| StageError::Fetch { message };
        if let Some(name) = &self.builtin {
            let found = builtins.iter().find(|(n, _)| n == name);
            let (_, bytes) =
                found.ok_or_else(|| failed(format!("this program has no built-in plugin \"{name}\"")))?;
            return Ok(Fetched { module: Module::Builtin(bytes), signature: None });
        }
        if let Some(image) = &self.image {
            let artifact = artifact::pull_module(image, &[], MAX_MODULE)
                .await
                .map_err(|e| failed(crate::error_chain::Chain(&e).to_string()))?;
            let signature = artifact.annotations.get(SIGNATURE).cloned();
            let module = blocking(move || unpack(artifact.module)).await.map_err(failed)?;
            return Ok(Fetched { signature, ..Fetched::owned(module) });
        }
        let source = self.clone();
        let module = blocking(move || match &source.file {
            Some(path) => {
                let file = std::fs::File::open(path).map_err(|e| format!("{path}: {e}"))?;
                unpack(read(file).map_err(|e| format!("{path}: {e}"))?)
            }
            None => unpack_text(source.inline.as_deref().unwrap_or_default())
                .map_err(|e| format!("source.inline {e}")),
        });
        Ok(Fetched::owned(module.await.map_err(failed)?))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(e.to_string()))
}

/// Decodes base64 with white space in it, and gunzips what it finds.
pub(crate) fn unpack_text(text: &str) -> Result<Vec<u8>, String> {
    let text: String = text.split_ascii_whitespace().collect();
    unpack(STANDARD.decode(text).map_err(|e| format!("is not base64: {e}"))?)
}

/// Gunzips what is gzip, and leaves alone what is not.
pub(crate) fn unpack(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    read(flate2::read::GzDecoder::new(bytes.as_slice()))
        .map_err(|e| format!("the module cannot be gunzipped: {e}"))
}

/// Gzip in base64; `None` where that has more than `most` bytes.
pub(crate) fn pack(module: &[u8], most: usize) -> Option<String> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(module).ok()?;
    let text = STANDARD.encode(gzip.finish().ok()?);
    (text.len() <= most).then_some(text)
}

fn read(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_MODULE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_MODULE {
        return Err(std::io::Error::other(format!("it has more than {MAX_MODULE} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn inline_modules_may_be_compressed() {
        let text = pack(b"\0asm1234", 1000).unwrap();
        for text in [text.clone(), format!("{}\n {}", &text[..8], &text[8..]), STANDARD.encode(b"\0asm1234")]
        {
            let source = Source { inline: Some(text), ..Source::default() };
            assert_eq!(source.fetch(&[]).await.unwrap().module.as_ref(), b"\0asm1234");
        }
        let source = Source { inline: Some("?".into()), ..Source::default() };
        let error = source.fetch(&[]).await.err().unwrap();
        assert!(error.to_string().contains("source.inline is not base64"), "{error}");
        assert!(pack(&[7; 100], 10).is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_fetched_is_named() {
        let of = |source: Source| async move { source.fetch(&[]).await.err().unwrap().to_string() };
        let missing = Source { file: Some("/does/not/exist".into()), ..Source::default() };
        assert!(of(missing).await.contains("/does/not/exist"));
        let none = Source { builtin: Some("none".into()), ..Source::default() };
        assert!(of(none).await.contains("no built-in plugin \"none\""));
        let name = Source { image: Some("oci://UPPER/case".into()), ..Source::default() };
        assert!(of(name).await.contains("UPPER"));
    }
}
