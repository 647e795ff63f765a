//! Events about pods and the node, in upstream's words, counted instead of repeated.
//!
//! Sent by one task from a bounded queue: an event that finds the queue full is dropped, because
//! no pod may wait for its events.

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, PatchType, ResourceRef, WriteOptions};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

static EVENTS: Gvr = Gvr::new("", "v1", "events");
/// Events of the same kind about the same thing are counted while this many are remembered.
const REMEMBERED: usize = 1024;

/// `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// What an event is about: `involvedObject`.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    namespace: String,
    name: String,
    reference: Value,
}

impl Subject {
    /// A pod, or one of its containers (`spec.containers{name}`).
    pub(crate) fn pod(pod: &Pod, uid: &str, field_path: Option<String>) -> Self {
        let meta = &pod.metadata;
        let (namespace, name) =
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let mut reference = json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid
        });
        if let Some(version) = &meta.resource_version {
            reference["resourceVersion"] = json!(version);
        }
        if let Some(path) = field_path {
            reference["fieldPath"] = json!(path);
        }
        Self { namespace, name, reference }
    }

    /// The node.
    pub(crate) fn node(name: &str) -> Self {
        let reference = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": name});
        Self { namespace: "default".into(), name: name.to_owned(), reference }
    }
}

struct Event {
    subject: Subject,
    severity: Severity,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Sends events; cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// A recorder, and the future that sends what it records until `cancel`.
    pub(crate) fn new(
        client: Arc<dyn ApiClient>,
        node: &str,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, inbox) = mpsc::channel(1000);
        let recorder = Self { queue, dropped: Arc::default() };
        (recorder, send_all(client, node.to_owned(), inbox, cancel))
    }

    pub(crate) fn record(
        &self,
        subject: Subject,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let event = Event { subject, severity, reason, message: message.into(), at: Timestamp::now() };
        if self.queue.try_send(event).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(dropped, "an event was dropped");
        }
    }
}

struct Known {
    name: String,
    count: u64,
    used: u64,
}

async fn send_all(
    client: Arc<dyn ApiClient>,
    node: String,
    mut inbox: mpsc::Receiver<Event>,
    cancel: CancellationToken,
) {
    let mut known: HashMap<u64, Known> = HashMap::new();
    let mut tick = 0_u64;
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = inbox.recv() => match event { Some(event) => event, None => return },
        };
        tick += 1;
        let mut hasher = DefaultHasher::new();
        (event.severity, event.reason, &event.message, event.subject.reference.to_string()).hash(&mut hasher);
        let key = hasher.finish();
        if known.len() > REMEMBERED {
            known.retain(|_, k| k.used + (REMEMBERED as u64) / 2 > tick);
        }
        let sent = match known.get_mut(&key) {
            Some(k) => {
                k.count += 1;
                k.used = tick;
                repeat(client.as_ref(), &event, k).await
            }
            None => false,
        };
        if !sent && let Some(name) = first(client.as_ref(), &event, &node).await {
            known.insert(key, Known { name, count: 1, used: tick });
        }
    }
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn repeat(client: &dyn ApiClient, event: &Event, known: &Known) -> bool {
    let patch = json!({"count": known.count, "lastTimestamp": seconds(event.at)});
    let at = ResourceRef::new(&EVENTS, &event.subject.namespace, &known.name);
    let body = Bytes::from(patch.to_string());
    client.patch(at, PatchType::StrategicMerge, body, &WriteOptions::default()).await.is_ok()
}

async fn first(client: &dyn ApiClient, event: &Event, node: &str) -> Option<String> {
    let name = format!("{}.{:x}", event.subject.name, event.at.as_nanosecond());
    let body = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": event.subject.namespace},
        "involvedObject": event.subject.reference,
        "type": match event.severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
        "reason": event.reason,
        "message": event.message.chars().take(1024).collect::<String>(),
        "source": {"component": "kubelet", "host": node},
        "reportingComponent": "kubelet", "reportingInstance": node,
        "firstTimestamp": seconds(event.at), "lastTimestamp": seconds(event.at), "count": 1,
        "eventTime": null
    });
    let at = ResourceRef::new(&EVENTS, &event.subject.namespace, "");
    match client.create(at, Bytes::from(body.to_string()), &WriteOptions::default()).await {
        Ok(_) => Some(name),
        Err(error) => {
            tracing::debug!(reason = event.reason, %error, "an event could not be sent");
            None
        }
    }
}
