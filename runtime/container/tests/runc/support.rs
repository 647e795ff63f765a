//! A driver in temporary folders, with an image built from the machine's busybox.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use orlop_container::cri::*;
use orlop_container::{RuncConfig, RuncRuntime, cleanup_all};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Long enough for a machine under load; no test waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Name of the test image.
pub(crate) const IMAGE: &str = "docker.io/library/busybox:test";

/// Builds the shim, once per process.
pub(crate) fn shim() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            if let Some(given) = std::env::var_os("ORLOP_SHIM") {
                return given.into();
            }
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
            let output = Command::new(cargo)
                .current_dir(&workspace)
                .args(["rustc", "--quiet", "--profile", "shim", "-p", "orlop-shim", "--bin", "orlop-shim"])
                .args(["--message-format", "json", "--", "-C", "target-feature=+crt-static"])
                .output()
                .expect("cargo runs");
            assert!(output.status.success(), "the shim builds: {}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).unwrap();
            let artifact = text.lines().find_map(|line| {
                let message: serde_json::Value = serde_json::from_str(line).ok()?;
                (message["target"]["name"] == "orlop-shim").then_some(())?;
                message["executable"].as_str().map(PathBuf::from)
            });
            artifact.expect("cargo names the shim's program")
        })
        .clone()
}

/// One file of a layer.
pub(crate) struct TarEntry<'a> {
    pub(crate) path: &'a str,
    pub(crate) kind: tar::EntryType,
    pub(crate) mode: u32,
    pub(crate) link: &'a str,
    pub(crate) content: &'a [u8],
}

/// A regular file.
pub(crate) fn file<'a>(path: &'a str, content: &'a [u8]) -> TarEntry<'a> {
    TarEntry { path, kind: tar::EntryType::Regular, mode: 0o644, link: "", content }
}

/// A folder.
pub(crate) fn folder(path: &str) -> TarEntry<'_> {
    TarEntry { path, kind: tar::EntryType::Directory, mode: 0o755, link: "", content: b"" }
}

/// A symbolic link.
pub(crate) fn symlink<'a>(path: &'a str, link: &'a str) -> TarEntry<'a> {
    TarEntry { path, kind: tar::EntryType::Symlink, mode: 0o777, link, content: b"" }
}

/// A hard link.
pub(crate) fn hardlink<'a>(path: &'a str, link: &'a str) -> TarEntry<'a> {
    TarEntry { path, kind: tar::EntryType::Link, mode: 0o644, link, content: b"" }
}

/// A tar, with names as they are: hostile ones too.
pub(crate) fn tar(entries: &[TarEntry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(entry.content.len() as u64);
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        raw.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_cksum();
        builder.append(&header, entry.content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// `sha256:…`.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// How layers are packed.
#[derive(Clone, Copy)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Packs a layer.
pub(crate) fn pack(bytes: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => bytes.to_vec(),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

/// The parts of an image: configuration, manifest, packed layers.
pub(crate) struct Parts {
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
}

/// An image of these layers.
pub(crate) fn parts(layers: &[Vec<u8>], packing: Packing, run: serde_json::Value) -> Parts {
    let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": run,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let layers: Vec<Vec<u8>> = layers.iter().map(|l| pack(l, packing)).collect();
    let kind = match packing {
        Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
        Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    let described: Vec<_> =
        layers.iter().map(|l| json!({"mediaType": kind, "digest": digest(l), "size": l.len()})).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len(),
        },
        "layers": described,
    });
    Parts { config, manifest: serde_json::to_vec(&manifest).unwrap(), layers }
}

/// An OCI layout in a tar.
pub(crate) fn oci_archive(parts: &Parts, name: &str) -> Vec<u8> {
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&parts.manifest), "size": parts.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": name},
        }],
    });
    let index = serde_json::to_vec(&index).unwrap();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &digest(bytes)[7..]);
    let blobs: Vec<(String, &[u8])> = [&parts.config, &parts.manifest]
        .into_iter()
        .chain(&parts.layers)
        .map(|b| (blob(b), b.as_slice()))
        .collect();
    let mut entries =
        vec![file("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}"), file("index.json", &index)];
    entries.extend(blobs.iter().map(|(name, bytes)| file(name, bytes)));
    tar(&entries)
}

/// What `docker save` writes.
pub(crate) fn docker_archive(parts: &Parts, name: &str) -> Vec<u8> {
    let names: Vec<String> = (0..parts.layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest =
        serde_json::to_vec(&json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}])).unwrap();
    let mut entries = vec![file("manifest.json", &manifest), file("config.json", &parts.config)];
    entries.extend(names.iter().zip(&parts.layers).map(|(name, bytes)| file(name, bytes)));
    tar(&entries)
}

/// The machine's busybox with its usual names, and account files.
pub(crate) fn busybox_layer() -> Vec<u8> {
    let program = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut entries = vec![folder("bin"), folder("etc"), folder("tmp"), folder("root")];
    entries.push(TarEntry { mode: 0o755, ..file("bin/busybox", &program) });
    let names = [
        "sh", "sleep", "echo", "cat", "id", "ls", "nc", "head", "stty", "dd", "tail", "hostname", "ps",
        "kill", "true", "false", "test", "mount",
    ];
    let links: Vec<String> = names.iter().map(|n| format!("bin/{n}")).collect();
    entries.extend(links.iter().map(|l| symlink(l, "busybox")));
    entries.push(file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/tmp:/bin/sh\n"));
    entries.push(file("etc/group", b"root:x:0:\nweb:x:34:\nmore:x:35:web\n"));
    tar(&entries)
}

/// A driver in folders of its own; everything is removed when it goes.
pub(crate) struct Fixture {
    pub(crate) runtime: RuncRuntime,
    pub(crate) config: RuncConfig,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) name: String,
    forget: bool,
}

/// Folders and cgroup of a driver.
pub(crate) fn config_in(folder: &Path, name: &str) -> RuncConfig {
    let mut config = RuncConfig::new(folder.join("root"), folder.join("run"), shim());
    config.cgroup_root = format!("/{name}");
    config
}

impl Fixture {
    /// Opens a driver and imports the test image.
    pub(crate) async fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let folder = tempfile::Builder::new().prefix("orlop-rt-").tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        let config = config_in(folder.path(), &name);
        let runtime = RuncRuntime::open(config.clone()).await.unwrap();
        let fixture = Self { runtime, config, folder, name, forget: false };
        fixture
            .import("busybox:test", &parts(&[busybox_layer()], Packing::Gzip, json!({"Cmd": ["sh"]})))
            .await;
        fixture
    }

    /// Imports an image as an OCI layout.
    pub(crate) async fn import(&self, name: &str, parts: &Parts) -> Vec<String> {
        let path = self.folder.path().join(format!("{}.tar", name.replace(['/', ':'], "_")));
        std::fs::write(&path, oci_archive(parts, name)).unwrap();
        self.runtime.import_image(path).await.unwrap()
    }

    /// A pod's configuration.
    pub(crate) fn pod(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            },
            hostname: name.to_owned(),
            log_directory: self.folder.path().join("logs").join(name),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ..Default::default()
        }
    }

    /// Runs a pod.
    pub(crate) async fn run_pod(&self, name: &str) -> String {
        self.runtime.run_pod_sandbox(self.pod(name)).await.unwrap()
    }

    /// Creates and starts a container.
    pub(crate) async fn run_container(&self, pod: &str, config: ContainerConfig) -> String {
        let id = self.runtime.create_container(pod, config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    /// The content of a container's log.
    pub(crate) async fn log(&self, id: &str) -> String {
        let path = self.runtime.container_status(id).await.unwrap().log_path;
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The text of a container's log, without times and tags.
    pub(crate) async fn log_text(&self, id: &str) -> String {
        self.log(id)
            .await
            .lines()
            .map(|l| format!("{}\n", l.splitn(4, ' ').nth(3).unwrap_or_default()))
            .collect()
    }

    /// Waits until a container has ended.
    pub(crate) async fn wait_exit(&self, id: &str) -> ContainerStatus {
        wait_exit(&self.runtime, id).await
    }

    /// Leaves containers and folders for another driver; the folder goes with the value returned.
    pub(crate) async fn leave(mut self) -> (tempfile::TempDir, String) {
        self.forget = true;
        self.config.cancel.cancel();
        self.config.tracker.close();
        self.config.tracker.wait().await;
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        (folder, self.name.clone())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.config.cancel.cancel();
        if !self.forget {
            cleanup(self.folder.path());
        }
    }
}

/// Removes what a driver made, and checks that nothing is left.
pub(crate) fn cleanup(folder: &Path) {
    let result = cleanup_all(&folder.join("root"), &folder.join("run"));
    if std::thread::panicking() {
        return;
    }
    result.unwrap();
    cleanup_all(&folder.join("root"), &folder.join("run")).expect("cleaning up twice is fine");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(folder.to_str().unwrap()), "a mount is left");
    let name = folder.file_name().unwrap().to_str().unwrap();
    for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        assert!(
            !controller.path().join(name).exists(),
            "a cgroup is left in {}",
            controller.path().display()
        );
    }
}

/// A container that runs a shell script.
pub(crate) fn shell(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: name.to_owned(), attempt: 0 },
        image: ImageSpec::new(IMAGE),
        command: vec!["/bin/sh".into(), "-c".into(), script.to_owned()],
        log_path: format!("{name}/0.log"),
        ..Default::default()
    }
}

/// Waits until a container has ended.
pub(crate) async fn wait_exit(runtime: &RuncRuntime, id: &str) -> ContainerStatus {
    let mut events = runtime.get_container_events();
    loop {
        let status = runtime.container_status(id).await.unwrap();
        if status.state == ContainerState::Exited {
            return status;
        }
        next_event(&mut events).await;
    }
}

/// The next event.
pub(crate) async fn next_event(events: &mut BoxStream<'static, ContainerEvent>) -> ContainerEvent {
    tokio::time::timeout(PATIENCE, events.next()).await.expect("an event comes").expect("the stream goes on")
}

/// Waits until something holds.
pub(crate) async fn until<F, T>(what: &str, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The pid of a pod's shim.
pub(crate) fn shim_pid(fixture_run: &Path, pod: &str) -> i32 {
    let text = std::fs::read_to_string(fixture_run.join("sandboxes").join(pod).join("shim.pid")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
