//! Counters of the server, in Prometheus' text format under upstream's names.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in seconds; upstream's, thinned.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 15.0, 60.0];

/// Labels of one series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series {
    pub(crate) verb: &'static str,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
}

#[derive(Default)]
struct Latency {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
    codes: BTreeMap<u16, u64>,
}

/// Renders metrics of another part of the process.
type Source = Box<dyn Fn() -> String + Send + Sync>;

/// All counters.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<Series, Latency>>,
    pub(crate) reading: AtomicI64,
    pub(crate) mutating: AtomicI64,
    pub(crate) rejected: AtomicU64,
    pub(crate) watch_events: AtomicU64,
    sources: Mutex<Vec<Source>>,
}

impl Metrics {
    /// Adds what `source` renders to every answer.
    pub(crate) fn join(&self, source: Source) {
        self.sources.lock().push(source);
    }

    /// Counts a finished request.
    pub(crate) fn observe(&self, series: Series, code: u16, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut requests = self.requests.lock();
        let latency = requests.entry(series).or_default();
        *latency.codes.entry(code).or_default() += 1;
        latency.count += 1;
        latency.sum += seconds;
        for (bucket, bound) in latency.buckets.iter_mut().zip(BUCKETS) {
            if seconds <= bound {
                *bucket += 1;
            }
        }
    }

    /// The text format; `objects` and `watches` are per resource.
    pub(crate) fn render(
        &self,
        objects: &[(String, usize)],
        watches: &[(String, usize)],
        revision: u64,
    ) -> String {
        let mut out = String::new();
        let requests = self.requests.lock();
        out.push_str("# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, group, version, resource and HTTP response code.\n# TYPE apiserver_request_total counter\n");
        for (s, latency) in requests.iter() {
            for (code, count) in &latency.codes {
                let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",{}}} {count}", labels(s));
            }
        }
        out.push_str("# HELP apiserver_request_duration_seconds Response latency distribution in seconds.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for (s, latency) in requests.iter() {
            let labels = labels(s);
            for (count, bound) in latency.buckets.iter().zip(BUCKETS) {
                let _ = writeln!(
                    out,
                    "apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {count}"
                );
            }
            let _ = writeln!(
                out,
                "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {}",
                latency.count
            );
            let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {}", latency.sum);
            let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {}", latency.count);
        }
        drop(requests);
        out.push_str("# TYPE apiserver_current_inflight_requests gauge\n");
        let reading = self.reading.load(Ordering::Relaxed);
        let mutating = self.mutating.load(Ordering::Relaxed);
        let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"readOnly\"}} {reading}");
        let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"mutating\"}} {mutating}");
        out.push_str("# TYPE apiserver_dropped_requests_total counter\n");
        let _ = writeln!(out, "apiserver_dropped_requests_total {}", self.rejected.load(Ordering::Relaxed));
        out.push_str("# TYPE apiserver_watch_events_total counter\n");
        let _ = writeln!(out, "apiserver_watch_events_total {}", self.watch_events.load(Ordering::Relaxed));
        out.push_str("# TYPE apiserver_storage_objects gauge\n");
        for (resource, count) in objects {
            let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
        }
        out.push_str("# TYPE apiserver_longrunning_requests gauge\n");
        for (resource, count) in watches {
            let _ = writeln!(
                out,
                "apiserver_longrunning_requests{{resource=\"{resource}\",verb=\"WATCH\"}} {count}"
            );
        }
        out.push_str("# TYPE orlop_apiserver_cache_revision gauge\n");
        let _ = writeln!(out, "orlop_apiserver_cache_revision {revision}");
        for source in self.sources.lock().iter() {
            out.push_str(&source());
        }
        out
    }
}

fn labels(s: &Series) -> String {
    format!(
        "group=\"{}\",resource=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
        s.group, s.resource, s.subresource, s.verb, s.version
    )
}
