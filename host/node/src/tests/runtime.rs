//! A runtime that keeps containers in a map, and lets a test end them.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use orlop_container::cri::*;
use orlop_container::{ImageService, Runtime, RuntimeError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

struct FakeContainer {
    sandbox: String,
    config: ContainerConfig,
    state: ContainerState,
    started_at: i64,
    finished_at: i64,
    exit_code: i32,
    log: PathBuf,
}

struct FakeSandbox {
    config: PodSandboxConfig,
    ready: bool,
}

#[derive(Default)]
struct State {
    next: u32,
    sandboxes: BTreeMap<String, FakeSandbox>,
    containers: BTreeMap<String, FakeContainer>,
    images: BTreeSet<String>,
    calls: Vec<String>,
    exec: BTreeMap<String, i32>,
    most_live: BTreeMap<(String, String), usize>,
}

#[derive(Clone)]
pub(crate) struct FakeRuntime {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<ContainerEvent>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        let state = State { images: BTreeSet::from(["busybox:1".to_owned()]), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), events: broadcast::channel(1024).0 }
    }
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

fn missing<T>(kind: &'static str, id: &str) -> Result<T> {
    Err(RuntimeError::NotFound { kind, id: id.to_owned() })
}

impl FakeRuntime {
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    pub(crate) fn count(&self, prefix: &str) -> usize {
        self.state.lock().calls.iter().filter(|c| c.starts_with(prefix)).count()
    }

    /// What `exec_sync` of this command answers from now on.
    pub(crate) fn exec_exits(&self, command: &str, code: i32) {
        self.state.lock().exec.insert(command.to_owned(), code);
    }

    pub(crate) fn running(&self, name: &str) -> Vec<String> {
        let state = self.state.lock();
        state
            .containers
            .iter()
            .filter(|(_, c)| c.config.metadata.name == name && c.state == ContainerState::Running)
            .map(|(id, _)| id.clone())
            .collect()
    }

    pub(crate) fn config_of(&self, id: &str) -> ContainerConfig {
        self.state.lock().containers[id].config.clone()
    }

    /// Most instances of one container that ever ran at a time.
    pub(crate) fn most_live(&self) -> usize {
        self.state.lock().most_live.values().copied().max().unwrap_or(0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.containers.is_empty() && state.sandboxes.is_empty()
    }

    pub(crate) fn exit(&self, id: &str, code: i32) {
        let sandbox = {
            let mut state = self.state.lock();
            let c = state.containers.get_mut(id).unwrap();
            if c.state == ContainerState::Exited {
                return;
            }
            c.state = ContainerState::Exited;
            c.exit_code = code;
            c.finished_at = now();
            c.sandbox.clone()
        };
        self.tell(&sandbox, id, ContainerEventType::Stopped);
    }

    /// The sandbox's supervisor dies, and with it its containers.
    pub(crate) fn kill_sandboxes(&self) {
        let ids: Vec<String> = self.state.lock().sandboxes.keys().cloned().collect();
        for id in ids {
            let of: Vec<String> = {
                let mut state = self.state.lock();
                state.sandboxes.get_mut(&id).unwrap().ready = false;
                state.containers.iter().filter(|(_, c)| c.sandbox == id).map(|(i, _)| i.clone()).collect()
            };
            for container in of {
                self.exit(&container, 137);
            }
            self.tell(&id, &id, ContainerEventType::Stopped);
        }
    }

    fn tell(&self, sandbox: &str, id: &str, kind: ContainerEventType) {
        let Some(pod) = self.state.lock().sandboxes.get(sandbox).map(|s| s.config.metadata.clone()) else {
            return;
        };
        let _ = self.events.send(ContainerEvent {
            container_id: id.to_owned(),
            container_event_type: kind,
            created_at: now(),
            pod_sandbox_id: sandbox.to_owned(),
            pod,
        });
    }
}

#[async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(&self, _: Option<ImageSpec>) -> Result<Vec<Image>> {
        let names: Vec<String> = self.state.lock().images.iter().cloned().collect();
        let mut images = Vec::new();
        for name in names {
            images.extend(self.image_status(&ImageSpec::new(name)).await?);
        }
        Ok(images)
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>> {
        if image.image.contains(' ') {
            return Err(RuntimeError::InvalidImageName {
                image: image.image.clone(),
                message: "blank".into(),
            });
        }
        Ok(self.state.lock().images.contains(&image.image).then(|| Image {
            id: image.image.clone(),
            repo_tags: vec![image.image.clone()],
            repo_digests: Vec::new(),
            size: 1,
            uid: Some(0),
            username: String::new(),
            pinned: false,
        }))
    }

    async fn pull_image(&self, image: &ImageSpec, _: Option<AuthConfig>) -> Result<String> {
        self.state.lock().calls.push(format!("pull {}", image.image));
        if image.image.contains("missing") {
            return Err(RuntimeError::ImagePull { image: image.image.clone(), message: "not there".into() });
        }
        self.state.lock().images.insert(image.image.clone());
        Ok(image.image.clone())
    }

    async fn import_image(&self, _: PathBuf) -> Result<Vec<String>> {
        Err(RuntimeError::Unimplemented("import"))
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<()> {
        self.state.lock().images.remove(&image.image);
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo> {
        Ok(ImageFsInfo::default())
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<VersionResponse> {
        Ok(VersionResponse {
            version: "v1".into(),
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self) -> Result<RuntimeStatus> {
        let condition = |kind: &str| RuntimeCondition {
            r#type: kind.into(),
            status: true,
            reason: String::new(),
            message: String::new(),
        };
        Ok(RuntimeStatus { conditions: vec![condition(RUNTIME_READY), condition(NETWORK_READY)] })
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        let mut state = self.state.lock();
        state.next += 1;
        let id = format!("sandbox-{}", state.next);
        state.calls.push(format!("run_pod_sandbox {} {}", config.metadata.name, config.metadata.attempt));
        std::fs::create_dir_all(&config.log_directory).map_err(|e| RuntimeError::io("logs", e))?;
        state.sandboxes.insert(id.clone(), FakeSandbox { config, ready: true });
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.calls.push(format!("stop_pod_sandbox {id}"));
        if let Some(s) = state.sandboxes.get_mut(id) {
            s.ready = false;
        }
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.calls.push(format!("remove_pod_sandbox {id}"));
        state.sandboxes.remove(id);
        state.containers.retain(|_, c| c.sandbox != id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let state = self.state.lock();
        let Some(s) = state.sandboxes.get(id) else { return missing("sandbox", id) };
        Ok(PodSandboxStatus {
            id: id.to_owned(),
            metadata: s.config.metadata.clone(),
            state: if s.ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
            created_at: 1,
            ips: vec!["10.0.0.7".parse().unwrap()],
            namespace_options: NamespaceOption::default(),
            labels: s.config.labels.clone(),
            annotations: s.config.annotations.clone(),
            netns_path: None,
        })
    }

    async fn list_pod_sandbox(&self, _: PodSandboxFilter) -> Result<Vec<PodSandbox>> {
        let state = self.state.lock();
        Ok(state
            .sandboxes
            .iter()
            .map(|(id, s)| PodSandbox {
                id: id.clone(),
                metadata: s.config.metadata.clone(),
                state: if s.ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
                created_at: 1,
                labels: s.config.labels.clone(),
                annotations: s.config.annotations.clone(),
            })
            .collect())
    }

    async fn update_pod_sandbox_resources(&self, _: &str, _: LinuxContainerResources) -> Result<()> {
        Ok(())
    }

    async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<String> {
        let mut state = self.state.lock();
        let Some(s) = state.sandboxes.get(sandbox).filter(|s| s.ready) else {
            return missing("sandbox", sandbox);
        };
        for m in &config.mounts {
            if !m.host_path.exists() {
                return Err(RuntimeError::InvalidArgument(format!("{} is missing", m.host_path.display())));
            }
        }
        let log = s.config.log_directory.join(&config.log_path);
        state.next += 1;
        let id = format!("container-{}", state.next);
        state.calls.push(format!("create_container {} {}", config.metadata.name, config.metadata.attempt));
        let (sandbox, started_at, finished_at) = (sandbox.to_owned(), 0, 0);
        let state_ = ContainerState::Created;
        let c = FakeContainer { sandbox, config, state: state_, started_at, finished_at, exit_code: 0, log };
        state.containers.insert(id.clone(), c);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let fails = {
            let mut state = self.state.lock();
            let Some(c) = state.containers.get_mut(id) else { return missing("container", id) };
            let fails = c.config.command.first().is_some_and(|c| c == "fails");
            c.state = if fails { ContainerState::Exited } else { ContainerState::Running };
            c.started_at = now();
            if fails {
                (c.exit_code, c.finished_at) = (128, now());
            }
            std::fs::create_dir_all(c.log.parent().unwrap()).unwrap();
            std::fs::write(&c.log, "2026-01-01T00:00:01Z stdout F hello\n").unwrap();
            let (name, sandbox) = (c.config.metadata.name.clone(), c.sandbox.clone());
            let uid = state.sandboxes[&sandbox].config.metadata.uid.clone();
            let live = state
                .containers
                .values()
                .filter(|c| c.state == ContainerState::Running && c.config.metadata.name == name)
                .filter(|c| state.sandboxes.get(&c.sandbox).is_some_and(|s| s.config.metadata.uid == uid))
                .count();
            let most = state.most_live.entry((uid, name)).or_default();
            *most = (*most).max(live);
            fails
        };
        if fails {
            return Err(RuntimeError::Runc { context: "start", message: "no such file".into() });
        }
        // A command that is a number ends at once with that code.
        let code = self.config_of(id).command.first().and_then(|c| c.parse().ok());
        if let Some(code) = code {
            self.exit(id, code);
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, timeout: Duration) -> Result<()> {
        self.state.lock().calls.push(format!("stop_container {id} {}", timeout.as_secs()));
        if self.state.lock().containers.contains_key(id) {
            self.exit(id, 143);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.calls.push(format!("remove_container {id}"));
        state.containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self, _: ContainerFilter) -> Result<Vec<Container>> {
        let state = self.state.lock();
        Ok(state
            .containers
            .iter()
            .map(|(id, c)| Container {
                id: id.clone(),
                pod_sandbox_id: c.sandbox.clone(),
                metadata: c.config.metadata.clone(),
                image: c.config.image.clone(),
                image_ref: c.config.image.image.clone(),
                state: c.state,
                created_at: 1,
                labels: c.config.labels.clone(),
                annotations: c.config.annotations.clone(),
            })
            .collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let state = self.state.lock();
        let Some(c) = state.containers.get(id) else { return missing("container", id) };
        Ok(ContainerStatus {
            id: id.to_owned(),
            pod_sandbox_id: c.sandbox.clone(),
            metadata: c.config.metadata.clone(),
            state: c.state,
            created_at: 1,
            started_at: c.started_at,
            finished_at: c.finished_at,
            exit_code: c.exit_code,
            image: c.config.image.clone(),
            image_ref: c.config.image.image.clone(),
            image_id: c.config.image.image.clone(),
            reason: match (c.state, c.exit_code) {
                (ContainerState::Exited, 0) => "Completed".into(),
                (ContainerState::Exited, 128) => "StartError".into(),
                (ContainerState::Exited, _) => "Error".into(),
                _ => String::new(),
            },
            message: String::new(),
            labels: c.config.labels.clone(),
            annotations: c.config.annotations.clone(),
            mounts: c.config.mounts.clone(),
            log_path: c.log.clone(),
            resources: c.config.resources.clone(),
            user: None,
            pid: 1,
            stop_signal: "SIGTERM".into(),
        })
    }

    async fn update_container_resources(&self, _: &str, _: LinuxContainerResources) -> Result<()> {
        Ok(())
    }

    async fn reopen_container_log(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn exec_sync(&self, id: &str, cmd: Vec<String>, _: Duration) -> Result<ExecSyncResponse> {
        let mut state = self.state.lock();
        let command = cmd.join(" ");
        state.calls.push(format!("exec {id} {command}"));
        let exit_code = state.exec.get(&command).copied().unwrap_or(0);
        Ok(ExecSyncResponse { stdout: command.into_bytes(), stderr: Vec::new(), exit_code })
    }

    async fn exec(&self, request: ExecRequest) -> Result<ExecSession> {
        let (mut write, stdout) = tokio::io::duplex(1024);
        let text = request.cmd.join(" ");
        let exit = Box::pin(async move {
            use tokio::io::AsyncWriteExt;
            write.write_all(text.as_bytes()).await.map_err(|e| RuntimeError::io("write", e))?;
            Ok(7)
        });
        let stdout: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>> = Some(Box::new(stdout));
        Ok(ExecSession { stdin: None, stdout, stderr: None, resize: None, exit })
    }

    async fn attach(&self, _: AttachRequest) -> Result<ExecSession> {
        Err(RuntimeError::Unimplemented("attach"))
    }

    async fn port_forward(&self, _: &str, _: u16) -> Result<Box<dyn Connection>> {
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let (mut r, mut w) = tokio::io::split(theirs);
            let _ = tokio::io::copy(&mut r, &mut w).await;
        });
        Ok(Box::new(ours))
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        missing("container", id)
    }

    async fn list_container_stats(&self, _: ContainerFilter) -> Result<Vec<ContainerStats>> {
        Ok(Vec::new())
    }

    async fn pod_sandbox_stats(&self, id: &str) -> Result<PodSandboxStats> {
        missing("sandbox", id)
    }

    async fn list_pod_sandbox_stats(&self, _: PodSandboxFilter) -> Result<Vec<PodSandboxStats>> {
        Ok(Vec::new())
    }

    fn get_container_events(&self) -> BoxStream<'static, ContainerEvent> {
        let events = tokio_stream::wrappers::BroadcastStream::new(self.events.subscribe());
        events.filter_map(|e| async { e.ok() }).boxed()
    }
}
