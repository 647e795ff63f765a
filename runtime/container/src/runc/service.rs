//! The driver as CRI's services.
//!
//! Calls that change something run to their end even when the caller goes away.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use orlop_shim::protocol::Request;

use super::records::save;
use super::{RuncRuntime, blocking, container, exec, facts, sandbox, shim, stats};
use crate::cri::*;
use crate::error::RuntimeError;
use crate::image::archive;

impl RuncRuntime {
    async fn to_the_end<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let task = self.inner.config.tracker.spawn(work);
        task.await.map_err(|e| RuntimeError::Internal(e.to_string()))?
    }
}

fn selects(
    selector: &std::collections::BTreeMap<String, String>,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait]
impl Runtime for RuncRuntime {
    async fn version(&self) -> Result<VersionResponse> {
        let inner = self.inner.clone();
        let (_, version) = blocking(move || inner.runc()).await?;
        Ok(VersionResponse {
            version: "v1".to_owned(),
            runtime_name: "runc".to_owned(),
            runtime_version: version,
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self) -> Result<RuntimeStatus> {
        let inner = self.inner.clone();
        let usable = blocking(move || {
            inner.runc()?;
            facts::check_overlay()?;
            if inner.config.shim.is_file() {
                Ok(())
            } else {
                let shim = inner.config.shim.display().to_string();
                Err(RuntimeError::Unavailable(format!("the pod supervisor {shim} is missing")))
            }
        })
        .await;
        let runtime = match usable {
            Ok(()) => RuntimeCondition {
                r#type: RUNTIME_READY.to_owned(),
                status: true,
                reason: String::new(),
                message: String::new(),
            },
            Err(error) => RuntimeCondition {
                r#type: RUNTIME_READY.to_owned(),
                status: false,
                reason: "RuntimeNotReady".to_owned(),
                message: error.to_string(),
            },
        };
        let ready = match &self.inner.config.network {
            Some(network) => network.ready().await.map_err(|e| e.to_string()),
            None => Ok(()),
        };
        let network = RuntimeCondition {
            r#type: NETWORK_READY.to_owned(),
            status: ready.is_ok(),
            reason: if ready.is_ok() { String::new() } else { "NetworkPluginNotReady".to_owned() },
            message: ready.err().unwrap_or_default(),
        };
        Ok(RuntimeStatus { conditions: vec![runtime, network] })
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        let inner = self.inner.clone();
        self.to_the_end(async move { sandbox::run(&inner, config).await }).await
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<()> {
        let (inner, id) = (self.inner.clone(), sandbox_id.to_owned());
        self.to_the_end(async move { sandbox::stop(&inner, &id).await }).await
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<()> {
        let (inner, id) = (self.inner.clone(), sandbox_id.to_owned());
        self.to_the_end(async move { sandbox::remove(&inner, &id).await }).await
    }

    async fn pod_sandbox_status(&self, sandbox_id: &str) -> Result<PodSandboxStatus> {
        let found = self.inner.sandbox(sandbox_id)?;
        Ok(sandbox::status(&self.inner, &found))
    }

    async fn list_pod_sandbox(&self, filter: PodSandboxFilter) -> Result<Vec<PodSandbox>> {
        let all: Vec<_> = self.inner.sandboxes.lock().values().cloned().collect();
        let statuses = all.iter().map(|s| sandbox::status(&self.inner, s));
        let wanted = statuses.filter(|s| {
            filter.id.as_ref().is_none_or(|id| *id == s.id)
                && filter.state.is_none_or(|state| state == s.state)
                && selects(&filter.label_selector, &s.labels)
        });
        Ok(wanted
            .map(|s| PodSandbox {
                id: s.id,
                metadata: s.metadata,
                state: s.state,
                created_at: s.created_at,
                labels: s.labels,
                annotations: s.annotations,
            })
            .collect())
    }

    async fn update_pod_sandbox_resources(
        &self,
        sandbox_id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let found = self.inner.sandbox(sandbox_id)?;
        let inner = self.inner.clone();
        let _turn = found.turn.lock().await;
        let mut record = found.record.lock().clone();
        container::merge(&mut record.config.resources, &resources);
        let saved = record.clone();
        blocking(move || {
            inner.cgroups.apply(&saved.cgroup, &resources)?;
            save(&inner.folders.sandbox_record(&saved.id), &saved)
        })
        .await?;
        *found.record.lock() = record;
        Ok(())
    }

    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let (inner, id) = (self.inner.clone(), sandbox_id.to_owned());
        self.to_the_end(async move { container::create(&inner, &id, config).await }).await
    }

    async fn start_container(&self, container_id: &str) -> Result<()> {
        let (inner, id) = (self.inner.clone(), container_id.to_owned());
        self.to_the_end(async move { container::start(&inner, &id).await }).await
    }

    async fn stop_container(&self, container_id: &str, timeout: Duration) -> Result<()> {
        container::stop(&self.inner, container_id, timeout).await
    }

    async fn remove_container(&self, container_id: &str) -> Result<()> {
        let (inner, id) = (self.inner.clone(), container_id.to_owned());
        self.to_the_end(async move { container::remove(&inner, &id).await }).await
    }

    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<Container>> {
        let all: Vec<_> = self.inner.containers.lock().values().cloned().collect();
        let mut found = Vec::new();
        for entry in all {
            let state = container::state(&entry);
            let record = entry.record.lock();
            if filter.id.as_ref().is_none_or(|id| *id == record.id)
                && filter.state.is_none_or(|wanted| wanted == state)
                && filter.pod_sandbox_id.as_ref().is_none_or(|id| *id == record.sandbox_id)
                && selects(&filter.label_selector, &record.config.labels)
            {
                found.push(Container {
                    id: record.id.clone(),
                    pod_sandbox_id: record.sandbox_id.clone(),
                    metadata: record.config.metadata.clone(),
                    image: record.config.image.clone(),
                    image_ref: record.image_ref.clone(),
                    state,
                    created_at: record.created_at,
                    labels: record.config.labels.clone(),
                    annotations: record.config.annotations.clone(),
                });
            }
        }
        Ok(found)
    }

    async fn container_status(&self, container_id: &str) -> Result<ContainerStatus> {
        let found = self.inner.container(container_id)?;
        Ok(container::status(&found))
    }

    async fn update_container_resources(
        &self,
        container_id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        container::update(&self.inner, container_id, resources).await
    }

    async fn reopen_container_log(&self, container_id: &str) -> Result<()> {
        let sandbox_id = self.inner.container(container_id)?.sandbox_id();
        let run = self.inner.folders.sandbox_run(&sandbox_id);
        shim::call(&run, &Request::Reopen { id: container_id.to_owned() }, &[]).await.map(drop)
    }

    async fn exec_sync(
        &self,
        container_id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecSyncResponse> {
        exec::exec_sync(&self.inner, container_id, cmd, timeout).await
    }

    async fn exec(&self, request: ExecRequest) -> Result<ExecSession> {
        exec::exec(&self.inner, request).await
    }

    async fn attach(&self, request: AttachRequest) -> Result<ExecSession> {
        exec::attach(&self.inner, request).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Connection>> {
        exec::port_forward(&self.inner, sandbox_id, port).await
    }

    async fn container_stats(&self, container_id: &str) -> Result<ContainerStats> {
        let found = self.inner.container(container_id)?;
        let (inner, id) = (self.inner.clone(), container_id.to_owned());
        blocking(move || {
            stats::container(&inner, &found)
                .ok_or_else(|| RuntimeError::FailedPrecondition(format!("container \"{id}\" is not running")))
        })
        .await
    }

    async fn list_container_stats(&self, filter: ContainerFilter) -> Result<Vec<ContainerStats>> {
        let listed = self.list_containers(filter).await?;
        let inner = self.inner.clone();
        blocking(move || {
            let all = listed.iter().filter_map(|c| stats::container(&inner, &*inner.container(&c.id).ok()?));
            Ok(all.collect())
        })
        .await
    }

    async fn pod_sandbox_stats(&self, sandbox_id: &str) -> Result<PodSandboxStats> {
        let found = self.inner.sandbox(sandbox_id)?;
        let inner = self.inner.clone();
        blocking(move || Ok(stats::sandbox(&inner, &found))).await
    }

    async fn list_pod_sandbox_stats(&self, filter: PodSandboxFilter) -> Result<Vec<PodSandboxStats>> {
        let listed = self.list_pod_sandbox(filter).await?;
        let inner = self.inner.clone();
        blocking(move || {
            let all =
                listed.iter().filter_map(|s| Some(stats::sandbox(&inner, &*inner.sandbox(&s.id).ok()?)));
            Ok(all.collect())
        })
        .await
    }

    fn get_container_events(&self) -> BoxStream<'static, ContainerEvent> {
        let events = self.inner.events.subscribe();
        futures::stream::unfold(events, |mut events| async move {
            // Lagging ends the stream, as losing the connection would.
            events.recv().await.ok().map(|event| (event, events))
        })
        .boxed()
    }
}

#[async_trait]
impl ImageService for RuncRuntime {
    async fn list_images(&self, filter: Option<ImageSpec>) -> Result<Vec<Image>> {
        match filter {
            Some(wanted) => Ok(self.image_status(&wanted).await?.into_iter().collect()),
            None => Ok(self.inner.store.list().iter().map(|i| i.to_cri()).collect()),
        }
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>> {
        Ok(self.inner.store.find(&image.image)?.map(|i| i.to_cri()))
    }

    async fn pull_image(&self, image: &ImageSpec, auth: Option<AuthConfig>) -> Result<String> {
        let (inner, image) = (self.inner.clone(), image.image.clone());
        self.to_the_end(async move { inner.puller.pull(&image, auth).await }).await
    }

    async fn import_image(&self, archive: PathBuf) -> Result<Vec<String>> {
        let store = self.inner.store.clone();
        blocking(move || archive::import(&store, &archive)).await
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<()> {
        let (store, image) = (self.inner.store.clone(), image.image.clone());
        blocking(move || store.remove(&image)).await
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo> {
        let inner = self.inner.clone();
        blocking(move || Ok(stats::image_fs(&inner))).await
    }
}
