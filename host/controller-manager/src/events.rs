//! Records Kubernetes Events as client-go's recorder does: equal events are counted, and one
//! object cannot flood the API.
//!
//! Recording never delays a plan: events go through a bounded channel, and are dropped when it is full.

use crate::plan::Reference;
use bytes::Bytes;
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, PatchType, ResourceRef, WriteOptions};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

static EVENTS: Gvr = Gvr::new("", "v1", "events");

/// Events that wait to be written; upstream's queue length.
const WAITING: usize = 1000;
/// Equal events within this time are one event with a count.
const SAME: Duration = Duration::from_secs(600);
/// Events about one object at once, and seconds until the next one afterwards.
const BURST: f64 = 25.0;
const REFILL: f64 = 300.0;
/// Remembered events and objects.
const REMEMBERED: usize = 4096;

/// What is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) about: Reference,
    pub(crate) kind: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Takes events; cheap to clone.
#[derive(Clone)]
pub(crate) struct EventSink(mpsc::Sender<Record>);

impl EventSink {
    /// The sink, and the future that writes what it takes; it ends when all sinks are gone.
    pub(crate) fn start(
        client: Arc<dyn ApiClient>,
        source: String,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), write_all(client, source, receiver))
    }

    pub(crate) fn record(&self, record: Record) {
        if self.0.try_send(record).is_err() {
            tracing::warn!("too many events at once, one was dropped");
        }
    }
}

struct Seen {
    name: String,
    count: u64,
    last: Instant,
}

async fn write_all(client: Arc<dyn ApiClient>, source: String, mut inbox: mpsc::Receiver<Record>) {
    let mut seen: HashMap<Record, Seen> = HashMap::new();
    let mut buckets: HashMap<Reference, (f64, Instant)> = HashMap::new();
    while let Some(mut record) = inbox.recv().await {
        // Another revision of the object is the same object.
        record.about.resource_version.clear();
        let now = Instant::now();
        if buckets.len() >= REMEMBERED {
            buckets.retain(|_, (_, at)| now.duration_since(*at).as_secs_f64() < REFILL * BURST);
        }
        let (tokens, at) = buckets.entry(record.about.clone()).or_insert((BURST, now));
        *tokens = (*tokens + now.duration_since(*at).as_secs_f64() / REFILL).min(BURST);
        *at = now;
        if *tokens < 1.0 {
            continue;
        }
        *tokens -= 1.0;
        if seen.len() >= REMEMBERED {
            seen.retain(|_, s| now.duration_since(s.last) < SAME);
        }
        if let Err(error) = write(client.as_ref(), &source, &mut seen, record, now).await {
            tracing::warn!(%error, "an event was not recorded");
        }
    }
}

async fn write(
    client: &dyn ApiClient,
    source: &str,
    seen: &mut HashMap<Record, Seen>,
    record: Record,
    now: Instant,
) -> Result<(), orlop_client::ApiError> {
    let namespace =
        if record.about.namespace.is_empty() { "default".to_owned() } else { record.about.namespace.clone() };
    let stamp = jiff::Timestamp::now();
    let seconds = jiff::Timestamp::from_second(stamp.as_second()).unwrap_or(stamp).to_string();
    let options = WriteOptions::default();
    if let Some(known) = seen.get_mut(&record)
        && now.duration_since(known.last) < SAME
    {
        let patch = json!({"count": known.count + 1, "lastTimestamp": seconds});
        let at = ResourceRef::new(&EVENTS, &namespace, &known.name);
        match client.patch(at, PatchType::Merge, Bytes::from(patch.to_string()), &options).await {
            Ok(_) => {
                known.count += 1;
                known.last = now;
                return Ok(());
            }
            // It has expired; a new one begins.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let name = format!("{}.{:x}", record.about.name, stamp.as_nanosecond());
    let body = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": record.about,
        "type": record.kind, "reason": record.reason, "message": record.message,
        "source": {"component": source},
        "reportingComponent": source, "reportingInstance": "",
        "firstTimestamp": seconds, "lastTimestamp": seconds, "eventTime": null, "count": 1,
    });
    let at = ResourceRef::new(&EVENTS, &namespace, "");
    match client.create(at, Bytes::from(body.to_string()), &options).await {
        Ok(_) => {
            seen.insert(record, Seen { name, count: 1, last: now });
            Ok(())
        }
        // Its namespace is ending or gone; so is whoever would read it.
        Err(error) if error.is_not_found() || error.is(orlop_apimachinery::Reason::Forbidden) => Ok(()),
        Err(error) => Err(error),
    }
}
