//! A small OCI image made from Debian's busybox-static, because a test machine may reach no
//! registry. The same busybox gives the same bytes.

use crate::shell::output;
use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;
use tar::{Builder, EntryType, Header};

/// What the image is called once imported.
pub(crate) const REFERENCE: &str = "docker.io/library/busybox:latest";

/// The image as an OCI layout in a tar.
pub(crate) fn busybox(binary: &Path) -> Result<Vec<u8>> {
    let layer = layer(binary)?;
    let layer_digest = digest(&layer);
    let config = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["sh"],
        },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        "history": [{ "created_by": "busybox-static" }],
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": "latest",
        "io.containerd.image.name": REFERENCE,
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }))?;

    let mut out = Builder::new(Vec::new());
    file(&mut out, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    file(&mut out, "index.json", 0o644, &index)?;
    for blob in [&layer, &config, &manifest] {
        file(&mut out, &format!("blobs/sha256/{}", digest(blob).trim_start_matches("sha256:")), 0o644, blob)?;
    }
    Ok(out.into_inner()?)
}

fn layer(binary: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let applets = output(Command::new(binary).arg("--list"))?;
    let mut out = Builder::new(Vec::new());
    for (dir, mode) in [
        ("bin/", 0o755),
        ("etc/", 0o755),
        ("root/", 0o700),
        ("tmp/", 0o1777),
        ("var/", 0o755),
        ("home/", 0o755),
    ] {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(mode);
        root_owned(&mut header);
        header.set_size(0);
        out.append_data(&mut header, dir, std::io::empty())?;
    }
    file(&mut out, "bin/busybox", 0o755, &bytes)?;
    for applet in applets.lines().filter(|a| *a != "busybox") {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        root_owned(&mut header);
        header.set_size(0);
        out.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
    file(&mut out, "etc/passwd", 0o644, passwd)?;
    file(&mut out, "etc/group", 0o644, b"root:x:0:\nnobody:x:65534:\n")?;
    Ok(out.into_inner()?)
}

fn file(out: &mut Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    root_owned(&mut header);
    header.set_size(bytes.len() as u64);
    out.append_data(&mut header, path, bytes)?;
    Ok(())
}

/// Owner and time are fixed, so that the same content gives the same bytes.
fn root_owned(header: &mut Header) {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}
