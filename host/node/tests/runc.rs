//! The agent on real containers: runc, overlayfs, cgroups, mounts; only the API is in memory.
//!
//! Needs root, runc and busybox-static; fails where one is missing. Folders, cgroups and names are
//! the test's own, and are removed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

#[path = "../src/tests/api.rs"]
mod api;

use api::StrategicApi;
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, DeleteOptions, ResourceRef};
use orlop_container::cri::{ContainerFilter, PodSandboxFilter};
use orlop_container::{ImageService, RuncConfig, RuncRuntime, Runtime, cleanup_all};
use orlop_node::{Node, NodeConfig};
use orlop_testkit::{MemoryApi, eventually};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

static PODS: Gvr = Gvr::new("", "v1", "pods");

/// Builds the shim, unless the environment names one.
fn shim() -> PathBuf {
    if let Some(given) = std::env::var_os("ORLOP_SHIM") {
        return given.into();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let output = std::process::Command::new(cargo)
        .current_dir(&workspace)
        .args(["rustc", "--quiet", "--profile", "shim", "-p", "orlop-shim", "--bin", "orlop-shim"])
        .args(["--message-format", "json", "--", "-C", "target-feature=+crt-static"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|m| m["target"]["name"] == "orlop-shim")
        .and_then(|m| m["executable"].as_str().map(PathBuf::from))
        .unwrap()
}

fn tar_of(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// busybox as `docker save` would write it.
fn image(path: &Path) {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let layer = tar_of(&[
        ("bin/busybox", &busybox, 0o755),
        ("bin/sh", &busybox, 0o755),
        ("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644),
    ]);
    let diff = format!("sha256:{}", hex::encode(Sha256::digest(&layer)));
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [diff]}});
    let manifest =
        json!([{"Config": "config.json", "RepoTags": ["busybox:test"], "Layers": ["l/layer.tar"]}]);
    let archive = tar_of(&[
        ("manifest.json", manifest.to_string().as_bytes(), 0o644),
        ("config.json", config.to_string().as_bytes(), 0o644),
        ("l/layer.tar", &layer, 0o644),
    ]);
    std::fs::write(path, archive).unwrap();
}

struct Machine {
    dir: tempfile::TempDir,
    shim: PathBuf,
    api: MemoryApi,
    runtime: Option<(RuncRuntime, RuncConfig)>,
    agent: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

impl Machine {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let dir = tempfile::Builder::new().prefix("orlop-nd-").tempdir().unwrap();
        Self { dir, shim: shim(), api: MemoryApi::new(), runtime: None, agent: None }
    }

    fn name(&self) -> String {
        self.dir.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn client(&self) -> Arc<dyn ApiClient> {
        Arc::new(StrategicApi(self.api.clone()))
    }

    async fn start(&mut self) {
        let mut config = RuncConfig::new(self.dir.path().join("rt"), self.dir.path().join("run"), &self.shim);
        config.cgroup_root = format!("/{}", self.name());
        let runtime = RuncRuntime::open(config.clone()).await.unwrap();
        let mut node = NodeConfig::new("node-a", "192.0.2.1".parse().unwrap(), self.dir.path().join("node"));
        node.cgroup_root = self.name();
        let cancel = CancellationToken::new();
        let node = Node::new(node, self.client(), Arc::new(runtime.clone()));
        let token = cancel.clone();
        self.agent = Some((cancel, tokio::spawn(async move { node.run(token).await.unwrap() })));
        self.runtime = Some((runtime, config));
    }

    /// Ends agent and driver; containers run on.
    async fn stop(&mut self) {
        let (cancel, task) = self.agent.take().unwrap();
        cancel.cancel();
        task.await.unwrap();
        let (runtime, config) = self.runtime.take().unwrap();
        config.cancel.cancel();
        config.tracker.close();
        config.tracker.wait().await;
        drop((runtime, config));
    }

    fn runtime(&self) -> &RuncRuntime {
        &self.runtime.as_ref().unwrap().0
    }

    fn create(&self, name: &str, mut spec: Value) -> String {
        spec["nodeName"] = json!("node-a");
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec});
        self.api.put(&PODS, body).unwrap().uid().to_owned()
    }

    fn pod(&self, name: &str) -> Value {
        self.api.peek(&PODS, "default", name).map(|o| o.to_value()).unwrap_or_default()
    }

    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let result = eventually(what, || holds(&self.pod(name))).await;
        let events = self.api.peek_all(&Gvr::new("", "v1", "events"));
        let events: Vec<String> = events.iter().map(|e| e.to_value()["message"].to_string()).collect();
        assert!(result.is_ok(), "{what}: {:#}\n{events:#?}", self.pod(name)["status"]);
        self.pod(name)
    }

    async fn delete(&self, name: &str) {
        self.client()
            .delete(ResourceRef::new(&PODS, "default", name), &DeleteOptions::default())
            .await
            .unwrap();
    }

    fn log(&self, pod: &str, uid: &str, container: &str) -> String {
        let dir = self.dir.path().join("node/logs").join(format!("default_{pod}_{uid}"));
        std::fs::read_to_string(dir.join(container).join("0.log")).unwrap_or_default()
    }
}

/// Removes the node's cgroups above its pods: empty by now.
fn remove_cgroups(name: &str) {
    for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let root = controller.path().join(name);
        for dir in [root.join("burstable"), root.join("besteffort"), root] {
            if dir.exists() {
                std::fs::remove_dir(&dir).unwrap_or_else(|e| eprintln!("{} stays: {e}", dir.display()));
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let result = cleanup_all(&self.dir.path().join("rt"), &self.dir.path().join("run"));
        remove_cgroups(&self.name());
        if !std::thread::panicking() {
            result.unwrap();
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "a mount is left");
        }
    }
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

fn sh(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox:test", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_on_real_containers() {
    let mut m = Machine::new();
    m.start().await;
    let archive = m.dir.path().join("image.tar");
    image(&archive);
    m.runtime().import_image(archive).await.unwrap();
    m.api
        .put(
            &Gvr::new("", "v1", "configmaps"),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}, "data": {"a": "one"}}),
        )
        .unwrap();

    // Two containers with a shared volume, an init container, configuration and a probe.
    let mut writer = sh(
        "writer",
        "echo $GREETING from $POD > /shared/f; echo said; echo last > /dev/termination-log; exec sleep 100000",
    );
    writer["env"] = json!([
        {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]);
    writer["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}, {"name": "cm", "mountPath": "/cm", "readOnly": true}]);
    writer["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}});
    writer["lifecycle"] = json!({"preStop": {"exec": {"command": ["sh", "-c", "exit 0"]}}});
    let mut reader = sh(
        "reader",
        "while ! busybox test -s /sub/f; do busybox sleep 0.05; done; busybox cat /sub/f /etc/hosts; busybox touch /tmp-ready; exec sleep 100000",
    );
    reader["volumeMounts"] = json!([{"name": "root", "mountPath": "/sub", "subPath": "dir"}]);
    reader["readinessProbe"] =
        json!({"exec": {"command": ["busybox", "test", "-e", "/tmp-ready"]}, "periodSeconds": 1});
    writer["volumeMounts"][0]["name"] = json!("root");
    writer["volumeMounts"][0]["subPath"] = json!("dir");
    let mut init = sh("init", "echo prepared > /shared/init");
    init["volumeMounts"] = json!([{"name": "root", "mountPath": "/shared"}]);
    let uid = m.create(
        "both",
        json!({"terminationGracePeriodSeconds": 1, "initContainers": [init], "containers": [writer, reader],
            "volumes": [{"name": "root", "emptyDir": {}}, {"name": "cm", "configMap": {"name": "m"}}]}),
    );
    let pod = m.until("both", "both containers are ready", ready).await;
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    eventually("the reader has read", || m.log("both", &uid, "reader").contains("one from both"))
        .await
        .unwrap();
    assert!(m.log("both", &uid, "reader").contains("Kubernetes-managed hosts file"));
    assert!(m.log("both", &uid, "writer").contains("stdout F said"));

    // A container killed from outside comes back, with its last words.
    let id = |pod: &Value, at: usize| {
        let id = pod["status"]["containerStatuses"][at]["containerID"].as_str().unwrap();
        id.rsplit('/').next().unwrap().to_owned()
    };
    let pid = m.runtime().container_status(&id(&pod, 0)).await.unwrap().pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let pod = m
        .until("both", "it was restarted", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1 && ready(p)
        })
        .await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], last["message"].as_str().map(str::trim)), (&json!(137), Some("last")));

    // Agent and driver go and come back: nothing restarts, Ready does not flap.
    m.stop().await;
    m.start().await;
    eventually("the node is back", || {
        let lease = Gvr::new("coordination.k8s.io", "v1", "leases");
        m.api.peek(&lease, "kube-node-lease", "node-a").is_some()
    })
    .await
    .unwrap();
    let job =
        m.create("job", json!({"restartPolicy": "Never", "containers": [sh("j", "echo done; exit 3")]}));
    m.until("job", "the job has failed", |p| p["status"]["phase"] == "Failed").await;
    assert!(m.log("job", &job, "j").contains("done"), "logs stay");
    let after = m.pod("both");
    assert_eq!(id(&after, 0), id(&pod, 0));
    assert_eq!(after["status"]["conditions"], pod["status"]["conditions"]);
    assert_eq!(after["status"]["containerStatuses"], pod["status"]["containerStatuses"]);

    // The supervisor dies: a new sandbox, new containers.
    let sandboxes = m.runtime().list_pod_sandbox(PodSandboxFilter::default()).await.unwrap();
    let sandbox = sandboxes.iter().find(|s| s.metadata.name == "both").unwrap();
    let run = m.dir.path().join("run/sandboxes").join(&sandbox.id).join("shim.pid");
    let text = std::fs::read_to_string(run).unwrap();
    let pid = text.split_whitespace().next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    m.until("both", "it was rebuilt", |p| {
        p["status"]["containerStatuses"][1]["restartCount"].as_u64() >= Some(1) && ready(p)
    })
    .await;

    m.delete("both").await;
    m.delete("job").await;
    eventually("they are gone", || m.pod("both").is_null() && m.pod("job").is_null()).await.unwrap();

    // How fast it is (reported, not judged).
    let simple = || json!({"terminationGracePeriodSeconds": 0, "containers": [sh("c", "exec sleep 100000")]});
    let mut times = Vec::new();
    for i in 0..10 {
        let began = Instant::now();
        m.create(&format!("s{i}"), simple());
        m.until(&format!("s{i}"), "it is ready", ready).await;
        times.push(began.elapsed());
    }
    times.sort();
    let began = Instant::now();
    for i in 0..20 {
        m.create(&format!("b{i}"), simple());
    }
    for i in 0..20 {
        m.until(&format!("b{i}"), "it is ready", ready).await;
    }
    println!("created to Ready: p50 {:?}, max {:?}; 20 at once {:?}", times[5], times[9], began.elapsed());
    let names: Vec<String> =
        (0..10).map(|i| format!("s{i}")).chain((0..20).map(|i| format!("b{i}"))).collect();
    for name in &names {
        m.delete(name).await;
    }
    eventually("all are gone", || names.iter().all(|n| m.pod(n).is_null())).await.unwrap();
    let runtime = m.runtime().clone();
    orlop_testkit::eventually_async("nothing is left", || async {
        runtime.list_containers(ContainerFilter::default()).await.unwrap().is_empty()
            && runtime.list_pod_sandbox(PodSandboxFilter::default()).await.unwrap().is_empty()
    })
    .await
    .unwrap();
    assert!(
        std::fs::read_dir(m.dir.path().join("node/pods")).unwrap().next().is_none(),
        "no pod folder is left"
    );
    m.stop().await;
}
