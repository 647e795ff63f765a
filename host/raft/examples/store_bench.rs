//! Measures the replicated store: writes and reads per second with many concurrent clients.
//!
//! `cargo run --release -p orlop-raft --example store_bench -- [folder] [clients] [seconds]`

use bytes::Bytes;
use orlop_raft::{Options, RaftStore};
use orlop_store::{Op, Range, Store, Txn};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const VALUE: usize = 256;
const KEYS: u64 = 100_000;

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) / 1024
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("/registry/bench/{:08}", n % KEYS))
}

/// Counts by eighths of powers of two of microseconds: small, so that the memory is the store's.
struct Latencies {
    counts: [u64; 256],
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [0; 256] }
    }
}

impl Latencies {
    fn add(&mut self, latency: Duration) {
        let bucket = ((latency.as_micros() as f64).max(1.0).log2() * 8.0) as usize;
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn quantile(&self, q: f64) -> Duration {
        let mut left = (self.total() as f64 * q) as u64;
        let bucket = self.counts.iter().position(|n| {
            let found = *n > left;
            left = left.saturating_sub(*n);
            found
        });
        Duration::from_micros(2f64.powf(bucket.unwrap_or(0) as f64 / 8.0) as u64)
    }
}

/// Runs `work` in `clients` loops for `seconds`; prints the rate and latencies.
async fn measure<F, Fut>(
    name: &str,
    clients: u64,
    seconds: u64,
    work: F,
) -> Result<(), Box<dyn std::error::Error>>
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), orlop_store::StoreError>> + Send,
{
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (next, stop, work) = (next.clone(), stop.clone(), work.clone());
        tasks.spawn(async move {
            let mut latencies = Latencies::default();
            while !stop.load(Ordering::Relaxed) {
                let at = Instant::now();
                work(next.fetch_add(1, Ordering::Relaxed)).await?;
                latencies.add(at.elapsed());
            }
            Ok::<_, orlop_store::StoreError>(latencies)
        });
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Latencies::default();
    while let Some(done) = tasks.join_next().await {
        let done = done??;
        latencies.counts.iter_mut().zip(done.counts).for_each(|(all, one)| *all += one);
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "{name:<28} {:>9.0}/s  p50 {:>9.2?}  p99 {:>9.2?}  resident {} MiB",
        latencies.total() as f64 / took,
        latencies.quantile(0.5),
        latencies.quantile(0.99),
        resident_mib()
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "target/store-bench".to_owned()));
    let clients = args.next().map_or(Ok(256), |n| n.parse())?;
    let seconds = args.next().map_or(Ok(5), |n| n.parse())?;
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let started = Instant::now();
    let store = RaftStore::open(&folder, Options::default(), tracker.clone(), cancel.clone()).await?;
    println!(
        "open at revision {} in {:.1?}, resident {} MiB",
        store.revision(),
        started.elapsed(),
        resident_mib()
    );
    let value = Bytes::from(vec![b'v'; VALUE]);
    let write = {
        let store = store.clone();
        move |n| {
            let (store, value) = (store.clone(), value.clone());
            async move {
                let op = Op::Put { key: key(n), value };
                store.txn(Txn { success: vec![op], ..Txn::default() }).await.map(|_| ())
            }
        }
    };
    let read = |serializable| {
        let store = store.clone();
        move |n: u64| {
            let store = store.clone();
            async move {
                store
                    .range(Range { start: key(n * 7919), serializable, ..Range::default() })
                    .await
                    .map(|_| ())
            }
        }
    };
    measure("write, one client", 1, seconds.min(2), write.clone()).await?;
    measure(&format!("write, {clients} clients"), clients, seconds, write).await?;
    measure(&format!("read, {clients} clients"), clients, seconds, read(false)).await?;
    measure("read, serializable", clients, seconds, read(true)).await?;
    let compacting = Instant::now();
    store.compact(store.revision()).await?;
    println!("compact answered in {:.1?}", compacting.elapsed());
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("3 s later: resident {} MiB", resident_mib());
    drop(store);
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    Ok(())
}
