//! Events about pods, kept few.
//!
//! As client-go does: the same event again raises the count of the first one; many events that
//! differ in their message alone become one "(combined from similar events)"; and one pod may cause
//! 25 at once and then one in five minutes. What does not get through is dropped: events are best
//! effort.

use crate::binding::{bytes_of, seconds};
use crate::engine::PodRef;
use jiff::{SignedDuration, Timestamp};
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, PatchType, ResourceRef, WriteOptions};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

static EVENTS: Gvr = Gvr::new("", "v1", "events");
/// Occurrences that wait; more are dropped.
const QUEUED: usize = 8192;
/// Writes under way.
const CONCURRENT: usize = 32;
/// Remembered pods; the memory is started afresh beyond it.
const REMEMBERED: usize = 4096;
/// Different messages of one reason before they are combined.
const SIMILAR: usize = 10;
/// Time after which events are no longer similar.
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_mins(10);
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// Something that happened to a pod.
#[derive(Clone, Debug)]
pub(crate) struct Occurrence {
    pub(crate) pod: PodRef,
    pub(crate) normal: bool,
    pub(crate) reason: &'static str,
    pub(crate) action: &'static str,
    pub(crate) message: Arc<str>,
    pub(crate) at: Timestamp,
}

/// Takes occurrences; cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Occurrence>,
}

impl Recorder {
    /// A recorder and the future that writes its events until `cancel`, then what is queued.
    pub(crate) fn new(
        client: Arc<dyn ApiClient>,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, occurrences) = mpsc::channel(QUEUED);
        (Self { queue }, write(client, occurrences, tracker, cancel))
    }

    /// Queues an occurrence; drops it where too many wait.
    pub(crate) fn record(&self, occurrence: Occurrence) {
        if self.queue.try_send(occurrence).is_err() {
            tracing::debug!("event dropped");
        }
    }
}

async fn write(
    client: Arc<dyn ApiClient>,
    mut occurrences: mpsc::Receiver<Occurrence>,
    tracker: TaskTracker,
    cancel: CancellationToken,
) {
    let mut correlator = Correlator::default();
    let permits = Arc::new(Semaphore::new(CONCURRENT));
    loop {
        let occurrence = tokio::select! {
            biased;
            occurrence = occurrences.recv() => occurrence,
            () = cancel.cancelled() => return,
        };
        let Some(occurrence) = occurrence else { return };
        let Some(event) = correlator.take(&occurrence) else { continue };
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let client = client.clone();
        tracker.spawn(async move {
            send(client.as_ref(), &occurrence.pod.namespace, &event).await;
            drop(permit);
        });
    }
}

/// An event as it is to be written.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    name: String,
    count: u32,
    body: Value,
}

async fn send(client: &dyn ApiClient, namespace: &str, event: &Event) {
    let options = WriteOptions::default();
    let mut failure = None;
    if event.count > 1 {
        let pick = |key: &str| event.body.get(key).cloned().unwrap_or(Value::Null);
        let patch = json!({
            "count": event.count, "message": pick("message"), "lastTimestamp": pick("lastTimestamp"),
        });
        let at = ResourceRef::new(&EVENTS, namespace, &event.name);
        match client.patch(at, PatchType::StrategicMerge, bytes_of(&patch), &options).await {
            Ok(_) => return,
            Err(error) if error.is_not_found() => {}
            Err(error) => failure = Some(error),
        }
    }
    if failure.is_none() {
        let at = ResourceRef::new(&EVENTS, namespace, "");
        failure = client.create(at, bytes_of(&event.body), &options).await.err();
    }
    if let Some(error) = failure {
        tracing::debug!(%error, "event could not be written");
    }
}

struct Series {
    name: String,
    count: u32,
    first: Timestamp,
}

#[derive(Default)]
struct Source {
    tokens: f64,
    refilled: Option<Timestamp>,
    /// By reason: messages since a time.
    similar: HashMap<&'static str, (Timestamp, HashSet<Arc<str>>)>,
    series: HashMap<(&'static str, Arc<str>), Series>,
}

/// Decides what becomes of an occurrence.
#[derive(Default)]
struct Correlator {
    sources: HashMap<Arc<str>, Source>,
}

impl Correlator {
    fn take(&mut self, o: &Occurrence) -> Option<Event> {
        let fresh_name = || format!("{}.{:x}", o.pod.name, o.at.as_nanosecond());
        if o.normal {
            // A pod is assigned once: nothing to count, nothing to remember.
            return Some(event(o, fresh_name(), 1, o.at, &o.message));
        }
        if self.sources.len() >= REMEMBERED && !self.sources.contains_key(&o.pod.uid) {
            self.sources.clear();
        }
        let source = self.sources.entry(o.pod.uid.clone()).or_default();
        let elapsed = source.refilled.map_or(f64::INFINITY, |t| o.at.duration_since(t).as_secs_f64());
        source.tokens = (source.tokens + elapsed.max(0.0) * REFILL_PER_SECOND).min(BURST);
        source.refilled = Some(o.at);
        if source.tokens < 1.0 {
            return None;
        }
        source.tokens -= 1.0;
        let (since, messages) = source.similar.entry(o.reason).or_insert_with(|| (o.at, HashSet::new()));
        if o.at.duration_since(*since) > SIMILAR_WITHIN {
            messages.clear();
        }
        *since = o.at;
        messages.insert(o.message.clone());
        let combined = messages.len() > SIMILAR;
        let key: Arc<str> = if combined { "".into() } else { o.message.clone() };
        let message: Arc<str> = if combined {
            format!("(combined from similar events): {}", o.message).into()
        } else {
            o.message.clone()
        };
        let series = source.series.entry((o.reason, key)).or_insert_with(|| Series {
            name: fresh_name(),
            count: 0,
            first: o.at,
        });
        series.count += 1;
        Some(event(o, series.name.clone(), series.count, series.first, &message))
    }
}

fn event(o: &Occurrence, name: String, count: u32, first: Timestamp, message: &str) -> Event {
    // Kubernetes cuts at 1,024 bytes.
    let mut end = message.len().min(1024);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let body = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": o.pod.namespace},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod",
            "namespace": o.pod.namespace, "name": o.pod.name, "uid": o.pod.uid,
            "resourceVersion": o.pod.resource_version.to_string(),
        },
        "type": if o.normal { "Normal" } else { "Warning" },
        "reason": o.reason,
        "action": o.action,
        "message": message.get(..end).unwrap_or_default(),
        "source": {"component": o.pod.scheduler},
        "reportingComponent": o.pod.scheduler,
        "reportingInstance": "",
        "firstTimestamp": seconds(first),
        "lastTimestamp": seconds(o.at),
        "count": count,
    });
    Event { name, count, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str, at: i64) -> Occurrence {
        let pod = PodRef {
            namespace: "default".into(),
            name: "web".into(),
            uid: "u1".into(),
            resource_version: 7,
            generation: 1,
            scheduler: "default-scheduler".into(),
        };
        Occurrence {
            pod,
            normal: false,
            reason: "FailedScheduling",
            action: "Scheduling",
            message: message.into(),
            at: Timestamp::from_second(1_800_000_000 + at).unwrap(),
        }
    }

    #[test]
    fn the_same_again_counts() {
        let mut correlator = Correlator::default();
        let first = correlator.take(&occurrence("a", 0)).unwrap();
        let second = correlator.take(&occurrence("a", 5)).unwrap();
        assert_eq!((first.count, second.count), (1, 2));
        assert_eq!(first.name, second.name);
        assert_eq!(second.body["firstTimestamp"], first.body["firstTimestamp"]);
        assert_ne!(second.body["lastTimestamp"], first.body["lastTimestamp"]);
    }

    #[test]
    fn many_messages_become_one() {
        let mut correlator = Correlator::default();
        let names: Vec<Event> =
            (0..14).filter_map(|i| correlator.take(&occurrence(&format!("m{i}"), i))).collect();
        let combined: Vec<&Event> =
            names.iter().filter(|e| e.body["message"].as_str().unwrap().starts_with("(combined")).collect();
        assert_eq!(combined.len(), 4);
        assert!(combined.iter().all(|e| e.name == combined[0].name));
        assert_eq!(combined[3].count, 4);
    }

    #[test]
    fn a_pod_cannot_flood() {
        let mut correlator = Correlator::default();
        let through = (0..100).filter(|i| correlator.take(&occurrence("a", *i)).is_some()).count();
        assert_eq!(through, 25);
        assert!(correlator.take(&occurrence("a", 401)).is_some());
        assert!(correlator.take(&occurrence("a", 402)).is_none());
    }
}
