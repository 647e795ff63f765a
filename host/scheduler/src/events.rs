//! Events about pods, kept few.
//!
//! As client-go does: the same event again raises the count of the first one, which is written when it
//! happens the second time and then every few minutes; many events that differ in their message alone
//! become one "(combined from similar events)"; and one pod may cause 25 at once and then one in five
//! minutes. Where pods are placed by the thousand, not each gets its event: upstream's scheduler may
//! write 50 a second. What does not get through is dropped: events are best effort.

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
/// Time between two writes of the same event's count.
const SERIES_EVERY: SignedDuration = SignedDuration::from_mins(5);
/// Events of pods that were placed: at once, and per second.
const NORMAL_BURST: f64 = 2_000.0;
const NORMAL_PER_SECOND: f64 = 200.0;
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
    written: Timestamp,
}

/// Starts full.
#[derive(Default)]
struct Bucket {
    tokens: f64,
    refilled: Option<Timestamp>,
}

impl Bucket {
    fn refill(&mut self, at: Timestamp, burst: f64, per_second: f64) {
        let elapsed = self.refilled.map_or(f64::INFINITY, |t| at.duration_since(t).as_secs_f64());
        self.tokens = (self.tokens + elapsed.max(0.0) * per_second).min(burst);
        self.refilled = Some(at);
    }

    fn take(&mut self) -> bool {
        let some = self.tokens >= 1.0;
        if some {
            self.tokens -= 1.0;
        }
        some
    }
}

#[derive(Default)]
struct Source {
    bucket: Bucket,
    /// By reason: messages since a time.
    similar: HashMap<&'static str, (Timestamp, HashSet<Arc<str>>)>,
    series: HashMap<(&'static str, Arc<str>), Series>,
}

/// Decides what becomes of an occurrence.
#[derive(Default)]
struct Correlator {
    sources: HashMap<Arc<str>, Source>,
    normal: Bucket,
}

impl Correlator {
    fn take(&mut self, o: &Occurrence) -> Option<Event> {
        let fresh_name = || format!("{}.{:x}", o.pod.name, o.at.as_nanosecond());
        if o.normal {
            // A pod is assigned once: nothing to count, nothing to remember.
            self.normal.refill(o.at, NORMAL_BURST, NORMAL_PER_SECOND);
            return self.normal.take().then(|| event(o, fresh_name(), 1, o.at, &o.message));
        }
        if self.sources.len() >= REMEMBERED && !self.sources.contains_key(&o.pod.uid) {
            self.sources.clear();
        }
        let source = self.sources.entry(o.pod.uid.clone()).or_default();
        source.bucket.refill(o.at, BURST, REFILL_PER_SECOND);
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
            written: o.at,
        });
        series.count += 1;
        let due = series.count <= 2 || o.at.duration_since(series.written) >= SERIES_EVERY;
        if !due || !source.bucket.take() {
            return None;
        }
        series.written = o.at;
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
        // Of the four the third and the fourth only count.
        assert_eq!(combined.len(), 2);
        assert!(combined.iter().all(|e| e.name == combined[0].name));
        assert_eq!(combined[1].count, 2);
        let later = correlator.take(&occurrence("m99", 400)).unwrap();
        assert_eq!((later.count, &later.name), (5, &combined[0].name));
    }

    #[test]
    fn what_repeats_is_written_now_and_then() {
        let mut correlator = Correlator::default();
        let written: Vec<(i64, u32)> =
            (0..700).filter_map(|i| Some((i, correlator.take(&occurrence("a", i))?.count))).collect();
        assert_eq!(written, [(0, 1), (1, 2), (301, 302), (601, 602)]);
    }

    #[test]
    fn placed_pods_beyond_a_rate_go_without() {
        let mut correlator = Correlator::default();
        let placed = |at| Occurrence { normal: true, ..occurrence("Successfully assigned", at) };
        let through = |correlator: &mut Correlator, at| {
            (0..5_000).filter(|_| correlator.take(&placed(at)).is_some()).count()
        };
        assert_eq!(through(&mut correlator, 0), 2_000);
        assert_eq!(through(&mut correlator, 1), 200);
    }

    #[test]
    fn a_pod_cannot_flood() {
        let mut correlator = Correlator::default();
        // Ten messages, once and again: twenty; then similar ones.
        let through = (0..100)
            .filter(|i| {
                let message = format!("m{}", i % 10);
                correlator.take(&occurrence(&message, i / 100)).is_some()
            })
            .count();
        assert_eq!(through, 20);
        let other = |reason, at| Occurrence { reason, ..occurrence("b", at) };
        let reasons = ["1", "2", "3", "4", "5", "6"];
        assert_eq!(reasons.iter().filter(|r| correlator.take(&other(r, 1)).is_some()).count(), 5);
        assert!(correlator.take(&other("7", 302)).is_some());
        assert!(correlator.take(&other("8", 303)).is_none());
    }
}
