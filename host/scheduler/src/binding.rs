//! Carries out what the engine decided: bindings, conditions, events.

use crate::engine::{Action, BindResult, PodRef};
use crate::events::{Occurrence, Recorder};
use crate::inbox::Inbox;
use bytes::Bytes;
use jiff::Timestamp;
use orlop_apimachinery::{Gvr, Reason};
use orlop_client::{ApiClient, ApiError, PatchType, ResourceRef, WriteOptions};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
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
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) recorder: Recorder,
    pub(crate) tracker: TaskTracker,
}

impl Hands {
    /// Carries out actions until `cancel`, or until the sender is gone. A binding that has begun is
    /// brought to its end on the tracker.
    pub(crate) async fn run(self, mut actions: mpsc::Receiver<Action>, cancel: CancellationToken) {
        let bindings = Arc::new(Semaphore::new(CONCURRENT_BINDINGS));
        let patches = Arc::new(Semaphore::new(CONCURRENT_PATCHES));
        loop {
            let action = tokio::select! {
                () = cancel.cancelled() => return,
                action = actions.recv() => action,
            };
            let Some(action) = action else { return };
            match action {
                Action::Bind { pod, node } => {
                    let Ok(permit) = bindings.clone().acquire_owned().await else { return };
                    let (client, inbox) = (self.client.clone(), self.inbox.clone());
                    self.tracker.spawn(async move {
                        let result = bind(client.as_ref(), &pod, &node).await;
                        if let BindResult::Failed(error) = &result {
                            let (namespace, name) = (&*pod.namespace, &*pod.name);
                            tracing::warn!(namespace, name, node = %node, %error, "binding failed");
                        }
                        inbox.bound(pod.uid, node, result);
                        drop(permit);
                    });
                }
                Action::Condition { pod, reason, message } => {
                    let Ok(permit) = patches.clone().acquire_owned().await else { return };
                    let client = self.client.clone();
                    self.tracker.spawn(async move {
                        patch_condition(client.as_ref(), &pod, reason, &message).await;
                        drop(permit);
                    });
                }
                Action::Event { pod, normal, reason, action, message } => {
                    self.recorder.record(Occurrence {
                        pod,
                        normal,
                        reason,
                        action,
                        message,
                        at: Timestamp::now(),
                    });
                }
            }
        }
    }
}

/// `POST pods/binding`.
async fn bind(client: &dyn ApiClient, pod: &PodRef, node: &str) -> BindResult {
    let body = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let at = ResourceRef::new(&PODS, &pod.namespace, &pod.name);
    let written = client.create(at.subresource("binding"), bytes_of(&body), &WriteOptions::default()).await;
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

async fn patch_condition(client: &dyn ApiClient, pod: &PodRef, reason: &str, message: &str) {
    let mut condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": reason,
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": seconds(Timestamp::now()),
    });
    if let (true, Value::Object(map)) = (pod.generation > 0, &mut condition) {
        map.insert("observedGeneration".to_owned(), json!(pod.generation));
    }
    let body = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
    let at = ResourceRef::new(&PODS, &pod.namespace, &pod.name).subresource("status");
    let options = WriteOptions::default();
    let patched = client.patch(at, PatchType::StrategicMerge, bytes_of(&body), &options).await;
    match patched {
        Err(error) if !error.is_not_found() && !error.is_conflict() => {
            let (namespace, name) = (&*pod.namespace, &*pod.name);
            tracing::warn!(namespace, name, %error, "pod condition could not be set");
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
