//! Carries out what the engine decided: bindings, writes of plugins, evictions, conditions, events.

use crate::engine::{Action, BindResult, PodRef};
use crate::events::{Occurrence, Recorder};
use crate::inbox::{Inbox, Report};
use crate::scheduler::Clients;
use bytes::Bytes;
use jiff::Timestamp;
use orlop_apimachinery::{Gvr, Reason};
use orlop_client::write::Write;
use orlop_client::{ApiClient, ApiError, DeleteOptions, PatchType, ResourceRef, WriteOptions};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// `pods`
pub(crate) static PODS: Gvr = Gvr::new("", "v1", "pods");
/// `nodes`
pub(crate) static NODES: Gvr = Gvr::new("", "v1", "nodes");

/// Bindings under way at the API server.
const CONCURRENT_BINDINGS: usize = 64;
/// Condition patches under way.
const CONCURRENT_PATCHES: usize = 16;

/// Who carries out actions.
pub(crate) struct Hands {
    pub(crate) client: Arc<dyn ApiClient>,
    pub(crate) clients: Clients,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) recorder: Recorder,
    pub(crate) tracker: TaskTracker,
}

impl Hands {
    /// Carries out actions until `cancel`, or until the sender is gone. What has begun is brought to its end on
    /// the tracker.
    pub(crate) async fn run(self, mut actions: mpsc::Receiver<Vec<Action>>, cancel: CancellationToken) {
        let bindings = Arc::new(Semaphore::new(CONCURRENT_BINDINGS));
        let patches = Arc::new(Semaphore::new(CONCURRENT_PATCHES));
        loop {
            let some = tokio::select! {
                () = cancel.cancelled() => return,
                some = actions.recv() => some,
            };
            let Some(some) = some else { return };
            for action in some {
                if let Action::Event { pod, normal, reason, action, message } = action {
                    let at = Timestamp::now();
                    self.recorder.record(Occurrence { pod, normal, reason, action, message, at });
                    continue;
                }
                let permits = match &action {
                    Action::Bind { .. } | Action::Write { .. } => &bindings,
                    _ => &patches,
                };
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                self.begin(action, permit);
            }
        }
    }

    fn begin(&self, action: Action, permit: OwnedSemaphorePermit) {
        let (client, inbox) = (self.client.clone(), self.inbox.clone());
        match action {
            Action::Bind { pod, node } => {
                self.tracker.spawn(async move {
                    let result = bind(client.as_ref(), &pod, &node).await;
                    if let BindResult::Failed(error) = &result {
                        let (namespace, name) = (&*pod.namespace, &*pod.name);
                        tracing::warn!(namespace, name, node = %node, %error, "binding failed");
                    }
                    drop(permit);
                    inbox.report(Report::Bound(pod.uid, node, result));
                });
            }
            Action::Write { pod, plugin, user, writes, ticket } => {
                let client = (self.clients)(&user);
                self.tracker.spawn(async move {
                    let result = write_all(client.as_ref(), &plugin, &writes).await;
                    drop(permit);
                    inbox.report(Report::Written(pod.uid, ticket, result));
                });
            }
            Action::Condition { pod, reason, message, nominated } => {
                self.tracker.spawn(async move {
                    let status = unscheduled(&pod, reason, &message, nominated.as_deref());
                    patch_status(client.as_ref(), &pod, status).await;
                    drop(permit);
                });
            }
            Action::Withdraw { pod } => {
                self.tracker.spawn(async move {
                    patch_status(client.as_ref(), &pod, json!({ "nominatedNodeName": null })).await;
                    drop(permit);
                });
            }
            Action::Evict { pod, by, message } => {
                let recorder = self.recorder.clone();
                self.tracker.spawn(async move {
                    let evicted = evict(client.as_ref(), &pod).await;
                    drop(permit);
                    if let Err(error) = evicted {
                        let (namespace, name) = (&*pod.namespace, &*pod.name);
                        tracing::warn!(namespace, name, %error, "pod could not be preempted");
                        inbox.report(Report::NotEvicted(pod.uid, by));
                        return;
                    }
                    let (reason, action) = ("Preempted", "Preempting");
                    recorder.record(Occurrence {
                        pod,
                        normal: true,
                        reason,
                        action,
                        message,
                        at: Timestamp::now(),
                    });
                });
            }
            Action::Event { .. } => {}
        }
    }
}

/// Does the writes of a plugin, in order.
async fn write_all(client: &dyn ApiClient, plugin: &str, writes: &[Vec<u8>]) -> Result<(), String> {
    for write in writes {
        let write: Write = serde_json::from_slice(write)
            .map_err(|error| format!("the plugin asks for a malformed write: {error}"))?;
        match write.perform(client, plugin).await {
            Ok(_) => {}
            Err(error) if write.ignores(&error) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// Marks a pod as disrupted and deletes it, with the time that it wants for its end.
async fn evict(client: &dyn ApiClient, pod: &PodRef) -> Result<(), ApiError> {
    let mut condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("{}: preempting to accommodate a higher priority pod", pod.scheduler),
        "lastProbeTime": null,
        "lastTransitionTime": seconds(Timestamp::now()),
    });
    observed(pod, &mut condition);
    let body = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
    let at = ResourceRef::new(&PODS, &pod.namespace, &pod.name);
    let gone = |error: &ApiError| error.is_not_found() || error.is_conflict();
    let (patch, options) = (PatchType::StrategicMerge, WriteOptions::default());
    match client.patch(at.subresource("status"), patch, bytes_of(&body), &options).await {
        // The name is free, or somebody else's by now.
        Err(error) if gone(&error) => return Ok(()),
        patched => _ = patched?,
    }
    let options = DeleteOptions { uid: pod.uid.to_string(), ..DeleteOptions::default() };
    match client.delete(at, &options).await {
        Err(error) if gone(&error) => Ok(()),
        deleted => deleted,
    }
}

/// `POST pods/binding`.
async fn bind(client: &dyn ApiClient, pod: &PodRef, node: &str) -> BindResult {
    // Names and uids need no escapes; this is the hot path.
    let body = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Binding\",\"metadata\":{{\"namespace\":\"{}\",\"name\":\"{}\",\"uid\":\"{}\"}},\
         \"target\":{{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"name\":\"{node}\"}}}}",
        pod.namespace, pod.name, pod.uid
    );
    let at = ResourceRef::new(&PODS, &pod.namespace, &pod.name);
    let written = client.create(at.subresource("binding"), Bytes::from(body), &WriteOptions::default()).await;
    match written {
        Ok(_) => BindResult::Bound,
        Err(error) if error.is_not_found() => BindResult::Gone,
        Err(error @ ApiError::Transport { .. }) => look(client, pod, node, error).await,
        Err(error) if error.is(Reason::Conflict) => look(client, pod, node, error).await,
        Err(error) => BindResult::Failed(error.to_string()),
    }
}

/// The write may have happened all the same: asks what the API server has.
async fn look(client: &dyn ApiClient, pod: &PodRef, node: &str, error: ApiError) -> BindResult {
    match client.get(ResourceRef::new(&PODS, &pod.namespace, &pod.name)).await {
        Ok(found) if found.uid() != pod.uid.as_ref() => BindResult::Gone,
        Ok(found) => {
            let value = found.to_value();
            match value.pointer("/spec/nodeName").and_then(Value::as_str) {
                Some(bound) if bound == node => BindResult::Bound,
                _ => BindResult::Failed(error.to_string()),
            }
        }
        Err(e) if e.is_not_found() => BindResult::Gone,
        // Nothing is known. The informer brings the truth; until then the pod is tried again, and a
        // second binding of a bound pod is refused.
        Err(_) => BindResult::Failed(error.to_string()),
    }
}

/// The part of a pod's status that says why it has no node.
fn unscheduled(pod: &PodRef, reason: &str, message: &str, nominated: Option<&str>) -> Value {
    let mut condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": reason,
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": seconds(Timestamp::now()),
    });
    observed(pod, &mut condition);
    let mut status = json!({ "conditions": [condition] });
    if let (Some(node), Value::Object(status)) = (nominated, &mut status) {
        status.insert("nominatedNodeName".to_owned(), json!(node));
    }
    status
}

fn observed(pod: &PodRef, condition: &mut Value) {
    if let (true, Value::Object(map)) = (pod.generation > 0, condition) {
        map.insert("observedGeneration".to_owned(), json!(pod.generation));
    }
}

async fn patch_status(client: &dyn ApiClient, pod: &PodRef, status: Value) {
    let body = json!({"metadata": {"uid": pod.uid}, "status": status});
    let at = ResourceRef::new(&PODS, &pod.namespace, &pod.name).subresource("status");
    let options = WriteOptions::default();
    let patched = client.patch(at, PatchType::StrategicMerge, bytes_of(&body), &options).await;
    match patched {
        Err(error) if !error.is_not_found() && !error.is_conflict() => {
            let (namespace, name) = (&*pod.namespace, &*pod.name);
            tracing::warn!(namespace, name, %error, "the status of the pod could not be set");
        }
        _ => {}
    }
}

/// RFC 3339 with whole seconds, as `metav1.Time`.
pub(crate) fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(crate) fn bytes_of(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
