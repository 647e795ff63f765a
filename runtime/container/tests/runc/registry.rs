//! Pulling, from Debian's docker-registry on loopback.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use orlop_container::RuntimeError;
use orlop_container::cri::*;
use serde_json::json;

use crate::support::*;

struct Registry {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn send(
    method: &str,
    url: &str,
    kind: &str,
    body: Vec<u8>,
    auth: bool,
) -> hyper::Response<hyper::body::Incoming> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = Request::builder().method(method).uri(url).header("content-type", kind);
    if auth {
        request = request.header("authorization", "Basic dXNlcjpzZWNyZXQ=");
    }
    client.request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
}

impl Registry {
    async fn start(with_password: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let data = folder.path().join("data");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: {address}}}\n",
            data.display()
        );
        if with_password {
            // user / secret
            let line = "user:$2b$05$zvHrCDmwImW/CAnzAMqARO8M5fnVQlxVD8phJuTQyWS5tvJ8e056i\n";
            let file = folder.path().join("htpasswd");
            std::fs::write(&file, line).unwrap();
            config.push_str(&format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", file.display()));
        }
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let registry = Self { child, address, _folder: folder };
        until("the registry listens", || async { std::net::TcpStream::connect(&registry.address).ok() })
            .await;
        registry
    }

    async fn blob(&self, repository: &str, bytes: &[u8], auth: bool) {
        let base = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let begun = send("POST", &base, "application/json", Vec::new(), auth).await;
        assert_eq!(begun.status(), 202);
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let location =
            if location.starts_with('/') { format!("http://{}{location}", self.address) } else { location };
        let join = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{join}digest={}", digest(bytes));
        let done = send("PUT", &url, "application/octet-stream", bytes.to_vec(), auth).await;
        assert_eq!(done.status(), 201);
    }

    async fn push(&self, repository: &str, tag: &str, image: &Parts, auth: bool) {
        self.blob(repository, &image.config, auth).await;
        for layer in &image.layers {
            self.blob(repository, layer, auth).await;
        }
        self.manifest(repository, tag, "application/vnd.oci.image.manifest.v1+json", &image.manifest, auth)
            .await;
    }

    async fn manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8], auth: bool) {
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.address);
        let answer = send("PUT", &url, kind, bytes.to_vec(), auth).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_and_run() {
    let f = Fixture::new().await;
    let registry = Registry::start(false).await;
    let top = tar(&[file("pulled", b"yes\n")]);
    let image = parts(&[busybox_layer(), top], Packing::Gzip, json!({"Cmd": ["cat", "/pulled"]}));
    registry.push("team/app", "v1", &image, false).await;
    let name = format!("{}/team/app:v1", registry.address);
    let id = f.runtime.pull_image(&ImageSpec::new(&name), None).await.unwrap();
    assert_eq!(id, digest(&image.config));
    let found = f.runtime.image_status(&ImageSpec::new(&name)).await.unwrap().unwrap();
    assert_eq!(found.repo_digests, [format!("{}/team/app@{}", registry.address, digest(&image.manifest))]);
    let pod = f.run_pod("pulled").await;
    let mut config = shell("main", "");
    config.command = Vec::new();
    config.image = ImageSpec::new(&id);
    let container = f.run_container(&pod, config).await;
    f.wait_exit(&container).await;
    assert_eq!(f.log_text(&container).await, "yes\n");

    // By digest, and through an index that has several platforms.
    let by_digest = format!("{}/team/app@{}", registry.address, digest(&image.manifest));
    assert_eq!(f.runtime.pull_image(&ImageSpec::new(by_digest), None).await.unwrap(), id);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let platform = |arch: &str| json!({"os": "linux", "architecture": arch});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": kind, "digest": digest(&image.manifest), "size": image.manifest.len(), "platform": platform("amd64"),
        }],
    });
    let index = serde_json::to_vec(&index).unwrap();
    registry.manifest("team/app", "multi", "application/vnd.oci.image.index.v1+json", &index, false).await;
    let multi = format!("{}/team/app:multi", registry.address);
    assert_eq!(f.runtime.pull_image(&ImageSpec::new(multi), None).await.unwrap(), id);

    let missing = format!("{}/team/app:none", registry.address);
    let error = f.runtime.pull_image(&ImageSpec::new(missing), None).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImagePull { .. }), "{error:?}");
    let error = f.runtime.pull_image(&ImageSpec::new("docker.io/UPPER"), None).await.unwrap_err();
    assert!(matches!(error, RuntimeError::InvalidImageName { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn private_images_need_the_secret() {
    let f = Fixture::new().await;
    let registry = Registry::start(true).await;
    let image = parts(&[tar(&[file("f", b"x")])], Packing::Zstd, json!({}));
    registry.push("private/app", "v1", &image, true).await;
    let name = ImageSpec::new(format!("{}/private/app:v1", registry.address));
    let wrong = AuthConfig { username: "user".into(), password: "wrong".into(), ..Default::default() };
    for auth in [None, Some(wrong)] {
        let error = f.runtime.pull_image(&name, auth).await.unwrap_err();
        assert!(matches!(error, RuntimeError::ImagePull { .. }), "{error:?}");
    }
    let right = AuthConfig { auth: "dXNlcjpzZWNyZXQ=".into(), ..Default::default() };
    assert_eq!(f.runtime.pull_image(&name, Some(right)).await.unwrap(), digest(&image.config));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_there() {
    let f = Fixture::new().await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error =
        f.runtime.pull_image(&ImageSpec::new(format!("127.0.0.1:{port}/x:1")), None).await.unwrap_err();
    assert!(matches!(error, RuntimeError::RegistryUnavailable { .. }), "{error:?}");
}
